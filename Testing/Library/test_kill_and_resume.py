"""Runs that are stopped, or killed at any moment, and go on to the very result of one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import SMALL, call, run, start, write_case
from safetensors.numpy import load_file

from SparseUNet3DLib.checkpoint import Checkpoint
from SparseUNet3DLib.segmentation_files import read_segmentation

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

ITERATIONS = 60
DENSIFY = (
    *("densify", "vol.nrrd", "-a", "ann.seg.nrrd", "-o", "out.seg.nrrd", "--model", "m.safetensors", *SMALL),
    *("--iterations", ITERATIONS, "--progress", "jsonl"),
)
RUN_FOLDER = Path("out.seg.nrrd.run")
CHECKPOINT = RUN_FOLDER / "checkpoint.safetensors"
#: Checkpoints and events far more often than anybody wants, so that few of these small steps lie between them.
OFTEN = "import SparseUNet3DLib.training as t\nt._CHECKPOINT_SECONDS = t._STEP_EVENT_SECONDS = 0.05"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_case(folder)
    code, _out, err = run(*DENSIFY, cwd=folder)
    assert code == 0, err
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(process: subprocess.Popen, event: str, iteration: int = 0) -> None:
    """Read the events of ``process`` up to one of this kind, at this iteration or later."""
    for line in process.stdout:
        fields = json.loads(line)
        if fields["event"] == event and fields.get("iteration", 0) >= iteration:
            return
    pytest.fail(f"no {event} event at iteration {iteration}: {process.stderr.read().decode()}")


def iterations_of(out: str) -> list[int]:
    return [e["iteration"] for e in map(json.loads, out.splitlines()) if e["event"] == "step"]


def require_same_result(folder: Path, expected: Path) -> None:
    """Both runs ended with the same bits."""
    found, wanted = load_file(folder / "m.safetensors"), load_file(expected / "m.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].tobytes() == tensor.tobytes(), name
    labels = [read_segmentation(f / "out.seg.nrrd").labels for f in (folder, expected)]
    np.testing.assert_array_equal(*labels)


# -- killed --------------------------------------------------------------------------------------------


def test_killed_again_and_again(folder: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]):
    moments = random.Random(1)

    def kill(process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    with start(*DENSIFY, cwd=folder, code=OFTEN) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.1, 0.5))
        kill(process)
    assert not CHECKPOINT.exists()
    with start(*DENSIFY, cwd=folder, code=OFTEN) as process:  # nothing to resume yet, so nothing to say
        wait_for(process, "checkpoint")
        kill(process)
    for iteration in sorted(moments.sample(range(5, ITERATIONS - 25), 2)):
        assert call(*DENSIFY) == 3
        assert "holds the checkpoint of an earlier run; add --resume" in capsys.readouterr().out
        with start(*DENSIFY, "--resume", cwd=folder, code=OFTEN) as process:
            wait_for(process, "step", iteration)
            kill(process)
    assert not Path("m.safetensors").exists()
    code, out, err = run(*DENSIFY, "--resume", cwd=folder)
    assert code == 0, err
    assert 1 < iterations_of(out)[0] <= iterations_of(out)[-1] == ITERATIONS
    require_same_result(folder, uninterrupted)
    assert not RUN_FOLDER.exists()


def test_a_run_that_nobody_hears_any_more_stops_if_it_shall(folder: Path, uninterrupted: Path):
    """Slicer has crashed, say; without being told so it goes on."""
    with start(*DENSIFY, "--stop-unheard", cwd=folder, code=OFTEN) as process:
        wait_for(process, "step", 5)
        process.stdout.close()
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()
    assert not Path("m.safetensors").exists()
    code, out, err = run(*DENSIFY, "--resume", cwd=folder)
    assert code == 0, err
    assert 5 < iterations_of(out)[0] <= ITERATIONS
    require_same_result(folder, uninterrupted)


#: Kills itself in the middle of writing the third checkpoint.
KILLED_WHILE_WRITING = f"""{OFTEN}
import os, signal
import SparseUNet3DLib.tensor_file as f
save, written = f.save_file, []
def save_half(tensors, path, metadata):
    save(tensors, path, metadata)
    written.append(path)
    if len(written) == 3:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
