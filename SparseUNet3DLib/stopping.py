"""Stopping a long task on request, at a moment of its own choosing: Ctrl-C, SIGTERM or a stop file."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from SparseUNet3DLib.errors import UsageError

#: What is asked for: nothing (""), to end training and go on with what was learnt, or to save and leave.
StopKind = Literal["", "finish", "interrupt"]
#: Seconds between two looks at the stop file.
POLL_INTERVAL = 0.2
_RANK = {"": 0, "finish": 1, "interrupt": 2}


class StopRequest:
    """Whether somebody wants the running task to stop. The task asks `requested` between its steps.

    A stop file that says ``finish`` asks to end training now, keep the result and go on to segmentation. An
    empty stop file, one with any other content, SIGTERM and Ctrl-C ask to write a checkpoint and leave
    (`Interrupted`, exit code 130). A request can be raised from "finish" to "interrupt" but not lowered.

    Args:
        stop_file: the file to look for. One that is there already is left from an earlier run and removed.

    Raises:
        UsageError: the stop file of an earlier run cannot be removed, or is a folder.
    """

    def __init__(self, stop_file: str | os.PathLike | None = None) -> None:
        self._stop_file = None if stop_file is None else Path(stop_file)
        self._kind: StopKind = ""
        self._next_look = -float("inf")
        self._seen: str | None = None
        self._interrupts = 0
        if self._stop_file is not None:
            _remove_stale(self._stop_file)

    def request(self, kind: Literal["finish", "interrupt"]) -> None:
        """Ask the task to stop, from Python.

        Raises:
            ValueError: ``kind`` is neither "finish" nor "interrupt".
        """
        if kind not in ("finish", "interrupt"):
            raise ValueError(f"kind must be 'finish' or 'interrupt', not {kind!r}")
        if _RANK[kind] > _RANK[self._kind]:
            self._kind = kind

    def requested(self) -> StopKind:
        """What is asked for so far. Cheap enough to be called at every step."""
        now = time.monotonic()
        if self._stop_file is not None and self._kind != "interrupt" and now >= self._next_look:
            self._next_look = now + POLL_INTERVAL
            self._look_at_file(self._stop_file)
        return self._kind

    def _look_at_file(self, stop_file: Path) -> None:
        try:
            content = _text(stop_file.read_bytes())
        except FileNotFoundError:
            self._seen = None
            return
        except OSError:
            content = ""
        # Whoever writes "finish" creates an empty file first, so any other content must be seen twice.
        if content == "finish":
            self.request("finish")
        elif content == self._seen:
            self.request("interrupt")
        self._seen = content

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take SIGINT (Ctrl-C) and SIGTERM as requests within the block, and restore the handlers after it.

        A second Ctrl-C raises KeyboardInterrupt at once. Only the main thread may handle signals; in another
        thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, self._handle)
            yield
        finally:
            for number, handler in previous.items():
                # None is a handler that was not installed from Python and cannot be put back from there.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.request("interrupt")
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt within the block, so that unfinished files are removed on the way out.

    Where a `StopRequest` takes signals, they are its own. In another thread than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def _text(content: bytes) -> str:
    """Plain text, also where PowerShell wrote it in UTF-16."""
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return content.decode(encoding, "replace").strip()


def _remove_stale(stop_file: Path) -> None:
    if stop_file.is_dir():
        raise UsageError(f"The stop file '{stop_file}' is a folder; give the name of a file that does not exist.")
    try:
        stop_file.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"The stop file '{stop_file}' of an earlier run cannot be removed ({error.strerror or error}); "
            "remove it or give another name."
        ) from error
