"""Whatever is wrong with the input, the program says so in a sentence and leaves nothing behind."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command import SEGMENTS, SHAPE, SMALL, call, painted, run, structures, write_case, write_image
from hostile_commands import HOSTILE
from safetensors.numpy import save_file

from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation

LABELS = structures()
MISSING = ("densify", "none.nrrd", "-a", "ann.seg.nrrd", "-o", "out.seg.nrrd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad files of every kind."""
    folder = tmp_path_factory.mktemp("hostile")
    grid = write_case(folder)
    write_volumes(folder, grid)
    write_annotations(folder, grid)
    write_models(folder)
    return folder


def write_volumes(folder: Path, grid: Geometry) -> None:
    (folder / "folder").mkdir()
    (folder / "dir.nrrd").mkdir()
    (folder / "empty.nrrd").touch()
    (folder / "text.nrrd").write_text("no image\n" * 9)
    shutil.copy(folder / "vol.nrrd", folder / "vol2.nrrd")
    shutil.copy(folder / "vol.nrrd", folder / "folder" / "vol.nrrd")
    moved = replace(grid, origin=tuple(o + 0.4 for o in grid.origin))
    gray = np.arange(LABELS.size, dtype=np.int16).reshape(SHAPE)
    write_image(folder / "moved.nrrd", gray, moved)
    write_image(folder / "cropped.nrrd", gray[:-1], replace(grid, size=(32, 32, 23)))
    write_image(folder / "nan.nrrd", np.full(SHAPE, np.nan, np.float32), grid)
    write_image(folder / "constant.nrrd", np.full(SHAPE, 7, np.int16), grid)
    sitk.WriteImage(sitk.GetImageFromArray(gray[:, :, 0]), str(folder / "flat.nrrd"))
    series = sitk.GetImageFromArray(np.zeros((5, 2, 3, 4), np.uint8), isVector=False)
    sitk.WriteImage(series, str(folder / "series.nii"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.complex64)), str(folder / "complex.nii"))
    for name in ("short.nrrd", "short.nii", "short.nii.gz"):
        sitk.WriteImage(sitk.GetImageFromArray(gray), str(folder / name))
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])


def write_annotations(folder: Path, grid: Geometry) -> None:
    sparse = painted(LABELS)

    def save(name: str, labels: np.ndarray, segments: tuple[Segment, ...] = SEGMENTS, on: Geometry = grid) -> None:
        write_segmentation(Segmentation(labels, segments, on), folder / name)

    save("moved.seg.nrrd", sparse, on=replace(grid, origin=tuple(o + 0.4 for o in grid.origin)))
    far = np.array(grid.origin) + 500 * np.reshape(grid.direction, (3, 3))[:, 0] * grid.spacing[0]
    save("outside.seg.nrrd", sparse, on=replace(grid, origin=tuple(far)))
    save("blank.seg.nrrd", np.zeros_like(sparse))
    save("full.seg.nrrd", np.ones_like(sparse))
    save("other.seg.nrrd", LABELS, (Segment("a", "heart"), Segment("b", "spleen")))
    save("twins.seg.nrrd", sparse, (Segment("a", "liver"), Segment("b", "liver")))
    save("unknown.seg.nrrd", sparse)
    image = sitk.ReadImage(str(folder / "unknown.seg.nrrd"))
    image[0, 0, 0] = 9
    sitk.WriteImage(image, str(folder / "unknown.seg.nrrd"))
    write_overlapping(folder / "overlap.seg.nrrd", folder / "ann.seg.nrrd")
    save("sparse.nrrd", sparse)
    micro = replace(grid, spacing=tuple(s / 1000 for s in grid.spacing))
    write_image(folder / "um.nrrd", np.arange(LABELS.size, dtype=np.int16).reshape(SHAPE), micro)
    save("um.seg.nrrd", sparse, on=micro)
    write_image(folder / "fraction.nrrd", sparse / np.float32(2), grid)
    write_image(folder / "negative.nrrd", sparse.astype(np.int16) - 3, grid)
    write_image(folder / "broken.nrrd", sparse, grid)
    (folder / "broken.json").write_text("{")
    (folder / "config.json").write_text(json.dumps({"window": [0, 100]}))