f.save_file = save_half"""


def test_killed_while_the_checkpoint_is_written(
    folder: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
):
    code, out, _err = run(*DENSIFY, cwd=folder, code=KILLED_WHILE_WRITING)
    assert code == -signal.SIGKILL
    saved = [e["iteration"] for e in map(json.loads, out.splitlines()) if e["event"] == "checkpoint"]
    assert len(saved) == 2
    half, checkpoint = sorted(RUN_FOLDER.iterdir())
    assert half.name.startswith(".")
    assert checkpoint == CHECKPOINT
    assert checkpoint.stat().st_size > half.stat().st_size
    assert Checkpoint(CHECKPOINT).precision.is_floating_point
    assert call(*DENSIFY, "--resume") == 0
    assert iterations_of(capsys.readouterr().out)[0] == saved[1] + 1
    require_same_result(folder, uninterrupted)
    assert not RUN_FOLDER.exists()


def test_a_damaged_checkpoint_is_refused_and_can_be_left_behind(folder: Path, capsys: pytest.CaptureFixture[str]):
    RUN_FOLDER.mkdir()
    CHECKPOINT.write_bytes(b"half a checkpoint")
    assert call(*DENSIFY, "--resume") == 3
    assert "cannot be read as a SparseUNet3D checkpoint" in capsys.readouterr().out
    assert CHECKPOINT.read_bytes() == b"half a checkpoint"
    assert call(*DENSIFY, "--restart", "--iterations", 1) == 0


# -- stopped on request --------------------------------------------------------------------------------


def stopped_by(number: signal.Signals, folder: Path) -> str:
    """The message of a run that was sent this signal while training."""
    with start(*DENSIFY, cwd=folder, code=OFTEN) as process:
        wait_for(process, "step", 5)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert not Path("out.seg.nrrd").exists()
    *_, last = map(json.loads, out.splitlines())
    assert (last["event"], last["kind"], last["exit_code"]) == ("error", "Interrupted", 130)
    return last["message"]


def test_interrupted_run_can_be_resumed(folder: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]):
    message = stopped_by(signal.SIGINT, folder)
    assert message.endswith("iterations; the checkpoint is in 'out.seg.nrrd.run', go on with --resume.")
    assert call(*DENSIFY, "--resume") == 0
    assert iterations_of(capsys.readouterr().out)[0] > 5
    require_same_result(folder, uninterrupted)


def test_terminated_run_leaves_a_checkpoint(folder: Path):
    message = stopped_by(signal.SIGTERM, folder)
    assert message.endswith("iterations; the checkpoint is in 'out.seg.nrrd.run', go on with --resume.")
    Checkpoint(CHECKPOINT)


def test_empty_stop_file_ends_the_run_with_a_checkpoint(folder: Path):
    with start(*DENSIFY, "--iterations", 100_000, "--run-folder", "kept", cwd=folder) as process:
        wait_for(process, "step", 2)
        Path("kept/stop").touch()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    Checkpoint("kept/checkpoint.safetensors")
    # The stop file is left from the run before, and does not stop this one.
    with start(*DENSIFY, "--iterations", 100_000, "--run-folder", "kept", "--resume", cwd=folder) as process:
        wait_for(process, "step", max(iterations_of(out.decode()), default=2) + 5)
        assert not Path("kept/stop").exists()
        Path("kept/stop").write_text("finish\n")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out.splitlines()[-1])["event"] == "done"
    assert read_segmentation("out.seg.nrrd").labels.any()
    assert Path("m.safetensors").exists()


#: Drawing so many patches for one step takes longer than anybody would wait.
SLOW = ("--plan", "batch_size=10000", "--memory", "64")


def test_second_interrupt_ends_at_once(folder: Path):
    with start(*DENSIFY, *SLOW, cwd=folder) as process:
        wait_for(process, "checkpoint")
        for _ in range(2):
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # if it hangs, nobody shall wait for it
    assert (process.returncode, err) == (130, b"")
    *steps, last = map(json.loads, out.splitlines())
    assert last["message"] == "Stopped at once by Ctrl-C or SIGTERM; what was not saved yet is lost."
    assert not [e for e in steps if e["event"] == "step"]
    Checkpoint(CHECKPOINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_reading_ends_at_once(folder: Path, number: signal.Signals):
    os.remove("vol.nrrd")
    os.mkfifo("vol.nrrd")  # reading it waits for somebody to write
    with start(*DENSIFY, cwd=folder, code="print(flush=True)") as process:
        while not RUN_FOLDER.exists():
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert json.loads(out.splitlines()[-1])["exit_code"] == 130
    assert not RUN_FOLDER.exists()


#: Asks to stop as soon as training is done, so that the request arrives while segmenting.
STOPPED_WHILE_SEGMENTING = """
import os, signal
import SparseUNet3DLib.workflow as w
segment = w._segment
def interrupted(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return segment(*arguments, **options)
w._segment = interrupted"""


def test_stopped_while_segmenting(folder: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(*DENSIFY, cwd=folder, code=STOPPED_WHILE_SEGMENTING)
    assert (code, err) == (130, "")
    message = json.loads(out.splitlines()[-1])["message"]
    assert message.startswith("Stopped as asked while segmenting. The trained network is in 'out.seg.nrrd.run'")
    assert not Path("out.seg.nrrd").exists()
    assert call(*DENSIFY, "--resume") == 0
    assert iterations_of(capsys.readouterr().out) == []  # the training was over
    require_same_result(folder, uninterrupted)
