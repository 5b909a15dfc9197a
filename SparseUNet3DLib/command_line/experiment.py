"""``sparse-unet3d experiment``: the tables of Çiçek et al. (MICCAI 2016) on a data set of one's own."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.command_line.console import print_result, say
from SparseUNet3DLib.command_line.outputs import STOP_FILE, make_folder
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.experiments.dataset import DataSet, read_dataset
from SparseUNet3DLib.experiments.protocols import NETWORKS, PROTOCOLS, Run
from SparseUNet3DLib.experiments.tables import Cell, as_markdown, read_cells, write_cells
from SparseUNet3DLib.pictures import require_pillow
from SparseUNet3DLib.stopping import StopRequest

if TYPE_CHECKING:
    from SparseUNet3DLib.experiments.cells import Result


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command: every cell that the folder's table does not have yet, then the table and the pictures."""
    require_torch()
    if not args.no_pictures:
        require_pillow()
    from SparseUNet3DLib.device import choose_device, describe_device, tune_allocator
    from SparseUNet3DLib.experiments.cells import carry_out

    data = read_dataset(args.dataset, lambda message: reporter.emit("warning", message=message))
    runs = PROTOCOLS[args.protocol](data.cases)
    device = describe_device(choose_device(args.device))
    make_folder(args.output)
    table = args.output / f"{args.protocol}.csv"
    cells = read_cells(table)
    tune_allocator()
    stop = StopRequest(args.output / STOP_FILE)
    with stop.signals():
        for number, entry in enumerate(runs, start=1):
            settings = _fingerprint(entry, data)
            if any((c.row, c.column, c.settings) == (entry.row, entry.column, settings) for c in cells):
                continue
            say(args, f"{number} of {len(runs)}: {entry.row}, {entry.column}")
            folder = args.output / f"{args.protocol}-{settings}.run"
            make_folder(folder)
            result = carry_out(entry, data, folder, args.device, reporter, stop)
            cells = [c for c in cells if (c.row, c.column) != (entry.row, entry.column)]
            cells.append(_cell(args.protocol, entry, settings, result))
            if not args.no_pictures:
                _draw(args.protocol, entry, data, result, args.output)
            write_cells(table, cells)  # last: what is in the table is done
            shutil.rmtree(folder)
    present = {(entry.row, entry.column): n for n, entry in enumerate(runs)}
    cells = sorted((c for c in cells if (c.row, c.column) in present), key=lambda c: present[c.row, c.column])
    text = as_markdown(args.protocol, cells, [*describe(data), f"on {device}"], data.thresholds)
    with atomic_path(args.output / f"{args.protocol}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print_result(text)
    reporter.emit("done", outputs={"table": str(table)}, scores=None, held_out_iou=None)


def describe(data: DataSet) -> list[str]:
    """How the networks were trained, in lines for the table."""
    recipe = data.recipe
    length = f"{recipe.iterations} steps" if recipe.iterations else f"{recipe.seconds / 60:g} minutes each"
    rate = f"{recipe.optimizer}, learning rate {recipe.learning_rate:g}, schedule {recipe.schedule}"
    plan = ", ".join(f"{key} {value}" for key, value in data.plan.items()) or "as in the paper"
    return [f"{data.name}: {', '.join(data.cases)}", f"the paper's network; {plan}", f"{length}; {rate}"]


def _fingerprint(entry: Run, data: DataSet) -> str:
    """A short text that differs for other slices, volumes, networks or recipes."""
    from SparseUNet3DLib.checkpoint import fingerprint

    planes = {kind: {n: [str(p) for p in ps] for n, ps in by.items()}
              for kind, by in (("training", entry.training), ("test", entry.test))}  # fmt: skip
    volumes = fingerprint(list(data.cases.values()), [])
    values = [planes, NETWORKS[entry.network], data.recipe.to_dict(), data.plan, volumes]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _cell(protocol: str, entry: Run, settings: str, result: Result) -> Cell:
    segments = "; ".join(f"{name}={value:.4f}" for name, value in result.segments.items())
    return Cell(
        protocol, entry.row, entry.column, settings, round(result.iou, 4), segments, round(result.share, 5),
        result.iterations, round(result.seconds, 1),
    )


def _draw(protocol: str, entry: Run, data: DataSet, result: Result, folder: Path) -> None:
    """The poster's picture of each test volume: image, segmentation, and right and wrong on the test slices."""
    import numpy as np

    from SparseUNet3DLib.evaluation import CONFUSION_SEGMENTS, confusion, match_segments
    from SparseUNet3DLib.experiments.cells import painted, scored_voxels
    from SparseUNet3DLib.pictures import Column, write_panels

    for name, found in result.found.items():
        case = data.cases[name]
        where = scored_voxels(entry, name, case)
        labels, true_labels, _ = match_segments(found, painted(case))
        verdict = confusion(labels, true_labels, where)
        planes = []
        for axis, n in enumerate(where.shape):
            tested = [p for p in entry.test[name] if p.axis == axis]
            fullest = max(tested, key=lambda p: np.count_nonzero(true_labels[p.voxels]), default=None)
            planes.append(n // 2 if fullest is None else fullest.index)
        parts = dict.fromkeys([protocol, entry.row, entry.column, name])
        file = re.sub(r"[^\w.,-]+", "-", "-".join(parts).replace("w/o", "without")) + ".png"
        write_panels(
            folder / file, case.volume.array, case.volume.geometry,
            [Column("image"), Column("segmentation", found.labels, found.segments),
             Column("right and wrong", verdict, CONFUSION_SEGMENTS)],
            planes,
        )
