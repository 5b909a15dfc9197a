"""``sparse-unet3d densify``: from a few annotated slices of one volume to all of it."""

from __future__ import annotations

import argparse

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.annotation_share import share_annotated
from SparseUNet3DLib.command_line.console import say
from SparseUNet3DLib.command_line.options import make_recipe, read_annotation, read_image, read_segmentation_on
from SparseUNet3DLib.command_line.outputs import check_outputs, run_folder
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.evaluation import (
    CONFUSION_SEGMENTS,
    NEVER_ANNOTATED,
    match_segments,
    score_segmentation,
    without_background,
)
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.image_files import check_keeps_grid
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.volumes import Volume, write_scalar_volume


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    require_torch()
    from SparseUNet3DLib.cases import Case
    from SparseUNet3DLib.command_line.training_options import inference_settings, make_run_options, tune_allocator
    from SparseUNet3DLib.pictures import require_pillow, write_summary
    from SparseUNet3DLib.workflow import densify, prepare

    outputs = {
        "segmentation": args.output, "model": args.model, "confidence": args.confidence, "pictures": args.pictures,
        "confusion": args.confusion,
    }
    segmentations = [path for path in (args.annotation, args.truth) if path]
    inputs = [*args.image, args.start_from]
    own = [args.preview] if args.resume else []
    check_outputs([*outputs.items(), ("preview", args.preview)], inputs, args.overwrite, own, segmentations)
    if args.pictures:
        require_pillow()
    tune_allocator()
    recipe, settings = make_recipe(args), inference_settings(args)
    if args.dry_run:
        volume, annotation, _ = _read(args, reporter)
        prepare([Case(volume, annotation)], recipe, make_run_options(args, None), reporter)
        reporter.emit("done", outputs={}, scores=None, held_out_iou=None)
        return
    with run_folder(args) as (folder, stop):
        volume, annotation, truth = _read(args, reporter)
        options = make_run_options(args, folder)
        with stop.signals():  # once all is computed it is written, too
            prediction, model = densify(
                volume, annotation, recipe, options, reporter, stop, settings, keep_annotation=not args.repaint
            )
            if args.model:  # first: it cannot be made again without training
                model.save(args.model)
            write_segmentation(prediction.segmentation, args.output, args.compress)
            if args.confidence:
                write_scalar_volume(prediction.confidence, volume.geometry, args.confidence, args.compress)
            if args.confusion:
                confusion = Segmentation(prediction.confusion.astype("uint16"), CONFUSION_SEGMENTS, volume.geometry)
                write_segmentation(confusion, args.confusion, args.compress)
    scores = None
    if truth:
        scores = score_segmentation(prediction.segmentation, truth, ~annotation.annotated, NEVER_ANNOTATED)
        say(args, scores.as_table())
    if args.pictures:
        write_summary(args.pictures, volume, prediction.segmentation, annotation, truth)
    reporter.emit(
        "done",
        outputs={name: str(path) for name, path in outputs.items() if path},
        scores=scores.to_dict() if scores else None,
        held_out_iou=model.record["held_out_iou"],
    )


def _read(args: argparse.Namespace, reporter: Reporter) -> tuple[Volume, SparseAnnotation, Segmentation | None]:
    """Volume, annotation and truth; how much is annotated is told.

    Raises:
        InputError, UsageError: one of them cannot be used, or they do not belong together.
        OutputError: the format of a result does not keep the volume's grid.
    """
    volume = read_image(args.image, reporter)
    for path in filter(None, (args.output, args.confidence, args.confusion, args.preview)):
        check_keeps_grid(path, volume.geometry)
    annotation = read_annotation(args.annotation, volume, args, reporter)
    truth = None
    if args.truth:
        truth = without_background(read_segmentation_on(volume.geometry, args.truth, reporter), args.background)
        # What cannot be scored in the end is better refused now.
        match_segments(Segmentation(annotation.labels, annotation.segments, volume.geometry), truth)
    say(args, share_annotated(annotation).as_table())
    return volume, annotation, truth
