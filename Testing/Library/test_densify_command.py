"""``densify`` from end to end: what it writes, prints and reports."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command import DENSIFY, PAINTED, SEGMENTS, SHAPE, SMALL, call, painted, start, structures, write_case, write_image
from documented_events import check_event, strict_lines

from SparseUNet3DLib.annotated_slices import slices_to_metadata
from SparseUNet3DLib.command_line.training_options import inference_settings
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.events import EventDecoder
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.model_file import load_model
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.raw_nrrd import read_raw_nrrd, write_raw_nrrd
from SparseUNet3DLib.segment_records import metadata_from_segments
from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation

LABELS = structures()
#: Previews are due after some seconds of training, and then at times that depend on how long they take; here always.
HURRY = """
import SparseUNet3DLib.training as t
t._FIRST_VALIDATION_SECONDS, t._FIRST_SHARE, t._SIDE_TASK_SHARE = 0.0, 100.0, 1000.0
"""

#: The slices of this run: those that show structures are found, one that shows none is named.
KNOWN = [3, 8, 12, 16]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, str]:
    """Folder, standard output and standard error of one run with all outputs."""
    folder = tmp_path_factory.mktemp("whole")
    write_case(folder)
    outputs = (
        *("--model", "m.safetensors", "--confidence", "c.nrrd", "--pictures", "p.png", "--preview", "pre.seg.nrrd"),
        *("--truth", "truth.seg.nrrd", "--slices", "auto", "--slices", "z:3", "--hold-out", "1"),
    )
    arguments = (*DENSIFY, *outputs, "--plan", "widths=8,16", "--iterations", "20", "--progress", "jsonl")
    with start(*arguments, cwd=folder, code=HURRY) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    return folder, out, err.decode()


def test_densify_writes_every_output(whole_run: tuple[Path, bytes, str]):
    folder = whole_run[0]
    written = {p.name for p in folder.iterdir()} - {"vol.nrrd", "ann.seg.nrrd", "truth.seg.nrrd"}
    assert written == {"out.seg.nrrd", "m.safetensors", "c.nrrd", "p.png", "pre.seg.nrrd"}
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    confidence = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "c.nrrd")))
    assert confidence.shape == SHAPE
    assert confidence.max() == 100
    assert (confidence[KNOWN] == 100).all()
    assert [s.name for s in load_model(folder / "m.safetensors").segments] == ["liver", "left kidney"]


def test_result_has_the_annotation_s_segments_on_the_volume_s_grid(whole_run: tuple[Path, bytes, str]):
    folder = whole_run[0]
    volume = Geometry.from_image(sitk.ReadImage(str(folder / "vol.nrrd")))
    assert np.linalg.det(np.reshape(volume.direction, (3, 3))) == pytest.approx(-1)
    for name in ("out.seg.nrrd", "pre.seg.nrrd", "c.nrrd"):
        assert Geometry.from_image(sitk.ReadImage(str(folder / name))) == volume, name
    for name in ("out.seg.nrrd", "pre.seg.nrrd"):
        assert read_segmentation(folder / name).segments == SEGMENTS


def test_annotated_voxels_stay_as_painted(whole_run: tuple[Path, bytes, str]):
    found = read_segmentation(whole_run[0] / "out.seg.nrrd").labels
    np.testing.assert_array_equal(found[KNOWN], LABELS[KNOWN])
    assert (found[9:12] > 0).any()  # between the painted slices, which the network had to find


def test_standard_output_is_nothing_but_documented_events(whole_run: tuple[Path, bytes, str]):
    _folder, out, err = whole_run
    events = strict_lines(out.decode())
    for event in events:
        check_event(event)
    names = [event["event"] for event in events]
    assert {*names} == {"started", "plan", "phase", "step", "validation", "checkpoint", "preview", "done"}
    assert (*names[:2], names[-1]) == ("started", "plan", "done")
    assert names.count("preview") > 1
    assert [e["time"] for e in events] == sorted(e["time"] for e in events)
    steps = [e for e in events if e["event"] == "step"]
    assert (steps[-1]["iteration"], steps[-1]["fraction"]) == (20, 1.0)
    assert err == ""


def test_done_event_tells_outputs_and_scores(whole_run: tuple[Path, bytes, str]):
    decoder = EventDecoder()
    # In pieces, as a pipe delivers it.
    events = [e for n in range(0, len(whole_run[1]), 100) for e in decoder.feed(whole_run[1][n : n + 100])]
    assert decoder.close() == []
    done = events[-1]
    assert done["outputs"] == {
        "segmentation": "out.seg.nrrd", "model": "m.safetensors", "confidence": "c.nrrd", "pictures": "p.png",
    }
    assert done["scores"]["region"] == "voxels never annotated"
    assert done["scores"]["voxels"] == (SHAPE[0] - len(KNOWN)) * SHAPE[1] * SHAPE[2]
    assert {s["name"] for s in done["scores"]["segments"]} == done["held_out_iou"].keys() == {"liver", "left kidney"}
    held_out = next(e for e in events if e["event"] == "plan")["held_out"]
    assert {name: len(planes) for name, planes in held_out.items()} == {"vol": 1}


def test_repaint_lets_the_network_decide_everywhere(folder: Path):
    assert call(*DENSIFY, "--iterations", 1, "--repaint", "--confidence", "c.nrrd") == 0
    confidence = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "c.nrrd")))
    assert confidence[list(PAINTED)].min() < 100  # of what was painted it would be 100


@pytest.mark.parametrize(
    ("options", "planes"),
    [
        ((), "0,0,3 planes (yz, xz, xy)"),
        (("--slices", "auto"), "0,0,3 planes (yz, xz, xy)"),
        (("--slices", "z:3,8-16:4"), "0,0,4 planes (yz, xz, xy)"),
        (("--slices", "auto", "--slices", "z:3", "--slices", "x:31"), "1,0,4 planes (yz, xz, xy)"),
    ],
)
def test_slices_are_given_or_found_or_both(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], planes: str
):
    assert call(*DENSIFY, "--iterations", 1, "--dry-run", *options) == 0
    assert capsys.readouterr().out.startswith(planes)
    assert sorted(p.name for p in folder.iterdir()) == ["ann.seg.nrrd", "truth.seg.nrrd", "vol.nrrd"]


def test_the_truth_s_segment_of_the_background_is_no_structure(folder: Path, capsys: pytest.CaptureFixture[str]):
    segments = (*SEGMENTS, Segment("rest", "Rest"))
    labels = np.where(LABELS == 0, len(segments), LABELS).astype(np.uint16)
    grid = read_segmentation("truth.seg.nrrd").geometry
    write_segmentation(Segmentation(labels, segments, grid), "all.seg.nrrd")
    command = (*DENSIFY, "--iterations", 1, "--truth", "all.seg.nrrd", "--background", "Rest", "--progress", "jsonl")
    assert call(*command) == 0
    done = strict_lines(capsys.readouterr().out)[-1]
    assert [e["name"] for e in done["scores"]["segments"]] == [s.name for s in SEGMENTS]


def test_scribbles_with_a_segment_of_the_background(folder: Path, capsys: pytest.CaptureFixture[str]):
    grid = read_segmentation("truth.seg.nrrd").geometry
    scribbles = np.zeros_like(LABELS)
    scribbles[12, 14:18, 8:16], scribbles[12, 15, 22:25], scribbles[5, 2, :] = 1, 2, 3
    segments = (*SEGMENTS, Segment("S3", "Rest"))
    write_segmentation(Segmentation(scribbles, segments, grid), "scribbles.seg.nrrd")
    arguments = ("densify", "vol.nrrd", "-a", "scribbles.seg.nrrd", "-o", "out.seg.nrrd", *SMALL)
    assert call(*arguments, "--scribbles", "--background", "rest", "--iterations", 5) == 0
    out = capsys.readouterr().out
    assert re.search(r"background +32 .*\n +liver +32 .*\n +left kidney +3 ", out)
    result = read_segmentation("out.seg.nrrd")
    assert result.segments == SEGMENTS
    np.testing.assert_array_equal(result.labels[scribbles > 0], scribbles[scribbles > 0] % 3)


def test_two_channels_as_two_files(folder: Path, capsys: pytest.CaptureFixture[str]):
    image = sitk.ReadImage("vol.nrrd")
    write_image(Path("pet.nrrd"), LABELS.astype(np.float32) / 2, Geometry.from_image(image))
    arguments = ("densify", "vol.nrrd", "pet.nrrd", "-a", "ann.seg.nrrd", "-o", "out.seg.nrrd", *SMALL)
    assert call(*arguments, "--model", "m.safetensors", "--iterations", 2) == 0
    assert [c.name for c in load_model("m.safetensors").channels] == ["vol", "pet"]
    assert call("segment", "m.safetensors", "-c", "vol.nrrd", "pet.nrrd", "-o", "again.seg.nrrd") == 0
    assert read_segmentation("again.seg.nrrd").labels.shape == SHAPE
    capsys.readouterr()
    swapped = [{"vol.nrrd": "pet.nrrd", "pet.nrrd": "vol.nrrd"}.get(a, a) for a in arguments]
    for command in (
        ("segment", "m.safetensors", "-c", "pet.nrrd", "vol.nrrd", "-o", "swapped.seg.nrrd"),
        (*swapped, "--start-from", "m.safetensors", "--overwrite", "--iterations", 2),
        ("train", "-c", *arguments[1:3], "ann.seg.nrrd", "-c", *swapped[1:3], "ann.seg.nrrd", "-o", "t.safetensors"),
    ):
        assert call(*command) == 3
        told = " ".join(capsys.readouterr().err.split())
        assert "are pet, vol, but those of" in told and "are vol, pet; give them in this order" in told


def test_label_map_gets_its_names_in_a_sidecar(folder: Path):
    arguments = [a if a != "out.seg.nrrd" else "out.nii.gz" for a in DENSIFY]
    assert call(*arguments, "--iterations", 1) == 0
    assert read_segmentation("out.nii.gz").segments == SEGMENTS
    assert call(*arguments, "--iterations", 1) == 7
    (folder / "out.nii.gz").unlink()
    assert call(*arguments, "--iterations", 1) == 7  # its names would be replaced
    assert call(*arguments, "--iterations", 1, "--overwrite") == 0


@pytest.mark.parametrize("option", ["-o", "--confidence", "--confusion", "--preview"])
def test_a_format_that_would_move_the_grid_is_refused_before_training(
    folder: Path, option: str, capsys: pytest.CaptureFixture[str]
):
    for name in ("vol.nrrd", "ann.seg.nrrd"):
        image = sitk.ReadImage(name)
        image.SetSpacing((0.001, 0.001, 0.001))
        image.SetOrigin((12345.678, 0.0, 0.0))
        sitk.WriteImage(image, name)
    outputs = {"-o": "out.seg.nrrd"} | {option: "out.nii.gz"}
    command = ("densify", "vol.nrrd", "-a", "ann.seg.nrrd", *SMALL, "--iterations", 1, "--progress", "jsonl")
    assert call(*command, *(part for pair in outputs.items() for part in pair)) == 7
    events = strict_lines(capsys.readouterr().out)
    assert [e["event"] for e in events] == ["started", "error"]
    assert "this format turns the grid" in events[-1]["message"] and "'out.nii.gz'" in events[-1]["message"]
    assert not list(folder.glob("out*"))


def test_a_label_map_keeps_the_values_of_the_annotation_s(folder: Path):
    image = sitk.GetImageFromArray(painted(LABELS) * 3)
    image.CopyInformation(sitk.ReadImage("vol.nrrd"))
    sitk.WriteImage(image, "itk-snap.nii.gz")
    command = ("densify", "vol.nrrd", "-a", "itk-snap.nii.gz", *SMALL, "--model", "m.safetensors", "--iterations", 30)
    assert call(*command, "-o", "out.nii.gz") == 0
    assert call("segment", "m.safetensors", "vol.nrrd", "-o", "again.nii.gz") == 0
    for name in ("out.nii.gz", "again.nii.gz"):
        assert {*np.unique(sitk.GetArrayFromImage(sitk.ReadImage(name)))} == {0, 3, 6}


def test_existing_outputs_are_refused_before_anything_is_read(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "c.nrrd").write_text("mine")
    (folder / "vol.nrrd").write_text("never looked at")
    assert call(*DENSIFY, "--confidence", "c.nrrd", "--iterations", 1) == 7
    assert "'c.nrrd' exists already" in capsys.readouterr().err
    write_case(folder)
    assert call(*DENSIFY, "--confidence", "c.nrrd", "--iterations", 1, "--overwrite") == 0
    assert sitk.ReadImage("c.nrrd").GetSize() == SHAPE[::-1]


def test_run_folder_of_our_own_is_removed_but_not_the_files_of_others(folder: Path):
    assert call(*DENSIFY, "--iterations", 1) == 0
    assert not Path("out.seg.nrrd.run").exists()
    Path("out.seg.nrrd.run").mkdir()
    Path("out.seg.nrrd.run/notes.txt").write_text("mine")
    assert call(*DENSIFY, "--iterations", 1, "--overwrite", "--preview", "out.seg.nrrd.run/pre.seg.nrrd") == 0
    assert [p.name for p in Path("out.seg.nrrd.run").iterdir()] == ["notes.txt"]


def test_run_folder_that_was_named_is_kept(folder: Path):
    assert call(*DENSIFY, "--iterations", 1, "--run-folder", "a/b") == 0
    assert [p.name for p in Path("a/b").iterdir()] == ["checkpoint.safetensors"]


def test_nothing_is_left_of_a_run_that_could_not_begin(folder: Path):
    assert call(*DENSIFY, "--iterations", 1, "--slices", "z:99") == 2
    assert not Path("out.seg.nrrd.run").exists()


def test_slices_listed_in_the_annotation_s_file_need_no_option(folder: Path, capsys: pytest.CaptureFixture[str]):
    """As Slicer's module writes it: with empty slices, and with slices to hold out."""
    labels = painted(LABELS)
    volume = Geometry.from_image(sitk.ReadImage("vol.nrrd"))
    listed = slices_to_metadata([Plane(0, 1), Plane(0, 8), Plane(0, 12)], [Plane(0, 12)])
    metadata = metadata_from_segments(SEGMENTS, volume.size, Path("a")) | listed
    list(write_raw_nrrd("listed.seg.nrrd", labels.astype(np.uint16), volume, metadata))
    command = ("densify", "vol.nrrd", "-a", "listed.seg.nrrd", "-o", "out.seg.nrrd", *SMALL, "--dry-run")
    assert call(*command, "--progress", "jsonl") == 0
    plan = next(e for e in strict_lines(capsys.readouterr().out) if e["event"] == "plan")
    assert plan["held_out"] == {"vol": ["z:12"]}
    assert call(*command, "--progress", "jsonl", "--slices", "z:8,12,16", "--held-out", "z:8") == 0
    plan = next(e for e in strict_lines(capsys.readouterr().out) if e["event"] == "plan")
    assert plan["held_out"] == {"vol": ["z:8"]}
    assert call(*command, "--progress", "jsonl", "--slices", "z:1,8") == 0  # what the file lists does not count then
    plan = next(e for e in strict_lines(capsys.readouterr().out) if e["event"] == "plan")
    assert plan["held_out"] == {}
    assert call(*command) == 0
    assert "0,0,3 planes (yz, xz, xy)" in capsys.readouterr().out
    assert call(*command, "--held-out", "z:16") == 2
    assert "Slices z:16 cannot be held out, because they are not annotated" in capsys.readouterr().err


