"""Checks a .ui file: its classes, properties, enum values and connections exist, in Qt 5 and in Qt 6."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from contract import Contract
from qt5_only import qt5_only_member

#: Properties that exist in .ui files alone: Qt's form loader makes calls of them.
FORM_ONLY = frozenset(
    {"leftMargin", "topMargin", "rightMargin", "bottomMargin", "horizontalSpacing", "verticalSpacing", "buttonGroup"}
)

#: Not properties of the widget's class, but read by name: slicer.util.findChildren's peers in parameterNodeWrapper.
DYNAMIC = frozenset({"SlicerParameterName"})

CLASS_OF_TAG = {"action": "QAction", "buttongroup": "QButtonGroup", "actiongroup": "QActionGroup"}


def parse_form(path: Path) -> ET.Element:
    """The root of a .ui file; each element has its line as the attribute `line`."""
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, attributes: builder.start(
        tag, {**attributes, "line": str(parser.CurrentLineNumber)}
    )
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(path.read_bytes(), True)
    return builder.close()


def named_objects(root: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    """All widgets, layouts and actions with their classes."""
    for element in root.iter():
        if element.tag in ("widget", "layout"):
            cls = element.get("class", "")
            yield element, "QFrame" if cls == "Line" else cls
        elif element.tag in CLASS_OF_TAG:
            yield element, CLASS_OF_TAG[element.tag]


def widgets_of(root: ET.Element) -> dict[str, str]:
    """Class by name, of all that slicer.util.childWidgetVariables finds."""
    return {element.get("name", ""): cls for element, cls in named_objects(root)}


def check_form(root: ET.Element, contract: Contract) -> list[tuple[int, str]]:
    """(line, what is wrong) of a .ui file."""
    found: list[tuple[int, str]] = []
    names: set[str] = set()
    for element, cls in named_objects(root):
        line, name = int(element.get("line", 0)), element.get("name", "")
        if name in names:
            found.append((line, f"a second object named '{name}'"))
        names.add(name)
        if not contract.known(cls):
            found.append((line, f"the API contract has no {cls} (trim_contract.py says which classes it has)"))
            continue
        for item in element.findall("property"):
            found += _check_property(item, cls, contract)
    for connection in root.iter("connection"):
        found += _check_connection(connection, widgets_of(root), contract)
    return found


def _check_property(item: ET.Element, cls: str, contract: Contract) -> Iterator[tuple[int, str]]:
    line, name = int(item.get("line", 0)), item.get("name", "")
    if name not in FORM_ONLY | DYNAMIC and not contract.settable(cls, name):
        yield line, f"{cls} has no writable property '{name}'"
    if text := qt5_only_member(contract, cls, name):
        yield line, text
    for value in (*item.findall("enum"), *item.findall("set")):
        for key in (value.text or "").split("|"):
            owner, _, plain = key.rpartition("::")
            # The form loader of Qt 5 takes QFrame::HLine, not Qt 6's QFrame::Shape::HLine.
            if "::" in owner or (contract.known(owner) and not contract.lookup(owner, plain)):
                yield line, f"'{key}' is no value that Qt 5 and Qt 6 both know"


def _check_connection(connection: ET.Element, classes: dict[str, str], contract: Contract) -> Iterator[tuple[int, str]]:
    line = int(connection.get("line", 0))
    sender, signal, receiver, slot = (connection.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot"))
    for name in (sender, receiver):
        if name not in classes:
            yield line, f"no object is named '{name}'"
    if sender in classes and not contract.signal(classes[sender], signal):
        yield line, f"{classes[sender]} has no signal '{signal}'"
    if sender in classes and contract.missing_in_qt6(classes[sender], signal):
        yield line, f"Qt 6 has no signal '{signal}' of {classes[sender]}"
    if receiver in classes and not contract.lookup(classes[receiver], slot.partition("(")[0]):
        yield line, f"{classes[receiver]} has no slot '{slot}'"
