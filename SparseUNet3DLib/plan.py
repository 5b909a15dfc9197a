"""A plan: the network's shape and the patches it is trained on; `planner` chooses one from the data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from SparseUNet3DLib.errors import MemoryLimitError, UsageError
from SparseUNet3DLib.geometry import describe_direction

#: A grid is treated as anisotropic where one axis' spacing exceeds the finest by this factor.
ANISOTROPIC = 2.0
#: Voxels that the paper's valid convolutions take off each side of an axis; legal inputs are 92 + 8k.
PAPER_MARGIN = 44
PAPER_SMALLEST = 92
#: What no plan exceeds: classes, channels, or voxels along an axis of a patch.
LARGEST = 4096

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """Shape of a network and of what it is trained on. Triples are (z, y, x).

    Attributes:
        network: "auto", "paper" or "2d".
        in_channels: channels of the image.
        classes: classes including background.
        spacing: voxel size in mm that the network works at.
        strides: pooling factors between levels; there is one level more than strides.
        kernels: convolution size at each level.
        widths: channels at each level (for "paper" the first convolution of each level).
        patch_size: voxels that the network sees in training, and in one tile.
        batch_size: patches per step.
        batch_norm: None, or where the statistics come from at test time: "batch", "running", "frozen".
        members: networks of this shape, trained one after another, whose logits are averaged.
        direction: of the first volume's axes, as in ``Geometry.direction``; volumes whose axes run otherwise are turned
            (see `orientation`). Empty in models of earlier versions: none is.
        voxel_spacing: voxel size in mm at which each voxel is classified by the filters around it as well (see
            `voxel_classifier`). Empty: it is not.
    """

    network: str
    in_channels: int
    classes: int
    spacing: tuple[float, float, float]
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    widths: tuple[int, ...]
    patch_size: Triple
    batch_size: int
    batch_norm: str | None = None
    members: int = 1
    direction: tuple[float, ...] = ()
    voxel_spacing: tuple[float, ...] = ()

    @property
    def margin(self) -> Triple:
        """Voxels that the output is smaller than the input, on each side."""
        if self.network == "auto":
            return (0, 0, 0)
        return tuple(PAPER_MARGIN if k > 1 else 0 for k in self.kernels[-1])

    @property
    def output_size(self) -> Triple:
        """Voxels of the output for one patch."""
        return tuple(p - 2 * m for p, m in zip(self.patch_size, self.margin, strict=True))

    @property
    def total_stride(self) -> Triple:
        """Product of the strides: tile positions are multiples of it, so that all tiles pool alike."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(3))

    def smaller(self) -> Plan:
        """The next cheaper plan: half the batch, then a patch of about two thirds of the voxels.

        Raises:
            MemoryLimitError: the patch is as small as it can be.
        """
        if self.batch_size > 1:
            return replace(self, batch_size=self.batch_size // 2)
        floor = self._smallest_patch()
        steps = (8, 8, 8) if self.network != "auto" else self.total_stride
        patch = list(self.patch_size)
        for axis in np.argsort([-p / f for p, f in zip(patch, floor, strict=True)], kind="stable"):
            target = patch[axis] * 2 // 3
            patch[axis] = max(floor[axis], floor[axis] + (target - floor[axis]) // steps[axis] * steps[axis])
            if patch[axis] < self.patch_size[axis]:
                return replace(self, patch_size=tuple(patch))
        raise MemoryLimitError(
            f"Training does not fit into memory even with one patch of {format_triple(self.patch_size)} voxels; "
            "close other programs, use fewer channels, or train on a machine with more memory."
        )

    def _smallest_patch(self) -> Triple:
        if self.network == "auto":
            return tuple(min(p, 2 * s) for p, s in zip(self.patch_size, self.total_stride, strict=True))
        return tuple(PAPER_SMALLEST if m else 1 for m in self.margin)

    def training_bytes(self) -> int:
        """Estimated memory of one training step, in bytes (an upper estimate, in float32).

        Each convolution keeps its input and its normalised output for the backward pass and needs a
        gradient for both; parameters come with their gradient, their average and two moments.
        """
        voxels = float(np.prod(self.patch_size)) * self.batch_size
        activations, parameters, channels_below = 0.0, 0.0, self.in_channels
        # Logits of all output voxels, their gradient, and the logits of annotated ones; more where a step is recorded.
        activations += float(np.prod(self.output_size)) * self.batch_size * 3 * self.classes
        for level, width in enumerate(self.widths):
            if level:
                voxels /= float(np.prod(self.strides[level - 1]))
            widest = width if self.network == "auto" else 2 * width
            # Two convolutions going down, two going up with the concatenated input.
            activations += voxels * widest * (4 * 3 + 2)
            kernel = float(np.prod(self.kernels[level]))
            parameters += kernel * (channels_below * width + width * widest + 3 * widest * widest + widest * widest)
            channels_below = widest
        return int(4 * activations + 4 * 5 * parameters)

    def describe(self) -> list[str]:
        """The plan in a few readable lines."""
        levels = [f"{w} ({format_triple(k)})" for w, k in zip(self.widths, self.kernels, strict=True)]
        normalisation = f"batch ({self.batch_norm} statistics)" if self.batch_norm else "instance"
        if self.network != "auto" and not self.batch_norm:
            normalisation = "none"
        towards = f"; x, y, z towards {describe_direction(self.direction)}" if self.direction else ""
        several = f"{self.members} networks" if self.members > 1 else "network"
        lines = [
            f"{several} {self.network}: {self.in_channels} channel(s), {self.classes} classes, "
            f"{normalisation} normalisation",
            f"levels: {', '.join(levels)} channels (kernel)",
            f"pooling: {', '.join(format_triple(s) for s in self.strides)}",
            f"spacing {format_triple(tuple(f'{s:.3g}' for s in self.spacing))} mm, patch "
            f"{format_triple(self.patch_size)} voxels (z x y x x{towards}), {self.batch_size} per step, "
            f"about {self.training_bytes() / 2**30:.1f} GiB",
        ]
        if self.voxel_spacing:
            spacing = format_triple(tuple(f"{s:.3g}" for s in self.voxel_spacing))
            lines.append(f"single voxels by their gray values and filters around them, at {spacing} mm")
        return lines

    def to_dict(self) -> dict:
        """As plain values, for a model file's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Plan:
        """The plan that ``to_dict`` described."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: _tupled(v) for k, v in values.items() if k in known})


def fit_to_memory(plan: Plan, memory: int) -> Plan:
    """The plan, made smaller until a training step takes at most ``memory`` bytes.

    Raises:
        MemoryLimitError: not even the smallest one does.
    """
    while plan.training_bytes() > memory:
        plan = plan.smaller()
    return plan


def check_plan(plan: Plan) -> None:
    """Refuse a plan whose parts do not fit together.

    Raises:
        UsageError: what does not fit.
    """
    if min(plan.batch_size, *plan.widths, *plan.patch_size, *itertools.chain(*plan.strides)) < 1:
        raise UsageError("Batch size, widths, strides and patch size must be at least 1.")
    if not len(plan.widths) == len(plan.kernels) == len(plan.strides) + 1:
        raise UsageError(f"{len(plan.strides)} strides need {len(plan.strides) + 1} widths, not {len(plan.widths)}.")
    for size, stride, margin in zip(plan.patch_size, plan.total_stride, plan.margin, strict=True):
        if plan.network == "auto" and size % stride:
            raise UsageError(
                f"Patch size {format_triple(plan.patch_size)} must be a multiple of {format_triple(plan.total_stride)}."
            )
        if margin and (size < PAPER_SMALLEST or (size - PAPER_SMALLEST) % 8):
            raise UsageError(f"The paper's network needs patches of 92 + 8k voxels (92, 100, 108, ...), not {size}.")


def format_triple(values: Sequence) -> str:
    """(16, 64, 64) as "16x64x64"."""
    return "x".join(str(v) for v in values)


def _tupled(value: object) -> object:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value
