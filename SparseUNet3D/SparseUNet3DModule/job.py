"""One run from Slicer to the worker and back, in steps that never block the window.

Handing volumes over and taking results back are generators, of which a timer runs a step at a time; in between
the worker runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import SparseUNetError
from SparseUNet3DModule.worker import Worker

#: Exit code of a worker that stopped as asked.
INTERRUPTED = 130
#: Milliseconds of work per tick of the timer, and between two ticks.
_WORK_MS, _PAUSE_MS = 30, 10
#: Seconds that a worker gets to stop by itself before it is ended.
_PATIENCE = 10.0
_LOG_TAIL = 30
#: Characters of arguments that a command may have wherever there are files with long names.
_LONGEST_COMMAND = 8000
#: What Python, PyTorch, OpenBLAS and the system say when there is no memory left.
_NO_MEMORY = ("memoryerror", "out of memory", "memory allocation", "cannot allocate memory")


class Job:
    """One run.

    Attributes:
        folder: where inputs, results, checkpoint and model lie.
        stopFile: file by which the worker can be asked to stop; None for tasks that are simply ended.
        state: "handing over", "running", "taking back" or "ended".
        error: one sentence, if it failed or was stopped; else "".
        interrupted: whether it ended because it was asked to.
        isOfScene: whether it is of no use without the scene that it was begun in.
        keepsWhatIsDone: whether what was finished is taken back even if the rest failed or was stopped.
    """

    def __init__(
        self,
        folder: Path,
        stopFile: Path | None,
        arguments: Sequence[str],
        handOver: Iterator[float],
        takeBack: Callable[[dict[str, Any]], Iterator[float]],
        onEvent: Callable[[dict[str, Any]], None],
        onEnd: Callable[[Job], None],
        isOfScene: bool = True,
        keepsWhatIsDone: bool = False,
    ) -> None:
        self.isOfScene, self.keepsWhatIsDone = isOfScene, keepsWhatIsDone
        self.folder, self.state, self.error, self.interrupted = folder, "handing over", "", False
        self._stopFile, self._arguments, self._takeBack = stopFile, arguments, takeBack
        self._onEvent, self._onEnd = onEvent, onEnd
        self._steps = self._handingOver(handOver)
        self._asked, self._abandoned = "", False
        self._giveUpAt: float | None = None
        self._done: dict[str, Any] = {}
        self._ending: tuple[str, bool] = "", False  # error, interrupted
        self._argumentFile = folder / f"arguments-{uuid.uuid4().hex[:8]}.txt"  # questions share a folder
        self._worker = Worker(self._onWorkerEvent, self._onWorkerEnd)
        self._timer = qt.QTimer()
        self._timer.setInterval(_PAUSE_MS)
        self._timer.connect("timeout()", self._tick)

    def start(self) -> None:
        """Begin; returns at once."""
        self._timer.start()

    def finishEarly(self) -> None:
        """Ask to end training now, and segment with what was learnt so far."""
        self._ask("finish")

    @property
    def canFinishEarly(self) -> bool:
        """Whether it can be ended with a result, and not only given up."""
        return self._stopFile is not None

    def interrupt(self) -> None:
        """Ask to keep a checkpoint and leave; who does not leave in ten seconds is ended.

        Where all is computed, and is being taken back, there is nothing to stop any more.
        """
        if self.state == "taking back" and not self._abandoned:
            return
        if self.state != "running":
            self._end("Stopped as asked.", interrupted=True)
            return
        self._giveUpAt = time.monotonic() + _PATIENCE
        self._ask("interrupt")

    def abandon(self) -> None:
        """As `interrupt`, and take nothing back: the scene that the result belongs to is closing."""
        self._abandoned = True
        self.interrupt()

    def endNow(self, milliseconds: int = 2000) -> None:
        """Leave within ``milliseconds``, with a checkpoint if the worker manages; for an application that closes."""
        if self._worker.isRunning:
            self._ask("interrupt")
            if self._stopFile is None or not self._worker.waitForEnd(milliseconds):
                self._worker.kill()
                self._worker.waitForEnd(milliseconds)
        self._end("Stopped, because Slicer is closing.", interrupted=True)

    @property
    def log(self) -> list[str]:
        """What the worker said besides events."""
        return self._worker.log

    @property
    def pids(self) -> set[int]:
        """Process identifiers of the worker."""
        return self._worker.pids

    def wait(self) -> None:
        """Block until all is done; the window stays alive, and closing it ends the run."""
        window = slicer.util.mainWindow()
        hasWindow = window is not None and window.visible
        while self.state != "ended":
            slicer.app.processEvents()
            if hasWindow and not window.visible:  # the application quits only when this returns
                self.endNow()
            time.sleep(0.005)

    def _ask(self, kind: str) -> None:
        self._asked = kind
        self._writeStopFile()

    def _writeStopFile(self) -> None:
        try:
            if self._stopFile is not None:
                self._stopFile.write_text(self._asked, encoding="utf-8")
                return
        except OSError:
            logging.exception("The worker cannot be asked to stop, so it is ended")
        self._giveUpAt = time.monotonic()

    def _tick(self) -> None:
        if self.state == "running":
            if self._giveUpAt is not None and time.monotonic() > self._giveUpAt and self._worker.canBeKilled:
                self._worker.kill()
            return
        until = time.monotonic() + _WORK_MS / 1000
        phase = "handing over the volume" if self.state == "handing over" else "taking back the result"
        try:
            while time.monotonic() < until:
                fraction = next(self._steps)
                self._onEvent({"event": "phase", "phase": phase, "fraction": fraction})
        except StopIteration:
            self._advance()
        except (SparseUNetError, OSError, MemoryError) as error:
            self._fail(str(error) or "Memory ran out.")
        except Exception as error:
            logging.exception("A run failed")
            self._fail(f"Unexpected error while {phase}: {type(error).__name__} ({error}); please report it.")

    def _fail(self, problem: str) -> None:
        """End with a problem of handing over or taking back, besides what the worker ended with."""
        cause, isInterrupted = self._ending
        self._end(f"{cause} {problem}".strip() if not isInterrupted else problem, isInterrupted)

    def _advance(self) -> None:
        if self.state == "handing over":
            self.state = "running"
            if self._needsFile:
                self._worker.start([f"@{self._argumentFile.name}"], self.folder)
            else:
                self._worker.start(self._arguments)
        else:
            self._end(*self._ending)

    def _onWorkerEvent(self, event: dict[str, Any]) -> None:
        if event["event"] == "plan" and self._asked:
            self._writeStopFile()  # one that was there before the worker is taken for an old one
        if event["event"] == "done":
            self._done = event
        if event["event"] == "error":
            self.error = event["message"]
        self._onEvent(event)

    def _onWorkerEnd(self, exitCode: int) -> None:
        if self.state == "ended":
            return
        if self._abandoned:
            self._end("Stopped, because the scene was closed.", interrupted=True)
            return
        self._ending = self._howItEnded(exitCode)
        if exitCode == 0 or self.keepsWhatIsDone:
            # A generator, so that whatever fails in it fails in `_tick`.
            self._steps, self.state = self._takingBack(), "taking back"
        else:
            self._end(*self._ending)

    def _howItEnded(self, exitCode: int) -> tuple[str, bool]:
        """The error, or "", and whether it ended because it was asked to."""
        if exitCode == 0:
            return "", False
        if exitCode == INTERRUPTED:  # its own words are for a terminal
            return "Stopped as asked.", True
        if self._asked == "interrupt":
            return self.error or "Stopped as asked.", True
        return self.error or self._causeOfDeath(exitCode), False

    @property
    def _needsFile(self) -> bool:
        """Whether its arguments go into a file.

        Windows allows a command no more than 32,767 characters, and there the launcher of Slicer 5.10 takes letters
        beyond ASCII for others.
        """
        return sum(map(len, self._arguments)) > _LONGEST_COMMAND or not all(a.isascii() for a in self._arguments)

    def _handingOver(self, handOver: Iterator[float]) -> Iterator[float]:
        yield from handOver
        if self._needsFile:
            with atomic_path(self._argumentFile) as path:
                path.write_text("\n".join(self._arguments), encoding="utf-8", newline="\n")

    def _takingBack(self) -> Iterator[float]:
        yield from self._takeBack(self._done)

    def _causeOfDeath(self, exitCode: int) -> str:
        tail = "\n".join(self.log[-_LOG_TAIL:])
        if any(words in tail.lower() for words in _NO_MEMORY):
            return "Memory ran out; close other programs, or use a smaller volume."
        if exitCode < 0 and self.log and "could not be started" in self.log[-1]:
            return f"The worker process did not start. {self.log[-1]}"
        # Slicer's launcher, in between, says so and ends with 1.
        if exitCode < 0 or exitCode >= 128 or "exit abnormally" in tail:
            return (
                "The worker process was ended by the system or another program, often because memory ran out; "
                "close other programs, and press Continue or begin anew."
            )
        return f"The worker process ended unexpectedly (exit code {exitCode}); its last words are in the log."

    def _end(self, error: str, interrupted: bool = False) -> None:
        if self.state == "ended":
            return
        self._timer.stop()
        with contextlib.suppress(OSError):
            self._argumentFile.unlink(missing_ok=True)
        self.state, self.error, self.interrupted = "ended", error, interrupted
        # Later, as this may be called by a signal of the very objects that are let go of.
        qt.QTimer.singleShot(0, self._release)
        self._onEnd(self)

    def _release(self) -> None:
        """Let go of the volumes: Qt's connections would keep them, and this job, for ever."""
        self._timer.disconnect("timeout()", self._tick)
        self._worker.release()
        self._steps = iter(())
        self._takeBack = lambda _done: iter(())
        self._onEvent = self._onEnd = lambda _argument: None
