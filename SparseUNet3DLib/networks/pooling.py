"""Maximum pooling, and its way back up, as the devices want them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


def max_pool(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """The maximum of each window of ``stride`` (z, y, x) voxels of (b, c, z, y, x), in the precision ``x`` has."""
    divisible = all(n % s == 0 for n, s in zip(x.shape[2:], stride, strict=True))
    if torch.compiler.is_compiling() and divisible:
        return WindowMaximum.apply(x, stride)
    with torch.autocast("cpu", enabled=False):  # autocast would take it to float32
        return F.max_pool3d(x, tuple(stride))


def enlarge(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """(b, c, z, y, x) with each voxel repeated ``stride`` (z, y, x) times, in the precision ``x`` has."""
    if x.device.type == "cuda":
        return repeat_voxels(x, stride)
    return F.interpolate(x, size=[n * s for n, s in zip(x.shape[2:], stride, strict=True)], mode="nearest")


def repeat_voxels(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """As ``enlarge``; what comes out is channels last.

    Torch's own takes a GPU's channels apart, works in float32, and its gradient cannot be joined with what follows.
    """
    b, c, *size = x.shape
    sz, sy, sx = stride
    spread = x.movedim(1, -1)[:, :, None, :, None, :, None]
    repeated = spread.expand(b, size[0], sz, size[1], sy, size[2], sx, c)
    return repeated.reshape(b, size[0] * sz, size[1] * sy, size[2] * sx, c).movedim(-1, 1)


class WindowMaximum(torch.autograd.Function):
    """Maximum pooling of which torch.compile can join the gradient with what comes before and after it.

    Torch's own cannot be joined. Its gradient also needs zeros first, and eight bytes for each position where this
    needs one. Not compiled this one is slower, being made of many small operations.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
        for number, start in enumerate(itertools.product(*map(range, stride))):
            part = x[(..., *(slice(a, None, s) for a, s in zip(start, stride, strict=True)))]
            if number == 0:
                best, position = part, torch.zeros_like(part, dtype=torch.uint8)
                continue
            larger = (part > best) | part.isnan()
            position = torch.where(larger, number, position).to(torch.uint8)
            best = torch.where(larger, part, best)
        ctx.save_for_backward(position)
        ctx.stride = stride
        return best

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (position,) = ctx.saved_tensors
        (b, c, z, y, x), (sz, sy, sx) = gradient.shape, ctx.stride
        numbers = torch.arange(sz * sy * sx, dtype=torch.uint8, device=gradient.device).view(1, sz, 1, sy, 1, sx)
        whole = torch.where(_spread(position) == numbers, _spread(gradient), 0)
        return whole.reshape(b, c, z * sz, y * sy, x * sx), None


def _spread(x: torch.Tensor) -> torch.Tensor:
    """(b, c, z, 1, y, 1, x, 1) of (b, c, z, y, x)."""
    return x[:, :, :, None, :, None, :, None]
