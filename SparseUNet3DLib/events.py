"""Progress events: what a long task tells the person or program that waits for it.

A task emits events to a `Reporter`. `JsonLinesReporter` writes them as one JSON object per line, which
`EventDecoder` reads in another process; `TerminalReporter` shows them to a person; `CollectingReporter`
keeps them in a list.

===========  ==========================================================================================
event        fields
===========  ==========================================================================================
started      pid (of the process that does the work; the one that was started may be its launcher)
plan         plan (the network's shape), lines (the same in words), device, memory_bytes (estimated), held_out
             ({volume name: [plane]})
phase        phase ("segmenting", "scoring held-out slices", "reading NAME"; of `experiment` the cell: "ROW, COLUMN"),
             fraction (0..1 of this phase)
step         iteration, iterations (or None), seconds (trained so far), seconds_total (time budget or None),
             fraction (0..1 of the training), loss, learning_rate, eta_seconds (or None), network (which one is being
             trained, from 1), networks (how many the run trains)
validation   iteration, mean_iou, iou ({segment name: value}), on slices held out of training
checkpoint   path, iteration
preview      path, iteration
warning      message
done         outputs ({name: path}), scores, held_out_iou (None where nothing was held out)
device       kind ("cpu", "cuda" or "mps"), sentence (which it is, and why a GPU is not used)
card         text (of a model, for a person), header (the same and more, for a program)
error        message, exit_code, kind (name of the error's class)
===========  ==========================================================================================

A JSON line has two more: ``event``, the name in the left column, and ``time``, seconds since the reporter
was made. Numbers that are not finite are written as null, as JSON knows no NaN. ``EventDecoder`` adds one
kind of its own, ``log``, with the field ``text``: a line that is not an event, printed by some library.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

from SparseUNet3DLib.eta import EtaEstimator
from SparseUNet3DLib.lost_output import discard_output
from SparseUNet3DLib.terminal_reporter import TerminalReporter

__all__ = [
    "CollectingReporter",
    "EtaEstimator",
    "EventDecoder",
    "JsonLinesReporter",
    "Reporter",
    "TerminalReporter",
]

#: Before them nothing was done, and after them nothing is.
_AT_THE_ENDS = ("started", "done", "error")


class Reporter(Protocol):
    """Receives the events of a task."""

    def emit(self, event: str, **fields: Any) -> None:
        """Take one event; fields are listed in this module's description. Never raises for lost output."""


class CollectingReporter:
    """Keeps all events in ``events``, a list of (event, fields)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event."""
        self.events.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of all events of this name, in order."""
        return [fields for name, fields in self.events if name == event]


class JsonLinesReporter:
    """Writes each event at once as a line of strict JSON in UTF-8, by default to standard output.

    When the line cannot be written (the reader has gone, the disk is full), this and all later events are
    dropped: a lost listener is no reason to lose the training. ``on_lost`` is called then, once, if
    there is anything left to do.
    """

    def __init__(self, stream: BinaryIO | None = None, on_lost: Callable[[], None] | None = None) -> None:
        self._stream = sys.stdout.buffer if stream is None else stream
        self._on_lost = on_lost
        self._start = time.monotonic()

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event."""
        if self._stream is None:
            return
        record = dict(event=event, time=round(time.monotonic() - self._start, 3), **to_json(fields))
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            # File names may hold bytes that are no UTF-8 (lone surrogates): \udcxx is their JSON escape, too.
            self._stream.write(line.encode("utf-8", "backslashreplace"))
            self._stream.flush()
        except (OSError, ValueError):
            discard_output(self._stream)
            self._stream = None
            if self._on_lost is not None and event not in _AT_THE_ENDS:
                self._on_lost()


def to_json(value: Any) -> Any:
    """``value`` in types that strict JSON has.

    NaN and infinity become None; NumPy scalars and arrays and tensors become numbers and lists; tuples and
    sets become lists; anything else (paths, for example) becomes its text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    return str(value)


class EventDecoder:
    """Reads events from bytes as they arrive, in pieces that may end anywhere, even within a character."""

    def __init__(self) -> None:
        self._incomplete = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The events of all lines that ``data`` completes, each a dict with its name under "event"."""
        *lines, self._incomplete = (self._incomplete + data).split(b"\n")
        return [decode_line(line) for line in lines if line.strip()]

    def close(self) -> list[dict[str, Any]]:
        """The event of a last line that did not end in a newline, when no more data will come."""
        return self.feed(b"\n")


def decode_line(line: bytes) -> dict[str, Any]:
    """The event on one line; a line that is none gives ``{"event": "log", "text": ...}``."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and isinstance(record.get("event"), str):
        return record
    return {"event": "log", "text": text}
