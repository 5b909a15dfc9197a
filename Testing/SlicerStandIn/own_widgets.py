"""Tools for the CTK and Slicer classes that are written here on PySide's widgets."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
import vtk
from PySide6 import QtCore, QtGui

from .signatures import CONTRACT

_PROPERTY_TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "double": float,
    "QString": str,
    "QStringList": "QStringList",
    "QIcon": QtGui.QIcon,
    "QColor": QtGui.QColor,
    "QSize": QtCore.QSize,
}
_INITIAL: dict[Any, Any] = {bool: False, int: 0, float: 0.0, str: "", "QStringList": ()}


def with_properties(base: type, name: str, written: tuple[str, ...] = (), **initial: Any) -> type:
    """A subclass of a PySide class with the properties that the contract has for the class `name`.

    They keep their values and call `property_changed(name)` when one changes. What is in `written` is left out: the
    class itself has these. Qt Designer's forms can set them, which is why they are Qt's properties, not Python's.
    """
    body: dict[str, Any] = {}
    for attribute, description in CONTRACT.members(name, "properties").items():
        if attribute not in written:
            kind = _PROPERTY_TYPES.get(description["type"], int)
            value = initial.get(attribute, _INITIAL.get(kind))
            body[attribute] = _stored_property(attribute, kind, kind() if value is None else value)
    return type(base)(name, (base,), body)


def _stored_property(name: str, kind: Any, initial: Any) -> QtCore.Property:
    key = f"_{name}_value"

    def read(self: Any) -> Any:
        value = self.__dict__.get(key, initial)
        return list(value) if kind == "QStringList" else value

    def write(self: Any, value: Any) -> None:
        if read(self) != value:
            self.__dict__[key] = value
            changed = getattr(self, "property_changed", None)
            if changed is not None:
                changed(name)

    return QtCore.Property(kind, read, write)


class Observers:
    """VTK observers that do not keep their widget alive and stop when it is gone."""

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []

    def add(self, subject: Any, event: Any, method: Callable[[], None]) -> None:
        """Call the method at the event."""
        reference = weakref.WeakMethod(method)

        def forward(caller: Any, event_name: str) -> None:
            target = reference()
            if target is not None and shiboken6.isValid(target.__self__):
                target()

        self._tags.append((subject, subject.AddObserver(event, forward)))

    def add_with_node(self, scene: Any, event: int, method: Callable[[Any], None]) -> None:
        """Call the method with the node that the scene's event is about; other events have no node."""
        reference = weakref.WeakMethod(method)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def forward(caller: Any, event_name: str, node: Any) -> None:
            target = reference()
            if target is not None and shiboken6.isValid(target.__self__):
                target(node)

        self._tags.append((scene, scene.AddObserver(event, forward)))

    def remove_all(self) -> None:
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self._tags.clear()
