"""Overloads of a class's methods, read from the contract, and how PythonQt writes them in its messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from shibokensupport.signature import get_signature

from .contract import CALLABLES, Contract

CONTRACT = Contract()


@dataclass(frozen=True)
class Overload:
    """One form of a method, signal or constructor that takes `least` up to `len(types)` arguments."""

    owner: str
    name: str
    types: tuple[str, ...]
    least: int
    result: str

    def accepts_count(self, count: int) -> bool:
        return self.least <= count <= len(self.types)


def parse(owner: str, text: str, result: str = "void") -> Overload:
    """An overload from the contract's notation, in which `f(int[,QString])` has one argument with a default."""
    name, _, inside = text.partition("(")
    inside = re.sub(r"\[\d+\]", "*", inside[:-1])  # int[6] is one argument
    types = split_types(re.sub(r"[\[\]]", "", inside))
    return Overload(owner, name, tuple(types), len(types) - inside.count("["), result)


def split_types(text: str) -> list[str]:
    """C++ types between commas; those within <> belong to a template's type."""
    types, depth = [""], 0
    for character in text:
        depth += (character in "<(") - (character in ">)")
        if character == "," and depth == 0:
            types.append("")
        else:
            types[-1] += character
    return [item.strip() for item in types] if text.strip() else []


@cache
def overloads(cls: str, name: str) -> tuple[Overload, ...]:
    """All forms of a callable member, from the most derived class up; `exec_` is `exec`."""
    names = {name, name.removesuffix("_")}
    found = []
    for owner in CONTRACT.mro(cls):
        returns = CONTRACT.members(owner, "returns")
        for key in CALLABLES:
            for text in CONTRACT.members(owner, key):
                if text.partition("(")[0] in names:
                    result = returns.get(text.partition("(")[0], "void")
                    found.append(parse(owner, text, "void" if key == "signals" else result))
    return tuple(found)


@cache
def constructors(cls: str) -> tuple[Overload, ...]:
    """The forms in which Python may construct the class."""
    return tuple(parse(cls, text, cls) for text in CONTRACT.members(cls, "constructors"))


def full_signature(overload: Overload, method: object) -> str:
    """`setText(QString text) -> void`; the names of the arguments come from PySide's own signature."""
    names = _argument_names(method, len(overload.types))
    arguments = ", ".join(f"{kind} {name}".strip() for kind, name in zip(overload.types, names, strict=True))
    return f"{overload.name}({arguments}) -> {overload.result}"


def _argument_names(method: object, count: int) -> list[str]:
    unbound = getattr(type(getattr(method, "__self__", None)), getattr(method, "__name__", ""), method)
    signature = get_signature(unbound) if unbound is not None else None
    for candidate in signature if isinstance(signature, list) else [signature]:
        if candidate is not None:
            names = [name for name in candidate.parameters if name != "self"]
            if len(names) == count:
                return names
    return [""] * count
