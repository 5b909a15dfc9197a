"""Where PythonQt with Qt 5 does otherwise than PySide with Qt 6."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from . import implementations
from .calls import replaces
from .connections import receiver
from .members import PROPERTIES


@replaces("QTimer.singleShot")
def _single_shot(core: None, milliseconds: int, *target: Any) -> None:
    """Slicer's own: a callable of any kind, which gets no arguments, or an object and a slot's name."""
    if len(target) == 1:
        callback = target[0]
    else:
        slot = str(target[-1]).partition("(")[0]
        callback = getattr(implementations.wrap(target[-2]), slot)
    timer = QtCore.QTimer(QtCore.QCoreApplication.instance())
    timer.setSingleShot(True)
    timer.timeout.connect(receiver(callback, 0))
    timer.timeout.connect(timer.deleteLater)
    timer.start(milliseconds)


@replaces("QIODevice.errorString")
def _error_string(core: QtCore.QIODevice) -> str:
    """Qt 6 names another function of Unix that failed."""
    return core.errorString().replace("Child process set up failed: execve:", "execvp:")


@replaces("QObject.findChild")
def _find_child(core: QtCore.QObject, kind: Any, name: str = "") -> QtCore.QObject | None:
    return next(iter(_find_children(core, kind, name)), None)


@replaces("QObject.findChildren")
def _find_children(core: QtCore.QObject, kind: Any, name: str = "") -> list[QtCore.QObject]:
    """The type is a class or the name of one, as derived classes know it."""
    class_name = kind if isinstance(kind, str) else kind.cpp_class
    found = core.findChildren(QtCore.QObject)
    return [
        child
        for child in found
        if implementations.wrap(child).inherits(class_name) and (not name or child.objectName() == name)
    ]


@replaces("QLayout.setMargin")
def _set_margin(core: QtWidgets.QLayout, margin: int) -> None:
    core.setContentsMargins(margin, margin, margin, margin)


PROPERTIES["QLayout", "margin"] = (lambda layout: layout.contentsMargins().left(), _set_margin)


@replaces("QFontMetrics.width")
def _text_width(core: QtGui.QFontMetrics, text: str, *rest: Any) -> int:
    return core.horizontalAdvance(text)


@replaces("QAction.parentWidget", "QShortcut.parentWidget")
def _parent_widget(core: QtCore.QObject) -> QtCore.QObject | None:
    return core.parent()
