"""``sparse-unet3d train``: a model from one or several sparsely annotated volumes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from SparseUNet3DLib.annotation_share import share_annotated
from SparseUNet3DLib.command_line.console import say
from SparseUNet3DLib.command_line.options import make_recipe, read_annotation, read_image
from SparseUNet3DLib.command_line.outputs import check_outputs, run_folder
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.events import Reporter

if TYPE_CHECKING:
    from SparseUNet3DLib.cases import Case


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    require_torch()
    from SparseUNet3DLib.command_line.training_options import make_run_options, tune_allocator
    from SparseUNet3DLib.workflow import prepare, train

    for files in args.cases:
        if len(files) < 2:
            raise UsageError(f"--case needs a volume and its annotation, but was given only '{files[0]}'.")
    inputs = [*(file for files in args.cases for file in files), args.start_from]
    check_outputs([("model", args.output)], inputs, args.overwrite)
    tune_allocator()
    recipe = make_recipe(args)
    if args.dry_run:
        prepare(_read(args, reporter), recipe, make_run_options(args, None), reporter)
        reporter.emit("done", outputs={}, scores=None, held_out_iou=None)
        return
    with run_folder(args) as (folder, stop):
        cases = _read(args, reporter)
        options = make_run_options(args, folder)
        with stop.signals():
            model = train(cases, recipe, options, reporter, stop)
        model.save(args.output)
    reporter.emit(
        "done", outputs={"model": str(args.output)}, scores=None, held_out_iou=model.record["held_out_iou"]
    )


def _read(args: argparse.Namespace, reporter: Reporter) -> list[Case]:
    """The volumes with their annotation; how much of each is annotated is told.

    Raises:
        InputError, UsageError: one of them cannot be used.
    """
    from SparseUNet3DLib.cases import Case

    cases = []
    for files in args.cases:
        volume = read_image(files[:-1], reporter)
        annotation = read_annotation(files[-1], volume, args, reporter)
        say(args, f"{volume.name}: {share_annotated(annotation).as_table()}")
        cases.append(Case(volume, annotation))
    return cases
