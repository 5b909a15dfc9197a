"""Estimating and writing the time left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from SparseUNet3DLib.eta import EtaEstimator, format_duration


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def estimates(progress: list[tuple[float, float]]) -> list[float | None]:
    """The estimates after each (seconds since the start, fraction)."""
    clock = Clock()
    estimator = EtaEstimator(clock)
    result = []
    for seconds, fraction in progress:
        clock.now = 100.0 + seconds
        result.append(estimator.update(fraction))
    return result


def test_nothing_is_known_before_there_is_progress():
    assert estimates([(0, 0.0), (5, 0.0)]) == [None, None]


def test_steady_progress_gives_the_time_left_exactly():
    found = estimates([(t, t / 80) for t in range(81)])
    assert found[1:] == [pytest.approx(80 - t) for t in range(1, 81)]


def test_a_resumed_task_is_judged_by_what_it_did_since():
    assert estimates([(0, 0.5), (10, 0.6)]) == [None, pytest.approx(40)]


def test_a_slow_start_is_forgotten():
    slow_start = [(30, 0.01)]
    steady = [(30 + t, 0.01 + t / 100) for t in range(1, 90)]
    assert estimates([(0, 0.0), *slow_start, *steady])[-1] == pytest.approx(10)


def test_a_lower_fraction_begins_a_new_task():
    assert estimates([(0, 0.0), (10, 0.9), (11, 0.0), (13, 0.1)])[2:] == [None, pytest.approx(18)]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), max_size=30))
def test_an_estimate_is_never_negative_and_zero_at_the_end(steps):
    progress, seconds = [], 0.0
    for duration, fraction in steps:
        seconds += duration
        progress.append((seconds, fraction))
    found = estimates(progress)
    assert all(e is None or e >= 0 for e in found)
    assert all(e == 0 for e, (_, fraction) in zip(found, progress, strict=True) if fraction == 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0:00"), (0.4, "0:00"), (59.6, "1:00"), (187, "3:07"), (3599.5, "1:00:00"), (100_000, "27:46:40")],
)
def test_durations_are_written_like_on_a_clock(seconds, text):
    assert format_duration(seconds) == text
