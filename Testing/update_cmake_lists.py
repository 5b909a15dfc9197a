"""Writes the names of the files that are there into the lists of the modules' CMakeLists.txt.

    python Testing/update_cmake_lists.py

Run it after adding, moving or removing files; Testing/Slicer/test_packaging.py says when that was forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("SparseUNet3D", "SparseUNet3DLib")


def scripts(folder: Path) -> list[str]:
    """All Python files of a module."""
    return _names(folder, folder.rglob("*.py"))


def resources(folder: Path) -> list[str]:
    """All other files that a module needs."""
    return _names(folder, (folder / "Resources").rglob("*"))


def _names(folder: Path, paths: Iterable[Path]) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    )


def updated(text: str, folder: Path) -> str:
    """The text of a CMakeLists.txt with its lists as they should be."""
    for variable, names in (
        ("MODULE_PYTHON_SCRIPTS", scripts(folder)),
        ("MODULE_PYTHON_RESOURCES", resources(folder)),
    ):
        entries = "".join(f"  {name}\n" for name in names)
        text = re.sub(rf"(set\({variable}\n)[^)]*\)", rf"\g<1>{entries}  )", text)
    return text


def main() -> None:
    for module in MODULES:
        path = ROOT / module / "CMakeLists.txt"
        path.write_text(updated(path.read_text(encoding="utf-8"), path.parent), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
