"""A data set of tiny generated volumes, and the rows of a table, for tests of the paper's protocols."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from SparseUNet3DLib.experiments.tables import Cell

TINY = """
name = "tiny tubules"
[training]
iterations = {iterations}
optimizer = "adamw"
learning_rate = 0.003
precision = "float32"
widths = "2,2,2,2"
patch_size = "100x108x116"
spacing = "1.5x1x1"
"""
PHANTOM = """
[[volume]]
name = "{name}"
phantom = {{ seed = {seed}, shape = [12, 20, 24], spacing = [2.0, 1.0, 1.0] }}
slices = ["z:1-11:2", "y:1-19:3", "x:1-23:3"]
"""


def tiny(folder: Path, number: int = 2, iterations: int = 1) -> Path:
    path = folder / "tiny.toml"
    entries = (PHANTOM.format(name=f"S{n}", seed=n) for n in range(1, number + 1))
    path.write_text(TINY.format(iterations=iterations) + "".join(entries), encoding="utf-8")
    return path


def a_cell(**changes: object) -> Cell:
    cell = Cell("data", "sparsity", "1,1,1", "S1", "s", "1,1,1", 0.5, "one=0.4; other=0.6", 0.1, 7, 1.5, "1x2x3", "CPU")
    return replace(cell, **changes)


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ours(path: Path) -> list[dict]:
    return [row for row in rows_of(path) if not row["dataset"].startswith("Çiçek")]
