"""The API contract answers as Slicer's own Python does, and its script keeps what is needed."""

from __future__ import annotations

import pytest
from static_check import cached_contract
from trim_contract import WANTED, trimmed

MAIN = cached_contract("main")


def kind(cls: str, name: str) -> str | None:
    member = MAIN.lookup(cls, name)
    return member.kind if member else None


@pytest.mark.parametrize(
    ("cls", "name", "expected"),
    [
        ("QPushButton", "text", "property"),
        ("QPushButton", "setText", "method"),
        ("QPushButton", "clicked", "signal"),
        ("QPushButton", "click", "slot"),
        ("QPushButton", "name", "property"),
        ("QPushButton", "className", "internal"),
        ("QPushButton", "nothing", None),
        ("QTableWidgetItem", "text", "method"),
        ("QTimer", "singleShot", "static"),
        ("QDialog", "exec_", "slot"),
        ("QFrame", "HLine", "enumvalue"),
        ("QFrame", "Shape", "enum"),
        ("qMRMLNodeComboBox", "nodeTypes", "property"),
        ("qMRMLNodeComboBox", "setNodeTypes", None),
        ("qMRMLNodeComboBox", "currentNode", "invokable"),
        ("qMRMLNodeComboBox", "setMRMLScene", "slot"),
        ("QNothing", "text", None),
    ],
)
def test_what_a_name_is(cls: str, name: str, expected: str | None) -> None:
    assert kind(cls, name) == expected


def test_signals_by_signature_and_by_name() -> None:
    assert MAIN.signal("QPushButton", "clicked( bool )") == "clicked(bool)"
    assert MAIN.signal("QPushButton", "clicked") is None
    assert MAIN.signal("QLineEdit", "textChanged(const QString &)") == "textChanged(QString)"
    assert MAIN.signals_named("QComboBox", "currentIndexChanged")[0] == "currentIndexChanged(int)"


def test_numbers_of_arguments() -> None:
    assert MAIN.arities("QTimer", "start") == [(0, 1)]
    assert MAIN.arities("QProcess", "start") == [(0, 1), (1, 2), (2, 3)]
    assert MAIN.constructor_arities("QTimer") == [(0, 1)]
    assert MAIN.constructor_arities("QNothing") == []


def test_what_can_be_set() -> None:
    assert MAIN.settable("QProgressBar", "maximum")
    assert not MAIN.settable("QProgressBar", "setMaximum")
    assert not MAIN.settable("QWidget", "visibleRegion")


def test_what_qt6_lacks() -> None:
    assert MAIN.missing_in_qt6("QComboBox", "currentIndexChanged(QString)")
    assert not MAIN.missing_in_qt6("QComboBox", "currentIndexChanged(int)")
    assert not MAIN.missing_in_qt6("QComboBox", "currentIndexChanged")
    assert MAIN.missing_in_qt6("QVBoxLayout", "margin")


def test_a_member_of_one_version_alone() -> None:
    before = cached_contract("v5.8.1")
    assert kind("QColor", "toExtendedRgb") == "method"
    assert before.lookup("QColor", "toExtendedRgb") is None
    assert before.lookup("QColor", "red") is not None


def test_every_class_has_its_bases_and_all_names_are_found() -> None:
    for cls, description in MAIN.classes.items():
        assert set(description["bases"]) <= set(MAIN.classes), cls
        assert all(MAIN.lookup(cls, name) for name in MAIN.names(cls)), cls
    assert set(WANTED.split()) <= set(MAIN.classes)


def test_trimming_keeps_bases_and_results_and_drops_the_rest() -> None:
    def described(*bases: str, **more: object) -> dict[str, object]:
        return {"bases": list(bases), "properties": {}, "header": "x.h", **more}

    classes = {name: described("QBase") for name in WANTED.split()}
    classes["QBase"] = described(returns={"parent": "const QResult*", "locale": "QLocale"})
    classes |= {"QResult": described("QResultBase"), "QResultBase": described(), "QLocale": described()}
    classes["QUnused"] = described()
    kept = trimmed(classes)
    assert set(kept) == set(classes) - {"QUnused", "QLocale"}
    assert "header" not in kept["QBase"]


def test_trimming_tells_what_is_missing() -> None:
    with pytest.raises(SystemExit, match="QWidget"):
        trimmed({})
