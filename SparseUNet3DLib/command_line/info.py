"""``sparse-unet3d info``: a model's card."""

from __future__ import annotations

import argparse
import json

from SparseUNet3DLib.command_line.console import print_result, say
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.events import Reporter


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    require_torch()
    from SparseUNet3DLib.model_file import load_model

    model = load_model(args.model)
    if args.progress == "jsonl":
        reporter.emit("card", text=model.card(), header=model.header())
        reporter.emit("done", outputs={}, scores=None, held_out_iou=None)
    elif args.json:
        print_result(json.dumps(model.header(), indent=2))
    else:
        say(args, model.card())
