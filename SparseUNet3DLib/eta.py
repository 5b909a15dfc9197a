"""How long a task will still take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

#: The least progress between two remembered moments; it bounds how many are kept.
FRACTION_STEP = 0.001


class EtaEstimator:
    """Estimates the time left from how fast the fraction done has grown over the latter half of the run.

    The first half is left out because starting up is not typical: caches fill, kernels are compiled. A task
    that begins at a fraction above 0 (resumed training) is estimated by what it did since.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque()
        self._start = clock()

    def update(self, fraction: float) -> float | None:
        """Take note that ``fraction`` (0..1) is done now; return the seconds left, None while unknown.

        A fraction lower than the one before begins a new task.
        """
        now = self._clock()
        if self._samples and fraction < self._samples[-1][1]:
            self._samples.clear()
        if not self._samples:
            self._start = now
        if not self._samples or fraction - self._samples[-1][1] >= FRACTION_STEP:
            self._samples.append((now, fraction))
        while len(self._samples) > 2 and self._samples[1][0] <= (self._start + now) / 2:
            self._samples.popleft()
        if fraction >= 1:
            return 0.0
        since, fraction_then = self._samples[0]
        if fraction <= fraction_then:
            return None
        return (1 - fraction) * (now - since) / (fraction - fraction_then)


def format_duration(seconds: float) -> str:
    """``seconds`` as minutes and seconds (3:07), from an hour on with hours (1:03:07)."""
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
