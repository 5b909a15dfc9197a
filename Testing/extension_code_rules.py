"""What the Extensions Index asks of an extension's code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from file_scope_imports import imported_at_start, third_party

if TYPE_CHECKING:
    from check_extension_index import Checkout

MODULE = "SparseUNet3D"
LIBRARY = "SparseUNet3DLib"


def imports_at_start(checkout: Checkout) -> Iterator[str]:
    """Nothing that Slicer may lack is imported by the module's files, nor by what they import of the library."""
    folder = checkout.root / MODULE
    if not (folder / f"{MODULE}.py").is_file():
        yield f"write {MODULE}/{MODULE}.py"
    found: set[str] = set()
    for path in _python_files(folder):
        for file, imports in imported_at_start(path, [folder, checkout.root]).items():
            for item in third_party(imports):
                place = f"{file.relative_to(checkout.root).as_posix()}:{item.line}"
                found.add(f"{place}: import {item.module} in the function that needs it")
    yield from sorted(found)


def library_without_torch(checkout: Checkout) -> Iterator[str]:
    """The package itself can be imported where PyTorch is missing, so that it can say so."""
    program = f"import sys; sys.modules['torch'] = sys.modules['safetensors'] = None; import {LIBRARY}"
    result = subprocess.run([sys.executable, "-c", program], cwd=checkout.root, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        yield f"importing {LIBRARY} fails without PyTorch ({lines[-1] if lines else 'no message'})"


def no_pip_for_torch(checkout: Checkout) -> Iterator[str]:
    """PyTorch comes by the PyTorch extension, which knows the right build for the computer."""
    for path in (*_python_files(checkout.root / MODULE), *_python_files(checkout.root / LIBRARY)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.rpartition(".")[2] in ("pip_install", "pip_ensure") and _names_torch(node):
                place = f"{path.relative_to(checkout.root).as_posix()}:{node.lineno}"
                yield f"{place}: install PyTorch by PyTorchUtils.PyTorchUtilsLogic().installTorch()"
    for path in (checkout.root / MODULE).rglob("requirements*.txt"):
        if re.search(r"^\s*torch\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield f"{path.relative_to(checkout.root).as_posix()}: remove torch"


def _names_torch(call: ast.Call) -> bool:
    """Whether a call's arguments have torch in a text."""
    texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(re.search(r"\btorch(vision|audio)?\b", text) for text in texts)


def _python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
