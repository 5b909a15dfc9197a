"""Finds uses of Qt, CTK, Slicer and VTK that do not exist, or that exist in one of Qt 5 and Qt 6 only."""

from __future__ import annotations

import ast

from contract import FUNCTIONS
from qt5_only import AMBIGUOUS_SIGNALS, QT5_ONLY_CLASSES, qt5_only_member
from static_scopes import ScopedVisitor
from static_types import QT_MODULES, Known, TypeReader, is_form, slicer_module, subclasses, vtk_class


class UseFinder(ScopedVisitor):
    """Collects (line, what is wrong) of one file."""

    def __init__(self, reader: TypeReader) -> None:
        super().__init__(reader)
        self.contract = reader.contract
        self.found: list[tuple[int, str]] = []

    def report(self, node: ast.AST, text: str) -> None:
        self.found.append((node.lineno, text))

    # -- attributes ----------------------------------------------------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        name = node.attr
        if isinstance(node.value, ast.Name) and node.value.id in QT_MODULES:
            self._check_class(node)
        elif ast.unparse(node.value) == "slicer.util" and slicer_module() and not hasattr(slicer_module().util, name):
            self.report(node, f"slicer.util has no '{name}'")
        elif is_form(node.value):
            if self.reader.widgets and name not in self.reader.widgets:
                self.report(node, f"no .ui file has a widget named '{name}'")
        elif name == "exec_":
            self.report(node, "exec_() is the spelling of Python 2: use exec()")
        elif types := self.reader.types(node.value):
            self._check_member(node, types)

    def _check_class(self, node: ast.Attribute) -> None:
        """A name in qt, ctk or slicer."""
        module, name = node.value.id, node.attr
        if name in QT5_ONLY_CLASSES:
            self.report(node, f"Qt 6 has no {name}")
        elif self.contract.known(name):
            if (right := self.contract.classes[name]["module"]) != module:
                self.report(node, f"{name} is in {right or 'no Python module'}, not in {module}")
        elif module in ("qt", "ctk") or (name.startswith("q") and name[1:2].isupper()):
            self.report(node, f"the API contract has no {module}.{name} (trim_contract.py says which classes it has)")
        elif name.startswith("vtk") and slicer_module() and not vtk_class(name):
            self.report(node, f"slicer has no {name}")

    def _check_member(self, node: ast.Attribute, types: frozenset[Known]) -> None:
        name = node.attr
        if name.startswith("__"):
            return
        if not any(self._has(known, name) for known in types):
            self.report(node, f"{_names(types)} has no attribute '{name}'")
        elif isinstance(node.ctx, ast.Store) and not any(self._can_set(known, name) for known in types):
            self.report(node, f"{_names(types)}.{name} cannot be set: it is no writable property")
        for known in types:
            if text := qt5_only_member(self.contract, self.reader.qt_base(known.name) or known.name, name):
                self.report(node, text)

    def _has(self, known: Known, name: str) -> bool:
        if known.name.startswith("py:"):
            base = self.reader.qt_base(known.name)
            own = any(name in cls.attributes or name in cls.results for cls in self.reader.lineage(known.name))
            return base is None or own or self.contract.lookup(base, name) is not None
        if cls := vtk_class(known.name):
            return any(hasattr(item, name) for item in ({cls} if known.exact else subclasses(cls)))
        return any(self.contract.lookup(cls, name) for cls in self.reader.candidates(known))

    def _can_set(self, known: Known, name: str) -> bool:
        """VTK's and the module's own objects take new attributes, those of Qt do not."""
        if not self.contract.known(known.name):
            return True
        return not known.is_class and any(self.contract.settable(cls, name) for cls in self.reader.candidates(known))

    # -- calls ---------------------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called = node.func
        for known in self.reader.types(called) or ():
            if known.is_class and self.contract.known(known.name):
                self._check_arguments(node, known.name, self.contract.constructor_arities(known.name))
        if not isinstance(called, ast.Attribute):
            return
        types = {known for known in self.reader.types(called.value) or () if self.contract.known(known.name)}
        if types:
            self._check_method_call(node, called, types)
        if called.attr in ("connect", "disconnect", "emit") and isinstance(called.value, ast.Attribute):
            self._check_signal(called)

    def _check_method_call(self, node: ast.Call, called: ast.Attribute, types: set[Known]) -> None:
        name = called.attr
        members = [self.contract.lookup(cls, name) for known in types for cls in self.reader.candidates(known)]
        kinds = {member.kind for member in members if member}
        if kinds == {"property"}:
            self.report(node, f"{_names(types)}.{name} is a property, not a method: leave out the parentheses")
        elif kinds and kinds <= FUNCTIONS:
            arities = [
                (least, most + known.is_class)  # A method called on its class gets the object, too.
                for known in types
                for cls in self.reader.candidates(known)
                for least, most in self.contract.arities(cls, name)
            ]
            self._check_arguments(node, f"{_names(types)}.{name}", arities)
        first = node.args[0] if node.args else None
        if name in ("connect", "disconnect") and isinstance(first, ast.Constant) and isinstance(first.value, str):
            self._check_signature(node, types, first.value)

    def _check_arguments(self, node: ast.Call, what: str, arities: list[tuple[int, int]]) -> None:
        if node.keywords:
            self.report(node, f"{what}() takes no keyword arguments")
        elif not arities:
            self.report(node, f"{what} has no constructor")
        elif not any(isinstance(item, ast.Starred) for item in node.args):
            count = len(node.args)
            if not any(least <= count <= most for least, most in arities):
                choices = sorted({str(least) if least == most else f"{least}-{most}" for least, most in arities})
                self.report(node, f"{what}() takes {' or '.join(choices)} arguments, not {count}")

    def _check_signature(self, node: ast.Call, types: set[Known], signature: str) -> None:
        classes = {cls for known in types for cls in self.reader.candidates(known)}
        if not any(self.contract.signal(cls, signature) for cls in classes):
            self.report(node, f"{_names(types)} has no signal '{signature}': connecting it would quietly do nothing")
        elif any(self.contract.missing_in_qt6(known.name, signature) for known in types):
            self.report(node, f"Qt 6 has no signal '{signature}' of {_names(types)}")

    def _check_signal(self, called: ast.Attribute) -> None:
        """The X of object.X.connect."""
        name = called.value.attr
        for known in self.reader.types(called.value.value) or ():
            if not self.contract.known(known.name):
                continue
            members = [self.contract.lookup(cls, name) for cls in self.reader.candidates(known)]
            kinds = {member.kind for member in members if member}
            if kinds and "signal" not in kinds:
                self.report(called, f"{known.name}.{name} is no signal to {called.attr}")
            elif (known.name, name) in AMBIGUOUS_SIGNALS:
                self.report(called, f"{known.name}.{name} is another signal in Qt 6: connect it by its signature")


def _names(types: set[Known] | frozenset[Known]) -> str:
    return " or ".join(sorted(known.name.removeprefix("py:") for known in types))
