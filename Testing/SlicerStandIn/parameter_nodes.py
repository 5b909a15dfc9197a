"""The module slicer.parameterNodeWrapper: a class whose typed members live in a node of the scene.

Members are str, int, float, bool, enums, paths, lists, tuples and dicts of these, nodes, and unions with None. A list
or dict is a copy, to be assigned again after a change. Connecting members to widgets (connectGui) is left out.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Annotated, Any

import slicer

from .parameter_serializers import serializer_for
from .parameter_validators import (
    Choice,
    Default,
    Exclude,
    IsInstance,
    Maximum,
    Minimum,
    NotNone,
    Validator,
    WithinRange,
)

__all__ = [
    "Choice", "Default", "Exclude", "IsInstance", "Maximum", "Minimum", "NotNone", "Validator", "WithinRange",
    "isParameterNodeWrapper", "parameterNodeWrapper",
]  # fmt: skip


def parameterNodeWrapper(cls: type) -> type:
    """Class decorator: the annotated members are read from and written to the wrapped node."""
    annotations = {
        name: annotation
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items()
        if not name.startswith("_")
    }
    body: dict[str, Any] = {
        "__init__": _initialise,
        "_is_parameter_node_wrapper": True,
        "_parameters": {name: _Parameter(name, annotation, cls) for name, annotation in annotations.items()},
        "default": lambda self, name: self._parameters[name].default_value(),
        "isCached": lambda self, name: False,
        "datatype": lambda self, name: annotations[name],
        "setValue": lambda self, name, value: setattr(self, name, value),
        "getValue": lambda self, name: getattr(self, name),
        "allParameters": property(lambda self: dict(annotations)),
    }
    for method in _NODE_METHODS:
        body[method] = _forward(method)
    for name, parameter in body["_parameters"].items():
        body[name] = property(parameter.read, parameter.write)
    own = {name: value for name, value in vars(cls).items() if name not in annotations and name not in _NOT_COPIED}
    return type(cls.__name__, cls.__bases__, {**own, **body})


_NOT_COPIED = ("__dict__", "__weakref__", "__init__")
_NODE_METHODS = ("AddObserver", "RemoveObserver", "HasObserver", "Modified", "StartModify", "EndModify", "GetMTime")


def _forward(method: str) -> Callable[..., Any]:
    return lambda self, *arguments: getattr(self.parameterNode, method)(*arguments)


def isParameterNodeWrapper(class_or_object: Any) -> bool:
    return getattr(class_or_object, "_is_parameter_node_wrapper", False)


def _initialise(self: Any, parameterNode: Any, prefix: str | None = None) -> None:
    """Wrap a node; members that it does not have yet get their defaults."""
    if not isinstance(parameterNode, slicer.vtkMRMLScriptedModuleNode):
        raise TypeError("parameterNode must be a vtkMRMLScriptedModuleNode")
    self.__dict__["parameterNode"] = parameterNode
    self.__dict__["_prefix"] = f"{prefix}." if prefix else ""
    with slicer.util.NodeModify(parameterNode):
        for parameter in self._parameters.values():
            if not parameter.serializer.present(parameterNode, self._prefix + parameter.name):
                parameter.write(self, parameter.default_value())


class _Parameter:
    """One member: how to store it, what it may be, and what it is at first."""

    def __init__(self, name: str, annotation: Any, cls: type) -> None:
        self.name = name
        kind, extras = annotation, ()
        if typing.get_origin(annotation) is Annotated:
            kind, *extras = typing.get_args(annotation)
        self.serializer = serializer_for(kind)
        self.validators = [extra for extra in extras if isinstance(extra, Validator)]
        defaults = [extra for extra in extras if isinstance(extra, Default)]
        self.default_value: Callable[[], Any] = self.serializer.initial
        if hasattr(cls, name):
            value = getattr(cls, name)
            self.default_value = lambda: value
        elif defaults:
            self.default_value = lambda: defaults[0].value
        elif choice := next((extra for extra in self.validators if isinstance(extra, Choice)), None):
            self.default_value = lambda: choice.choices[0]
        elif limit := next((extra for extra in self.validators if isinstance(extra, WithinRange | Minimum)), None):
            first = self.serializer.initial()
            self.default_value = lambda: max(first, limit.minimum) if self._allows(first) else limit.minimum

    def _allows(self, value: Any) -> bool:
        try:
            self._validate(value)
        except ValueError:
            return False
        return True

    def _validate(self, value: Any) -> None:
        for validator in self.validators:
            validator.validate(value)

    def read(self, wrapper: Any) -> Any:
        return self.serializer.read(wrapper.parameterNode, wrapper._prefix + self.name)

    def write(self, wrapper: Any, value: Any) -> None:
        self._validate(value)
        node, name = wrapper.parameterNode, wrapper._prefix + self.name
        value = self.serializer.checked(value)
        if self.serializer.present(node, name) and self.serializer.read(node, name) == value:
            return
        with slicer.util.NodeModify(node):
            self.serializer.write(node, name, value)
