"""``sparse-unet3d densify``: from a few annotated slices of one volume to all of it."""

from __future__ import annotations

import argparse

from SparseUNet3DLib.annotation import share_annotated
from SparseUNet3DLib.command_line.options import (
    make_recipe,
    read_annotation,
    read_image,
    read_segmentation_on,
    require_free,
    run_folder,
    say,
)
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.evaluation import NEVER_ANNOTATED, score_segmentation
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.segmentation_files import write_segmentation
from SparseUNet3DLib.volumes import write_scalar_volume


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    require_torch()
    from SparseUNet3DLib.cases import Case
    from SparseUNet3DLib.command_line.training_options import (
        inference_settings,
        make_run_options,
        stop_request,
        tune_allocator,
    )
    from SparseUNet3DLib.workflow import densify, prepare

    outputs = {
        "segmentation": args.output, "model": args.model, "confidence": args.confidence, "pictures": args.pictures,
    }
    require_free(outputs.values(), args.overwrite)
    tune_allocator()
    recipe, settings = make_recipe(args), inference_settings(args)
    volume = read_image(args.image, reporter)
    annotation = read_annotation(args.annotation, volume, args, reporter)
    truth = read_segmentation_on(volume.geometry, args.truth, reporter) if args.truth else None
    say(args, share_annotated(annotation).as_table())
    if args.dry_run:
        prepare([Case(volume, annotation)], recipe, make_run_options(args, None), reporter)
        return
    with run_folder(args) as folder:
        options = make_run_options(args, folder)
        with stop_request(folder) as stop:
            prediction, model = densify(
                volume, annotation, recipe, options, reporter, stop, settings, keep_annotation=not args.repaint
            )
        write_segmentation(prediction.segmentation, args.output)
        if args.model:
            model.save(args.model)
        if args.confidence:
            write_scalar_volume(prediction.confidence, volume.geometry, args.confidence)
    scores = None
    if truth:
        scores = score_segmentation(prediction.segmentation, truth, ~annotation.annotated, NEVER_ANNOTATED)
        say(args, scores.as_table())
    if args.pictures:
        from SparseUNet3DLib.pictures import write_summary

        write_summary(args.pictures, volume, prediction.segmentation, annotation, truth)
    reporter.emit(
        "done",
        outputs={name: str(path) for name, path in outputs.items() if path},
        scores=scores.to_dict() if scores else None,
        held_out_iou=model.record["held_out_iou"],
    )
