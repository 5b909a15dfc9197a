"""Events for programs: writing, reading, and what happens when nobody reads."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SparseUNet3DLib.events import CollectingReporter, EventDecoder, JsonLinesReporter
from SparseUNet3DLib.terminal_reporter import TerminalReporter


def reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strict_json(line: bytes) -> dict:
    return json.loads(line.decode("utf-8"), parse_constant=reject_constant)


def written(event: str, **fields) -> dict:
    """What one event becomes on its line."""
    stream = io.BytesIO()
    JsonLinesReporter(stream).emit(event, **fields)
    assert stream.getvalue().endswith(b"\n") and stream.getvalue().count(b"\n") == 1
    return strict_json(stream.getvalue())


# -- JsonLinesReporter ------------------------------------------------------------------------------------


def test_each_event_is_one_line_with_its_name_time_and_fields():
    stream = io.BytesIO()
    reporter = JsonLinesReporter(stream)
    reporter.emit("step", iteration=7, iterations=None, loss=0.25)
    reporter.emit("warning", message="two\nlines")
    first, second = (strict_json(line) for line in stream.getvalue().splitlines())
    assert first.pop("time") >= 0
    assert first == {"event": "step", "iteration": 7, "iterations": None, "loss": 0.25}
    assert second["time"] >= 0 and second["message"] == "two\nlines"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (-float("inf"), None),
        (np.float32("nan"), None),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.0, np.inf], [2.0, 3.0]]), [[1.0, None], [2.0, 3.0]]),
        ((1, 2, 3), [1, 2, 3]),
        ({5}, [5]),
        (Path("folder") / "file.nrrd", os.path.join("folder", "file.nrrd")),
        ({"Niere, äußere": np.float32(1), 2: None}, {"Niere, äußere": 1.0, "2": None}),
    ],
)
def test_values_that_json_does_not_know_are_converted(value, expected):
    assert written("validation", value=value)["value"] == expected


def test_tensors_are_converted():
    torch = pytest.importorskip("torch")
    assert written("step", loss=torch.tensor(0.5), rates=torch.tensor([1.0, float("nan")])) | {"time": 0} == {
        "event": "step",
        "time": 0,
        "loss": 0.5,
        "rates": [1.0, None],
    }


def test_a_file_name_that_is_no_utf8_comes_back_the_same():
    name = b"scan-\xff.nrrd".decode("utf-8", "surrogateescape")
    assert written("preview", path=Path(name))["path"] == name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_whatever_is_emitted_is_strict_json_on_one_line(value):
    assert written("plan", plan=value).keys() == {"event", "time", "plan"}


def test_a_reader_that_goes_away_does_not_stop_the_task(tmp_path):
    finished = tmp_path / "finished"
    task = (
        "import sys\n"
        "from SparseUNet3DLib.events import JsonLinesReporter\n"
        "reporter = JsonLinesReporter()\n"
        "reporter.emit('phase', phase='training', fraction=0.0)\n"
        "sys.stdin.readline()\n"
        "for iteration in range(1000):\n"
        "    reporter.emit('step', iteration=iteration, text='x' * 200)\n"
        "open(sys.argv[1], 'w').close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", task, str(finished)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert strict_json(process.stdout.readline())["phase"] == "training"
    process.stdout.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert errors == b""
    assert finished.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_full_disk_does_not_stop_the_task():
    with open("/dev/full", "wb") as full:
        reporter = JsonLinesReporter(full)
        reporter.emit("warning", message="first")
        reporter.emit("warning", message="second")
    with open("/dev/full", "w") as full:
        TerminalReporter(full).emit("warning", message="first")


def test_a_closed_stream_does_not_stop_the_task():
    stream = io.BytesIO()
    reporter = JsonLinesReporter(stream)
    stream.close()
    reporter.emit("warning", message="lost")
    reporter.emit("warning", message="lost, too")
    assert stream.closed


def test_a_lost_listener_is_told_of_once():
    stream, lost = io.BytesIO(), []
    reporter = JsonLinesReporter(stream, lambda: lost.append(True))
    reporter.emit("warning", message="heard")
    assert not lost
    stream.close()
    for _ in range(3):
        reporter.emit("warning", message="lost")
    assert lost == [True]


# -- EventDecoder -----------------------------------------------------------------------------------------

EVENTS = [
    {"event": "plan", "lines": ["a", "b"]},
    {"event": "validation", "iou": {"Rückenmark 脊髄 🦴": 0.5, "\u2028": None}},
    {"event": "warning", "message": "line\nbreak \x85"},
]


@given(st.lists(st.integers(0, 250), max_size=12))
def test_events_are_read_however_the_bytes_are_cut(cuts):
    stream = io.BytesIO()
    reporter = JsonLinesReporter(stream)
    for event in EVENTS:
        reporter.emit(**event)
    data = stream.getvalue()
    bounds = [0, *sorted(cuts), len(data)]
    decoder = EventDecoder()
    found = [e for a, b in pairwise(bounds) for e in decoder.feed(data[a:b])]
    assert decoder.close() == []
    assert [{k: v for k, v in e.items() if k != "time"} for e in found] == EVENTS


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"UserWarning: something", "UserWarning: something"),
        (b"17", "17"),
        (b'"step"', '"step"'),
        (b'{"loss": 1}', '{"loss": 1}'),
        (b'{"event": 3}', '{"event": 3}'),
        (b'{"event": "step"', '{"event": "step"'),
        (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"[" * 100_000, "[" * 100_000),
        (b"windows\r", "windows"),
    ],
)
def test_a_line_that_is_no_event_is_passed_on_as_log(line, text):
    assert EventDecoder().feed(line + b"\n") == [{"event": "log", "text": text}]


def test_empty_lines_are_skipped_and_the_last_line_needs_no_newline():
    decoder = EventDecoder()
    assert decoder.feed(b"\n\r\n \n") == []
    assert decoder.feed(b'{"event": "done"}') == []
    assert decoder.close() == [{"event": "done"}]
    assert decoder.close() == []


# -- CollectingReporter -----------------------------------------------------------------------------------


def test_collected_events_are_kept_in_order_and_found_by_name():
    reporter = CollectingReporter()
    reporter.emit("step", iteration=1)
    reporter.emit("warning", message="careful")
    reporter.emit("step", iteration=2)
    assert reporter.events[1] == ("warning", {"message": "careful"})
    assert reporter.of("step") == [{"iteration": 1}, {"iteration": 2}]
