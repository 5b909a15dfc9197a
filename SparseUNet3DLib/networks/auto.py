"""The planned U-Net: padded convolutions, kernels and pooling that follow the voxels' proportions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from SparseUNet3DLib.networks.batch_norm import BatchNorm
from SparseUNet3DLib.networks.convolution import Conv3d, EnlargingConv3d
from SparseUNet3DLib.networks.pooling import max_pool
from SparseUNet3DLib.networks.voxel_network import VoxelNetwork


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
        if math.prod(x.shape[2:]) == 1:  # a single voxel has no spread to normalise by
            # With a gradient of 0, so that optimisers keep for these parameters what they do for all others.
            return x + (0 * (self.weight + self.bias)).to(x.dtype).view(1, -1, 1, 1, 1)
        if len(x) == 1:
            return self._of_one(x)
        return torch.cat([self._of_one(sample) for sample in x.split(1)])

    def _of_one(self, sample: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(sample, None, None, self.weight, self.bias, training=True)


class AutoUNet(nn.Module):
    """U-Net with same-size output; axes must be multiples of the plan's total stride.

    Two 3-wide convolutions per level, each followed by normalisation and leaky ReLU; max pooling down,
    1x1x1 convolution and nearest-neighbour enlargement up (without an up-convolution's checkerboard). With
    ``voxel_inputs`` a classifier of single voxels, which see so many features, stands beside it.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        widths: Sequence[int],
        batch_norm: str | None = None,
        voxel_inputs: int = 0,
    ) -> None:
        super().__init__()

        def level(first: Conv3d) -> nn.Sequential:
            width, kernel = first.out_channels, first.kernel_size
            layers: list[nn.Module] = []
            for convolution in (first, _same_size(width, width, kernel)):
                layers.append(convolution)
                layers.append(BatchNorm(width, batch_norm) if batch_norm else InstanceNorm(width))
                layers.append(nn.LeakyReLU(0.01, inplace=True))
            return nn.Sequential(*layers)

        self.strides = [tuple(s) for s in strides]
        self.down = nn.ModuleList(
            level(_same_size(before, width, kernel))
            for before, width, kernel in zip([in_channels, *widths], widths, kernels, strict=False)
        )
        self.narrow = nn.ModuleList(
            nn.Conv3d(below, width, 1, bias=False) for width, below in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            level(EnlargingConv3d(2 * width, width, tuple(kernel), stride))
            for width, kernel, stride in zip(widths, kernels, self.strides, strict=False)
        )
        self.head = nn.Conv3d(widths[0], classes, 1)
        self.voxel_network = VoxelNetwork(voxel_inputs, classes) if voxel_inputs else None
        if not self.head.weight.is_meta:  # there are no values, and torch would load its compiler to set them
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
        # Small first logits: training starts from "undecided" instead of from random certainty.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.decide(self.features(x))

    def voxel_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (classes, ...) from the filters (n, ...) around each voxel alone, see `voxel_features`."""
        return self.voxel_network(features)

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of an image with these features."""
        return self.head(features)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer decides by: (b, width, z, y, x)."""
        skips = []
        for index, level in enumerate(self.down):
            if index:
                skips.append(x)
                x = max_pool(x, self.strides[index - 1])
            x = level(x)
        for index in reversed(range(len(self.up))):
            x = self.up[index]((skips[index], self.narrow[index](x)))
        return x


def _same_size(in_channels: int, out_channels: int, kernel: Sequence[int]) -> Conv3d:
    return Conv3d(in_channels, out_channels, tuple(kernel), padding=tuple(k // 2 for k in kernel), bias=False)
