"""A CSV file to which each run adds its row, so that what was interrupted goes on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


def find_row(path: Path, run: dict, key: Sequence[str]) -> dict | None:
    """The row whose ``key`` fields are those of ``run``; None where it is not there yet."""
    if not path.exists():
        return None
    with path.open(newline="") as file:
        return next((row for row in csv.DictReader(file) if all(row[k] == str(run[k]) for k in key)), None)


def append_row(path: Path, row: dict, fields: Sequence[str]) -> None:
    """Add ``row``; the first one comes with the names of the ``fields``."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if new:
            writer.writeheader()
        writer.writerow(row)
