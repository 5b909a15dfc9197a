"""What Python can reach of Qt's, CTK's and Slicer's classes, by the rules of PythonQt, Slicer's binding.

    contract = Contract()
    contract.lookup("QPushButton", "text")         -> Member(kind="property", ...): an attribute, never called
    contract.lookup("QPushButton", "setTex")       -> None: AttributeError
    contract.signal("QPushButton", "clicked()")    -> "clicked()"; None: connect() would quietly return False
    contract.settable("QProgressBar", "maximum")   -> True

api.json beside this file holds the classes; trim_contract.py makes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

API = Path(__file__).with_name("api.json")

#: Methods of PythonQt's own wrapper; no member of a C++ class can hide them.
WRAPPER_METHODS = frozenset({"className", "inherits", "help", "delete"})

#: Where callable members are listed, in PythonQt's order of search, and what they are.
CALLABLES = {
    "methods": "method",
    "static": "static",
    "signals": "signal",
    "slots": "slot",
    "invokables": "invokable",
}

#: Kinds of members that can be called with arguments and give a result.
FUNCTIONS = frozenset({"method", "static", "slot", "invokable"})


class Member(NamedTuple):
    """A member that a look-up found, the class that declares it, and what is known of it.

    Detail is a property's description, the signatures of a callable, the value of an enum key in {enum: value}, the
    keys of an enum, or the class of a nested class or child.
    """

    kind: str  # property, method, static, slot, invokable, signal, enumvalue, enum, nested class, child or internal
    owner: str
    detail: Any


class Contract:
    """The API of one version of Slicer."""

    def __init__(self, path: Path | str = API, version: str = "main") -> None:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        self.classes: dict[str, dict[str, Any]] = content["classes"]
        self.version = version
        (self._other_version,) = set(content["about"]["versions"]) - {version}
        # Per instance, since the answers depend on the version.
        self.mro = cache(self._mro)
        self.lookup = cache(self._lookup)

    def known(self, cls: str) -> bool:
        """Whether this version has the class."""
        return cls in self.classes and self.version in self.classes[cls]["since"]

    def _mro(self, cls: str) -> tuple[str, ...]:
        """The class and its ancestors, depth first; nothing for an unknown class."""
        if not self.known(cls):
            return ()
        found = [cls]
        for base in self.classes[cls]["bases"]:
            found += [name for name in self.mro(base) if name not in found]
        return tuple(found)

    def members(self, cls: str, key: str) -> Any:
        """What the class itself declares under a key of api.json, less what only the other version has."""
        description = self.classes[cls]
        absent = description.get("only", {}).get(self._other_version, {}).get(key, {})
        if key == "enums":
            return {
                enum: {name: value for name, value in keys.items() if name not in absent.get(enum, ())}
                for enum, keys in description[key].items()
            }
        declared = description.get(key, {} if key in ("properties", "children", "returns") else [])
        if isinstance(declared, dict):
            return {name: value for name, value in declared.items() if name not in absent}
        return [item for item in declared if item not in absent]

    def _lookup(self, cls: str, name: str) -> Member | None:
        """What `instance.name` is; None where PythonQt raises AttributeError.

        Dynamic properties and child objects that were named at run time are not known here.
        """
        if not self.known(cls):
            return None
        if name in WRAPPER_METHODS:
            return Member("internal", "PythonQtInstanceWrapper", None)
        member = self._property(cls, name) or self._callable(cls, name) or self._other_member(cls, name)
        if member is None and re.fullmatch(r"\w+[^_]_", name):
            # Names that Python reserves, or once did, are reached with an underscore: exec_, raise_.
            member = self._callable(cls, name[:-1])
        return member

    def _property(self, cls: str, name: str) -> Member | None:
        """A property of any ancestor goes before everything else of that name."""
        if (cls, name) == ("QTimer", "singleShot"):
            return None  # PythonQt's one exception, so that the static method is reached.
        names = [name, "objectName"] if name == "name" else [name]
        for wanted in names:
            for owner in self.mro(cls):
                if found := self.members(owner, "properties").get(wanted):
                    return Member("property", owner, found)
        return None

    def _callable(self, cls: str, name: str) -> Member | None:
        for owner in self.mro(cls):
            for key, kind in CALLABLES.items():
                if found := [text for text in self.members(owner, key) if _function_name(text) == name]:
                    return Member(kind, owner, found)
        return None

    def _other_member(self, cls: str, name: str) -> Member | None:
        """An enum's key, then an enum or a nested class, then a child that a widget's own form names."""
        for owner in self.mro(cls):
            for enum, keys in self.members(owner, "enums").items():
                if name in keys:
                    return Member("enumvalue", owner, {enum: keys[name]})
        for owner in self.mro(cls):
            enums = self.members(owner, "enums")
            if name in enums or name in self.members(owner, "flags"):
                return Member("enum", owner, enums.get(name))
            if f"{owner}::{name}" in self.classes:
                return Member("nested class", owner, f"{owner}::{name}")
        for owner in self.mro(cls):
            if found := self.members(owner, "children").get(name):
                return Member("child", owner, found)
        return None

    def settable(self, cls: str, name: str) -> bool:
        """Whether `instance.name = value` works, which it does for writable properties alone."""
        member = self.lookup(cls, name)
        return member is not None and member.kind == "property" and member.detail["writable"]

    def arities(self, cls: str, name: str) -> list[tuple[int, int]]:
        """The least and most arguments of each overload, in the class and all its ancestors."""
        names = {name, name.removesuffix("_")}
        return [
            _arity(text)
            for owner in self.mro(cls)
            for key in CALLABLES
            for text in self.members(owner, key)
            if _function_name(text) in names
        ]

    def constructor_arities(self, cls: str) -> list[tuple[int, int]]:
        """The least and most arguments of each constructor; an empty list: Python cannot make such an object."""
        return [_arity(text) for text in self.members(cls, "constructors")] if self.known(cls) else []

    def returned(self, cls: str, name: str) -> str | None:
        """The C++ type that a method or a property gives, as far as it is known."""
        member = self.lookup(cls, name)
        if member is None:
            return None
        if member.kind == "property":
            return member.detail["type"]
        if member.kind in FUNCTIONS:
            return self.members(member.owner, "returns").get(name.removesuffix("_"))
        return member.detail if member.kind == "child" else None

    def signals_named(self, cls: str, name: str) -> list[str]:
        """A signal's overloads; `instance.name.connect(f)` takes the first."""
        return [text for text in self._signals(cls) if _function_name(text) == name]

    def signal(self, cls: str, signature: str) -> str | None:
        """The signal that `instance.connect(signature, f)` finds; None where it would return False."""
        wanted = normalized(signature)
        return next((text for text in self._signals(cls) if text == wanted), None)

    def _signals(self, cls: str) -> Iterator[str]:
        for owner in self.mro(cls):
            yield from self.members(owner, "signals")

    def missing_in_qt6(self, cls: str, name: str) -> bool:
        """Whether Qt 6 lacks this property, this slot, or this signal (a signature names just that overload)."""
        lacks = [self.classes[owner].get("qt6_lacks", {}) for owner in self.mro(cls)]
        texts = {text for lack in lacks for listed in lack.values() for text in listed}
        if "(" in name:
            return normalized(name) in texts
        lost = [text for text in texts if _function_name(text) == name]
        left = [text for text in self.signals_named(cls, name) if text not in texts]
        return bool(lost) and not left

    def names(self, cls: str) -> list[str]:
        """All names of members, sorted."""
        found = set(WRAPPER_METHODS)
        for owner in self.mro(cls):
            enums = self.members(owner, "enums")
            found.update(self.members(owner, "properties"), enums, *enums.values())
            for key in CALLABLES:
                found.update(_function_name(text) for text in self.members(owner, key))
        return sorted(found)


