"""Loading Qt Designer's forms (.ui files) with CTK's and Slicer's widgets in them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import implementations
from .calls import replaces
from .connections import connect_slot
from .signatures import CONTRACT

#: Classes that Slicer has no plug-in of for Qt's form builder, which makes plain widgets instead.
_NOT_IN_FORMS = {"qMRMLPlotView"}


class _Loader(QtUiTools.QUiLoader):
    def createWidget(self, name: str, parent: QtWidgets.QWidget | None = None, object_name: str = "") -> Any:
        if not CONTRACT.known(name) and name not in self.availableWidgets():
            raise NotImplementedError(f"{name}, in a form, is no class that the contract has")
        if name in _NOT_IN_FORMS:
            raise NotImplementedError(f"{name} cannot be in a form: Qt's form builder has no plug-in of it")
        if not implementations.is_own(name):
            return super().createWidget(name, parent, object_name)
        widget = implementations.pyside_class(name)(parent)
        widget.setObjectName(object_name)
        return widget


@replaces("QUiLoader.load")
def load(core: Any, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
    """A form's widgets, connected as the form says: signals with types of Slicer are unknown to Qt's own loader."""
    root = ElementTree.fromstring(bytes(device.readAll().data()))
    connections = root.find("connections")
    wanted = []
    if connections is not None:
        wanted = [{part.tag: part.text or "" for part in item} for item in connections]
        root.remove(connections)
    _resolve_enums(root)
    buffer = QtCore.QBuffer()
    buffer.setData(ElementTree.tostring(root))
    buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
    widget = _Loader().load(buffer, parent)
    if widget is None:
        raise RuntimeError("Qt cannot load the form")
    named = {child.objectName(): child for child in [widget, *widget.findChildren(QtCore.QObject)]}
    for item in wanted:
        sender, receiver = (implementations.wrap(named[item[end]]) for end in ("sender", "receiver"))
        done = connect_slot(
            sender._core, sender.cpp_class, item["signal"], receiver._core, receiver.cpp_class, item["slot"]
        )
        if not done:
            raise RuntimeError(f"The form cannot connect {item['signal']} to {item['slot']}")
    return widget


def _resolve_enums(root: ElementTree.Element) -> None:
    """Enums and flags of classes written here become numbers: Qt's loader only knows those of its own classes."""
    for widget in root.iter("widget"):
        name = widget.get("class", "")
        if not implementations.is_own(name):
            continue
        for item in widget.findall("property"):
            value = item.find("enum") if item.find("enum") is not None else item.find("set")
            member = CONTRACT.lookup(name, item.get("name", ""))
            if value is None or member is None or not implementations.is_own(member.owner):
                continue
            number = 0
            for key in (value.text or "").split("|"):
                scope, _, last = key.rpartition("::")
                found = CONTRACT.lookup(scope.partition("::")[0] or name, last)
                number |= next(iter(found.detail.values()))
            value.tag, value.text = "number", str(number)
