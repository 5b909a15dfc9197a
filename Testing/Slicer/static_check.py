"""Checks the code and the forms of a module against Slicer's Python API, without Slicer.

    python static_check.py [MODULE_FOLDER]

Prints one line per mistake, with file and line, and exits with 1 if there is one. Notes, about what Slicer 5.8 does
not have yet, are no mistakes. Not everything can be known without running the code: no finding is no proof.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

# At the end, so that nothing in them is taken for a package of the same name.
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "SlicerStandIn"))
from contract import Contract
from file_scope_imports import file_scope_imports, third_party
from static_forms import check_form, parse_form, widgets_of
from static_scopes import collect_classes
from static_types import TypeReader
from static_uses import UseFinder

MODULE = Path(__file__).resolve().parents[2] / "SparseUNet3D"


class Finding(NamedTuple):
    """Something wrong; a note is only worth a look."""

    path: Path
    line: int
    text: str
    is_note: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {'note: ' if self.is_note else ''}{self.text}"


@cache
def cached_contract(version: str) -> Contract:
    return Contract(version=version)


def check(folder: Path) -> list[Finding]:
    """All findings in a module's folder, by file and line."""
    now = set(_check_version(folder, "main"))
    before = set(_check_version(folder, "v5.8.1"))
    notes = {Finding(item.path, item.line, f"in Slicer 5.8, {item.text}", is_note=True) for item in before - now}
    return sorted(now | notes)


def _check_version(folder: Path, version: str) -> Iterator[Finding]:
    contract = cached_contract(version)
    widgets: dict[str, str] = {}
    for path in sorted(folder.rglob("*.ui")):
        try:
            root = parse_form(path)
        except expat.ExpatError as error:
            yield Finding(path, error.lineno, f"no XML: {error}")
            continue
        widgets |= widgets_of(root)
        yield from (Finding(path, line, text) for line, text in check_form(root, contract))
    trees: dict[Path, ast.Module] = {}
    for path in sorted(folder.rglob("*.py")):
        try:
            trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            yield Finding(path, error.lineno or 0, f"no Python: {error.msg}")
    reader = TypeReader(contract, widgets, {})
    collect_classes(list(trees.values()), reader)
    for path, tree in trees.items():
        finder = UseFinder(reader)
        finder.visit(tree)
        for line, text in (*finder.found, *_check_imports(tree), *_check_translations(tree)):
            yield Finding(path, line, text)


def _check_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for item in third_party(file_scope_imports(tree)):
        yield item.line, f"'{item.module}' may not be installed when Slicer starts: import it in the function using it"


def _check_translations(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Slicer's translators get the texts that stand between the parentheses of _(), and only these."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in ("_", "translate") or not node.args:
            continue
        text = node.args[-1]
        if isinstance(text, ast.JoinedStr):
            yield text.lineno, 'an f-string cannot be translated: use _("... {x} ...").format(x=x)'
        elif not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
            yield text.lineno, "only a text that stands in the code can be translated"


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODULE
    findings = check(folder)
    for finding in findings:
        print(finding)
    mistakes = sum(not finding.is_note for finding in findings)
    files = sum(len(list(folder.rglob(pattern))) for pattern in ("*.py", "*.ui"))
    print(f"{files} files, {mistakes} mistakes")
    return 1 if mistakes or not files else 0


if __name__ == "__main__":
    sys.exit(main())
