"""Walks over a module's code that know which variables are in scope, and what its classes consist of."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from static_types import UNKNOWN, PythonClass, TypeReader, Types, merged


class ScopedVisitor(ast.NodeVisitor):
    """Visits a file's nodes while the reader knows the variables around them."""

    def __init__(self, reader: TypeReader) -> None:
        self.reader = reader

    def visit_Module(self, node: ast.Module) -> None:
        self._in_scope(node, node.body, {})

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.reader.current = self.reader.current, self.reader.classes.get(node.name)
        self.generic_visit(node)
        self.reader.current = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        scope = {item.arg: self.reader.annotation(item.annotation) or UNKNOWN for item in arguments}
        scope |= {item.arg: UNKNOWN for item in (node.args.vararg, node.args.kwarg) if item}
        if self.reader.current and arguments and arguments[0].arg == "self":
            del scope["self"]
        self._in_scope(node, node.body, scope)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._in_scope(node, [node.body], {item.arg: UNKNOWN for item in node.args.args})

    def _in_scope(self, node: ast.AST, body: Sequence[ast.AST], arguments: dict[str, Types]) -> None:
        """Visit what is in a scope; its variables may depend on one another, hence the rounds."""
        scope = dict.fromkeys(self._variables(body, arguments), UNKNOWN) | arguments
        self.reader.scopes.append(scope)
        for _ in range(3):
            scope.update(self._variables(body, arguments))
        self.generic_visit(node)
        self.reader.scopes.pop()

    def _variables(self, body: Sequence[ast.AST], arguments: dict[str, Types]) -> dict[str, Types]:
        """The types of the names in a scope, over all the values that they get."""
        values: dict[str, list[Types | None]] = {name: [types] for name, types in arguments.items()}
        understood: set[int] = set()
        for node in own_nodes(body):
            for target, types in self.assignments(node):
                if isinstance(target, ast.Name):
                    understood.add(id(target))
                    values.setdefault(target.id, []).append(types)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in understood:
                values.setdefault(node.id, []).append(UNKNOWN)
            if isinstance(node, ast.ImportFrom) and node.module in ("slicer", "qt", "ctk", "vtk"):
                for alias in node.names:
                    origin = ast.Attribute(ast.Name(node.module, ast.Load()), alias.name, ast.Load())
                    values.setdefault(alias.asname or alias.name, []).append(self.reader.types(origin))
        return {name: merged(parts) for name, parts in values.items()}

    def assignments(self, node: ast.AST) -> list[tuple[ast.expr, Types | None]]:
        """The targets of an assignment with the types that they get."""
        if isinstance(node, ast.Assign):
            return [(target, self.reader.types(node.value)) for target in node.targets]
        if isinstance(node, ast.AnnAssign):
            return [(node.target, self.reader.annotation(node.annotation))]
        if isinstance(node, ast.NamedExpr):
            return [(node.target, self.reader.types(node.value))]
        return []


def own_nodes(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a scope, outer ones first, without those of the functions and classes in it."""
    todo = list(body)
    while todo:
        node = todo.pop(0)
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


class ClassCollector(ScopedVisitor):
    """Finds what the classes of files have, as attributes and as results of their methods."""

    def __init__(self, reader: TypeReader) -> None:
        super().__init__(reader)
        self.found = {name: PythonClass(name, cls.bases) for name, cls in reader.classes.items()}
        self._understood: set[int] = set()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        cls = self.found[node.name]
        for item in node.body:
            for target, types in self.assignments(item):
                if isinstance(target, ast.Name):
                    cls.add(target.id, types)
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                result = self.reader.annotation(item.returns) or UNKNOWN
                if any(ast.unparse(decorator).endswith("property") for decorator in item.decorator_list):
                    cls.add(item.name, result)
                else:
                    cls.results[item.name] = result
        super().visit_ClassDef(node)

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign) -> None:
        for target, types in self.assignments(node):
            if self._is_own_attribute(target):
                self._understood.add(id(target))
                self.found[self.reader.current.name].add(target.attr, types)
        self.generic_visit(node)

    visit_AnnAssign = visit_Assign

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Attributes set by loops, with-statements or unpacked tuples are there, of unknown types."""
        if self._is_own_attribute(node) and isinstance(node.ctx, ast.Store) and id(node) not in self._understood:
            self.found[self.reader.current.name].add(node.attr, UNKNOWN)
        self.generic_visit(node)

    def _is_own_attribute(self, node: ast.expr) -> bool:
        return self.reader.current is not None and isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"


def collect_classes(trees: Sequence[ast.Module], reader: TypeReader) -> None:
    """Tell the reader the classes of all files; their attributes may hold one another, hence the rounds."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                reader.classes[node.name] = PythonClass(node.name, [ast.unparse(base) for base in node.bases])
    for _ in range(4):
        collector = ClassCollector(reader)
        for tree in trees:
            collector.visit(tree)
        reader.classes = collector.found