def write_overlapping(path: Path, source: Path) -> None:
    """The segmentation in ``source`` with its second segment in a layer of its own, over five voxels of the first."""
    image = sitk.ReadImage(str(source))
    labels = sitk.GetArrayFromImage(image)
    second = (labels == 2).astype(np.uint8)
    second[tuple(np.argwhere(labels == 1)[:5].T)] = 1
    layers = sitk.GetImageFromArray(np.stack([labels == 1, second], -1).astype(np.uint8), isVector=True)
    layers.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        layers.SetMetaData(key, image.GetMetaData(key))
    layers.SetMetaData("Segment1_Layer", "1")
    layers.SetMetaData("Segment1_LabelValue", "1")
    sitk.WriteImage(layers, str(path))


def write_models(folder: Path) -> None:
    run_folder = folder / "kept"
    files = [folder / name for name in ("vol.nrrd", "ann.seg.nrrd", "model.safetensors")]
    options = ("--iterations", 1, "--run-folder", run_folder, "--progress", "none", *SMALL)
    assert call("train", "-c", *files[:2], "-o", files[2], *options) == 0
    shutil.copy(run_folder / "checkpoint.safetensors", folder)
    shutil.rmtree(run_folder)
    content = files[2].read_bytes()
    (folder / "short.safetensors").write_bytes(content[: len(content) // 2])
    save_file({"weight": np.zeros(3)}, folder / "foreign.safetensors")
    with open(folder / "model.pt", "wb") as file:
        pickle.dump({"weight": np.zeros(3)}, file)


@pytest.fixture
def unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the folder, where nothing may appear, disappear or change."""

    def state() -> dict[str, int]:
        return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}

    before = state()
    monkeypatch.chdir(folder)
    yield
    assert state() == before
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["dir.nrrd", "folder"]


def sentences(text: str) -> int:
    """How many sentences ``text`` has, names and reasons in brackets not counted."""
    text = re.sub(r"'[^' ]*'|\([^()]*\)|\d\.\d", "", text)
    return len(re.findall(r"[.!?](?=\s|$)", text))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("what", "command", "code", "sentence"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_is_refused_in_a_sentence(
    what: str, command: str, code: int, sentence: str, capfd: pytest.CaptureFixture[str]
):
    assert call(*command.split()) == code, what
    out, err = capfd.readouterr()
    told = " ".join(err.split())
    assert sentence in told
    assert "Traceback" not in out + err
    message = told[told.rindex("rror: ") :]
    assert 1 <= sentences(message) <= 2 or code == 2, message
    assert len(message) < 700


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("what", ["a truncated NRRD", "a pickle", "no command"])
def test_a_real_process_says_the_same(what: str, folder: Path):
    ((command, code, sentence),) = [row[1:] for row in HOSTILE if row[0] == what]
    found, out, err = run(*command.split(), cwd=folder)
    assert found == code
    assert sentence in " ".join(err.split())
    assert "Traceback" not in out + err


@pytest.mark.usefixtures("unchanged")
def test_a_program_reads_the_error_as_an_event(capfd: pytest.CaptureFixture[str]):
    assert call(*MISSING, "--progress", "jsonl") == 3
    out, err = capfd.readouterr()
    started, event = [json.loads(line) for line in out.splitlines()]
    assert started["event"] == "started"
    assert (event["event"], event["exit_code"], event["kind"]) == ("error", 3, "InputError")
    assert event["message"].startswith("Cannot read 'none.nrrd'")
    assert err == ""


@pytest.mark.usefixtures("unchanged")
def test_problems_are_shown_even_without_progress(capfd: pytest.CaptureFixture[str]):
    assert call(*MISSING, "--progress", "none") == 3
    out, err = capfd.readouterr()
    assert (out, err) == ("", "Error: Cannot read 'none.nrrd': No such file or directory.\n")
