"""Values on their way between Python and Qt, by PythonQt's rules of conversion.

PythonQt knows the C++ type of every argument and property. It tries strictly first (an int for an int), then
leniently: anything becomes a str, everything has a truth value, a float is cut to an int.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable
from functools import cache
from typing import Any

import vtk
from PySide6 import QtCore

from . import implementations

INTEGERS = frozenset(
    ("int", "uint", "long", "ulong", "short", "ushort", "char", "uchar", "qint64", "quint64", "qlonglong", "qulonglong")
)
FLOATS = frozenset(["double", "float", "qreal"])
LISTS_OF_TEXT = frozenset(["QStringList", "QList<QString>"])


class MismatchError(Exception):
    """The value does not fit the C++ type."""


class EnumValue(int):
    """The value of an enum's key: an int in every respect, but one that fits an enum without leniency."""


def plain(cpp_type: str) -> str:
    """The type without const and reference."""
    return cpp_type.removeprefix("const ").removesuffix("&").strip()


def to_qt(value: Any, cpp_type: str, owner: str, strict: bool) -> Any:
    """What PySide gets for an argument of a method that `owner` declares; raises MismatchError."""
    kind = plain(cpp_type)
    if kind.endswith("*"):
        return _pointer(value, kind[:-1].strip())
    if kind in _SIMPLE:
        return _SIMPLE[kind](value, strict)
    if kind in INTEGERS:
        return _integer(value, strict)
    if kind in FLOATS:
        return _float(value, strict)
    if kind in LISTS_OF_TEXT:
        return _texts(value, strict)
    if kind.startswith("QList<") or kind in ("QModelIndexList", "QVariantList"):
        return _items(value)
    if enum_class := enum_type(kind, owner):
        return enum_class(_integer(value, strict and not isinstance(value, EnumValue)))
    if implementations.pyside_class(kind) is None:
        return implementations.unwrap(value)
    return _value_object(value, kind, strict)


@cache
def enum_type(kind: str, owner: str) -> type | None:
    """PySide's enum for `Qt::Alignment`, or for `Options` within a class; int where only the contract has it."""
    from .signatures import CONTRACT

    scope, _, name = kind.rpartition("::")
    for candidate in [scope] if scope else CONTRACT.mro(owner):
        pyside = implementations.pyside_class(candidate)
        found = getattr(pyside, name, None)
        if isinstance(found, type) and issubclass(found, enum.Enum):
            return found
        if CONTRACT.known(candidate):
            member = CONTRACT.lookup(candidate, name)
            if member is not None and member.kind == "enum":
                return int
    return None


def _text(value: Any, strict: bool) -> str:
    if strict and not isinstance(value, str):
        raise MismatchError
    return value.decode() if isinstance(value, bytes) else str(value)


def _truth(value: Any, strict: bool) -> bool:
    if strict and not isinstance(value, bool):
        raise MismatchError
    return bool(value)


def _integer(value: Any, strict: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if strict or value is None:
        raise MismatchError
    if isinstance(value, float):
        return int(value)
    try:
        return operator.index(value)
    except TypeError:
        raise MismatchError from None


def _float(value: Any, strict: bool) -> float:
    if isinstance(value, float) or (not strict and isinstance(value, int)):
        return float(value)
    if not strict and not isinstance(value, str) and hasattr(value, "__float__"):
        return float(value)
    raise MismatchError


def _texts(value: Any, strict: bool) -> list[str]:
    if not isinstance(value, Iterable) or (strict and isinstance(value, str)):
        raise MismatchError
    return [_text(item, strict) for item in value]


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise MismatchError
    return [implementations.unwrap(item) for item in value]


def _bytes(value: Any, strict: bool) -> Any:
    inner = implementations.unwrap(value)
    if isinstance(inner, QtCore.QByteArray):
        return inner
    if isinstance(inner, str):
        return QtCore.QByteArray(inner.encode())
    if isinstance(inner, bytes | bytearray):
        return QtCore.QByteArray(bytes(inner))
    raise MismatchError


def _character(value: Any, strict: bool) -> str:
    if isinstance(value, int):
        return chr(value)
    if isinstance(value, str) and len(value) == 1:
        return value
    raise MismatchError


def _mapping(value: Any, strict: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MismatchError
    return {str(key): implementations.unwrap(item) for key, item in value.items()}


def _anything(value: Any, strict: bool) -> Any:
    return implementations.unwrap(value)


_SIMPLE = {
    "QString": _text,
    "QStringView": _text,
    "QLatin1String": _text,
    "bool": _truth,
    "QByteArray": _bytes,
    "QChar": _character,
    "QVariant": _anything,
    "QVariantMap": _mapping,
}


def _pointer(value: Any, pointed: str) -> Any:
    if pointed in ("PyObject", "void"):
        return value
    if pointed.startswith("vtk"):
        return vtk_object(value, pointed)
    if pointed == "char":
        return _text(value, True)
    if value is None:
        return None
    inner = implementations.unwrap(value)
    pyside = implementations.pyside_class(plain(pointed))
    if pyside is None or not isinstance(inner, pyside):
        raise MismatchError
    return inner


def vtk_object(value: Any, class_name: str) -> Any:
    """A VTK object passes as it is; VTK's own wrapping rejects anything else, whatever other overloads there are."""
    if value is None:
        return None
    if not isinstance(value, vtk.vtkObjectBase):
        raise TypeError("method requires a VTK object")
    if not value.IsA(class_name):
        raise TypeError(f"method requires a {class_name}, a {value.GetClassName()} was provided.")
    return value


def _value_object(value: Any, kind: str, strict: bool) -> Any:
    """A QIcon, QSize, ...; some convert implicitly in C++, as QColor does to QBrush, but a str never does."""
    inner = implementations.unwrap(value)
    if isinstance(inner, implementations.pyside_class(kind)):
        return inner
    if strict or inner is None or isinstance(inner, str | bool | float | list | tuple | dict):
        raise MismatchError
    if kind == "QColor" and isinstance(inner, int):
        return QtCore.Qt.GlobalColor(inner)
    if kind == "QCursor" and isinstance(inner, int):
        return QtCore.Qt.CursorShape(inner)
    return inner
