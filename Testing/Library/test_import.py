"""Importing is light, and a missing package is named with the way to get it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version

import pytest

import SparseUNet3DLib
from SparseUNet3DLib.dependencies import missing_package, require_torch
from SparseUNet3DLib.errors import MissingDependencyError

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_without(blocked: tuple[str, ...], code: str) -> str:
    """What ``code`` prints in a Python in which these packages are not installed."""
    program = BLOCK.format(blocked=blocked) + code
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def asking_for(name: str) -> str:
    return (
        "import SparseUNet3DLib\n"
        "from SparseUNet3DLib.errors import MissingDependencyError\n"
        "try:\n"
        f"    SparseUNet3DLib.{name}\n"
        "except MissingDependencyError as error:\n"
        "    print(error)\n"
    )


def test_the_version_is_that_of_the_installed_package():
    assert version("SparseUNet3D") == SparseUNet3DLib.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", SparseUNet3DLib.__version__)


def test_reading_a_command_line_brings_in_nothing_that_is_slow_to_load():
    code = (
        "from SparseUNet3DLib.command_line.parser import make_parser\n"
        "make_parser().parse_args(['info', 'model.safetensors'])\n"
        "import sys; print(sorted({'torch', 'scipy', 'PIL', 'itk', 'slicerio'} & set(sys.modules)))"
    )
    assert run_without((), code) == "[]"


def test_importing_the_package_brings_in_no_other():
    code = (
        "import SparseUNet3DLib\n"
        "heavy = {'torch', 'numpy', 'scipy', 'SimpleITK', 'vtk', 'safetensors', 'PIL', 'itk', 'slicerio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run_without((), code) == "[]"


@pytest.mark.parametrize("name", [n for n in SparseUNet3DLib.__all__ if n != "__version__"])
def test_every_public_name_is_there(name):
    assert getattr(SparseUNet3DLib, name).__module__.startswith("SparseUNet3DLib.")
    assert name in dir(SparseUNet3DLib)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = SparseUNet3DLib.trian


@pytest.mark.parametrize("name", ["train", "segment", "densify", "load_model"])
def test_without_torch_deep_learning_says_what_is_missing(name):
    message = run_without(("torch", "safetensors"), asking_for(name))
    assert "PyTorch, which is not installed" in message
    assert "'pip install torch'" in message


def test_without_torch_files_can_be_read_and_scored():
    code = "from SparseUNet3DLib import from_painted, read_segmentation, read_volume, score_segmentation\n"
    code += "from SparseUNet3DLib import write_segmentation\nprint('torch' in sys.modules)"
    assert run_without(("torch", "safetensors"), code) == "False"


def test_another_missing_package_is_named():
    message = run_without(("SimpleITK",), asking_for("read_volume"))
    assert message == (
        "The Python package 'SimpleITK' is needed for this and is not installed; "
        "install it with 'pip install SimpleITK'."
    )


def test_a_package_that_is_installed_under_another_name_is_named_by_that():
    assert "'pip install pillow'" in str(missing_package(ModuleNotFoundError(name="PIL.Image")))


def fake_torch(tmp_path, monkeypatch, code: str) -> None:
    """Put a package named torch with this code before the real one."""
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("__version__ = '2.9.1+cu128'", r"PyTorch 2\.9\.1\+cu128 is installed, but the 3D convolutions of 2\.9"),
        ("__version__ = '1.13.1'", r"PyTorch 1\.13\.1 is installed, but 2\.4 or newer is needed"),
        ("raise OSError('libgomp.so: no such file')", r"does not load \(libgomp\.so: no such file\)"),
        ("raise ImportError('DLL load failed')", r"does not load \(DLL load failed\)"),
        ("raise ModuleNotFoundError('no', name='sympy')", "'pip install sympy'"),
    ],
)
def test_a_torch_that_cannot_be_used_is_refused_with_the_reason(tmp_path, monkeypatch, code, message):
    fake_torch(tmp_path, monkeypatch, code)
    with pytest.raises(MissingDependencyError, match=message):
        require_torch()


@pytest.mark.parametrize("number", ["2.4.0", "2.8.0+cpu", "2.10.0a0+git1234", "3.0.0"])
def test_other_versions_are_accepted(tmp_path, monkeypatch, number):
    fake_torch(tmp_path, monkeypatch, f"__version__ = '{number}'")
    assert require_torch().__version__ == number


def test_python_m_is_the_command_line():
    command = [sys.executable, "-m", "SparseUNet3DLib", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, f"sparse-unet3d {SparseUNet3DLib.__version__}\n")
