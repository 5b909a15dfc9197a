"""From what was typed to the library's own types."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from SparseUNet3DLib.annotated_slices import slices_in_file
from SparseUNet3DLib.annotation import SparseAnnotation, from_painted, from_planes, from_scribbles, parse_planes
from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.recipe import Recipe, preset
from SparseUNet3DLib.segmentation_files import on_grid, read_named
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.volumes import Volume, read_volume


def read_image(paths: Sequence[Path], reporter: Reporter) -> Volume:
    """The volume in ``paths``; what had to be mended is reported."""
    return read_volume(paths, warn=lambda message: reporter.emit("warning", message=message))


def read_segmentation_on(geometry: Geometry, path: Path, reporter: Reporter) -> Segmentation:
    """As ``read_named``, on the grid ``geometry``; what had to be left out is reported."""
    return on_grid(read_named(path), geometry, str(path), lambda message: reporter.emit("warning", message=message))


def read_annotation(
    path: Path, on: Volume | Segmentation, args: argparse.Namespace, reporter: Reporter
) -> SparseAnnotation:
    """The annotation in ``path`` as --slices and --scribbles say it is meant, on the grid of ``on``.

    Raises:
        InputError, UsageError: the file, its grid, or the slices make no sense.
    """
    if args.scribbles and args.slices:
        raise UsageError("Give either --slices or --scribbles: with scribbles only painted voxels count.")
    if args.scribbles and getattr(args, "held_out", None):
        raise UsageError("--held-out names whole slices, and with --scribbles there are none; leave one of them out.")
    segmentation = read_segmentation_on(on.geometry, path, reporter)
    listed, listed_held_out = slices_in_file(path)
    slices = args.slices or (["auto"] if listed is None else listed)
    # What the file lists belongs together: other slices, other ones held out.
    held_out = getattr(args, "held_out", None) or (None if args.slices else listed_held_out)
    try:
        annotation = _as_meant(segmentation, slices, args)
        if held_out is None or args.scribbles:
            return annotation
        return replace(annotation, held_out=parse_planes(held_out, annotation.labels.shape))
    except (InputError, UsageError) as error:
        raise type(error)(f"'{path}': {error}") from None


def _as_meant(segmentation: Segmentation, slices: Sequence[str], args: argparse.Namespace) -> SparseAnnotation:
    if args.scribbles:
        return from_scribbles(segmentation, args.background)
    planes = parse_planes([s for s in slices if s != "auto"], segmentation.labels.shape)
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
    if args.minutes is not None and not 0 < args.minutes < math.inf:
        raise UsageError(f"--minutes must be above 0 and finite, not {args.minutes:g}.")
    if args.iterations is not None and args.iterations < 1:
        raise UsageError(f"--iterations must be 1 or more, not {args.iterations}.")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed must be a number from 0 to 2^63 - 1, not {args.seed}.")
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