def test_a_list_without_any_slices_is_no_reason_to_search(folder: Path, capsys: pytest.CaptureFixture[str]):
    volume = Geometry.from_image(sitk.ReadImage("vol.nrrd"))
    metadata = metadata_from_segments(SEGMENTS, volume.size, Path("a")) | slices_to_metadata([], None)
    list(write_raw_nrrd("none.seg.nrrd", painted(LABELS).astype(np.uint16), volume, metadata))
    assert call("densify", "vol.nrrd", "-a", "none.seg.nrrd", "-o", "out.seg.nrrd", *SMALL, "--dry-run") == 2
    assert "No annotated slices are given" in capsys.readouterr().err


def test_segmenting_keeps_to_the_memory_that_is_said():
    args = Namespace(device="cpu", overlap=0.5, average_mirrored="", memory=0.5)
    assert inference_settings(args).memory == 2**29 // 4
    del args.memory  # as of `segment`
    assert inference_settings(args).memory > 2**29 // 4
    args.memory = float("inf")
    with pytest.raises(UsageError, match="--memory must be above 0 GiB and finite, not inf"):
        inference_settings(args)


def test_uncompressed_results_and_errors_on_held_out_slices(folder: Path):
    outputs = ("--confidence", "c.nrrd", "--confusion", "e.seg.nrrd", "--uncompressed", "--hold-out", "1")
    assert call(*DENSIFY, *outputs, "--iterations", 2) == 0
    for name in ("out.seg.nrrd", "c.nrrd", "e.seg.nrrd"):
        into: list[np.ndarray] = []
        list(read_raw_nrrd(name, into))
        np.testing.assert_array_equal(into[0], sitk.GetArrayFromImage(sitk.ReadImage(name)))
    errors = read_segmentation("e.seg.nrrd")
    assert [s.name for s in errors.segments] == ["true positives", "false negatives", "false positives"]
    assert np.count_nonzero(errors.labels.any(axis=(1, 2))) == 1
