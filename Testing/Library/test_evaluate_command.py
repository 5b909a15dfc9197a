"""``sparse-unet3d evaluate``: scores, confusion and pictures, on whatever part of the volume a file holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command import SEGMENTS, SHAPE, call, structures, write_case

from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segmentation

LABELS = structures()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a volume, its annotation and its truth, in which the test runs."""
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def crop(source: str, target: str) -> None:
    """What is in a file, without its slices z:12 and above, as Slicer saves what is on none of them."""
    image = sitk.ReadImage(source)
    part = image[:, :, :12]
    for key in image.GetMetaDataKeys():
        part.SetMetaData(key, image.GetMetaData(key))
    sitk.WriteImage(part, target)


def test_evaluate_writes_scores_confusion_and_pictures(folder: Path, capsys: pytest.CaptureFixture[str]):
    found = np.roll(LABELS, 2, axis=2)
    grid = read_segmentation("truth.seg.nrrd").geometry
    write_segmentation(Segmentation(found, SEGMENTS, grid), "found.seg.nrrd")
    arguments = ("evaluate", "found.seg.nrrd", "--truth", "truth.seg.nrrd", "--annotation", "ann.seg.nrrd")
    outputs = ("--json", "s.json", "--confusion", "conf.seg.nrrd", "--pictures", "p.png", "--image", "vol.nrrd")
    assert call(*arguments, *outputs) == 0
    assert "Agreement with the truth on voxels never annotated (21504 voxels)" in capsys.readouterr().out
    counted = np.ones(SHAPE, bool)
    counted[[8, 12, 16]] = False  # the planes that are found in the annotation
    both, either = (found == 1) & (LABELS == 1) & counted, ((found == 1) | (LABELS == 1)) & counted
    scores = json.loads(Path("s.json").read_text())
    assert scores["segments"][0]["iou"] == pytest.approx(both.sum() / either.sum())
    confusion = read_segmentation("conf.seg.nrrd")
    assert [s.name for s in confusion.segments] == ["true positives", "false negatives", "false positives"]
    assert (confusion.labels > 0).sum() == (((found > 0) | (LABELS > 0)) & counted).sum()
    assert confusion.geometry == grid
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_on_planes_and_on_everything(folder: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ("evaluate", "truth.seg.nrrd", "--truth", "truth.seg.nrrd")
    assert call(*arguments, "--planes", "z:10,11", "x:4") == 0
    voxels = 2 * 32 * 32 + 24 * 32 - 2 * 32
    assert f"held-out slices ({voxels} voxels)" in capsys.readouterr().out
    assert call(*arguments, "--progress", "jsonl") == 0
    _started, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert (done["outputs"], done["scores"]["mean_iou"], done["scores"]["voxels"]) == ({}, 1.0, LABELS.size)


def test_two_crops_that_overlap_in_part_are_compared_as_a_whole(folder: Path):
    image = sitk.ReadImage("truth.seg.nrrd")
    parts = {"low.seg.nrrd": image[:, :, :14], "high.seg.nrrd": image[:, :, 8:]}
    for name, part in parts.items():
        for key in image.GetMetaDataKeys():
            part.SetMetaData(key, image.GetMetaData(key))
        sitk.WriteImage(part, name)
    assert call("evaluate", "low.seg.nrrd", "--truth", "high.seg.nrrd", "--json", "s.json") == 0
    scores = json.loads(Path("s.json").read_text())
    assert scores["voxels"] == LABELS.size
    for number, entry in enumerate(scores["segments"], start=1):
        both, either = (np.count_nonzero(part == number) for part in (LABELS[8:14], LABELS))
        assert entry["iou"] == pytest.approx(both / either)


def crop_as_slicer(source: str, target: str, first: int) -> None:
    """The file without its slices before z:``first``; Slicer notes where the part begins."""
    image = sitk.ReadImage(source)
    part = image[:, :, first:]
    for key in image.GetMetaDataKeys():
        part.SetMetaData(key, image.GetMetaData(key))
    part.SetMetaData("Segmentation_ReferenceImageExtentOffset", f"0 0 {first}")
    sitk.WriteImage(part, target)


@pytest.mark.parametrize(
    "cropped", [("found", "truth"), ("found",), ("truth",)], ids=["both alike", "the found one", "the truth"]
)
@pytest.mark.parametrize("options", [("--planes", "z:12"), ("--annotation", "ann.seg.nrrd", "--slices", "z:12")])
def test_slices_are_counted_in_the_volume_and_not_in_what_was_saved(
    folder: Path, cropped: tuple[str, ...], options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    crop_as_slicer("truth.seg.nrrd", "part.seg.nrrd", 5)
    files = {"found": "truth.seg.nrrd", "truth": "truth.seg.nrrd"} | dict.fromkeys(cropped, "part.seg.nrrd")
    arguments = ("evaluate", files["found"], "--truth", files["truth"], *options)
    code = call(*arguments)
    if cropped == ("truth",):  # the other one tells where the volume begins
        assert code == 0
    else:
        assert code == 2
        assert "does not begin where the volume does" in " ".join(capsys.readouterr().err.split())
    assert call(*arguments, "--image", "vol.nrrd", "--confusion", "e.seg.nrrd") == 0
    errors = read_segmentation("e.seg.nrrd").labels
    counted = np.zeros(SHAPE, bool)
    counted[12] = True
    counted = counted if "--planes" in options else ~counted
    assert not errors[~counted].any()
    assert (errors[12] > 0).any() == ("--planes" in options)


def test_a_segment_of_the_background_by_another_name_is_no_structure(folder: Path, capsys: pytest.CaptureFixture[str]):
    segments = (*SEGMENTS, replace(SEGMENTS[0], id="rest", name="Rest"))
    labels = np.where(LABELS == 0, len(segments), LABELS).astype(np.uint16)
    write_segmentation(Segmentation(labels, segments, read_segmentation("truth.seg.nrrd").geometry), "all.seg.nrrd")
    for files in (("truth.seg.nrrd", "all.seg.nrrd"), ("all.seg.nrrd", "truth.seg.nrrd")):
        arguments = ("evaluate", files[0], "--truth", files[1], "--json", "s.json", "--overwrite")
        assert call(*arguments, "--background", "rest") == 0
        scores = json.loads(Path("s.json").read_text())
        assert [e["name"] for e in scores["segments"]] == [s.name for s in SEGMENTS] and scores["mean_iou"] == 1.0
        assert call(*arguments) == 0
        assert json.loads(Path("s.json").read_text())["mean_iou"] < 1.0


@pytest.mark.parametrize("options", [(), ("--image", "vol.nrrd", "--pictures", "p.png")])
@pytest.mark.parametrize("cropped", ["found", "truth"])
def test_what_lies_beyond_a_cropped_segmentation_counts(folder: Path, cropped: str, options: tuple[str, ...]):
    files = {"found": "truth.seg.nrrd", "truth": "truth.seg.nrrd", cropped: "part.seg.nrrd"}
    crop("truth.seg.nrrd", "part.seg.nrrd")
    assert call("evaluate", files["found"], "--truth", files["truth"], "--json", "s.json", *options) == 0
    scores = json.loads(Path("s.json").read_text())
    assert scores["voxels"] == LABELS.size
    for number, entry in enumerate(scores["segments"], start=1):
        there = np.count_nonzero(LABELS[:12] == number) / np.count_nonzero(number == LABELS)
        assert entry["iou"] == pytest.approx(there)
