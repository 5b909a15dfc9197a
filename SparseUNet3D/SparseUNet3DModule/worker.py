"""The process that trains and segments: started, listened to, stopped, and ended with all that it started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

import SparseUNet3DLib
from SparseUNet3DLib.events import EventDecoder

#: Lines of the worker's own words that are kept to explain its death.
_LOG_LINES = 400
#: Seconds after which a worker has told its process number, unless it was started without a launcher.
_START_SECONDS = 5.0


class Worker:
    """One worker process (``python -m SparseUNet3DLib ... --progress jsonl``).

    Args:
        onEvent: called with each event (see `SparseUNet3DLib.events`).
        onEnd: called once with the exit code; a negative one if the process was killed or did not start.
    """

    def __init__(self, onEvent: Callable[[dict[str, Any]], None], onEnd: Callable[[int], None]) -> None:
        self._onEvent, self._onEnd = onEvent, onEnd
        self._decoder = EventDecoder()
        self._pids: set[int] = set()
        self._ended = True
        self._startedAt = 0.0
        self.log: list[str] = []
        self._process = qt.QProcess()
        self._process.connect("readyReadStandardOutput()", self._readEvents)
        self._process.connect("readyReadStandardError()", self._readLog)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onError)

    def start(self, arguments: Sequence[str], folder: Path | None = None) -> None:
        """Start the command line with ``arguments``, in ``folder`` if it is given."""
        self._ended = False
        self._startedAt = time.monotonic()
        environment = qt.QProcessEnvironment()
        for name, value in workerEnvironment().items():
            environment.insert(name, value)
        self._process.setProcessEnvironment(environment)
        if folder is not None:
            self._process.setWorkingDirectory(str(folder))
        # Nobody would hear of a run that went on without Slicer, if that crashes.
        options = ["--progress", "jsonl", "--stop-unheard"]
        self._process.start(pythonExecutable(), ["-m", "SparseUNet3DLib", *arguments, *options])
        self._process.closeWriteChannel()
        if self._process.processId() > 0:
            self._pids.add(int(self._process.processId()))

    @property
    def isRunning(self) -> bool:
        """Whether the process lives, or its end has not been told yet."""
        return not self._ended

    @property
    def canBeKilled(self) -> bool:
        """Whether the process that does the work has told its number, or has had the time to."""
        return len(self._pids) > 1 or time.monotonic() - self._startedAt > _START_SECONDS

    @property
    def pids(self) -> set[int]:
        """The process that was started, and the one that does the work, if the first is its launcher."""
        return set(self._pids)

    def kill(self) -> None:
        """End the process tree at once. PythonSlicer only launches the real Python, which would outlive it."""
        for pid in self._pids:
            if os.name == "nt":
                hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
                subprocess.run(["taskkill", "/PID", str(pid), "/T", "/F"], capture_output=True, creationflags=hidden)
            else:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
        self._process.kill()

    def release(self) -> None:
        """Let go of the process object and of all that its signals would reach. Not from within one of them."""
        self._process.disconnect("readyReadStandardOutput()", self._readEvents)
        self._process.disconnect("readyReadStandardError()", self._readLog)
        self._process.disconnect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.disconnect("errorOccurred(QProcess::ProcessError)", self._onError)

    def waitForEnd(self, milliseconds: int) -> bool:
        """Block until the process ends, at most so long; whether it has."""
        return self._ended or self._process.waitForFinished(milliseconds)

    def _readEvents(self) -> None:
        self._handle(self._decoder.feed(self._process.readAllStandardOutput().data()))

    def _readLog(self) -> None:
        text = self._process.readAllStandardError().data().decode("utf-8", "replace")
        self._handle([{"event": "log", "text": line} for line in text.splitlines()])

    def _handle(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "started":
                self._pids.add(int(event["pid"]))
            if event["event"] == "log":
                self._say(event["text"])
            self._onEvent(event)

    def _say(self, line: str) -> None:
        self.log.append(line)
        del self.log[:-_LOG_LINES]

    def _onFinished(self, exitCode: int, exitStatus: int) -> None:
        self._readEvents()
        self._readLog()
        self._handle(self._decoder.close())
        self._end(exitCode if exitStatus == qt.QProcess.NormalExit else -1)

    def _onError(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:
            self._say(f"'{pythonExecutable()}' could not be started: {self._process.errorString()}")
            self._end(-1)

    def _end(self, exitCode: int) -> None:
        if not self._ended:
            self._ended = True
            self._onEnd(exitCode)


def pythonExecutable() -> str:
    """Slicer's Python interpreter (a launcher that sets its environment up)."""
    found = shutil.which("PythonSlicer")
    suffix = ".exe" if os.name == "nt" else ""
    return found or str(Path(slicer.app.slicerHome) / "bin" / f"PythonSlicer{suffix}")


def workerEnvironment() -> dict[str, str]:
    """Environment of the worker: what Slicer was started with, so that its launcher can set up the rest."""
    environment = dict(slicer.util.startupEnvironment())
    folder = str(Path(SparseUNet3DLib.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, environment.get("PYTHONPATH")]))
    environment["PYTHONSAFEPATH"] = "1"  # what lies where Slicer was started takes no module's place
    environment["PYTHONIOENCODING"] = "utf-8"
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
