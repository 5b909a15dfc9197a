"""``sparse-unet3d device``: which device would be used, and how fast it is."""

from __future__ import annotations

import argparse

from SparseUNet3DLib.command_line.console import say
from SparseUNet3DLib.dependencies import require_torch
from SparseUNet3DLib.events import Reporter


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command."""
    require_torch()
    from SparseUNet3DLib.device import choose_device, explain_device, tune_allocator

    tune_allocator()
    device = choose_device(args.device)
    sentence = explain_device(device)
    say(args, sentence)
    if args.progress == "jsonl":
        reporter.emit("device", kind=device.type, sentence=sentence)
        reporter.emit("done", outputs={}, scores=None, held_out_iou=None)
