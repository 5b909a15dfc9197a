"""Options of the commands that need torch: how a run is made and applied."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from SparseUNet3DLib.command_line.options import axes, parse_overrides
from SparseUNet3DLib.device import available_memory, tune_allocator
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.inference import InferenceSettings
from SparseUNet3DLib.model_file import load_model
from SparseUNet3DLib.workflow import LOGITS_SHARE, RunOptions

__all__ = ["inference_settings", "make_run_options", "tune_allocator"]


def make_run_options(args: argparse.Namespace, folder: Path | None) -> RunOptions:
    """How the training is run.

    Raises:
        UsageError, InputError: an option makes no sense, or the model to start from cannot be used.
    """
    if args.hold_out is not None and args.hold_out < 0:
        raise UsageError(f"--hold-out must be 0 or more, not {args.hold_out}.")
    if args.memory is not None and not 0 < args.memory < math.inf:
        raise UsageError(f"--memory must be above 0 GiB and finite, not {args.memory:g}.")
    return RunOptions(
        device=args.device,
        hold_out=args.hold_out,
        plan=parse_overrides(args.plan),
        memory=int(args.memory * 2**30) if args.memory else None,
        folder=folder,
        resume=args.resume,
        start_from=load_model(args.start_from) if args.start_from else None,
        preview=getattr(args, "preview", None),
    )


def inference_settings(args: argparse.Namespace) -> InferenceSettings:
    """How tiles are laid.

    Raises:
        UsageError: an overlap outside 0..0.9 or unknown axes.
    """
    if not 0 <= args.overlap <= 0.9:
        raise UsageError(f"--overlap must be between 0 and 0.9, not {args.overlap:g}.")
    memory = int(LOGITS_SHARE * available_memory(torch.device("cpu")))
    return InferenceSettings(args.overlap, axes(args.average_mirrored, "--average-mirrored"), memory)
