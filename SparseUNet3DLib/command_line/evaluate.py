"""``sparse-unet3d evaluate``: a segmentation against the truth."""

from __future__ import annotations

import argparse
import json

import numpy as np

from SparseUNet3DLib.annotation import SparseAnnotation, parse_planes
from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.command_line.options import (
    read_annotation,
    read_image,
    read_segmentation_on,
    require_free,
    say,
)
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.evaluation import (
    CONFUSION_SEGMENTS,
    HELD_OUT_PLANES,
    NEVER_ANNOTATED,
    WHOLE_VOLUME,
    confusion,
    match_segments,
    score_segmentation,
)
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segmentation


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    if args.pictures and not args.image:
        raise UsageError("--pictures needs the volume to draw: give it with --image.")
    if args.annotation and args.planes:
        raise UsageError("Give either --annotation or --planes: each says which voxels are counted.")
    outputs = {"scores": args.json, "confusion": args.confusion, "pictures": args.pictures}
    require_free(outputs.values(), args.overwrite)
    found = read_segmentation(args.segmentation)
    truth = read_segmentation_on(found.geometry, args.truth, reporter)
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
        _draw(args, found, truth, annotation, reporter)
    reporter.emit("done", outputs={n: str(p) for n, p in outputs.items() if p}, scores=scores.to_dict())


def _on_planes(texts: list[str], found: Segmentation) -> np.ndarray:
    where = np.zeros(found.labels.shape, bool)
    for plane in parse_planes(texts, found.labels.shape):
        where[tuple(plane.index if a == plane.axis else slice(None) for a in range(3))] = True
    return where


def _draw(
    args: argparse.Namespace,
    found: Segmentation,
    truth: Segmentation,
    annotation: SparseAnnotation | None,
    reporter: Reporter,
) -> None:
    from SparseUNet3DLib.pictures import write_summary

    write_summary(args.pictures, read_image(args.image, reporter), found, annotation, truth)
