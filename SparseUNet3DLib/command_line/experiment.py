"""``sparse-unet3d experiment``: the tables of Çiçek et al. (MICCAI 2016) on a data set of one's own."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.command_line.console import print_result, say
from SparseUNet3DLib.command_line.outputs import STOP_FILE, make_folder
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.errors import DivergenceError, InputError, Interrupted, MemoryLimitError, SparseUNetError
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.experiments.dataset import DataSet, read_dataset
from SparseUNet3DLib.experiments.protocols import NETWORKS, PROTOCOLS, Run
from SparseUNet3DLib.experiments.tables import Cell, as_markdown, read_cells, write_cells
from SparseUNet3DLib.orientation import Turn
from SparseUNet3DLib.stopping import StopRequest

if TYPE_CHECKING:
    from SparseUNet3DLib.experiments.cells import Result


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command: every cell that the folder's table does not have yet, then the table and the pictures."""
    require_torch()
    from SparseUNet3DLib.device import choose_device, tune_allocator
    from SparseUNet3DLib.pictures import require_pillow

    if not args.no_pictures:
        require_pillow()

    data = read_dataset(args.dataset, lambda message: reporter.emit("warning", message=message))
    runs = PROTOCOLS[args.protocol](data.cases)
    choose_device(args.device)  # before anything is made: a device that is not there is no cell's fault
    folder = args.output or Path(f"{args.dataset.stem}-tables")
    make_folder(folder)
    tune_allocator()
    table = _Table(args.protocol, data, runs, folder)
    stop = StopRequest(folder / STOP_FILE)
    failures: list[SparseUNetError] = []
    with stop.signals():
        for number, entry in enumerate(runs, start=1):
            if not table.has(entry):
                say(args, f"{number} of {len(runs)}: {entry.row}, {entry.column}")
                reporter.emit("phase", phase=f"{entry.row}, {entry.column}", fraction=(number - 1) / len(runs))
                failures += _try(table, entry, args.device, reporter, stop)
            if not args.no_pictures and table.has(entry):
                table.draw_missing(entry)
    if args.progress != "jsonl":
        print_result(table.markdown())
    if failures:
        raise type(failures[0])(
            f"{len(failures)} of {len(runs)} cells could not be made; the same command tries them again. "
            f"The first: {failures[0]}"
        )
    table.tidy_up()
    outputs = {"table": str(table.csv), "markdown": str(table.md)}
    reporter.emit("done", outputs=outputs, scores=None, held_out_iou=None)


