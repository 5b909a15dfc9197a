"""Of which class an expression in a module's code is, as far as it can be told without running it.

Types are sets of Known; an empty set means that nothing is known, and nothing is then checked.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from contract import Contract


class Known(NamedTuple):
    """A class of Qt, CTK, Slicer, VTK or, with py: before its name, of the module itself."""

    name: str
    exact: bool = True  # False: objects may be of a derived class.
    is_class: bool = False  # The class itself, not an object of it.


Types = frozenset[Known]
SINGLETONS = {"slicer.app": "qSlicerApplication", "slicer.mrmlScene": "vtkMRMLScene"}
QT_MODULES = ("qt", "ctk", "slicer")
UNKNOWN: Types = frozenset()
NOTHING = None  # The type of None: a variable that is None at times is judged by its other values.


@dataclass
class PythonClass:
    """A class that the module defines."""

    name: str
    bases: list[str] = field(default_factory=list)
    attributes: dict[str, list[Types | None]] = field(default_factory=dict)  # The types of all values that each gets.
    results: dict[str, Types] = field(default_factory=dict)  # Of its methods.

    def add(self, attribute: str, types: Types | None) -> None:
        self.attributes.setdefault(attribute, []).append(types)


@cache
def slicer_module() -> Any:
    """Slicer's real Python package without its windows, with the true VTK and MRML classes; None: not installed."""
    try:
        import slicer
    except ImportError:
        return None
    return slicer if hasattr(slicer, "vtkMRMLScene") else None


def vtk_class(name: str) -> type | None:
    """A class of Slicer or of VTK itself; None if it is not there, or slicer-core is not installed."""
    found = getattr(slicer_module(), name, None) if name.startswith("vtk") else None
    if found is None and name.startswith("vtk") and slicer_module():
        import vtk

        found = getattr(vtk, name, None)
    return found if isinstance(found, type) else None


def subclasses(cls: type) -> set[type]:
    """The class and all that derive from it."""
    return {cls}.union(*(subclasses(child) for child in type.__subclasses__(cls)))


def merged(parts: list[Types | None]) -> Types:
    """The types of something that takes several values; unknown if one of them is."""
    real = [part for part in parts if part is not NOTHING]
    return frozenset().union(*real) if all(real) else UNKNOWN


