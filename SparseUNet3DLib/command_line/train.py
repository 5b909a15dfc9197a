"""``sparse-unet3d train``: a model from one or several sparsely annotated volumes."""

from __future__ import annotations

import argparse

from SparseUNet3DLib.annotation import share_annotated
from SparseUNet3DLib.command_line.options import (
    make_recipe,
    read_annotation,
    read_image,
    require_free,
    run_folder,
    say,
)
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.events import Reporter


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    require_torch()
    from SparseUNet3DLib.cases import Case
    from SparseUNet3DLib.command_line.training_options import make_run_options, stop_request, tune_allocator
    from SparseUNet3DLib.workflow import prepare, train

    require_free([args.output], args.overwrite)
    tune_allocator()
    recipe = make_recipe(args)
    cases = []
    for files in args.cases:
        if len(files) < 2:
            raise UsageError(f"--case needs a volume and its annotation, but was given only '{files[0]}'.")
        volume = read_image(files[:-1], reporter)
        annotation = read_annotation(files[-1], volume, args, reporter)
        say(args, f"{volume.name}: {share_annotated(annotation).as_table()}")
        cases.append(Case(volume, annotation))
    if args.dry_run:
        prepare(cases, recipe, make_run_options(args, None), reporter)
        return
    with run_folder(args) as folder:
        options = make_run_options(args, folder)
        with stop_request(folder) as stop:
            model = train(cases, recipe, options, reporter, stop)
        model.save(args.output)
    reporter.emit(
        "done", outputs={"model": str(args.output)}, scores=None, held_out_iou=model.record["held_out_iou"]
    )
