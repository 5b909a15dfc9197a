"""Progress for people: what stands on a real (pseudo) terminal, and in a log file."""

from __future__ import annotations

import io
import os
import struct
import sys

import pytest
from test_eta import Clock

from SparseUNet3DLib.terminal_reporter import TerminalReporter

PLAN = {
    "plan": {"patch_size": (32, 64, 64)},
    "lines": ["network auto: " + "wide " * 30, "pooling: 1x2x2"],
    "device": "CPU with 2 threads",
    "memory_bytes": 10**9,
    "held_out": {"chest": ["axial 4", "axial 9"]},
}


def step(iteration: int, **changes) -> dict:
    """A training step of 200, one second each."""
    fields = {
        "iteration": iteration,
        "iterations": 200,
        "seconds": float(iteration),
        "seconds_total": None,
        "fraction": iteration / 200,
        "loss": 1 / iteration,
        "learning_rate": 1e-3,
        "eta_seconds": 200.0 - iteration,
    }
    return fields | changes


def train(reporter: TerminalReporter, clock: Clock, iterations: range = range(1, 201)) -> None:
    """A whole training with a validation half way."""
    for iteration in iterations:
        clock.now += 1
        reporter.emit("step", **step(iteration))
        if iteration == 100:
            reporter.emit("validation", iteration=100, mean_iou=0.75, iou={"bone": 0.5, "skin": 1.0, "nail": None})


# -- not a terminal ---------------------------------------------------------------------------------------


def logged(*events: tuple[str, dict]) -> list[str]:
    """The lines that events leave in a file."""
    stream = io.StringIO()
    reporter = TerminalReporter(stream, Clock())
    for event, fields in events:
        reporter.emit(event, **fields)
    assert "\r" not in stream.getvalue()
    return stream.getvalue().splitlines()


def test_a_log_has_a_line_at_every_tenth_of_the_way():
    stream, clock = io.StringIO(), Clock()
    train(TerminalReporter(stream, clock), clock)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Training 0%  step 1/200  loss 1.0000  3:19 left"
    assert lines[2] == "Training 20%  step 40/200  loss 0.0250  2:40 left"
    assert lines[6] == "Held-out IoU at step 100: mean 0.750 (bone 0.500, skin 1.000, nail -)"
    assert lines[7] == "Training 60%  step 120/200  loss 0.0083  held-out IoU 0.750  1:20 left"
    assert lines[-1] == "Training 100%  step 200/200  loss 0.0050  held-out IoU 0.750"
    assert len(lines) == 12


def test_a_log_has_a_line_a_minute_when_it_goes_slowly():
    stream, clock = io.StringIO(), Clock()
    reporter = TerminalReporter(stream, clock)
    for _ in range(10):
        reporter.emit("phase", phase="segmenting", fraction=0.01)
        clock.now += 20
    assert stream.getvalue().splitlines() == ["Segmenting 1%"] * 4


def test_a_time_budget_has_no_number_of_steps():
    assert logged(("step", step(20, iterations=None, eta_seconds=None))) == ["Training 10%  step 20  loss 0.0500"]


def test_the_plan_is_lines_of_at_most_80_columns():
    lines = logged(("plan", PLAN))
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()).startswith("network auto: wide wide wide")
    assert lines[-3:] == [
        "pooling: 1x2x2",
        "device: CPU with 2 threads",
        "held out for validation in chest: axial 4, axial 9",
    ]


def test_results_are_named_and_their_paths_stay_in_one_piece():
    path = "/data/" + "long folder name/" * 8 + "result.seg.nrrd"
    assert logged(("done", {"outputs": {"segmentation": path}, "scores": None})) == [f"segmentation: {path}"]


def test_a_file_that_is_written_again_and_again_is_mentioned_once():
    checkpoints = [("checkpoint", {"path": "run/checkpoint.safetensors", "iteration": i}) for i in (10, 20)]
    assert logged(*checkpoints, ("preview", {"path": "preview.seg.nrrd", "iteration": 20})) == [
        "Checkpoint: run/checkpoint.safetensors",
        "Preview: preview.seg.nrrd",
    ]


def test_errors_are_called_errors_but_being_stopped_is_not():
    failed = {"message": "No such file.", "exit_code": 3, "kind": "InputError"}
    stopped = {"message": "Stopped; add --resume to go on.", "exit_code": 130, "kind": "Interrupted"}
    assert logged(("error", failed), ("error", stopped)) == [
        "Error: No such file.",
        "Stopped; add --resume to go on.",
    ]


def test_an_event_that_people_need_not_see_is_left_out():
    assert logged(("log", {"text": "chatter"})) == []


def test_control_characters_in_names_cannot_steer_the_terminal():
    assert logged(("warning", {"message": "segment '\x1b[2J\r\n\udc80'"})) == [
        r"Warning: segment '\x1b[2J\r\n\udc80'"
    ]


def test_letters_that_the_stream_cannot_write_are_escaped():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    TerminalReporter(stream).emit("warning", message="Rückenmark")
    assert raw.getvalue().strip() == rb"Warning: R\xfcckenmark"


