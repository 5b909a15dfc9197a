"""Options of the commands that need torch: how a run is made and applied."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from SparseUNet3DLib.command_line.options import axes, parse_overrides
from SparseUNet3DLib.device import available_memory, choose_device, tune_allocator
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
    return RunOptions(
        device=args.device,
        hold_out=args.hold_out,
        plan=parse_overrides(args.plan),
        memory=_memory_limit(args),
        folder=folder,
        resume=args.resume,
        start_from=load_model(args.start_from) if args.start_from else None,
        preview=getattr(args, "preview", None),
    )


def inference_settings(args: argparse.Namespace) -> InferenceSettings:
    """How tiles are laid.

    Raises:
        UsageError: an overlap outside 0..0.9, unknown axes, or no memory.
    """
    if not 0 <= args.overlap <= 0.9:
        raise UsageError(f"--overlap must be between 0 and 0.9, not {args.overlap:g}.")
    memory = available_memory(torch.device("cpu"))
    if choose_device(args.device).type == "cpu":  # else --memory is of the GPU's
        memory = min(memory, _memory_limit(args) or memory)
    memory = int(LOGITS_SHARE * memory)
    return InferenceSettings(args.overlap, axes(args.average_mirrored, "--average-mirrored"), memory)


def _memory_limit(args: argparse.Namespace) -> int | None:
    """Bytes that the run may use, where it is said; ``segment`` has no such option."""
    limit = getattr(args, "memory", None)
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(f"--memory must be above 0 GiB and finite, not {limit:g}.")
    return None if limit is None else int(limit * 2**30)
