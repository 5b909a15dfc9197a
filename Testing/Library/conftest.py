"""Fixtures of the tests of several commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import write_case


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a volume, its annotation and its truth, in which the test runs."""
    write_case(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
