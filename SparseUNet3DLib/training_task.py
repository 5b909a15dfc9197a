"""What a training is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.resampling import Resample, resample_to
from SparseUNet3DLib.stopping import StopRequest


@dataclass
class TrainingFold:
    """What one of a run's networks learns from.

    Attributes:
        cases: volumes with the annotation to train on.
        validate: given a network and whom to tell of each part (0..1) that is done, the IoU of each segment on
            held-out planes; None where none are held out.
        validation_tiles: how many tiles that takes.
        forget: called when its network is scored for the last time, so that nothing is kept for ``validate``.
        complete: the volumes with all that is to be learnt once the network has been scored; none where that is no
            more than before.
    """

    cases: Sequence[Case]
    validate: Callable[[nn.Module, Plan, torch.dtype, Callable[[float], None]], dict[str, float | None]] | None = None
    validation_tiles: int = 1
    forget: Callable[[], None] = lambda: None
    complete: Sequence[Case] = ()


@dataclass
class TrainingTask:
    """What to train, and with whom to talk meanwhile.

    Attributes:
        folds: one for each network; they are trained one after another, and share the time evenly.
        normalisation: of each channel.
        plan: shape of the networks.
        recipe: how to train.
        device: where.
        reporter: receives plan, step, validation, checkpoint and warning events.
        stop: asked after every step.
        preview: given a network and the iteration, shows how things stand; None where nobody looks.
        preview_tiles: how many tiles that takes.
        folder: where checkpoints go; None: none are written.
        initial_weights: weights to start from, of one or several networks; none: random ones.
        resample: brings volumes to the spacings of the plan.
    """

    folds: Sequence[TrainingFold]
    normalisation: Sequence[ChannelNormalisation]
    plan: Plan
    recipe: Recipe
    device: torch.device
    reporter: Reporter
    stop: StopRequest
    preview: Callable[[nn.Module, Plan, torch.dtype, int], None] | None = None
    preview_tiles: int = 1
    folder: Path | None = None
    initial_weights: Sequence[dict[str, torch.Tensor]] = ()
    resample: Resample = resample_to


@dataclass(frozen=True)
class TrainingResult:
    """What came of it: the weights to use, the plan they fit, and what the record wants to know.

    ``held_out_iou`` is the mean over the networks, each on slices that it had not learnt from by then. ``scored`` are
    their weights of that moment; None where none has learnt from these slices since.
    """

    weights: dict[str, torch.Tensor]
    plan: Plan
    precision: torch.dtype
    iterations: int
    seconds: float
    history: list[dict] = field(default_factory=list)
    held_out_iou: dict[str, float | None] | None = None
    scored: dict[str, torch.Tensor] | None = None
