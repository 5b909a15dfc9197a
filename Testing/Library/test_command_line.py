"""The commands but for densify, from end to end: what they write, print and report."""

from __future__ import annotations

import json
import os
import re
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK as sitk
from command import DENSIFY, SEGMENTS, SMALL, call, run, write_case
from documented_events import check_event, strict_lines

from SparseUNet3DLib import workflow
from SparseUNet3DLib.command_line.options import read_image
from SparseUNet3DLib.errors import MemoryLimitError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.model_file import Model, load_model
from SparseUNet3DLib.segmentation_files import read_segmentation
from SparseUNet3DLib.volumes import Volume
from SparseUNet3DLib.workflow import Prediction


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two cases, a model trained on both, and what the training printed."""
    folder = tmp_path_factory.mktemp("trained")
    write_case(folder)
    write_case(folder, "other-", seed=1)
    cases = ("-c", "vol.nrrd", "ann.seg.nrrd", "--case", "other-vol.nrrd", "other-ann.seg.nrrd")
    code, out, err = run("train", *cases, "-o", "m.safetensors", "--iterations", 25, *SMALL, cwd=folder)
    assert code == 0, err
    (folder / "train.out").write_text(out)
    return folder


# -- train, segment ------------------------------------------------------------------------------------


def test_train_on_two_cases(trained: Path):
    model = load_model(trained / "m.safetensors")
    assert [v["name"] for v in model.record["volumes"]] == ["vol", "other-vol"]
    assert model.record["iterations"] == 25
    assert (trained / "train.out").read_text().count("0,0,3 planes") == 2
    assert not (trained / "m.safetensors.run").exists()


def test_one_bad_volume_does_not_keep_the_others_from_being_segmented(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(trained)
    bad = tmp_path / "bad.nrrd"
    bad.write_text("no volume")
    results = tmp_path / "new" / "results"
    volumes = ("vol.nrrd", bad, "other-vol.nrrd")
    assert call("segment", "m.safetensors", *volumes, "--output-folder", results, "--confidence") == 3
    names = ["other-vol.confidence.nrrd", "other-vol.seg.nrrd", "vol.confidence.nrrd", "vol.seg.nrrd"]
    assert sorted(p.name for p in results.iterdir()) == names
    told = " ".join(capsys.readouterr().err.split())
    assert "Reading vol 100% Segmenting" in told
    assert f"Warning: '{bad}' was left out: '{bad}' is damaged or not an image" in told
    assert f"Error: 1 of 3 volumes could not be segmented: '{bad}'." in told
    for name in ("vol", "other-vol"):
        grid = Geometry.from_image(sitk.ReadImage(f"{name}.nrrd"))
        result = read_segmentation(results / f"{name}.seg.nrrd")
        assert (result.geometry, result.segments) == (grid, SEGMENTS)
        confidence = sitk.GetArrayFromImage(sitk.ReadImage(str(results / f"{name}.confidence.nrrd")))
        assert 0 <= confidence.min() < confidence.max() <= 100


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_what_was_interrupted_is_finished_by_the_same_command(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(trained)
    arguments = ("segment", "m.safetensors", "vol.nrrd", "other-vol.nrrd", "--output-folder", tmp_path, "--confidence")
    with monkeypatch.context() as patch:

        def stopped_at_the_second(model: Model, volume: Volume, *others: object, **options: object) -> Prediction:
            if volume.name == "other-vol":
                os.kill(os.getpid(), signal.SIGTERM)
            return workflow_segment(model, volume, *others, **options)

        workflow_segment = workflow.segment
        patch.setattr(workflow, "segment", stopped_at_the_second)
        assert call(*arguments) == 130
    told = " ".join(capsys.readouterr().err.split())
    assert "Segmented were 1 of 2 volumes; the same command with --skip-existing goes on with the others." in told
    first = (tmp_path / "vol.seg.nrrd").read_bytes()
    (tmp_path / "other-vol.confidence.nrrd").touch()  # as if it had been stopped between its two results
    assert call(*arguments) == 7
    assert call(*arguments, "--skip-existing") == 0
    assert "1 of 2 volumes have a result and were left out." in capsys.readouterr().err
    assert read_segmentation(tmp_path / "other-vol.seg.nrrd").segments == SEGMENTS
    assert (tmp_path / "other-vol.confidence.nrrd").stat().st_size > 0
    assert call(*arguments, "--skip-existing") == 0
    assert (tmp_path / "vol.seg.nrrd").read_bytes() == first


def test_volumes_may_follow_the_options_of_segment(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(trained)
    assert call("segment", "m.safetensors", "--output-folder", tmp_path, "vol.nrrd", "other-vol.nrrd") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other-vol.seg.nrrd", "vol.seg.nrrd"]


def test_of_volumes_and_a_strange_option_the_option_is_named(capsys: pytest.CaptureFixture[str]):
    assert call("segment", "m.safetensors", "--output-folder", "found", "vol.nrrd", "--epochs") == 2
    assert capsys.readouterr().err.endswith("unrecognized arguments: --epochs\n")


@pytest.mark.parametrize(
    "error, told",
    [
        (MemoryError(), "Memory ran out."),
        (MemoryLimitError("It does not fit."), "It does not fit."),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "Memory ran out."),
        (RuntimeError("something else"), None),  # no reason to go on as if nothing was wrong
    ],
)
def test_a_volume_too_large_for_memory_is_left_out(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    error: Exception, told: str | None,
):
    def read(files: list[Path], reporter: object) -> object:
        if files[0].name == "vol.nrrd":
            raise error
        return read_image(files, reporter)

    monkeypatch.setattr("SparseUNet3DLib.command_line.segment.read_image", read)
    monkeypatch.chdir(trained)
    arguments = ("segment", "m.safetensors", "vol.nrrd", "other-vol.nrrd", "--output-folder", tmp_path)
    if told is None:
        with pytest.raises(RuntimeError, match="something else"):
            call(*arguments)
        return
    assert call(*arguments) == 3
    assert f"'vol.nrrd' was left out: {told}" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "other-vol.seg.nrrd").exists()


def test_a_volumes_memory_is_free_for_the_next_one(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of large ones, the first might be segmented, and no other."""
    kept: list[weakref.ref] = []
    segment = workflow.segment

    def watched(model: Model, volume: Volume, *rest: object, **options: object) -> Prediction:
        assert not [r for r in kept if r() is not None]
        found = segment(model, volume, *rest, **options)
        kept.extend((weakref.ref(volume), weakref.ref(found)))
        return found

    monkeypatch.setattr(workflow, "segment", watched)
    monkeypatch.chdir(trained)
    assert call("segment", "m.safetensors", "vol.nrrd", "other-vol.nrrd", "--output-folder", tmp_path) == 0
    assert len(kept) == 4