def test_a_closed_or_missing_stream_does_not_stop_the_task(monkeypatch):
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    stream.close()
    reporter.emit("warning", message="lost")
    reporter.emit("warning", message="lost, too")
    monkeypatch.setattr(sys, "stderr", None)  # as in a windowed application
    without_stream = TerminalReporter()
    without_stream.emit("plan", **PLAN)
    assert stream.closed


# -- a terminal -------------------------------------------------------------------------------------------


class Screen:
    """A pseudo terminal of a given width, and the lines that a person sees on it."""

    def __init__(self, columns: int) -> None:
        termios, fcntl = pytest.importorskip("termios"), pytest.importorskip("fcntl")
        self.columns = columns
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = open(slave, "w", encoding="utf-8")  # noqa: SIM115
        self.lines = [""]
        self.widest = 0

    def read(self) -> list[str]:
        """Take in what was written, and close."""
        self.stream.write("\0")
        self.stream.flush()
        data = b""
        while not data.endswith(b"\0"):
            data += os.read(self.master, 65536)
        self.stream.close()
        os.close(self.master)
        for character in data[:-1].decode("utf-8").replace("\r\n", "\n"):
            self._put(character)
        return [line.rstrip() for line in self.lines]

    def _put(self, character: str) -> None:
        if character == "\n":
            self.lines.append("")
            self.column = 0
        elif character == "\r":
            self.column = 0
        else:
            line = self.lines[-1]
            self.lines[-1] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1
            self.widest = max(self.widest, self.column)

    column = 0


def shown(columns: int, *events: tuple[str, dict]) -> Screen:
    """A screen on which events were shown, one second apart."""
    screen, clock = Screen(columns), Clock()
    reporter = TerminalReporter(screen.stream, clock)
    for event, fields in events:
        clock.now += 1
        reporter.emit(event, **fields)
    return screen


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "Training 50%  step 100/200  loss 0.0100  held-out IoU 0.750  1:40 left"),
        (70, "Training 50%  loss 0.0100  held-out IoU 0.750  1:40 left"),
        (48, "Training 50%  held-out IoU 0.750  1:40 left"),
        (30, "Training 50%  1:40 left"),
        (16, "Training 50%"),
        (8, "Trainin"),
    ],
)
def test_the_line_fits_the_terminal_and_leaves_out_what_matters_least(columns, line):
    validation = ("validation", {"iteration": 99, "mean_iou": 0.75, "iou": {"bone": 0.75}})
    screen = shown(columns, ("step", step(99)), validation, ("step", step(100)))
    assert screen.read() == [line]
    assert screen.widest < columns


def test_progress_is_rewritten_in_place_and_stays_when_it_is_done():
    screen, clock = Screen(80), Clock()
    reporter = TerminalReporter(screen.stream, clock)
    train(reporter, clock)
    for tenth in range(11):
        clock.now += 1
        reporter.emit("phase", phase="segmenting", fraction=tenth / 10)
    reporter.emit("done", outputs={"segmentation": "dense.seg.nrrd"}, scores=None)
    assert screen.read() == [
        "Training 100%  step 200/200  loss 0.0050  held-out IoU 0.750",
        "Segmenting 100%",
        "segmentation: dense.seg.nrrd",
        "",
    ]


def test_a_phase_has_its_time_left_and_one_that_begins_anew_gets_a_new_line():
    phases = [("phase", {"phase": "segmenting", "fraction": f}) for f in (0.0, 0.5, 1.0, 1.0, 0.0, 0.25)]
    assert shown(80, *phases).read() == ["Segmenting 100%", "Segmenting 25%  0:03 left"]


def test_a_warning_has_its_own_line_above_the_progress():
    message = "Out of memory; going on with 1 patch(es) of 16x32x32 voxels per step, which is slower but works."
    screen = shown(60, ("step", step(50)), ("warning", {"message": message}))
    assert screen.read() == [
        "Warning: Out of memory; going on with 1 patch(es) of",
        "  16x32x32 voxels per step, which is slower but works.",
        "Training 25%  step 50/200  loss 0.0200  2:30 left",
    ]
    assert screen.widest <= 60


def test_an_error_leaves_the_line_where_it_was():
    screen = shown(80, ("step", step(150)), ("error", {"message": "Full.", "exit_code": 7, "kind": "OutputError"}))
    assert screen.read() == ["Training 75%  step 150/200  loss 0.0067  0:50 left", "Error: Full.", ""]


def test_the_line_is_not_drawn_more_often_than_a_person_can_see():
    screen, clock = Screen(80), Clock()
    reporter = TerminalReporter(screen.stream, clock)
    for iteration in (1, 2, 3):
        reporter.emit("step", **step(iteration))
        clock.now += 0.01
    assert screen.read() == ["Training 0%  step 1/200  loss 1.0000  3:19 left"]


def test_a_terminal_that_does_not_tell_its_width_is_taken_to_have_80_columns():
    screen = shown(0, ("warning", {"message": "word " * 40}))
    assert max(len(line) for line in screen.read()) in range(70, 81)


def test_which_of_several_networks_is_trained_is_told():
    assert logged(("step", step(20, network=2, networks=4)))[0].startswith("Training 10%  network 2/4  step 20/200")
    assert "network" not in logged(("step", step(20, network=1, networks=1)))[0]
