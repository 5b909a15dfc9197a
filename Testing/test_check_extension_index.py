"""The check for the Extensions Index passes a good checkout and finds each thing that can be wrong with one."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from check_extension_index import LARGEST_FILE, PNG_SIGNATURE, problems

ROOT = Path(__file__).resolve().parents[1]
RAW = "https://raw.githubusercontent.com/SparseUNet3D/SlicerSparseUNet3D/main"

README = """\
# SparseUNet3D

Paint a few slices; get the whole volume.

![What it does](Documentation/demo.png)

## Modules

- **SparseUNet3D**: learns from painted slices and segments the rest.

## Tutorial

1. Get the sample data MRHead from the module Sample Data.

## How to cite

Çiçek et al., MICCAI 2016.

## Licence

Apache-2.0.
"""

CMAKE = f"""\
cmake_minimum_required(VERSION 3.16)
project(SparseUNet3D)
set(EXTENSION_HOMEPAGE "https://github.com/SparseUNet3D/SlicerSparseUNet3D")
set(EXTENSION_CONTRIBUTORS "SparseUNet3D contributors")
set(EXTENSION_DESCRIPTION "It segments. It learns from v1.0 on.")
set(EXTENSION_ICONURL "{RAW}/SparseUNet3D.png")
set(EXTENSION_SCREENSHOTURLS "{RAW}/Documentation/demo.png {RAW}/SparseUNet3D.png")
set(EXTENSION_DEPENDS "PyTorch")
"""

MODULE = """\
import qt
import slicer
from SparseUNet3DLib import errors
from SparseUNet3DModule.job import Job

def train():
    import torch
