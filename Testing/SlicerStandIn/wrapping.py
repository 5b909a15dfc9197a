"""Python's side of C++ objects as PythonQt shows it: what exists is what the contract lists, and it is what it says.

A wrapper's class is the C++ object's class at run time. The classes are flat: QPushButton's does not derive from
QWidget's. One C++ object has one wrapper for as long as somebody holds it.
"""

from __future__ import annotations

import sys
import weakref
from functools import cache
from typing import Any

import shiboken6
from PySide6 import QtCore

from . import calls, connections, implementations
from .conversion import EnumValue
from .members import EnumClass, Signal, Slot, UnboundSlot, read_property, write_property
from .signatures import CONTRACT

_wrappers: weakref.WeakValueDictionary[int, Wrapper] = weakref.WeakValueDictionary()


class PythonQtClassWrapper(type):
    """The type of `qt.QPushButton`: enum keys, static methods, and methods that want the object as first argument."""

    def __getattr__(cls, name: str) -> Any:
        cpp_class = cls.cpp_class
        member = CONTRACT.lookup(cpp_class, name)
        if member is not None:
            if member.kind == "static":
                return Slot(None, cpp_class, name)
            if member.kind in ("method", "slot", "invokable", "signal"):
                return UnboundSlot(cpp_class, name)
            if member.kind in ("enumvalue", "enum", "nested class"):
                return _constant(cpp_class, name, member)
        raise AttributeError(f"type object '{cls.__name__}' has no attribute '{name}'")

    def __dir__(cls) -> list[str]:
        return CONTRACT.names(cls.cpp_class)


