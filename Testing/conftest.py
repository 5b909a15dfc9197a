"""Settings for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

_HERE = Path(__file__).parent

# One thread each, in worker processes too: the tests' networks are too small to gain from more, and several
# threads that wait for a busy core slow them down tenfold.
os.environ["OMP_NUM_THREADS"] = "1"

# Tests that run in the background ignore Ctrl-C, and so would the programs that they start and send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no verdict that depends on how busy the machine is.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `pytest -n 2 --dist loadgroup` run the module's tests beside the library's, never after them in one process.

    The module's reload the library, which tests that come afterwards would notice.
    """
    for item in items:
        with_module = item.path.is_relative_to(_HERE / "Panel") or item.path.is_relative_to(_HERE / "Slicer")
        item.add_marker(pytest.mark.xdist_group("module" if with_module else "library"))