"""


def png(width: int = 128) -> bytes:
    return PNG_SIGNATURE + struct.pack(">I4sII", 13, b"IHDR", width, width)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "SparseUNet3D.json": (ROOT / "SparseUNet3D.json").read_text(encoding="utf-8"),
        "CMakeLists.txt": CMAKE,
        "README.md": README,
        "LICENSE.txt": "Apache License",
        "SparseUNet3D/SparseUNet3D.py": MODULE,
        "SparseUNet3D/SparseUNet3DModule/__init__.py": "",
        "SparseUNet3D/SparseUNet3DModule/job.py": "from .installation import install\n\nJob = None\n",
        "SparseUNet3D/SparseUNet3DModule/installation.py": (
            "import slicer\n\ndef install():\n    slicer.util.pip_install('safetensors')\n"
        ),
        "SparseUNet3D/Resources/requirements.txt": "safetensors\n",
        "SparseUNet3DLib/__init__.py": "",
        "SparseUNet3DLib/errors.py": "from SparseUNet3DLib import geometry\n",
        "SparseUNet3DLib/geometry.py": "import numpy as np\nimport SimpleITK\n",
        "SparseUNet3DLib/training.py": "import torch\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "Documentation").mkdir()
    (tmp_path / "Documentation" / "demo.png").write_bytes(png(640))
    (tmp_path / "SparseUNet3D.png").write_bytes(png())
    return tmp_path


def wrong(root: Path) -> dict[str, list[str]]:
    return {title: texts for title, texts in problems(root).items() if texts}


def test_a_good_checkout_breaks_no_rule(checkout: Path) -> None:
    assert wrong(checkout) == {}


def test_this_checkout_breaks_no_rule() -> None:
    assert wrong(ROOT) == {}


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        data = (root / name).read_bytes()
        assert old.encode() in data
        (root / name).write_bytes(data.replace(old.encode(), new.encode()))

    return change


def entry(**changes: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "SparseUNet3D.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}) + "\n")

    return change


def appended(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text((root / name).read_text(encoding="utf-8") + text, encoding="utf-8")


def removed(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def binary(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data)


@pytest.mark.parametrize(
    ("title", "expected", "change"),
    [
        ("description file is clean JSON", "is no JSON object", replaced("SparseUNet3D.json", "{", "")),
        ("description file is clean JSON", "with LF alone", replaced("SparseUNet3D.json", "\n", "\r\n")),
        ("description file is clean JSON", "with spaces", replaced("SparseUNet3D.json", "  ", "\t")),
        ("description file is clean JSON", "one line break", replaced("SparseUNet3D.json", "}\n", "}")),
        ("description file is clean JSON", "one line break", replaced("SparseUNet3D.json", "}\n", "}\n\n")),
        ("description file is clean JSON", "write SparseUNet3D.json", removed("SparseUNet3D.json")),
        ("description file obeys the schema", "add 'category'", entry(category=None)),
        ("description file obeys the schema", "remove 'homepage'", entry(homepage="https://x")),
        ("description file obeys the schema", "of type bool", entry(enabled="true")),
        ("description file obeys the schema", "'$schema' has", entry(**{"$schema": "https://x"})),
        ("description file obeys the schema", "1, 3 or 5", entry(tier=2)),
        ("description file obeys the schema", "'scm_type'", entry(scm_type="svn")),
        ("description file obeys the schema", "'category' has", entry(category="Segmenting")),
        ("description file obeys the schema", "list of names", entry(build_dependencies=["PyTorch", 1])),
        ("names and addresses", "'SparseUNet3D'", entry(scm_url="https://github.com/SparseUNet3D/SparseUNet3D.git")),
        ("names and addresses", "https://", entry(scm_url="ssh://github.com/SparseUNet3D/SlicerSparseUNet3D.git")),
        ("names and addresses", "project(", replaced("CMakeLists.txt", "project(S", "project(SlicerS")),
        ("names and addresses", "EXTENSION_HOMEPAGE", replaced("CMakeLists.txt", 'UNet3D")\nset(E', 'UNet")\nset(E')),
        ("description and contributors", "CONTRIBUTORS", replaced("CMakeLists.txt", "SparseUNet3D contributors", "")),
        ("description and contributors", "not 3", replaced("CMakeLists.txt", "It learns", "Yes. It learns")),
        ("icon and screenshots", "on one line", replaced("CMakeLists.txt", "demo.png http", 'demo.png" # http')),
        ("icon and screenshots", "has to start with", replaced("CMakeLists.txt", "/main/S", "/master/S")),
        ("icon and screenshots", "is no PNG file", removed("Documentation/demo.png")),
        ("icon and screenshots", "is no PNG file", binary("Documentation/demo.png", b"GIF89a")),
        ("icon and screenshots", "128 x 128", binary("SparseUNet3D.png", png(64))),
        ("dependencies agree", "have to agree", replaced("CMakeLists.txt", '"PyTorch"', '"NA"')),
        ("dependencies agree", "comes with the extension", entry(build_dependencies=[])),
        ("licence file", "add the licence", removed("LICENSE.txt")),
        ("sizes", "make it smaller", binary("Documentation/large.nrrd", bytes(LARGEST_FILE + 1))),
        ("README: summary", "one or two sentences", replaced("README.md", "volume.", "volume. So. Yes. It does.")),
        ("README: summary", "one or two sentences", removed("README.md")),
        ("README: picture", "does not exist", replaced("README.md", "demo.png", "other.png")),
        ("README: picture", "add a picture", replaced("README.md", "![", "[")),
        ("README: modules", "'Modules'", replaced("README.md", "Modules", "Parts")),
        ("README: modules", "'Modules'", replaced("README.md", "**SparseUNet3D**", "It")),
        ("README: how to cite", "'How to cite'", replaced("README.md", "How to cite", "Thanks")),
        ("README: licence", "'Licence'", replaced("README.md", "Apache-2.0.", "None.")),
        ("README: tutorial with sample data", "'Tutorial'", replaced("README.md", "Tutorial", "Use")),
        ("imports when Slicer starts", "write SparseUNet3D/", removed("SparseUNet3D/SparseUNet3D.py")),
        ("imports when Slicer starts", "geometry.py:3", appended("SparseUNet3DLib/geometry.py", "import torch\n")),
        (
            "imports when Slicer starts",
            "installation.py:5",
            appended("SparseUNet3D/SparseUNet3DModule/installation.py", "from pandas import DataFrame\n"),
        ),
        (
            "imports when Slicer starts",
            "training.py:1: import torch",
            appended("SparseUNet3D/SparseUNet3DModule/job.py", "from SparseUNet3DLib import training\n"),
        ),
        ("library imports without PyTorch", "fails", appended("SparseUNet3DLib/__init__.py", "import torch\n")),
        (
            "PyTorch is not installed by pip",
            "installation.py:4",
            replaced("SparseUNet3D/SparseUNet3DModule/installation.py", "'safetensors'", "['torch>=2.4']"),
        ),
        (
            "PyTorch is not installed by pip",
            "remove torch",
            appended("SparseUNet3D/Resources/requirements.txt", "torch>=2.4\n"),
        ),
    ],
)
def test_each_broken_rule_is_told(checkout: Path, title: str, expected: str, change: Callable[[Path], object]) -> None:
    change(checkout)
    assert expected in "; ".join(wrong(checkout).get(title, []))


def test_history_counts_as_size(checkout: Path) -> None:
    (checkout / ".git").mkdir()
    with (checkout / ".git" / "pack").open("wb") as file:
        file.truncate(101_000_000)
    assert "101 MB" in wrong(checkout)["sizes"][0]


def test_the_command_prints_a_line_per_rule_and_fails_for_a_broken_one(checkout: Path) -> None:
    def run() -> subprocess.CompletedProcess:
        script = Path(__file__).with_name("check_extension_index.py")
        return subprocess.run([sys.executable, str(script), str(checkout)], capture_output=True, text=True)

    result = run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(line.startswith("ok ") for line in result.stdout.splitlines())
    (checkout / "LICENSE.txt").unlink()
    result = run()
    assert result.returncode == 1
    assert "WRONG licence file: add the licence" in result.stdout
