"""Folders for this run's settings, caches and temporary files; they go when the process ends."""

from __future__ import annotations

import tempfile
from pathlib import Path

_root = tempfile.TemporaryDirectory(prefix="SlicerStandIn-", ignore_cleanup_errors=True)


def folder(name: str) -> str:
    """A folder of this name, made if need be."""
    path = Path(_root.name) / name
    path.mkdir(exist_ok=True)
    return str(path)
