"""The tables of Çiçek et al. (MICCAI 2016) with the paper's rows beside ours, as CSV and Markdown."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import InputError

#: IoU as printed: row, then the values of the columns.
_PAPER: dict[str, dict[str, dict[str, float]]] = {
    "semi-automated": {
        "subset 1": {"3D w/o BN": 0.822, "3D with BN": 0.855, "2D with BN": 0.785},
        "subset 2": {"3D w/o BN": 0.857, "3D with BN": 0.871, "2D with BN": 0.820},
        "subset 3": {"3D w/o BN": 0.846, "3D with BN": 0.863, "2D with BN": 0.782},
        "average": {"3D w/o BN": 0.842, "3D with BN": 0.863, "2D with BN": 0.796},
    },
    "sparsity": {
        "1,1,1 (2.5%)": {"S1": 0.331, "S2": 0.483, "S3": 0.475},
        "2,2,1 (3.3%)": {"S1": 0.676, "S2": 0.579, "S3": 0.738},
        "3,3,2 (5.7%)": {"S1": 0.761, "S2": 0.808, "S3": 0.835},
        "5,5,3 (8.9%)": {"S1": 0.856, "S2": 0.849, "S3": 0.872},
    },
    "fully-automated": {
        "1": {"3D w/o BN": 0.655, "3D with BN": 0.761, "2D with BN": 0.619},
        "2": {"3D w/o BN": 0.734, "3D with BN": 0.798, "2D with BN": 0.698},
        "3": {"3D w/o BN": 0.779, "3D with BN": 0.554, "2D with BN": 0.325},
        "average": {"3D w/o BN": 0.723, "3D with BN": 0.704, "2D with BN": 0.547},
    },
}
#: What stands for the name of the data set in the paper's rows of the CSV file.
_PAPERS_DATA = "Çiçek et al. (MICCAI 2016)"
#: Title of each table, and of its first column.
_TITLES = {
    "semi-automated": ("Semi-automated segmentation: cross validation over slices (Table 1)", "test slices"),
    "sparsity": ("Number of annotated slices (Table 2)", "slices (yz, xz, xy)"),
    "fully-automated": ("Fully automated segmentation: leave one volume out (Table 3)", "test volume"),
}


@dataclass(frozen=True)
class Cell:
    """One row of the CSV file.

    Attributes:
        dataset: name of the data set.
        protocol: "semi-automated", "sparsity" or "fully-automated".
        row: name of the table's row.
        column: name of its column.
        settings: a short text that differs for other data, networks or recipes.
        slices: numbers of annotated (yz, xz, xy) slices that were learnt from, over all training volumes.
        iou: mean over the segments; NaN where there is nothing to count.
        segments: IoU of each, as "name=0.812; name=0.701".
        share: annotated share of the voxels that were learnt from, 0..1.
        iterations: training steps.
        seconds: of training.
        patch: size (z, y, x) of the patches.
        device: what it was trained on.
    """

    dataset: str
    protocol: str
    row: str
    column: str
    settings: str
    slices: str
    iou: float
    segments: str
    share: float
    iterations: int
    seconds: float
    patch: str
    device: str

    @property
    def segment_ious(self) -> dict[str, float]:
        """IoU by the segment's name."""
        # Names may hold what separates the entries.
        return {name: float(value) for name, value in re.findall(r"(.+?)=(nan|\d+(?:\.\d+)?)(?:; |$)", self.segments)}


def read_cells(path: Path) -> list[Cell]:
    """Our rows of ``path``; none where it is not there.

    Raises:
        InputError: the file is no such table.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Cell(**{**row, "iou": float(row["iou"]), "share": float(row["share"]),
                        "iterations": int(row["iterations"]), "seconds": float(row["seconds"])})
                for row in csv.DictReader(file) if row["dataset"] != _PAPERS_DATA
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' is no table of this program; move it away, or choose another folder.") from error


def write_cells(path: Path, protocol: str, cells: Sequence[Cell]) -> None:
    """Write our rows and the paper's, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Cell)])
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in cells)
        writer.writerows(
            {"dataset": _PAPERS_DATA, "protocol": protocol, "row": row, "column": column, "iou": iou}
            for row, columns in _PAPER[protocol].items() for column, iou in columns.items()
        )


def as_markdown(
    protocol: str, cells: Sequence[Cell], settings: Sequence[str], thresholds: Mapping[str, Mapping[str, float]]
) -> str:
    """Our table, the paper's, and what a threshold reaches on generated volumes.

    ``settings`` are lines that tell how the networks were trained.
    """
    title, corner = _TITLES[protocol]
    rows = list(dict.fromkeys(c.row for c in cells))
    columns = list(dict.fromkeys(c.column for c in cells))
    names = {row: _row_name(protocol, row, [c for c in cells if c.row == row]) for row in rows}

    def ours(values: Mapping[tuple[str, str], float]) -> list[str]:
        table = {names[r]: {c: values.get((r, c), math.nan) for c in columns} for r in rows}
        if protocol != "sparsity":
            table["average"] = {c: _mean([values.get((r, c), math.nan) for r in rows]) for c in columns}
        return _table(corner, columns, table)

    lines = [f"## {title}", "", *(f"- {line}" for line in settings), "", "IoU, mean over the segments:", ""]
    lines += ours({(c.row, c.column): c.iou for c in cells})
    segments = list(dict.fromkeys(name for c in cells for name in c.segment_ious))
    for name in segments if len(segments) > 1 else ():
        lines += ["", f"IoU of '{name}':", ""]
        lines += ours({(c.row, c.column): c.segment_ious.get(name, math.nan) for c in cells})
    if protocol == "sparsity" and (fewer := _fewer_slices(cells)):
        lines += ["", f"Of orientations with fewer slices all were taken that are not scored on: {fewer}."]
    lines += ["", "As printed by Çiçek et al. on three *Xenopus* kidneys:", ""]
    paper = _PAPER[protocol]
    lines += _table(corner, list(next(iter(paper.values()))), paper)
    if thresholds:
        best = {volume: _with_mean(ious, segments) for volume, ious in thresholds.items()}
        lines += ["", "The best that any threshold on one channel reaches on all voxels, chosen with the truth:", ""]
        lines += _table("volume", list(next(iter(best.values()))), best)
    return "\n".join([*lines, ""])


def _row_name(protocol: str, row: str, cells: Sequence[Cell]) -> str:
    """For Table 2 with the share of annotated voxels beside, mean over the volumes, as the paper prints it."""
    return f"{row} ({100 * float(np.mean([c.share for c in cells])):.1f}%)" if protocol == "sparsity" else row


def _fewer_slices(cells: Sequence[Cell]) -> str:
    """The cells of Table 2 that have not as many slices as their row says."""
    return "; ".join(f"{c.row} of {c.column} are {c.slices}" for c in cells if c.slices != c.row)


def _with_mean(ious: Mapping[str, float], segments: Sequence[str]) -> dict[str, float]:
    """With the mean over the ``segments`` in front, which is what our tables show."""
    return {"mean": _mean([ious.get(name, math.nan) for name in segments]), **ious}


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [f"| {corner} | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    return lines + [
        f"| {name} | " + " | ".join(_number(values.get(c, math.nan)) for c in columns) + " |"
        for name, values in rows.items()
    ]


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if len(known) == len(values) and known else math.nan


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
