"""Which modules a Python file imports as soon as it is imported itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: What every Slicer has. Anything else may be missing when Slicer starts, and its module would then not load.
IN_SLICER = frozenset({"SampleData", "SimpleITK", "ctk", "numpy", "qt", "scipy", "sitkUtils", "slicer", "vtk"})

#: Python 3.12, which Slicer has, does not bring them any more.
REMOVED = frozenset({"asynchat", "asyncore", "distutils", "imp", "smtpd"})

PROJECT = frozenset({"SparseUNet3D", "SparseUNet3DLib", "SparseUNet3DModule"})


class Import(NamedTuple):
    """An import outside all functions: the line and the module, in full."""

    line: int
    module: str
    names: tuple[str, ...]


def file_scope_imports(tree: ast.Module, package: str = "") -> list[Import]:
    """All imports that run with the file; package, where the file lies in one, resolves the relative ones."""
    found = []
    for node in _running_at_import(tree.body):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parts, *([node.module] if node.module else [])])
            found.append(Import(node.lineno, module, tuple(alias.name for alias in node.names)))
    return found


def third_party(imports: Iterable[Import]) -> list[Import]:
    """Those that neither Python, Slicer nor the project brings; relative ones whose package is unknown pass."""
    known = IN_SLICER | PROJECT | (sys.stdlib_module_names - REMOVED) | {""}
    return [item for item in imports if item.module.partition(".")[0] not in known]


def imported_at_start(entry: Path, roots: Iterable[Path]) -> dict[Path, list[Import]]:
    """The file and all files below the roots that importing it imports, each with its own imports."""
    roots = list(roots)
    found: dict[Path, list[Import]] = {}
    todo = [entry]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        package = _package(path, roots)
        found[path] = file_scope_imports(ast.parse(path.read_text(encoding="utf-8")), package)
        for item in found[path]:
            names = [item.module, *(f"{item.module}.{name}" for name in item.names)]
            todo += [file for name in names for file in _files(name, roots)]
    return found


def _running_at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes but those in functions and in `if TYPE_CHECKING`."""
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
            continue
        yield node
        todo += ast.iter_child_nodes(node)


def _package(path: Path, roots: list[Path]) -> str:
    """The dotted package that a file lies in."""
    for root in roots:
        if path.is_relative_to(root):
            return ".".join(path.relative_to(root).parent.parts)
    return ""


def _files(module: str, roots: list[Path]) -> Iterator[Path]:
    """The files that run when a module is imported: its own, and those of the packages around it."""
    parts = module.split(".")
    for root in roots:
        for count in range(1, len(parts) + 1):
            base = root.joinpath(*parts[:count])
            yield from (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())