def _try(table: _Table, entry: Run, device: str, reporter: Reporter, stop: StopRequest) -> list[SparseUNetError]:
    """Make a cell; what goes wrong with it alone leaves it empty and is returned."""
    from SparseUNet3DLib.out_of_memory import is_out_of_memory

    try:
        table.make(entry, device, reporter, stop)
    except Interrupted:
        raise Interrupted("Stopped as asked; the same command goes on where it was.") from None
    except (InputError, DivergenceError, MemoryLimitError) as error:
        return [_left_out(entry, error, reporter)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return [_left_out(entry, MemoryLimitError("Memory ran out."), reporter)]
    return []


def _left_out(entry: Run, error: SparseUNetError, reporter: Reporter) -> SparseUNetError:
    reporter.emit("warning", message=f"{entry.row}, {entry.column} is left out: {error}")
    return type(error)(f"{entry.row}, {entry.column}: {error}")


class _Table:
    """The table of a protocol in a folder: which cells it has, and how another one is made."""

    def __init__(self, protocol: str, data: DataSet, runs: Sequence[Run], folder: Path) -> None:
        """Reads what there is.

        Raises:
            InputError: the folder's table is of another data set, or no table.
        """
        self.protocol, self.data, self.runs, self.folder = protocol, data, runs, folder
        self.csv, self.md = folder / f"{protocol}.csv", folder / f"{protocol}.md"
        self.cells = read_cells(self.csv)
        others = [c.dataset for c in self.cells if c.dataset != data.name]
        if others:
            raise InputError(f"'{self.csv}' is the table of '{others[0]}'; choose another folder with --output.")
        self._settings = {(r.row, r.column): _fingerprint(r, data) for r in runs}

    def has(self, entry: Run) -> bool:
        """Whether the cell is done, with these very settings."""
        key = entry.row, entry.column
        return any((c.row, c.column, c.settings) == (*key, self._settings[key]) for c in self.cells)

    def make(self, entry: Run, device: str, reporter: Reporter, stop: StopRequest) -> None:
        """Train, segment and count, and write the table with the new cell.

        Raises:
            SparseUNetError: see ``cells.carry_out``; the checkpoint of a run that was stopped stays.
        """
        from SparseUNet3DLib.experiments.cells import carry_out
        from SparseUNet3DLib.experiments.results import copy_found, write_found

        settings = self._settings[entry.row, entry.column]
        for run in self.runs:  # a row with more slices than there are learns from no others than the one before
            cell = next((c for c in self.cells if (c.row, c.column) == (run.row, run.column)), None)
            if cell is not None and cell.settings == settings:
                copy_found(self.folder, self.protocol, run, entry)
                self._put(replace(cell, row=entry.row, column=entry.column))
                return
        run_folder = self.folder / f"{self.protocol}-{settings}.run"
        make_folder(run_folder)
        result = carry_out(entry, self.data, run_folder, device, reporter, stop)
        write_found(self.folder, self.protocol, entry, result.found)
        self._put(_cell(self.data.name, self.protocol, entry, settings, result))
        shutil.rmtree(run_folder)

    def draw_missing(self, entry: Run) -> None:
        """Pictures of the cell's segmentations, unless they are there."""
        from SparseUNet3DLib.experiments.results import draw_missing

        draw_missing(self.folder, self.protocol, entry, self.data.cases)

    def markdown(self) -> str:
        """The table as text, in the order of the protocol; cells of other settings are not in it."""
        order = {key: n for n, key in enumerate(self._settings)}
        cells = [c for c in self.cells if c.settings == self._settings.get((c.row, c.column))]
        cells.sort(key=lambda c: order[c.row, c.column])
        return as_markdown(self.protocol, cells, _describe(self.data, cells), self.data.thresholds)

    def tidy_up(self) -> None:
        """Remove the checkpoints of runs with other settings, which nobody will go on with."""
        for run_folder in self.folder.glob(f"{self.protocol}-*.run"):
            shutil.rmtree(run_folder)

    def _put(self, cell: Cell) -> None:
        self.cells = [*(c for c in self.cells if (c.row, c.column) != (cell.row, cell.column)), cell]
        with atomic_path(self.md) as temporary:
            temporary.write_text(self.markdown(), encoding="utf-8")
        write_cells(self.csv, self.protocol, self.cells)  # last: what is in it is done


def _describe(data: DataSet, cells: Sequence[Cell]) -> list[str]:
    """How the networks were trained, in lines for the table."""
    volumes = f"{data.name}: {', '.join(data.cases)}"
    if not cells:
        return [volumes]
    recipe = data.recipe
    limits = [f"{recipe.iterations} steps"] if recipe.iterations else []
    limits += [f"{recipe.seconds / 60:g} minutes"] if recipe.seconds else []
    rate = f"{recipe.optimizer}, learning rate {recipe.learning_rate:g}, schedule {recipe.schedule}"
    widths = f"widths {data.plan['widths']}" if "widths" in data.plan else "widths as in the paper"
    patches = ", ".join(sorted({c.patch for c in cells}))
    spacing = f"; the 3D networks at {data.plan['spacing']} mm" if "spacing" in data.plan else ""
    steps = f"{min(c.iterations for c in cells)} to {max(c.iterations for c in cells)} steps"
    devices = ", ".join(dict.fromkeys(c.device for c in cells))
    return [
        volumes,
        f"the paper's networks, {widths}, patches of {patches} voxels{spacing} (z x y x x)",
        f"each network at most {' and '.join(limits)} ({steps}); {rate}",
        f"on {devices}",
    ]


def _fingerprint(entry: Run, data: DataSet) -> str:
    """A short text that differs for other slices, volumes, networks or recipes."""
    from SparseUNet3DLib.checkpoint import fingerprint

    planes = {kind: {n: [str(p) for p in ps] for n, ps in by.items()}
              for kind, by in (("training", entry.training), ("test", entry.test),
                               ("unscored", entry.unscored))}  # fmt: skip
    cases = {name: case for name, case in data.cases.items() if name in entry.training | entry.test}
    values = [planes, NETWORKS[entry.network], data.recipe.to_dict(), data.plan, fingerprint([*cases.values()], [])]
    # By which the volumes' structures are the same ones.
    values.append({name: [s.name for s in case.annotation.segments] for name, case in cases.items()})
    first = data.cases[next(iter(entry.training))].volume.geometry.direction
    turns = {name: Turn.between(case.volume.geometry.direction, first) for name, case in cases.items()}
    values += [[name, turn.sources, turn.reversed_axes] for name, turn in turns.items() if not turn.does_nothing]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _cell(dataset: str, protocol: str, entry: Run, settings: str, result: Result) -> Cell:
    segments = "; ".join(f"{name}={value:.4f}" for name, value in result.segments.items())
    counts = [sum(p.axis == axis for planes in entry.training.values() for p in planes) for axis in (2, 1, 0)]
    return Cell(
        dataset, protocol, entry.row, entry.column, settings, ",".join(map(str, counts)), round(result.iou, 4),
        segments, round(result.share, 5), result.iterations, round(result.seconds, 1), result.patch, result.device,
    )
