"""From what was typed to the library's own types."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from SparseUNet3DLib.annotation import SparseAnnotation, from_painted, from_planes, from_scribbles, parse_planes
from SparseUNet3DLib.errors import InputError, OutputError, UsageError
from SparseUNet3DLib.events import CollectingReporter, JsonLinesReporter, Reporter, TerminalReporter
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.recipe import Recipe, preset
from SparseUNet3DLib.segmentation_files import on_grid, read_segmentation
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.volumes import Volume, read_volume

STOP_FILE = "stop"


def make_reporter(args: argparse.Namespace) -> Reporter:
    """Who is told about progress."""
    if args.progress == "jsonl":
        return JsonLinesReporter()
    return TerminalReporter() if args.progress == "terminal" else CollectingReporter()


def say(args: argparse.Namespace, text: str) -> None:
    """Print a result for a person; a program reads it from the "done" event instead."""
    if args.progress != "jsonl":
        print(text, flush=True)


def require_free(paths: Iterable[Path | None], overwrite: bool) -> None:
    """Refuse to replace files, before hours are spent on making the new ones.

    Raises:
        OutputError: a file exists, or its folder does not.
    """
    for path in paths:
        if path is None:
            continue
        if path.exists() and not overwrite:
            raise OutputError(f"'{path}' exists already; give another name, or --overwrite to replace it.")
        if not path.absolute().parent.is_dir():
            raise OutputError(f"Cannot write '{path}': the folder '{path.absolute().parent}' does not exist.")


def read_image(paths: Sequence[Path], reporter: Reporter) -> Volume:
    """The volume in ``paths``; what had to be mended is reported."""
    return read_volume(paths, warn=lambda message: reporter.emit("warning", message=message))


def read_segmentation_on(geometry: Geometry, path: Path, reporter: Reporter) -> Segmentation:
    """The segmentation in ``path`` on the grid ``geometry``; what had to be left out is reported."""
    return on_grid(
        read_segmentation(path), geometry, str(path), lambda message: reporter.emit("warning", message=message)
    )


def read_annotation(
    path: Path, on: Volume | Segmentation, args: argparse.Namespace, reporter: Reporter
) -> SparseAnnotation:
    """The annotation in ``path`` as --slices and --scribbles say it is meant, on the grid of ``on``.

    Raises:
        InputError, UsageError: the file, its grid, or the slices make no sense.
    """
    segmentation = read_segmentation_on(on.geometry, path, reporter)
    slices = args.slices or ["auto"]
    if args.scribbles:
        if args.slices:
            raise UsageError("Give either --slices or --scribbles: with scribbles only painted voxels count.")
        return from_scribbles(segmentation, args.background)
    planes = parse_planes([s for s in slices if s != "auto"], on.geometry.array_shape)
    if "auto" in slices:
        return from_painted(segmentation, planes, args.background)
    return from_planes(segmentation, planes, args.background)


def make_recipe(args: argparse.Namespace) -> Recipe:
    """The preset with what was typed put in.

    Raises:
        UsageError: the parts do not fit together.
    """
    recipe = preset(args.preset)
    changes: dict = {}
    if args.minutes is not None:
        changes["seconds"] = 60 * args.minutes
        changes["iterations"] = None
    if args.iterations is not None:
        changes["iterations"] = args.iterations
        changes.setdefault("seconds", None)
    for name in ("network", "precision", "seed"):
        if getattr(args, name) is not None:
            changes[name] = getattr(args, name)
    if changes.get("network") in ("paper", "2d") and recipe.batch_norm is None:
        changes["batch_norm"] = "batch"
    if args.mirror:
        changes["augmentation"] = replace(recipe.augmentation, mirror=axes(args.mirror, "--mirror"))
    return replace(recipe, **changes)


def axes(text: str, option: str) -> tuple[str, ...]:
    """ "xy" as ("x", "y").

    Raises:
        UsageError: other letters.
    """
    if not set(text) <= set("xyz") or len(set(text)) != len(text):
        raise UsageError(f"{option} takes the letters x, y and z, each at most once, not '{text}'.")
    return tuple(text)


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """ ["batch_size=1"] as {"batch_size": "1"}.

    Raises:
        UsageError: no equals sign.
    """
    result = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--plan takes KEY=VALUE, for example batch_size=1, not '{text}'.")
        result[name] = value
    return result


@contextmanager
def run_folder(args: argparse.Namespace) -> Iterator[Path]:
    """The folder of the run's checkpoint; a folder of our own choosing is removed after success.

    Raises:
        InputError: there is a checkpoint and nothing was said of it, or none to resume from.
        OutputError: the folder cannot be made.
    """
    from SparseUNet3DLib.checkpoint import FILE_NAME

    folder = args.run_folder or args.output.with_name(args.output.name + ".run")
    there = (folder / FILE_NAME).exists()
    if there and not (args.resume or args.restart):
        raise InputError(
            f"'{folder}' holds the checkpoint of an unfinished run; add --resume to go on with it, "
            "or --restart to begin anew."
        )
    if args.resume and not there:
        raise InputError(f"There is no checkpoint in '{folder}' to resume from; leave --resume out to begin.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the run folder '{folder}': {error.strerror}.") from None
    yield folder
    if args.run_folder is None:
        shutil.rmtree(folder, ignore_errors=True)
