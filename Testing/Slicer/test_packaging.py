"""What works in the checkout is in the package, too: CMake's lists name every file, and no other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from update_cmake_lists import MODULES, ROOT, resources, scripts, updated


def listed(text: str, variable: str) -> list[str]:
    found = re.search(rf"set\({variable}\s([^)]*)\)", text)
    return found[1].split() if found else []


@pytest.mark.parametrize("module", MODULES)
def test_the_lists_name_the_files_that_are_there(module: str) -> None:
    text = (ROOT / module / "CMakeLists.txt").read_text(encoding="utf-8")
    hint = "run `python Testing/update_cmake_lists.py`"
    assert listed(text, "MODULE_PYTHON_SCRIPTS") == scripts(ROOT / module), hint
    assert listed(text, "MODULE_PYTHON_RESOURCES") == resources(ROOT / module), hint


@pytest.mark.parametrize("module", MODULES)
def test_all_files_that_git_would_ship_are_known(module: str) -> None:
    """Nothing lies outside Resources that is neither code nor CMake's: it would stay behind."""
    folder = ROOT / module
    known = {*scripts(folder), *resources(folder), "CMakeLists.txt"}
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert {path.as_posix() for path in files if "__pycache__" not in path.parts} <= known


def test_the_library_lists_its_sub_packages() -> None:
    text = (ROOT / "SparseUNet3DLib" / "CMakeLists.txt").read_text(encoding="utf-8")
    names = listed(text, "MODULE_PYTHON_SCRIPTS")
    assert {"__init__.py", "command_line/__init__.py", "networks/__init__.py"} <= set(names)
    assert "WITH_SUBDIR" in text


def test_slicer_takes_only_the_module_for_a_module() -> None:
    """Slicer loads every Python file beside a module's own as one more module."""
    assert {path.name for path in (ROOT / "SparseUNet3D").glob("*.py")} <= {"SparseUNet3D.py"}


def test_updating_adds_and_removes_names(tmp_path: Path) -> None:
    folder = tmp_path / "Module"
    shutil.copytree(ROOT / "SparseUNet3DLib" / "networks", folder / "networks", ignore=lambda *_: ["__pycache__"])
    (folder / "Resources").mkdir()
    (folder / "Resources" / "form.ui").touch()
    text = "set(MODULE_PYTHON_SCRIPTS\n  gone.py\n  )\n\nset(MODULE_PYTHON_RESOURCES\n  )\nset(other)\n"
    text = updated(text, folder)
    assert listed(text, "MODULE_PYTHON_SCRIPTS") == [
        f"networks/{path.name}" for path in sorted((folder / "networks").glob("*.py"))
    ]
    assert listed(text, "MODULE_PYTHON_RESOURCES") == ["Resources/form.ui"]
    assert text.endswith("set(other)\n")
    assert updated(text, folder) == text