def test_names_that_are_one_file_on_macos_are_refused_there(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for folder, name in (("one", "CT.nrrd"), ("two", "ct.nrrd")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes((trained / "vol.nrrd").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("SparseUNet3DLib.atomic.sys", SimpleNamespace(platform="darwin"))
    command = ("segment", trained / "m.safetensors", "one/CT.nrrd", "two/ct.nrrd", "--output-folder", "found")
    assert call(*command) == 2
    assert "Several volumes would be written to" in capsys.readouterr().err


def test_segment_tells_its_outputs_as_events(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "found.nii.gz"
    arguments = ("segment", trained / "m.safetensors", trained / "vol.nrrd", "-o", target, "--average-mirrored", "x")
    assert call(*arguments, "--progress", "jsonl") == 0
    out, err = capsys.readouterr()
    events = strict_lines(out)
    for event in events:
        check_event(event)
    assert events[-1]["outputs"] == {"vol": str(target)}
    assert err == ""
    assert read_segmentation(target).segments == SEGMENTS


def test_segmenting_does_not_load_torchs_compiler(trained: Path, tmp_path: Path):
    """Which takes longer than a small volume."""
    told = "import atexit, sys; atexit.register(lambda: print('torch._dynamo' in sys.modules, file=sys.stderr))"
    code, _out, err = run("segment", trained / "m.safetensors", trained / "vol.nrrd", "-o", tmp_path / "out.seg.nrrd",
                          "--progress", "none", cwd=tmp_path, code=told)
    assert (code, err.split()[-1]) == (0, "False"), err


def test_arguments_may_be_in_a_file(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """In UTF-8 wherever it is read, also as Windows' editors write it, with names that a list may not split."""
    listed, odd = tmp_path / "list.txt", tmp_path / "M\u00fcller\u2028\x0b.nrrd"
    odd.write_bytes((trained / "other-vol.nrrd").read_bytes())
    lines = [trained / "vol.nrrd", odd, "--output-folder", "", tmp_path, ""]
    listed.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(str, lines)).encode())
    assert call("segment", trained / "m.safetensors", f"@{listed}") == 0
    assert sorted(p.name for p in tmp_path.glob("*.seg.nrrd")) == [f"{odd.stem}.seg.nrrd", "vol.seg.nrrd"]
    capsys.readouterr()
    for content, told in ((None, "cannot be read (No such file"), (b"\xff\xfe\x00", "is not text in UTF-8")):
        listed.unlink() if content is None else listed.write_bytes(content)
        assert call("info", f"@{listed}") == 2
        said = " ".join(capsys.readouterr().err.split())
        assert told in said and f"is given as './@{listed}'" in said


# -- a model to start from -----------------------------------------------------------------------------


def test_warm_start_goes_on_from_a_model(trained: Path, folder: Path):
    model = trained / "m.safetensors"
    assert call(*DENSIFY, "--start-from", model, "--model", "new.safetensors", "--iterations", 1, "--seed", 3) == 0
    old, new = load_model(model), load_model("new.safetensors")
    assert new.record["started_from"] == old.record["date"]
    # The first of few steps is small, so the weights are still close to where they came from.
    distance = max((new.weights[n] - old.weights[n]).abs().max() for n in old.weights)
    assert 0 < distance < 0.1


def test_warm_start_can_be_resumed(trained: Path, folder: Path):
    arguments = (*DENSIFY, "--start-from", trained / "m.safetensors", "--run-folder", "kept")
    assert call(*arguments, "--iterations", 1) == 0
    assert call(*arguments, "--iterations", 2, "--overwrite") == 3
    assert call(*arguments, "--iterations", 2, "--overwrite", "--resume") == 0


# -- info, device, demo ------------------------------------------------------------------------------


def test_info_shows_the_card_and_the_header(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert call("info", trained / "m.safetensors") == 0
    card = capsys.readouterr().out
    assert "left kidney" in card
    assert "25 iterations" in card
    assert max(map(len, card.splitlines())) <= 80
    assert call("info", trained / "m.safetensors", "--json") == 0
    header = json.loads(capsys.readouterr().out)
    assert header == json.loads(json.dumps(load_model(trained / "m.safetensors").header()))
    assert call("info", trained / "m.safetensors", "--progress", "jsonl") == 0
    _started, event, done = strict_lines(capsys.readouterr().out)
    check_event(event)
    assert done["event"] == "done"
    assert event["text"] == load_model(trained / "m.safetensors").card()
    assert event["header"] == header


def test_device_says_what_is_used_and_why(capsys: pytest.CaptureFixture[str]):
    assert call("device", "--device", "cpu", "--progress", "jsonl") == 0
    started, event, done = strict_lines(capsys.readouterr().out)
    assert done["event"] == "done"
    assert started["pid"] == os.getpid()
    check_event(event)
    assert event["kind"] == "cpu"
    sentence = r"CPU, \d+ threads?: (about \d+ times slower than a usual GPU, because )?.+\."
    assert re.fullmatch(sentence, event["sentence"])
    for progress in ("terminal", "none"):
        assert call("device", "--device", "cpu", "--progress", progress) == 0
        assert re.fullmatch(sentence, " ".join(capsys.readouterr().out.split()))
    assert call("device", "--device", "cuda:99") == 2


def test_demo_runs_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("slicerio")
    pytest.importorskip("itk")
    assert call("demo", "--minutes", "0.05", "--output", tmp_path / "demo", "--progress", "jsonl") == 0
    events = strict_lines(capsys.readouterr().out)
    for event in events:
        check_event(event)
    written = {Path(p).name for p in events[-1]["outputs"].values()}
    assert {p.name for p in (tmp_path / "demo").iterdir()} == written
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert scores.keys() == {"3D U-Net", "contour interpolation"}
    assert scores["3D U-Net"]["region"] == "voxels never annotated"
