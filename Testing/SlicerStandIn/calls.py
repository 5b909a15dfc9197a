"""Calling methods and constructors as PythonQt does: positional arguments only, ValueError where none fits."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

from . import implementations
from .conversion import MismatchError, to_qt
from .signatures import Overload, constructors, full_signature, overloads

#: (C++ class, method) -> function(core, *arguments), for what PySide lacks or does otherwise than Qt 5 in PythonQt;
#: core is None in a static call.
REPLACEMENTS: dict[tuple[str, str], Callable[..., Any]] = {}


def replaces(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function stands for the methods of the names `Class.method`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            cls, _, method = name.partition(".")
            REPLACEMENTS[cls, method] = function
        return function

    return register


def call(core: Any, cls: str, name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """Call a method of a C++ object, or a static one where core is None."""
    target = core if core is not None else implementations.pyside_class(cls)
    forms = overloads(cls, name)
    method = _method(target, name)
    if keywords:
        raise ValueError(
            f"Called {full_signature(forms[0], method)} with keyword arguments, "
            "but called slot does not support keyword arguments"
        )
    form, converted = _fitting(forms, arguments, method)
    replacement = REPLACEMENTS.get((form.owner, name.removesuffix("_")))
    if replacement is not None:
        return implementations.wrap(replacement(core, *converted))
    if method is None:
        raise NotImplementedError(f"{cls}.{name} exists in Slicer, but its stand-in does not have it")
    result = implementations.wrap(_run(method, converted, form, arguments))
    if form.result == "void":
        return None
    # Where PySide returns the filled-in arguments too, as QFileDialog.getOpenFileName does, PythonQt does not.
    return result[0] if isinstance(result, tuple) and form.result in ("QString", "bool") else result


def construct(cls: str, arguments: Sequence[Any], keywords: dict[str, Any], pyside: type) -> Any:
    """A new C++ object of the class, made with PySide's class or a subclass of it."""
    forms = constructors(cls)
    if not forms:
        raise ValueError(f"No constructors available for {cls}")
    if keywords:
        raise ValueError(f"Called constructor of {cls} with keyword arguments, which it does not support")
    form, converted = _fitting(forms, arguments, None)
    return _run(pyside, converted, form, arguments)


def _method(target: Any, name: str) -> Any:
    """PySide's method; of an object whose Python class overrides it, C++'s own."""
    bare = name.removesuffix("_")
    if getattr(type(target), "overrides_in_python", False):
        target = super(type(target), target)
    return next((found for attribute in (bare, f"{bare}_", name) if (found := getattr(target, attribute, None))), None)


def _fitting(forms: Sequence[Overload], arguments: Sequence[Any], method: Any) -> tuple[Overload, list[Any]]:
    """The first overload that the arguments fit, strictly if one does, and the arguments for it."""
    for strict in (True, False):
        for form in forms:
            if not form.accepts_count(len(arguments)):
                continue
            try:
                pairs = zip(arguments, form.types, strict=False)
                return form, [to_qt(value, kind, form.owner, strict) for value, kind in pairs]
            except MismatchError:
                continue
    given = tuple(arguments)
    if len(forms) == 1:
        number = "" if forms[0].accepts_count(len(arguments)) else "number of "
        raise ValueError(f"Called {full_signature(forms[0], method)} with wrong {number}arguments: {given}")
    listed = "\n".join(full_signature(form, method) for form in forms)
    raise ValueError(
        f"Could not find matching overload for given arguments:\n{given}\n"
        f" The following slots are available:\n{listed}\n"
    )


def _run(method: Any, converted: list[Any], form: Overload, given: Sequence[Any]) -> Any:
    """Call PySide; its complaint about the types of arguments becomes PythonQt's."""
    if isinstance(method, types.MethodType):  # written in Python in this package: its errors are errors
        return method(*converted)
    try:
        return method(*converted)
    except TypeError as error:
        if "called with wrong argument" not in str(error):
            raise
        raise ValueError(f"Called {full_signature(form, None)} with wrong arguments: {tuple(given)}") from error
