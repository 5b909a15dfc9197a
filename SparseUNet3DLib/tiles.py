"""How a volume is covered by the tiles that a network sees at a time, and what each counts where they overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from SparseUNet3DLib.plan import PAPER_SMALLEST, Plan, Triple


@dataclass(frozen=True)
class Box:
    """A box of voxels: start and size along (z, y, x)."""

    start: Triple
    size: Triple

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into the last three axes of an array."""
        return tuple(slice(s, s + n) for s, n in zip(self.start, self.size, strict=True))


def intersection(a: Box, b: Box) -> Box | None:
    """The voxels that both boxes have, if there are any."""
    low = [max(s, t) for s, t in zip(a.start, b.start, strict=True)]
    high = [min(s + n, t + m) for s, n, t, m in zip(a.start, a.size, b.start, b.size, strict=True)]
    if any(x >= y for x, y in zip(low, high, strict=True)):
        return None
    return Box(tuple(low), tuple(y - x for x, y in zip(low, high, strict=True)))


def within(part: Box, whole: Box) -> tuple[slice, ...]:
    """``part`` as an index into an array of ``whole``."""
    return Box(tuple(s - t for s, t in zip(part.start, whole.start, strict=True)), part.size).slices


def larger_tiles(plan: Plan, shape: Triple, memory: int) -> Plan:
    """A plan with tiles for inference: the paper's valid convolutions waste less in larger ones.

    Only where a tile's content does not change the normalisation, and only as far as ``memory`` allows.
    A plan for "auto" keeps its patch: instance normalisation wants tiles like those trained on.
    """
    if plan.network == "auto" or plan.batch_norm == "batch":
        return plan
    best = plan
    for extra in range(0, 160, 8):
        patch = tuple(
            min(p + extra, PAPER_SMALLEST + 8 * math.ceil(max(0, n - 4) / 8)) if m else p
            for p, n, m in zip(plan.patch_size, shape, plan.margin, strict=True)
        )
        larger = replace(plan, patch_size=patch, batch_size=1)
        # Inference keeps a few layers at a time, about a third of what training keeps.
        if larger.training_bytes() / 3 > memory:
            break
        best = larger
    return best


def tile_starts(start: int, size: int, limit: int, plan: Plan, axis: int, overlap: float) -> list[int]:
    """Positions of tiles along one axis that cover start..start+size-1 of an axis of ``limit`` voxels."""
    tile = plan.output_size[axis]
    # A tile narrower than the stride cannot stay in phase with its neighbours and still cover the axis.
    stride = plan.total_stride[axis] if tile >= plan.total_stride[axis] else 1
    if size <= tile:
        # One tile about the middle, inside the volume where it fits.
        first = start + (size - tile) // 2
        first = min(max(first, 0), limit - tile) if tile <= limit else (limit - tile) // 2
        shows_first = start // stride * stride
        shows_last = math.ceil((start + size - tile) / stride) * stride
        if shows_last > shows_first:  # no tile in phase shows all
            return [shows_first, shows_last]
        return [min(max(first // stride * stride, shows_last), shows_first)]
    step = tile if plan.network != "auto" else max(1, int(tile * (1 - overlap)))
    step = max(stride, step // stride * stride)
    first = start // stride * stride
    count = math.ceil((start + size - first - tile) / step) + 1
    # Evenly spread, so that the last tile does not overlap its neighbour almost wholly.
    last = math.ceil((start + size - tile - first) / stride) * stride
    positions = [first + round(i * last / max(1, count - 1) / stride) * stride for i in range(count)]
    return sorted(set(positions))


def count_tiles(shape: Triple, plan: Plan, overlap: float) -> int:
    """How many tiles cover a volume, or a slice of it, of ``shape`` (z, y, x) at the plan's spacing."""
    return math.prod(len(tile_starts(0, n, n, plan, axis, overlap)) for axis, n in enumerate(shape))


def importance(plan: Plan) -> torch.Tensor:
    """Weight of each voxel of a tile: a Gaussian for "auto", all the same for valid convolutions."""
    if plan.network != "auto":
        return torch.ones(plan.output_size)
    axes = [torch.linspace(-1, 1, n + 2)[1:-1] for n in plan.output_size]
    profiles = [torch.exp(-0.5 * (a / 0.4) ** 2) for a in axes]
    return profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