class Wrapper(metaclass=PythonQtClassWrapper):
    """An instance of a C++ class."""

    cpp_class = ""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pyside = implementations.pyside_class(self.cpp_class)
        if pyside is None:
            raise NotImplementedError(f"{self.cpp_class} exists in Slicer, but has no stand-in")
        made_in_python = _overriding_class(type(self), pyside)
        core = calls.construct(self.cpp_class, arguments, keywords, made_in_python)
        object.__setattr__(self, "_core", core)
        _wrappers[id(core)] = self
        if type(self) is not wrapper_class(self.cpp_class) and isinstance(core, QtCore.QObject):
            # Attributes set in Python live as long as the C++ object.
            core.python_instance = self

    # -- attributes ---------------------------------------------------------------------------------------------
    def __getattr__(self, name: str) -> Any:
        if name == "_core":
            raise RuntimeError(f"{type(self).__name__}.__init__() of the C++ class was not called")
        member = CONTRACT.lookup(self.cpp_class, name)
        core = self._core
        if member is None:
            return self._dynamic(name)
        if member.kind == "property":
            return read_property(core, self.cpp_class, name, member)
        if member.kind == "signal":
            return Signal(self, name)
        if member.kind in ("enumvalue", "enum", "nested class"):
            return _constant(self.cpp_class, name, member)
        if member.kind == "child":
            return self._dynamic(name)
        return Slot(self, self.cpp_class, name)

    def _dynamic(self, name: str) -> Any:
        """Dynamic properties and children by objectName, for which PythonQt looks last."""
        core = self._core
        if isinstance(core, QtCore.QObject) and shiboken6.isValid(core):
            if name.encode() in [bytes(item.data()) for item in core.dynamicPropertyNames()]:
                return implementations.wrap(core.property(name))
            for child in core.children():
                if child.objectName() == name:
                    return implementations.wrap(child)
        raise AttributeError(f"{self.cpp_class} has no attribute named '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        member = CONTRACT.lookup(self.cpp_class, name)
        kind = member.kind if member is not None else None
        if kind == "property":
            write_property(self._core, self.cpp_class, name, member, value)
        elif type(self) is not wrapper_class(self.cpp_class):
            object.__setattr__(self, name, value)
        elif kind in ("method", "static", "slot", "invokable", "internal"):
            raise AttributeError(f"Slot '{name}' can not be overwritten on {self.cpp_class} object")
        elif kind == "signal":
            raise AttributeError(f"Signal '{name}' can not be overwritten on {self.cpp_class} object")
        elif kind in ("enumvalue", "enum"):
            raise AttributeError(f"EnumValue '{name}' can not be overwritten on {self.cpp_class} object")
        else:
            self._set_dynamic(name, value)

    def _set_dynamic(self, name: str, value: Any) -> None:
        core = self._core
        if isinstance(core, QtCore.QObject) and name.encode() in [bytes(x.data()) for x in core.dynamicPropertyNames()]:
            core.setProperty(name, implementations.unwrap(value))
            return
        raise AttributeError(
            f"'{name}' does not exist on {self.cpp_class} and creating new attributes on C++ objects is not allowed"
        )

    def __dir__(self) -> list[str]:
        return CONTRACT.names(self.cpp_class)

    # -- PythonQt's own methods ---------------------------------------------------------------------------------
    def className(self) -> str:
        return self.cpp_class

    def inherits(self, name: str) -> bool:
        core = self._core
        return name in CONTRACT.mro(self.cpp_class) or (isinstance(core, QtCore.QObject) and core.inherits(name))

    def help(self) -> str:
        return "\n".join(CONTRACT.names(self.cpp_class))

    def delete(self) -> None:
        shiboken6.delete(self._core)

    # -- the object itself --------------------------------------------------------------------------------------
    def __bool__(self) -> bool:
        return shiboken6.isValid(self._core)

    def __eq__(self, other: object) -> bool:
        if other is None:
            return not self
        if not isinstance(other, Wrapper):
            return NotImplemented
        if isinstance(self._core, QtCore.QObject) or isinstance(other._core, QtCore.QObject):
            return self._core is other._core
        return bool(self._core == other._core)

    def __hash__(self) -> int:
        return hash(id(self._core))

    def __repr__(self) -> str:
        if not shiboken6.isValid(self._core):
            return f"{self.cpp_class} (C++ object deleted)"
        return f"{self.cpp_class} (C++ object at: {hex(shiboken6.getCppPointer(self._core)[0])})"

    def __str__(self) -> str:
        core = self._core
        return repr(self) if isinstance(core, QtCore.QObject) else str(core)

    def __len__(self) -> int:
        return len(self._core)

    def __add__(self, other: Any) -> Any:
        return implementations.wrap(self._core + implementations.unwrap(other))

    def __sub__(self, other: Any) -> Any:
        return implementations.wrap(self._core - implementations.unwrap(other))

    # -- signals ------------------------------------------------------------------------------------------------
    def connect(self, *arguments: Any) -> bool:
        """connect("signal()", f), connect("signal()", object, "slot()"), connect(sender, "signal()", "slot()")."""
        if len(arguments) == 2:
            return connections.connect(self._core, self.cpp_class, *arguments)
        if len(arguments) not in (3, 4):
            raise ValueError(f"Could not find matching overload for given arguments:\n{arguments}")
        if isinstance(arguments[0], str):
            sender, text, target, slot = self, *arguments[:3]
        else:
            (sender, text, slot), target = arguments[:3], self
        return connections.connect_slot(sender._core, sender.cpp_class, text, target._core, target.cpp_class, slot)

    def disconnect(self, text: str, callback: Any = None) -> bool:
        return connections.disconnect(self._core, self.cpp_class, text, callback)


@cache
def wrapper_class(name: str) -> type[Wrapper]:
    """The Python class of a C++ class."""
    return PythonQtClassWrapper(name, (Wrapper,), {"cpp_class": name, "__doc__": f"The C++ class {name}."})


def _wrap_object(core: Any) -> Any:
    known = _wrappers.get(id(core))
    if known is not None:
        return known
    cls = wrapper_class(_contract_class(type(core)))
    wrapper = cls.__new__(cls)
    object.__setattr__(wrapper, "_core", core)
    _wrappers[id(core)] = wrapper
    return wrapper


@cache
def _contract_class(pyside: type) -> str:
    """The most derived class of the contract that the object's class is or derives from."""
    for base in pyside.__mro__:
        if CONTRACT.known(base.__name__):
            return base.__name__
    raise TypeError(f"{pyside.__name__} is in no class of the contract")


def _core_of(value: Any) -> Any:
    if not isinstance(value, Wrapper):
        return value
    if not shiboken6.isValid(value._core):
        return None
    return value._core


def _constant(cls: str, name: str, member: Any) -> Any:
    """An enum's key or type."""
    if member.kind == "enumvalue":
        (number,) = member.detail.values()
        if number is None:
            number = int(getattr(implementations.pyside_class(cls), name).value)
        return EnumValue(number)
    if member.kind == "enum":
        return EnumClass(name, member.detail or {})
    return wrapper_class(member.detail)


def _overriding_class(python_class: type, pyside: type) -> type:
    """PySide's class, or one in which C++ calls the methods that a Python subclass overrides."""
    base = python_class.__mro__.index(Wrapper) - 1
    overridden = {
        name
        for cls in python_class.__mro__[:base]
        for name, value in vars(cls).items()
        if not name.startswith("_") and callable(value) and callable(getattr(pyside, name, None))
    }
    if not overridden:
        # Even so a class of its own: PySide's cannot hold the attribute that keeps the Python instance.
        return pyside if base == 0 else type(pyside.__name__, (pyside,), {})

    def forward(name: str) -> Any:
        def method(core: Any, *arguments: Any) -> Any:
            instance = _wrap_object(core)
            return implementations.unwrap(getattr(instance, name)(*map(implementations.wrap, arguments)))

        return method

    methods: dict[str, Any] = {name: forward(name) for name in overridden}
    return type(pyside.__name__, (pyside,), {**methods, "overrides_in_python": True})


implementations.set_hooks(_wrap_object, _core_of)


class WrapperModule(sys.__class__):
    """`qt` and `ctk`: a module whose classes are those of the contract."""

    def __getattr__(self, name: str) -> Any:
        if CONTRACT.known(name) and CONTRACT.classes[name]["module"] == self.__name__:
            if implementations.pyside_class(name) is None:
                raise NotImplementedError(f"{self.__name__}.{name} exists in Slicer, but has no stand-in")
            return wrapper_class(name)
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
