"""Which PySide class stands for a class of the contract, and how a C++ object gets its Python wrapper.

Wrapping itself is done in wrapping.py, which registers itself here: conversion, calls and wrappers need each other.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import cache
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_PYSIDE_MODULES = (QtCore, QtGui, QtWidgets, QtUiTools)
_OWN: dict[str, type] = {}
_hooks: dict[str, Callable[[Any], Any]] = {}


def implements(cls: type) -> type:
    """Class decorator: this PySide class stands for the CTK or Slicer class of the same name."""
    _OWN[cls.__name__] = cls
    pyside_class.cache_clear()
    return cls


@cache
def pyside_class(name: str) -> type | None:
    """The class that PySide or this package has under a C++ class's name."""
    if name in _OWN:
        return _OWN[name]
    return next((getattr(module, name) for module in _PYSIDE_MODULES if hasattr(module, name)), None)


def is_own(name: str) -> bool:
    """Whether the class is written in this package rather than in Qt."""
    return name in _OWN


def set_hooks(wrap_object: Callable[[Any], Any], core_of: Callable[[Any], Any]) -> None:
    """wrapping.py tells how to wrap a PySide object, and which one a wrapper has (other values stay as they are)."""
    _hooks["wrap"], _hooks["core"] = wrap_object, core_of


def wrap(value: Any) -> Any:
    """A value from PySide as PythonQt would give it: enums are ints, lists are tuples, objects are wrapped."""
    if isinstance(value, enum.Enum):
        return int(value.value)
    if isinstance(value, list | tuple):
        return tuple(wrap(item) for item in value)
    if isinstance(value, dict):
        return {key: wrap(item) for key, item in value.items()}
    if isinstance(value, shiboken6.Object):
        return _hooks["wrap"](value)
    return value


def unwrap(value: Any) -> Any:
    """A value from Python as PySide takes it."""
    if isinstance(value, list | tuple):
        return [unwrap(item) for item in value]
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return _hooks["core"](value)
