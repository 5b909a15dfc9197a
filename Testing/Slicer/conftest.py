"""Fixtures of the tests that need Slicer's Qt half, for which the stand-in is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.fixture(scope="session")
def started() -> Any:
    """The stand-in, started once; without the packages that it is made of, the tests are skipped."""
    pytest.importorskip("slicer", reason="slicer-core is not installed (none for this Python)", exc_type=ImportError)
    pytest.importorskip("PySide6.QtWidgets", reason="PySide6 or a library it needs is missing", exc_type=ImportError)
    import SlicerStandIn

    return SlicerStandIn.start()


@pytest.fixture
def stand_in(started: Any) -> Iterator[Any]:
    """The stand-in with an empty scene; no callback may have failed in the end."""
    started.clear()
    yield started
    errors = list(started.callback_errors)
    started.clear()
    assert not errors, errors
