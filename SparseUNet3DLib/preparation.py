"""What is decided before a training starts: cases, held-out slices, device, normalisation, spacing and plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from SparseUNet3DLib.annotation import parse_planes
from SparseUNet3DLib.cases import Case, Fold, Learnt, harmonise, make_folds
from SparseUNet3DLib.checkpoint import FILE_NAME, networks_begun
from SparseUNet3DLib.device import available_memory, choose_device, describe_device
from SparseUNet3DLib.errors import InputError, MemoryLimitError, UsageError
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.model_file import Model
from SparseUNet3DLib.normalisation import ChannelNormalisation, fit_normalisation
from SparseUNet3DLib.orientation import Turn, is_direction
from SparseUNet3DLib.plan import LARGEST, Plan, fit_to_memory, format_triple
from SparseUNet3DLib.plan_overrides import override_plan, parse_spacing
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.planner import lighter_steps, make_plan, usual_grid_voxels
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.resampling import Resampler
from SparseUNet3DLib.volumes import Volume, require_channel_order
from SparseUNet3DLib.working_spacing import choose_spacing, choose_voxel_spacing

#: A volume whose voxels are so many times longer, or shorter, along all axes than a model's is meant in another unit.
_OTHER_UNIT = 20.0
#: Fewer annotated slices, in all, are few.
_FEW_SLICES = 8
#: Voxels, of all channels, that are classified one by one; a CPU takes some ten seconds for so many, a GPU one or two.
_VOXELS_ON_CPU, _VOXELS_ON_GPU = 2**23, 2**26


@dataclass(frozen=True)
class RunOptions:
    """How a training is run, apart from its recipe.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        hold_out: annotated planes per volume kept for validation, for good; None: about one in six (of fewer than 5
            none), and once a network has been scored, it learns from them as well.
        plan: parts of the plan to override, as ``plan_overrides.override_plan`` takes them; and "spacing", at which the
            network works, as ``plan_overrides.parse_spacing`` takes it.
        memory: bytes that training may use; None: four fifths of what is free on the device.
        folder: where checkpoints go; None: none are written.
        resume: go on from the checkpoint in ``folder``.
        start_from: a model to go on from with more annotation ("warm start").
        preview: segmentation file to rewrite every so often with the present result; ``densify`` only.
    """

    device: str = "auto"
    hold_out: int | None = None
    plan: dict[str, str] = field(default_factory=dict)
    memory: int | None = None
    folder: Path | None = None
    resume: bool = False
    start_from: Model | None = None
    preview: Path | None = None


@dataclass(frozen=True)
class Preparation:
    """What is decided before a training starts; ``--dry-run`` shows it.

    Attributes:
        folds: what each network that will be trained learns from, as it was given: nothing is turned yet.
        normalisation: of each channel.
        plan: shape of the networks.
        device: where they are trained.
        resample: brings the volumes to the spacings of the plan, each once for the whole run.
    """

    folds: list[Fold]
    normalisation: tuple[ChannelNormalisation, ...]
    plan: Plan
    device: torch.device
    resample: Resampler = field(default_factory=Resampler)

    def turn(self, case: Case) -> Turn:
        """What the networks need done to the axes of ``case``."""
        return Turn.between(case.volume.geometry.direction, self.plan.direction)


def require_like_spacing(turned: Volume, plan: Plan) -> None:
    """Refuse a spacing that can only be meant in another unit: bringing it to the plan's would take all memory.

    Args:
        turned: the volume, its axes as the network wants them.
        plan: of the network.

    Raises:
        InputError: it is.
    """
    own, wanted = turned.geometry.array_spacing, plan.spacing
    ratios = [a / b for a, b in zip(own, wanted, strict=True)]
    if min(ratios) > _OTHER_UNIT or max(ratios) < 1 / _OTHER_UNIT:
        texts = [format_triple([f"{step:.4g}" for step in spacing]) for spacing in (own, wanted)]
        raise InputError(
            f"'{turned.name}' has a spacing of {texts[0]} mm, but the model works at {texts[1]} mm (z x y x x); "
            "correct the volume's spacing if it is in another unit, or use a model for such volumes."
        )


def prepare(cases: Sequence[Case], recipe: Recipe, options: RunOptions, reporter: Reporter) -> Preparation:
    """Check the cases, hold planes out, choose device, normalisation and plan; report the plan.

    Raises:
        InputError: the cases cannot be trained on.
        UsageError: the device or an override makes no sense.
        MemoryLimitError: not even the smallest plan fits, or the one wanted does not.
    """

    def warn(message: str) -> None:
        reporter.emit("warning", message=message)

    cases = harmonise(cases, warn)
    arrays = [c.volume.array for c in cases]
    names = cases[0].volume.channel_names
    for channel, name in enumerate(names):
        if all(a[channel].min() == a[channel].max() for a in arrays):
            message = f"Channel '{name}' is constant (every voxel is {arrays[0][channel].flat[0]:g})"
            if len(names) == 1:
                raise InputError(f"{message}, so there is nothing to learn from it; give another volume.")
            warn(f"{message}; it does not help and may be left out.")
    device = choose_device(options.device)
    start = options.start_from
    if start is not None:
        if len(start.channels) != len(names):
            raise InputError(f"The model to start from has {len(start.channels)} channel(s), the volumes {len(names)}.")
        require_channel_order(cases[0].volume, [c.name for c in start.channels], "the model to start from")
    normalisation = start.channels if start else fit_normalisation(names, arrays)
    classes = len(cases[0].annotation.segments) + 1
    if classes > LARGEST:
        raise InputError(
            f"The annotation has {classes - 1} segments, but a network tells at most {LARGEST - 1} apart; where each "
            "object has a segment of its own, give those of the same kind one."
        )
    memory = options.memory or available_memory(device)
    changes = dict(options.plan)
    wanted_spacing = changes.pop("spacing", None)
    folds = make_folds(cases, options.hold_out, _count_networks(recipe, options, classes), _learnt(start, cases))
    if start:
        plan = _plan_to_go_on_with(start.plan, recipe, classes, wanted_spacing, warn)
        plan = lighter_steps(plan, device.type != "cpu")
    else:
        plan = _new_plan(cases, recipe, wanted_spacing, len(names), classes, device.type != "cpu")
    plan = replace(plan, voxel_spacing=_voxel_spacing(cases, recipe, plan, device))
    for case in cases:
        require_like_spacing(Turn.between(case.volume.geometry.direction, plan.direction).volume(case.volume), plan)
    plan = replace(_settle_plan(plan, changes, memory), members=len(folds))
    reporter.emit(
        "plan",
        plan=plan.to_dict(),
        lines=plan.describe(),
        device=describe_device(device),
        memory_bytes=plan.training_bytes(),
        held_out=held_out_planes(folds),
    )
    return Preparation(folds, normalisation, plan, device)


def _plan_to_go_on_with(
    plan: Plan, recipe: Recipe, classes: int, wanted_spacing: str | None, warn: Callable[[str], None]
) -> Plan:
    if wanted_spacing:
        raise UsageError("A model to start from goes on at the spacing that it was trained at; leave out spacing.")
    if plan.network != recipe.network:
        warn(f"The model to start from is a '{plan.network}' network, so that '{recipe.network}' does not count.")
    return replace(plan, classes=classes, members=1)


def _new_plan(
    cases: Sequence[Case], recipe: Recipe, wanted_spacing: str | None, channels: int, classes: int, on_gpu: bool
) -> Plan:
    """For volumes whose axes are turned to those of the first one."""
    direction = cases[0].volume.geometry.direction
    turned = [Turn.between(c.volume.geometry.direction, direction).case(c) for c in cases]
    spacing = parse_spacing(wanted_spacing) if wanted_spacing else _working_spacing(
        turned, recipe, usual_grid_voxels(on_gpu)
    )
    shapes = [shape_at(c.volume, spacing) for c in turned]
    few_slices = sum(len(c.annotation.planes) for c in cases) < _FEW_SLICES
    return replace(make_plan(recipe, shapes, spacing, channels, classes, on_gpu, few_slices), direction=direction)


def held_out_planes(folds: Sequence[Fold]) -> dict[str, list[str]]:
    """By name of the volume, the planes that one of the networks does not learn from until it is scored."""
    planes: dict[str, set[Plane]] = {}
    for case in (c for fold in folds for c in fold.validation):
        planes.setdefault(case.volume.name, set()).update(case.annotation.planes)
    return {name: [str(p) for p in sorted(found)] for name, found in planes.items()}


def _learnt(start: Model | None, cases: Sequence[Case]) -> list[Learnt]:
    """What each network of the model to start from knows; a file of an earlier version does not tell."""
    if start is None:
        return []
    then = {c.volume.name: entry for c in cases if (entry := _entry(start, c.volume)) is not None}
    directions = {c.volume.name: c.volume.geometry.direction for c in cases}

    def as_now(name: str, planes: Sequence[str]) -> list[str]:
        """The planes by the names that they have where the volume is stored otherwise today."""
        direction, shape = then[name].get("direction", ()), then[name]["shape"]
        turn = Turn.between(direction, directions[name]) if is_direction(direction) else Turn()
        if turn.does_nothing:
            return list(planes)
        return [str(turn.plane(plane, shape)) for plane in parse_planes(planes, shape)]

    annotated = {name: as_now(name, entry.get("planes", [])) for name, entry in then.items()}
    return [
        Learnt(annotated, {name: as_now(name, held_out.get(entry["name"], ())) for name, entry in then.items()})
        for held_out in start.record.get("held_out_by_network", [])
    ]


def _entry(start: Model, volume: Volume) -> dict | None:
    """What the record of the model to start from tells of ``volume``; one without fingerprints knows it by its name."""
    known = start.learnt_volume(Turn.between(volume.geometry.direction, start.plan.direction).volume(volume))
    if known is not None:
        return known
    entries = start.record.get("volumes", [])
    return next((e for e in entries if e["name"] == volume.name and "fingerprint" not in e), None)


def _count_networks(recipe: Recipe, options: RunOptions, classes: int) -> int:
    """How many networks to train; none of those to start from, or begun already, is lost for want of time."""
    wanted = recipe.ensemble_size(classes)
    if recipe.members is not None:
        return wanted
    before = options.start_from.plan.members if options.start_from else 1
    begun = networks_begun(options.folder / FILE_NAME) if options.resume and options.folder else 1
    return max(wanted, before, begun)


def _working_spacing(cases: Sequence[Case], recipe: Recipe, usual_voxels: int) -> tuple[float, float, float]:
    if recipe.network == "auto":
        return choose_spacing(cases, usual_voxels)
    return tuple(float(s) for s in np.median([c.volume.geometry.array_spacing for c in cases], axis=0))


def _voxel_spacing(cases: Sequence[Case], recipe: Recipe, plan: Plan, device: torch.device) -> tuple[float, ...]:
    if not recipe.voxel_classifier or plan.network != "auto":
        return ()
    turned = [Turn.between(c.volume.geometry.direction, plan.direction).case(c) for c in cases]
    return choose_voxel_spacing(turned, _VOXELS_ON_CPU if device.type == "cpu" else _VOXELS_ON_GPU)


def shape_at(volume: Volume, spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    """Voxels (z, y, x) of ``volume`` at another ``spacing`` (z, y, x, mm)."""
    own = volume.geometry.array_spacing
    return tuple(max(1, math.ceil(n * o / s)) for n, o, s in zip(volume.array.shape[1:], own, spacing, strict=True))


def _settle_plan(plan: Plan, changes: dict[str, str], memory: int) -> Plan:
    """The plan with the user's ``changes``, made small enough for ``memory`` where they leave its size open."""
    plan = override_plan(plan, changes)
    if not {"patch_size", "batch_size"} & changes.keys():
        try:
            return fit_to_memory(plan, memory)
        except MemoryLimitError:
            if not changes:
                raise
    _require_memory(plan, memory)  # says that it is by the user's own choice
    return plan


def _require_memory(plan: Plan, memory: int) -> None:
    """Refuse a plan of the user's that would not fit: the system may kill a program that takes too much."""
    if plan.training_bytes() > memory:
        raise MemoryLimitError(
            f"With patches of {format_triple(plan.patch_size)} voxels, {plan.batch_size} per step, training needs "
            f"about {plan.training_bytes() / 2**30:.2g} GiB, but may use {memory / 2**30:.2g} GiB; choose a smaller "
            "patch_size, batch_size or widths, or allow more with --memory."
        )
