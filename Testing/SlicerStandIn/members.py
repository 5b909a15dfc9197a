"""What an attribute of a wrapper is: the value of a property, a method (`builtin_qt_slot`), a signal or an enum."""

from __future__ import annotations

from typing import Any

import shiboken6

from . import connections, implementations
from .calls import call
from .conversion import EnumValue, MismatchError, plain, to_qt
from .signatures import CONTRACT, overloads

#: (C++ class, property) -> (read(core), write(core, value)), for properties of Qt 5 that Qt 6 lacks.
PROPERTIES: dict[tuple[str, str], tuple[Any, Any]] = {}


def _property_name(name: str, member: Any) -> str:
    """`name` is short for `objectName` in classes without a property of that name."""
    return "objectName" if name == "name" and member.detail.get("notify") == "objectNameChanged" else name


def read_property(core: Any, cls: str, name: str, member: Any) -> Any:
    if not shiboken6.isValid(core):
        raise ValueError(f"Trying to read property '{name}' from a destroyed {cls} object")
    name = _property_name(name, member)
    if (member.owner, name) in PROPERTIES:
        return implementations.wrap(PROPERTIES[member.owner, name][0](core))
    if core.metaObject().indexOfProperty(name) < 0:
        raise NotImplementedError(f"{cls}.{name} exists in Slicer, but its stand-in does not have it")
    value = implementations.wrap(core.property(name))
    return tuple(value or ()) if member.detail["type"] == "QStringList" else value


def write_property(core: Any, cls: str, name: str, member: Any, value: Any) -> None:
    if not shiboken6.isValid(core):
        raise ValueError(f"Trying to set property '{name}' on a destroyed {cls} object")
    kind = member.detail["type"]
    if not member.detail["writable"]:
        raise AttributeError(f"Property '{name}' of type '{kind}' is not writable on {cls} object")
    name = _property_name(name, member)
    try:
        converted = to_qt(value, kind, member.owner, strict=False)
    except MismatchError:
        given = f"{type(value).__name__} ({value})"
        raise AttributeError(f"Property '{name}' of type '{kind}' does not accept an object of type {given}") from None
    if (member.owner, name) in PROPERTIES:
        PROPERTIES[member.owner, name][1](core, converted)
        return
    if plain(kind) not in ("QString", "bool") and isinstance(converted, int):
        converted = int(converted)  # QVariant takes an enum's number
    if core.metaObject().indexOfProperty(name) < 0:
        raise NotImplementedError(f"{cls}.{name} exists in Slicer, but its stand-in does not have it")
    core.setProperty(name, converted)


class Slot:
    """A method of a C++ object, or a static one where there is no object."""

    def __init__(self, instance: Any, cls: str, name: str) -> None:
        self._instance, self._class, self._name = instance, cls, name

    @property
    def most_arguments(self) -> int:
        """How many arguments of a signal it takes when it is connected to one."""
        return max(len(form.types) for form in overloads(self._class, self._name))

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        core = None
        if self._instance is not None:
            core = self._instance._core
            if not shiboken6.isValid(core):
                raise ValueError(f"Trying to call '{self._name}' on a destroyed {self._class} object")
        return call(core, self._class, self._name, arguments, keywords)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self._class, self._name))

    def __repr__(self) -> str:
        return f"<built-in method {self._name} of {self._class} object>"


Slot.__name__ = Slot.__qualname__ = "builtin_qt_slot"


class UnboundSlot:
    """`qt.QWidget.show`: the object is the first argument."""

    def __init__(self, cls: str, name: str) -> None:
        self._class, self._name = cls, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if not arguments or not hasattr(arguments[0], "inherits") or not arguments[0].inherits(self._class):
            raise ValueError(
                f"slot {self._name} requires {self._class} instance as first argument, got {arguments[:1]}"
            )
        if self._name in ("connect", "disconnect"):
            return getattr(arguments[0], self._name)(*arguments[1:], **keywords)
        # Not the attribute of that name: it may be an override in Python that is calling this.
        return Slot(arguments[0], self._class, self._name)(*arguments[1:], **keywords)


UnboundSlot.__name__ = UnboundSlot.__qualname__ = "builtin_qt_slot"


class Signal:
    """A signal of an object; of several overloads it is the first."""

    def __init__(self, instance: Any, name: str) -> None:
        self._instance, self._name = instance, name

    def _signature(self) -> str:
        return CONTRACT.signals_named(self._instance.cpp_class, self._name)[0]

    def connect(self, callback: Any) -> bool:
        return connections.connect(self._instance._core, self._instance.cpp_class, self._signature(), callback)

    def disconnect(self, callback: Any = None) -> bool:
        return connections.disconnect(self._instance._core, self._instance.cpp_class, self._signature(), callback)

    def emit(self, *arguments: Any) -> None:
        forms = CONTRACT.signals_named(self._instance.cpp_class, self._name)
        fitting = [
            form for form in overloads(self._instance.cpp_class, self._name) if len(form.types) == len(arguments)
        ]
        if not fitting:
            raise ValueError(f"Called {forms[0]} with wrong number of arguments: {arguments}")
        signature = f"{self._name}({','.join(fitting[0].types)})"
        connections.emit(self._instance._core, self._instance.cpp_class, signature, arguments)

    __call__ = emit


Signal.__name__ = Signal.__qualname__ = "QtCore.Signal"


class EnumClass:
    """`qt.QFrame.Shape`: its keys are attributes, and calling it gives a value."""

    def __init__(self, name: str, keys: dict[str, int | None]) -> None:
        self.__name__ = name
        self._keys = keys

    def __getattr__(self, name: str) -> EnumValue:
        try:
            return EnumValue(self.__dict__["_keys"][name])
        except KeyError:
            raise AttributeError(f"type object '{self.__dict__['__name__']}' has no attribute '{name}'") from None

    def __call__(self, value: int) -> EnumValue:
        return EnumValue(value)
