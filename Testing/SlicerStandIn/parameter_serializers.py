"""How the members of a wrapped parameter node are stored: values as texts, nodes as references."""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from typing import Any

import slicer


class Serializer:
    """Stores values of one type in a vtkMRMLScriptedModuleNode."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def initial(self) -> Any:
        """The value of a member without a default."""
        return self.kind()

    def checked(self, value: Any) -> Any:
        if not isinstance(value, self.kind):
            raise TypeError(f"Expected {self.kind.__name__}, got {type(value).__name__}: {value!r}")
        return value

    def present(self, node: Any, name: str) -> bool:
        return name in node.GetParameterNames()

    def read(self, node: Any, name: str) -> Any:
        return self.from_text(node.GetParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, self.to_text(value))

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)

    def to_text(self, value: Any) -> str:
        return str(value)

    def from_text(self, text: str) -> Any:
        return self.kind(text)


class _Float(Serializer):
    def checked(self, value: Any) -> Any:
        return float(super().checked(float(value) if isinstance(value, int) else value))

    def to_text(self, value: float) -> str:
        return repr(value)


class _Bool(Serializer):
    def from_text(self, text: str) -> bool:
        return text == "True"


class _Enum(Serializer):
    def initial(self) -> Any:
        return next(iter(self.kind))

    def to_text(self, value: enum.Enum) -> str:
        return value.name

    def from_text(self, text: str) -> enum.Enum:
        return self.kind[text]


class _Path(Serializer):
    def checked(self, value: Any) -> pathlib.PurePath:
        return self.kind(value)


class _Nothing(Serializer):
    """None, among other types."""

    def initial(self) -> None:
        return None

    def checked(self, value: Any) -> None:
        if value is not None:
            raise TypeError(f"Expected None, got {value!r}")

    def from_text(self, text: str) -> None:
        return None


class _Node(Serializer):
    """A node of the scene, None where it is gone."""

    def initial(self) -> None:
        return None

    def checked(self, value: Any) -> Any:
        return value if value is None else super().checked(value)

    def present(self, node: Any, name: str) -> bool:
        return node.GetNodeReferenceID(name) is not None

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def write(self, node: Any, name: str, value: Any) -> None:
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def remove(self, node: Any, name: str) -> None:
        node.RemoveNodeReferenceIDs(name)


class _Sequence(Serializer):
    """A list or tuple: its length, and each item under its number."""

    def __init__(self, kind: Any, items: list[Serializer] | Serializer) -> None:
        super().__init__(kind)
        self.items = items

    def _item(self, index: int) -> Serializer:
        return self.items[index] if isinstance(self.items, list) else self.items

    def initial(self) -> Any:
        return self.kind(item.initial() for item in self.items) if isinstance(self.items, list) else self.kind()

    def checked(self, value: Any) -> Any:
        value = list(super().checked(value))
        if isinstance(self.items, list) and len(value) != len(self.items):
            raise ValueError(f"Expected {len(self.items)} items, got {len(value)}")
        return self.kind(self._item(index).checked(item) for index, item in enumerate(value))

    def read(self, node: Any, name: str) -> Any:
        count = int(node.GetParameter(name))
        return self.kind(self._item(index).read(node, f"{name}_{index}") for index in range(count))

    def write(self, node: Any, name: str, value: Any) -> None:
        before = int(node.GetParameter(name) or 0)
        node.SetParameter(name, str(len(value)))
        for index, item in enumerate(value):
            self._item(index).write(node, f"{name}_{index}", item)
        for index in range(len(value), before):
            self._item(index).remove(node, f"{name}_{index}")


class _Dict(Serializer):
    """Two lists, of the keys and of the values."""

    def __init__(self, key: Serializer, value: Serializer) -> None:
        super().__init__(dict)
        self.keys, self.values = _Sequence(list, key), _Sequence(list, value)

    def checked(self, value: Any) -> dict[Any, Any]:
        value = super().checked(value)
        return dict(zip(self.keys.checked(list(value)), self.values.checked(list(value.values())), strict=True))

    def present(self, node: Any, name: str) -> bool:
        return self.keys.present(node, f"{name}_keys")

    def read(self, node: Any, name: str) -> dict[Any, Any]:
        return dict(zip(self.keys.read(node, f"{name}_keys"), self.values.read(node, f"{name}_values"), strict=True))

    def write(self, node: Any, name: str, value: dict[Any, Any]) -> None:
        self.keys.write(node, f"{name}_keys", list(value))
        self.values.write(node, f"{name}_values", list(value.values()))


class _Union(Serializer):
    """A value of one of several types, of which the first that takes it is noted."""

    def __init__(self, options: list[Serializer]) -> None:
        super().__init__(object)
        self.options = options

    def initial(self) -> Any:
        return None if any(isinstance(option, _Nothing) for option in self.options) else self.options[0].initial()

    def checked(self, value: Any) -> Any:
        return self.options[self._index(value)].checked(value)

    def _index(self, value: Any) -> int:
        for index, option in enumerate(self.options):
            try:
                option.checked(value)
            except (TypeError, ValueError):
                continue
            return index
        raise TypeError(f"No member of the union takes {value!r}")

    def present(self, node: Any, name: str) -> bool:
        return f"{name}_type" in node.GetParameterNames()

    def read(self, node: Any, name: str) -> Any:
        return self.options[int(node.GetParameter(f"{name}_type"))].read(node, name)

    def write(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(f"{name}_type", str(self._index(value)))
        self.options[self._index(value)].write(node, name, value)


def serializer_for(kind: Any) -> Serializer:
    """The serializer for a type as it is annotated."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return serializer_for(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is list:
        return _Sequence(list, serializer_for(arguments[0]))
    if origin is tuple:
        return _Sequence(tuple, [serializer_for(item) for item in arguments])
    if origin is dict:
        return _Dict(*map(serializer_for, arguments))
    if kind in (None, type(None)):
        return _Nothing(type(None))
    if isinstance(kind, type):
        for base, serializer in _PLAIN.items():
            if issubclass(kind, base):
                return serializer(kind)
        if issubclass(kind, slicer.vtkMRMLNode):
            return _Node(kind)
    raise TypeError(f"A parameter node cannot keep a member of type {kind}")


def _union(arguments: tuple[Any, ...]) -> Serializer:
    """Of nodes, with or without None, a node's reference is enough."""
    kinds = [kind for kind in arguments if kind is not type(None)]
    if all(isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode) for kind in kinds):
        node = _Node(kinds[0])
        if len(kinds) > 1:
            node.kind = _AnyOf(kinds)
        return node
    return _Union([serializer_for(kind) for kind in arguments])


class _AnyOf(type):
    """A type whose instances are those of several types."""

    def __new__(mcs, kinds: list[type]) -> Any:
        return super().__new__(mcs, " | ".join(kind.__name__ for kind in kinds), (), {"kinds": tuple(kinds)})

    def __init__(cls, kinds: list[type]) -> None:
        super().__init__(cls.__name__, (), {})

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.kinds)


# bool before int, of which it is a subclass, and enums before str and int, from which they may derive.
_PLAIN: dict[type, type[Serializer]] = {
    enum.Enum: _Enum,
    bool: _Bool,
    int: Serializer,
    float: _Float,
    str: Serializer,
    pathlib.PurePath: _Path,
}
