"""Computing beside the window: numpy work that takes longer than a window may stand still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import slicer


class Background:
    """One computation at a time in a thread. The function may touch no node and no widget."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._answer: list[tuple[Any, BaseException | None]] = []

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin ``function(*arguments)``; what was begun before is forgotten."""
        answer: list[tuple[Any, BaseException | None]] = []

        def compute() -> None:
            try:
                answer.append((function(*arguments), None))
            except Exception as error:
                answer.append((None, error))

        self._answer = answer
        self._thread = threading.Thread(target=compute, daemon=True)
        self._thread.start()

    @property
    def isBusy(self) -> bool:
        """Whether there is a result to come, or to be fetched."""
        return self._thread is not None

    def isReady(self, seconds: float = 0.02) -> bool:
        """Whether `fetch` has something. Waits a moment, as that is when threads surely run inside Slicer."""
        if self._thread is None:
            return False
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def fetch(self) -> Any:
        """The function's value, or the exception that it raised."""
        self._thread = None
        value, error = self._answer[0]
        if error is not None:
            raise error
        return value

    def wait(self) -> Any:
        """Block until the value is there; the window stays alive."""
        while not self.isReady():
            slicer.app.processEvents()
            time.sleep(0.005)
        return self.fetch()
