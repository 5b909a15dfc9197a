"""``sparse-unet3d evaluate``: a segmentation against the truth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from SparseUNet3DLib.annotated_slices import slices_in_file
from SparseUNet3DLib.annotation import parse_planes
from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.command_line.console import say
from SparseUNet3DLib.command_line.options import read_annotation, read_image, read_segmentation_on
from SparseUNet3DLib.command_line.outputs import check_outputs
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.evaluation import (
    CONFUSION_SEGMENTS,
    HELD_OUT_PLANES,
    NEVER_ANNOTATED,
    WHOLE_VOLUME,
    confusion,
    match_segments,
    score_segmentation,
    without_background,
)
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import read_header
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.segments import Segmentation


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    from SparseUNet3DLib.pictures import require_pillow, write_summary

    _check_options(args)
    if args.pictures:
        require_pillow()
    outputs = {"scores": args.json, "confusion": args.confusion, "pictures": args.pictures}
    segmentations = [args.segmentation, args.truth, *filter(None, [args.annotation])]
    check_outputs(list(outputs.items()), args.image or [], args.overwrite, segmentations=segmentations)
    volume = read_image(args.image, reporter) if args.image else None
    # Either may be cropped to what is in it: neither may lose what lies beyond the other.
    own, others = (Geometry.from_image(read_header(file)) for file in (args.segmentation, args.truth))
    grid = volume.geometry if volume else own.around(others)
    if volume is None and _numbers_slices(args):
        _require_whole_volume(args.segmentation, own, grid)
    found, truth = (
        without_background(read_segmentation_on(grid, file, reporter), args.background)
        for file in (args.segmentation, args.truth)
    )
    annotation = None
    where, region = None, WHOLE_VOLUME
    if args.annotation:
        annotation = read_annotation(args.annotation, found, args, reporter)
        where, region = ~annotation.annotated, NEVER_ANNOTATED
    elif args.planes:
        where, region = _on_planes(args.planes, found), HELD_OUT_PLANES
    scores = score_segmentation(found, truth, where, region)
    say(args, scores.as_table())
    if args.json:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(scores.to_dict(), indent=2) + "\n", encoding="utf-8")
    if args.confusion:
        found_labels, true_labels, _ = match_segments(found, truth)
        errors = confusion(found_labels, true_labels, where).astype(np.uint16)
        write_segmentation(Segmentation(errors, CONFUSION_SEGMENTS, found.geometry), args.confusion)
    if args.pictures:
        write_summary(args.pictures, volume, found, annotation, truth)
    written = {name: str(path) for name, path in outputs.items() if path}
    reporter.emit("done", outputs=written, scores=scores.to_dict(), held_out_iou=None)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect, or contradict each other.

    Raises:
        UsageError: which ones.
    """
    if args.pictures and not args.image:
        raise UsageError("--pictures needs --image, the volume to draw.")
    if args.annotation and args.planes:
        raise UsageError("Give either --annotation or --planes: each says which voxels are counted.")
    if (args.slices or args.scribbles) and not args.annotation:
        raise UsageError("--slices and --scribbles say how --annotation is meant: name it, or use --planes instead.")


def _numbers_slices(args: argparse.Namespace) -> bool:
    named = [*(args.planes or []), *(args.slices or [])]
    if args.annotation and not args.slices:
        named += slices_in_file(args.annotation)[0] or []
    return any(name != "auto" for name in named)


def _require_whole_volume(path: Path, own: Geometry, grid: Geometry) -> None:
    """Whether slices of ``grid`` have the numbers that they have in the volume, which nobody named.

    Raises:
        UsageError: they have others, because Slicer has saved no more of the segmentation than what is in it.
    """
    header = read_header(path)
    key = "Segmentation_ReferenceImageExtentOffset"
    start = header.GetMetaData(key).split() if header.HasMetaDataKey(key) else []
    if any(n != "0" for n in start) or own.offset_to(grid) != (0, 0, 0):
        raise UsageError(
            f"Slices are counted in the whole volume, but '{path}' does not begin where the volume does, as it was "
            "saved cropped to what is in it; add --image with the volume's file."
        )


def _on_planes(texts: list[str], found: Segmentation) -> np.ndarray:
    where = np.zeros(found.labels.shape, bool)
    for plane in parse_planes(texts, found.labels.shape):
        where[tuple(plane.index if a == plane.axis else slice(None) for a in range(3))] = True
    return where
