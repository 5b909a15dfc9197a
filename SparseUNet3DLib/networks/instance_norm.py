"""Instance normalisation as a CPU wants it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_EPSILON = 1e-5
#: Numbers that a CPU goes through in a row; so many take half as long as a row of sixteen. From that many channels on
#: a row is long enough as it is.
_ROW, _MANY_CHANNELS = 256, 32


class InstanceNorm(nn.Module):
    """Instance normalisation with scale and shift, (b, c, z, y, x).

    The same function as ``nn.InstanceNorm3d``; each sample goes through batch normalisation by
    itself, because that keeps channels-last tensors as they are and is 2.4 times faster on a CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x[0, 0].numel() == 1:  # a single voxel has no spread to normalise by
            # With a gradient of 0, so that optimisers keep for these parameters what they do for all others.
            return x + (0 * (self.weight + self.bias)).to(x.dtype).view(1, -1, 1, 1, 1)
        samples = [self._normalise(s) for s in x.split(1)]
        return samples[0] if len(samples) == 1 else torch.cat(samples)

    def _normalise(self, sample: torch.Tensor) -> torch.Tensor:
        short_rows = sample.shape[1] < _MANY_CHANNELS and sample.is_contiguous(memory_format=torch.channels_last_3d)
        if sample.device.type == "cpu" and short_rows:
            return _InRows.apply(sample, self.weight, self.bias)
        return F.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=_EPSILON)


class _InRows(torch.autograd.Function):
    """Batch normalisation of one channels-last sample on a CPU, several voxels in a row.

    Torch goes from voxel to voxel, each with its few channels. Here some neighbours are taken for one voxel with so
    many times the channels; of their means and variances come those of the channels.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        channels, voxels = len(weight), x[0, 0].numel()
        neighbours = math.gcd(voxels, 1 << (_ROW // channels).bit_length() - 1)
        rows = _in_rows(x, neighbours)
        # Only beside running statistics in float32, which are of no use here, does bfloat16 get such statistics.
        unused = torch.zeros(2, neighbours * channels, dtype=weight.dtype)
        means, variances = (s.view(-1, channels) for s in torch.batch_norm_update_stats(rows, *unused, 0.0))
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + _EPSILON).rsqrt())
        tiled = [t.repeat(neighbours) for t in (weight, bias, mean, variance)]
        out, empty = torch.empty_like(x), weight.new_empty(0)
        outputs = (_in_rows(out, neighbours), empty, empty)
        torch.native_batch_norm(rows, *tiled, False, 0.0, _EPSILON, out=outputs)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        return torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, inverse, True, _EPSILON, ctx.needs_input_grad
        )


def _in_rows(x: torch.Tensor, neighbours: int) -> torch.Tensor:
    """(1, c, z, y, x), channels last, as (1, neighbours * c, voxels / neighbours, 1) without a copy."""
    x = x.movedim(1, -1)
    return x.view(1, -1, 1, neighbours * x.shape[-1]).movedim(-1, 1)
