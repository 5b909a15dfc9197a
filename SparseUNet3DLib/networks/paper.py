"""The 3D U-Net of Çiçek et al., MICCAI 2016, and its 2D peer."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import nn

from SparseUNet3DLib.networks.batch_norm import BatchNorm
from SparseUNet3DLib.networks.convolution import Conv3d, UnbiasedConv3d
from SparseUNet3DLib.networks.pooling import max_pool


class PaperUNet(nn.Module):
    """3D U-Net as in the paper's Figure 2: 19,069,955 parameters for three channels and three classes.

    All convolutions are valid, so an input axis of 92 + 8k voxels gives 4 + 8k. Channels double in
    the second convolution of each level, before pooling, so that there is no bottleneck. Up-convolutions
    keep their channels and have no bias; skip connections are cropped to the centre. With
    ``batch_norm``, each convolution is followed by batch normalisation and then ReLU.

    ``slice_wise`` makes every kernel and pooling flat along z: the 2D U-Net with which the paper
    compares, all slices of the input being processed independently.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (32, 64, 128, 256),
        batch_norm: str | None = None,
        slice_wise: bool = False,
    ) -> None:
        super().__init__()
        kernel, step = ((1, 3, 3), (1, 2, 2)) if slice_wise else ((3, 3, 3), (2, 2, 2))

        def level(channels: int, first: int, second: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for before, after in ((channels, first), (first, second)):
                if batch_norm:
                    layers += [UnbiasedConv3d(before, after, kernel), BatchNorm(after, batch_norm)]
                else:
                    layers.append(Conv3d(before, after, kernel))
                layers.append(nn.ReLU(inplace=True))
            return nn.Sequential(*layers)

        self.down = nn.ModuleList()
        channels = in_channels
        for width in widths:
            self.down.append(level(channels, width, 2 * width))
            channels = 2 * width
        self._step = step
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.up.append(nn.ConvTranspose3d(channels, channels, step, step, bias=False))
            self.merge.append(level(channels + 2 * width, 2 * width, 2 * width))
            channels = 2 * width
        self.head = nn.Conv3d(channels, classes, 1)
        if not self.head.weight.is_meta:  # there are no values, and torch would load its compiler to set them
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decide(self.features(x))

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of an image with these features."""
        return self.head(features)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer decides by: (b, width, z', y', x')."""
        skips = []
        for index, level in enumerate(self.down):
            x = level(max_pool(x, self._step) if index else x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([_CentreCrop.apply(skips.pop(), x.shape[2:]), x], dim=1))
        return x


class _CentreCrop(torch.autograd.Function):
    """The middle of (b, c, z, y, x), ``size`` (z, y, x) large.

    The gradient that indexing has is not channels last, and what it is added to would be reordered.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        ctx.shape = x.shape
        channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
        ctx.layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        return x[_middle(x.shape[2:], size)]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout).zero_()
        whole[_middle(ctx.shape[2:], gradient.shape[2:])] = gradient
        return whole, None


def _middle(whole: Sequence[int], size: Sequence[int]) -> tuple[slice | EllipsisType, ...]:
    return (..., *(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(whole, size, strict=True)))
