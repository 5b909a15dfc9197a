"""The static check finds each kind of mistake, at its place, and nothing wrong with good code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from made_up_module import FORM, GOOD
from static_check import MODULE, check
from static_types import slicer_module


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "Panel.ui").write_text(FORM, encoding="utf-8")
    return tmp_path


def findings(module: Path, code: str) -> list[tuple[int, str]]:
    (module / "Panel.py").write_text(code, encoding="utf-8")
    found = check(module)
    assert all(item.path.parent == module for item in found)
    return [(item.line, item.text) for item in found if not item.is_note]


def test_good_code_has_no_finding(module: Path) -> None:
    assert findings(module, GOOD) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("qt.QLabel().text()", "is a property, not a method"),
        ("qt.QLabel().caption", "QLabel has no attribute 'caption'"),
        ("qt.QLabel().setTex('a')", "QLabel has no attribute 'setTex'"),
        ("qt.QLabel().caption = 'a'", "QLabel has no attribute 'caption'"),
        ("qt.QLabel().setText = 'a'", "cannot be set"),
        ("qt.QLabel().setText('a', 'b')", "takes 1 arguments, not 2"),
        ("qt.QLabel().setText(text='a')", "takes no keyword arguments"),
        ("qt.QLabel(parent=None)", "takes no keyword arguments"),
        ("qt.QTimer(1, 2, 3)", "QTimer() takes 0-1 arguments, not 3"),
        ("ctk.QLabel()", "QLabel is in qt, not in ctk"),
        ("slicer.qMRMLNodeCombo()", "the API contract has no slicer.qMRMLNodeCombo"),
        ("qt.Signal()", "the API contract has no qt.Signal"),
        ("qt.QFrame.HorizontalLine", "QFrame has no attribute 'HorizontalLine'"),
        ("slicer.app.mainWindow()", "qSlicerApplication has no attribute 'mainWindow'"),
        ("qt.QPushButton().connect('clicked', print)", "has no signal 'clicked'"),
        ("qt.QComboBox().connect('currentIndexChanged(QString)', print)", "Qt 6 has no signal"),
        ("qt.QProcess().error.connect(print)", "is no signal to connect"),
        ("qt.QProcess().finished.connect(print)", "is another signal in Qt 6"),
        ("qt.QTextCodec.codecForName('utf-8')", "Qt 6 has no QTextCodec"),
        ("qt.QVBoxLayout().setMargin(0)", "use setContentsMargins()"),
        ("qt.QVBoxLayout().margin = 0", "use contentsMargins()"),
        ("qt.Qt.MidButton", "use MiddleButton"),
        ("qt.QDialog().exec_()", "use exec()"),
        ("slicer.qMRMLNodeComboBox().setNodeTypes(['vtkMRMLNode'])", "has no attribute 'setNodeTypes'"),
        ("_(f'{3} slices')", "an f-string cannot be translated"),
        ("_('{} slices'.format(3))", "only a text that stands in the code"),
    ],
)
def test_each_mistake_is_found_at_its_line(module: Path, line: str, expected: str) -> None:
    found = findings(module, f"import ctk\nimport qt\nimport slicer\n\n{line}\n")
    assert found
    assert all(number == 5 for number, _ in found)
    assert any(expected in text for _, text in found), found


@pytest.mark.skipif(slicer_module() is None, reason="needs the package slicer-core")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("slicer.vtkMRMLSegmentationNode().GetSegments()", "has no attribute 'GetSegments'"),
        ("slicer.vtkMRMLSegmentNode()", "slicer has no vtkMRMLSegmentNode"),
        ("slicer.mrmlScene.AddNode2()", "vtkMRMLScene has no attribute 'AddNode2'"),
        ("slicer.mrmlScene.AddNewNodeByClass('vtkMRMLTableNode').Frobnicate()", "vtkMRMLTableNode has no"),
        ("slicer.vtkMRMLSegmentationNode().GetSegmentation().Frobnicate()", "vtkSegmentation has no"),
        ("slicer.modules.segmentations.logic().Frobnicate()", "vtkSlicerSegmentationsModuleLogic has no"),
        ("slicer.vtkSegmentation().AddEmptySegmet()", "vtkSegmentation has no attribute 'AddEmptySegmet'"),
        ("slicer.util.arrayFromVolumes(None)", "slicer.util has no 'arrayFromVolumes'"),
    ],
)
def test_mistakes_with_slicers_own_classes_are_found(module: Path, line: str, expected: str) -> None:
    ((number, text),) = findings(module, f"import slicer\n\n{line}\n")
    assert number == 3
    assert expected in text


def test_types_are_followed_through_variables_attributes_and_annotations(module: Path) -> None:
    code = """\
    import qt
    from qt import QSlider

    class Row(qt.QWidget):
        def __init__(self):
            label = qt.QLabel("a")
            self.label = label
            self.setTolTip("line 8")

    class Rows:
        def __init__(self, box: qt.QComboBox | None = None):
            self.row = Row()
            self._box = box

        @property
        def first(self) -> Row:
            return self.row

        def other(self) -> QSlider:
            return self.row.layout()

    def use(rows: Rows) -> None:
        rows.row.label.txt = "line 23"
        rows.first.nothing()
        rows.other().value()
        rows._box.currentText()
        rows._box.findText("a")
        widget = unknown()
        widget.anything()
        label = qt.QLabel()
        label = widget
        label.anything()
    """
    lines = [number for number, _ in findings(module, dedent(code))]
    assert lines == [8, 23, 24, 25, 26]


def test_widgets_of_the_form(module: Path) -> None:
    code = """\
    class PanelWidget:
        def setup(self):
            self.ui.trainButton.text()
            self.ui.nowhere.enabled = True
            self.ui.volumeSelector.currentNodeId = None
            self.ui.volumeSelector.curentNode()
    """
    found = findings(module, dedent(code))
    assert [line for line, _ in found] == [3, 4, 6]
    assert "no .ui file has a widget named 'nowhere'" in found[1][1]


def test_imports_of_what_slicer_may_not_have(module: Path) -> None:
    code = """\
    import torch
    from os import path
    try:
        import nibabel.nifti1
    except ImportError:
        pass

    class A:
        import pandas

    import imp

    def later():
        import monai
    """
    found = findings(module, dedent(code))
    assert [line for line, _ in found] == [1, 4, 9, 11]
    assert all("may not be installed" in text for _, text in found)


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ('class="QPushButton"', 'class="QPushButon"', 9, "the API contract has no QPushButon"),
        ('<property name="text">', '<property name="caption">', 10, "no writable property 'caption'"),
        ("Qt::AlignTop", "Qt::AlignTopp", 29, "'Qt::AlignTopp' is no value"),
        ("Qt::AlignTop", "Qt::AlignmentFlag::AlignTop", 29, "is no value that Qt 5 and Qt 6 both know"),
        ("mrmlSceneChanged", "sceneChanged", 37, "has no signal"),
        ("<slot>setMRMLScene", "<slot>setScene", 37, "has no slot"),
        ("<receiver>volumeSelector", "<receiver>selector", 37, "no object is named 'selector'"),
        ('name="status"', 'name="trainButton"', 28, "a second object named 'trainButton'"),
        ("</ui>", "</u>", 44, "no XML"),
    ],
)
def test_mistakes_in_a_form(tmp_path: Path, old: str, new: str, line: int, expected: str) -> None:
    assert old in FORM
    (tmp_path / "Panel.ui").write_text(FORM.replace(old, new, 1), encoding="utf-8")
    found = check(tmp_path)
    assert [item.line for item in found] == [line], found
    assert expected in found[0].text


def test_what_only_slicer_5_8_lacks_is_a_note(module: Path) -> None:
    (module / "Panel.py").write_text("import qt\n\nqt.QColor().toExtendedRgb()\n")
    (found,) = check(module)
    assert found.is_note
    assert (found.line, found.text) == (3, "in Slicer 5.8, QColor has no attribute 'toExtendedRgb'")


def test_code_that_is_no_python_is_found(module: Path) -> None:
    ((line, text),) = findings(module, "import qt\n\nif:\n")
    assert line == 3
    assert text.startswith("no Python")


def test_the_command_fails_for_mistakes_and_for_an_empty_folder(module: Path, tmp_path: Path) -> None:
    def run(folder: Path) -> subprocess.CompletedProcess:
        script = Path(__file__).with_name("static_check.py")
        return subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(empty).returncode == 1
    assert run(module).returncode == 0
    (module / "Panel.py").write_text("import qt\nqt.QLabel().text()\n")
    result = run(module)
    assert result.returncode == 1
    assert f"{module / 'Panel.py'}:2: QLabel.text is a property" in result.stdout


def test_the_module_itself_has_no_mistakes() -> None:
    assert [str(item) for item in check(MODULE) if not item.is_note] == []
