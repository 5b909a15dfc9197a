"""What goes wrong outside of the input: packages, memory, the disk. Each has its exit code and its sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import SMALL, call, run, write_case

from SparseUNet3DLib.checkpoint import Checkpoint

DENSIFY = ("densify", "vol.nrrd", "-a", "ann.seg.nrrd", "-o", "out.seg.nrrd", *SMALL, "--iterations", 5)
EVALUATE = ("evaluate", "truth.seg.nrrd", "--truth", "truth.seg.nrrd")
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are set as Linux has them")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unchanged(folder: Path) -> Iterator[Path]:
    """A folder in which no file may appear."""
    before = sorted(folder.rglob("*"))
    yield folder
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("package", "command", "sentence"),
    [
        ("torch", DENSIFY, "Training and segmenting need PyTorch, which is not installed; install it with"),
        ("torch", ("info", "m.safetensors"), "Training and segmenting need PyTorch, which is not installed"),
        ("safetensors", DENSIFY, "The Python package 'safetensors' is needed for this and is not installed; install"),
        ("SimpleITK", DENSIFY, "The Python package 'SimpleITK' is needed for this and is not installed; install"),
        ("PIL", (*DENSIFY, "--pictures", "p.png"), "Pictures need the Python package pillow, which is not installed"),
        ("PIL", (*EVALUATE, "--pictures", "p.png", "--image", "vol.nrrd"), "Pictures need the Python package pillow"),
        ("slicerio", ("demo",), "'slicerio', which is not installed; install it with 'pip install SparseUNet3D[demo]'"),
    ],
)
def test_4_for_a_package_that_is_missing(package: str, command: tuple, sentence: str, unchanged: Path):
    code, out, err = run(*command, cwd=unchanged, code=WITHOUT.format(package=package))
    assert (code, out) == (4, "")
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err


def test_scores_and_help_need_no_torch(unchanged: Path):
    for command in (EVALUATE, ("densify", "--help")):
        code, _out, err = run(*command, cwd=unchanged, code=WITHOUT.format(package="torch"))
        assert (code, err) == (0, "")


def test_demo_misses_its_filter_before_training(tmp_path: Path):
    pytest.importorskip("slicerio")
    code, _out, err = run("demo", "--output", "demo", cwd=tmp_path, code=WITHOUT.format(package="itk"))
    assert code == 4
    assert "itk-morphologicalcontourinterpolation" in err
    assert "Training" not in err.replace("Training and", "")


#: Leaves 250 MB to what comes after the imports.
LITTLE_MEMORY = """
import resource
import SparseUNet3DLib.workflow
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 250 * 2**20,) * 2)"""


@linux
def test_5_when_memory_runs_out(folder: Path):
    large = ("--plan", "widths=512,1024", "--plan", "patch_size=24x32x32", "--memory", "64")
    code, _out, err = run(*DENSIFY, *large, cwd=folder, code=LITTLE_MEMORY)
    assert code == 5, err
    assert "emory" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not Path("out.seg.nrrd").exists()


#: No option sets a learning rate, so no command diverges by itself.
DIVERGING = """
from dataclasses import replace
from SparseUNet3DLib.recipe import PRESETS
PRESETS["balanced"] = replace(PRESETS["balanced"], learning_rate=1e38)"""


def test_6_when_training_diverges(folder: Path):
    code, _out, err = run(*DENSIFY, "--iterations", 50, cwd=folder, code=DIVERGING)
    told = " ".join(err.split())
    assert code == 6, told
    assert "Warning: Training diverged at iteration" in told
    assert "Error: Training diverged 7 times" in told
    assert "Traceback" not in told
    Checkpoint("out.seg.nrrd.run/checkpoint.safetensors")


#: A disk that takes no more than so many bytes of a file, until the program ends.
FULL_DISK = """
import atexit, resource
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, most))
atexit.register(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))"""


@linux
@pytest.mark.parametrize(
    ("size", "file"),
    [(10_000, "out.seg.nrrd.run/checkpoint.safetensors"), (200_000, "p.png")],
)
def test_7_when_the_disk_is_full(size: int, file: str, folder: Path):
    options = ("--overwrite", "--iterations", 1, "--pictures", "p.png")
    code, _out, err = run(*DENSIFY, *options, cwd=folder, code=FULL_DISK.format(size=size))
    assert code == 7, err
    assert f"Error: Cannot write '{file}':" in err
    assert "Traceback" not in err
    assert not list(folder.rglob("*.partial.*"))
    assert not Path(file).exists()


@linux
def test_a_full_disk_leaves_the_earlier_result(folder: Path):
    assert call(*DENSIFY, "--iterations", 1) == 0
    before = Path("out.seg.nrrd").read_bytes()
    command = ("evaluate", "truth.seg.nrrd", "--truth", "ann.seg.nrrd", "--confusion", "out.seg.nrrd", "--overwrite")
    code, _out, err = run(*command, cwd=folder, code=FULL_DISK.format(size=500))
    assert code == 7, err
    assert "Error: Cannot write 'out.seg.nrrd':" in err
    assert Path("out.seg.nrrd").read_bytes() == before


@linux
def test_results_of_a_full_disk_can_be_had_later(folder: Path):
    mounted = folder / "disk"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", mounted], capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        with pytest.raises(OSError, match="No space left"), open(mounted / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        options = ("--iterations", 2, "--run-folder", "kept", "--confidence", "disk/c.nrrd")
        assert call(*DENSIFY, *options, "--progress", "none") == 7
        assert Path("out.seg.nrrd").exists()
        (mounted / "filler").unlink()
        assert call(*DENSIFY, *options, "--overwrite", "--resume") == 0
        assert (mounted / "c.nrrd").exists()
    finally:
        subprocess.run(["umount", mounted], check=True)


@linux
def test_7_when_standard_output_is_full(folder: Path):
    with open("/dev/full", "w") as full:
        code, _out, err = run(*EVALUATE, cwd=folder, stdout=full)
    assert code == 7
    assert err == "Error: Cannot write to standard output: No space left on device.\n"