class TypeReader:
    """Reads the types of expressions, given the variables in scope, the widgets of the forms and all classes."""

    def __init__(self, contract: Contract, widgets: dict[str, str], classes: dict[str, PythonClass]) -> None:
        self.contract = contract
        self.widgets = widgets
        self.classes = classes
        self.scopes: list[dict[str, Types]] = [{}]
        self.current: PythonClass | None = None
        self.children: dict[str, set[str]] = {}
        for name in contract.classes:
            for base in contract.mro(name)[1:]:
                self.children.setdefault(base, set()).add(name)

    def types(self, node: ast.expr | None) -> Types | None:
        """Of which class the value of an expression is."""
        if isinstance(node, ast.Constant) and node.value is None:
            return NOTHING
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._result(node)
        if isinstance(node, ast.IfExp):
            return merged([self.types(node.body), self.types(node.orelse)])
        if isinstance(node, ast.NamedExpr):
            return self.types(node.value)
        return UNKNOWN

    def annotation(self, node: ast.expr | None) -> Types | None:
        """The types that an annotation promises; objects may be of derived classes."""
        if isinstance(node, ast.Constant):
            return NOTHING if node.value is None else self._quoted(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return merged([self.annotation(node.left), self.annotation(node.right)])
        if isinstance(node, (ast.Name, ast.Attribute)):
            found = self.types(node) or UNKNOWN
            return frozenset(Known(item.name, exact=False) for item in found if item.is_class)
        return UNKNOWN

    def _quoted(self, text: object) -> Types | None:
        try:
            return self.annotation(ast.parse(str(text), mode="eval").body)
        except SyntaxError:
            return UNKNOWN

    def _name(self, name: str) -> Types:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        if name == "self" and self.current:
            return frozenset({Known(f"py:{self.current.name}", exact=False)})
        return frozenset({Known(f"py:{name}", is_class=True)}) if name in self.classes else UNKNOWN

    def _attribute(self, node: ast.Attribute) -> Types:
        if found := SINGLETONS.get(ast.unparse(node)):
            return frozenset({Known(found)})
        if isinstance(node.value, ast.Name) and node.value.id in (*QT_MODULES, "vtk"):
            known = self.contract.known(node.attr) or vtk_class(node.attr)
            return frozenset({Known(node.attr, is_class=True)}) if known else UNKNOWN
        if is_form(node.value):
            return frozenset({Known(self.widgets[node.attr])}) if node.attr in self.widgets else UNKNOWN
        return merged([self._member(known, node.attr) for known in self.types(node.value) or ()])

    def _member(self, known: Known, name: str) -> Types:
        """What an attribute of an object holds."""
        if known.name.startswith("py:"):
            for cls in self.lineage(known.name):
                if name in cls.attributes:
                    return merged(cls.attributes[name])
            return UNKNOWN
        member = self.contract.lookup(known.name, name)
        if member and member.kind in ("property", "child") and not known.is_class:
            return self._from_cpp(self.contract.returned(known.name, name))
        return UNKNOWN

    def _result(self, node: ast.Call) -> Types:
        called = node.func
        types = self.types(called) or UNKNOWN
        if types and all(item.is_class for item in types):
            return frozenset(Known(item.name) for item in types)
        if not isinstance(called, ast.Attribute):
            return UNKNOWN
        text = ast.unparse(called)
        if text in ("slicer.util.loadUI", "slicer.util.mainWindow"):
            return frozenset({Known("QWidget" if called.attr == "loadUI" else "QMainWindow", exact=False)})
        if called.attr in ("AddNewNodeByClass", "CreateNodeByClass") and isinstance(node.args[0], ast.Constant):
            return frozenset({Known(node.args[0].value)}) if vtk_class(node.args[0].value) else UNKNOWN
        if match := re.fullmatch(r"slicer\.modules\.(\w+)\.logic", text):
            return self._module_logic(match[1])
        return merged([self._returned(known, called.attr) for known in self.types(called.value) or ()])

    def _returned(self, known: Known, name: str) -> Types:
        """What a method gives."""
        if known.name.startswith("py:"):
            return next((cls.results[name] for cls in self.lineage(known.name) if name in cls.results), UNKNOWN)
        if cls := vtk_class(known.name):
            results = set(re.findall(r"->\s+(\w+)\n", getattr(cls, name, cls).__doc__ or ""))
            return self._from_cpp(results.pop()) if len(results) == 1 else UNKNOWN
        return self._from_cpp(self.contract.returned(known.name, name))

    def _module_logic(self, module: str) -> Types:
        wanted = {f"vtkslicer{module}modulelogic", f"vtkslicer{module}logic"}
        names = [name for name in dir(slicer_module()) if name.lower() in wanted]
        return frozenset({Known(names[0])}) if names else UNKNOWN

    def _from_cpp(self, text: str | None) -> Types:
        """A C++ type; the object that comes may be of a derived class."""
        name = re.sub(r"\bconst\b|[*&]", "", text or "").strip()
        known = self.contract.known(name) or vtk_class(name)
        return frozenset({Known(name, exact=False)}) if known else UNKNOWN

    def lineage(self, name: str) -> list[PythonClass]:
        """A class of the module and those of its ancestors that the module defines too."""
        found: list[PythonClass] = []
        todo = [name.removeprefix("py:")]
        while todo:
            cls = self.classes.get(todo.pop(0))
            if cls and cls not in found:
                found.append(cls)
                todo += [base.rpartition(".")[2] for base in cls.bases]
        return found

    def qt_base(self, name: str) -> str | None:
        """The Qt class that a class of the module derives from."""
        bases = [base for cls in self.lineage(name) for base in cls.bases]
        names = (base.partition(".") for base in bases)
        return next((name for module, _, name in names if module in QT_MODULES and self.contract.known(name)), None)

    def candidates(self, known: Known) -> set[str]:
        """The classes of the contract that an object may be of."""
        return {known.name} if known.exact else {known.name, *self.children.get(known.name, ())}


def is_form(node: ast.expr) -> bool:
    """Whether an expression is what slicer.util.childWidgetVariables gives, by the names that are usual for it."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in ("ui", "_ui")