def normalized(signature: str) -> str:
    """A signature as Qt's meta-objects spell it: no spaces, no `const T&`."""
    name, parenthesis, rest = signature.strip().partition("(")
    if not parenthesis:
        return name
    return f"{name.strip()}({','.join(map(_normalized_type, _arguments(rest.rpartition(')')[0])))})"


def _normalized_type(text: str) -> str:
    text = " ".join(text.split())
    if reference := re.fullmatch(r"const ([^&*]+?) ?&|([^&*]+?) const ?&|const ([^&*]+)", text):
        text = next(filter(None, reference.groups()))
    text = re.sub(r"^(struct|class|enum) ", "", text)
    text = re.sub(r"^unsigned( int)?$", "uint", text).replace("unsigned long", "ulong")
    return re.sub(r" ?([*&<>,]) ?", r"\1", text).replace(">>", "> >")


def _function_name(signature: str) -> str:
    return signature.partition("(")[0]


def _arity(signature: str) -> tuple[int, int]:
    """Least and most arguments; in `f(a[,b])` b has a default."""
    inside = signature.partition("(")[2].removesuffix(")")
    most = len(_arguments(re.sub(r"[\[\]]", "", inside)))
    return most - inside.count("["), most


def _arguments(text: str) -> list[str]:
    """The arguments between a signature's parentheses, split at the commas outside <> and ()."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "<(") - (character in ">)")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if text.strip() else []
