"""The planned U-Net: padded convolutions, kernels and pooling that follow the voxels' proportions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from SparseUNet3DLib.networks.batch_norm import BatchNorm
from SparseUNet3DLib.networks.convolution import Conv3d, JoiningConv3d
from SparseUNet3DLib.networks.instance_norm import InstanceNorm
from SparseUNet3DLib.networks.pooling import enlarge, max_pool
from SparseUNet3DLib.networks.voxel_network import VoxelNetwork
from SparseUNet3DLib.plan import CORRECTION_WIDTH


class AutoUNet(nn.Module):
    """U-Net with same-size output; axes must be multiples of the plan's total stride.

    Two 3-wide convolutions per level, each followed by normalisation and leaky ReLU; max pooling down,
    1x1x1 convolution and nearest-neighbour enlargement up (a quarter of an up-convolution's cost on a
    CPU, and without its checkerboard). With ``known_slices`` a small head, voxel by voxel, corrects the
    logits by what annotated slices tell; the rest of the network does not depend on them. With ``voxel_inputs``
    a classifier of single voxels, which see so many features, stands beside it.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        widths: Sequence[int],
        batch_norm: str | None = None,
        known_slices: bool = False,
        voxel_inputs: int = 0,
    ) -> None:
        super().__init__()

        def level(channels: int, width: int, kernel: Sequence[int], first: type[Conv3d]) -> nn.Sequential:
            layers: list[nn.Module] = []
            for kind, before in ((first, channels), (Conv3d, width)):
                padding = tuple(k // 2 for k in kernel)
                layers.append(kind(before, width, tuple(kernel), padding=padding, bias=False))
                layers.append(BatchNorm(width, batch_norm) if batch_norm else InstanceNorm(width))
                layers.append(nn.LeakyReLU(0.01, inplace=True))
            return nn.Sequential(*layers)

        self.strides = [tuple(s) for s in strides]
        self.down = nn.ModuleList(
            level(before, width, kernel, Conv3d)
            for before, width, kernel in zip([in_channels, *widths], widths, kernels, strict=False)
        )
        self.narrow = nn.ModuleList(
            nn.Conv3d(below, width, 1, bias=False) for width, below in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            level(2 * width, width, kernel, JoiningConv3d)
            for width, kernel in zip(widths[:-1], kernels, strict=False)
        )
        self.head = nn.Conv3d(widths[0], classes, 1)
        self.correction = _correction(widths[0] + 2 * classes, classes) if known_slices else None
        self.voxel_network = VoxelNetwork(voxel_inputs, classes) if voxel_inputs else None
        if not self.head.weight.is_meta:  # there are no values, and torch would load its compiler to set them
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
        # Small first logits: training starts from "undecided" instead of from random certainty.
        for last in [self.head, *([self.correction[-1]] if self.correction is not None else [])]:
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)

    def forward(
        self, x: torch.Tensor, known: torch.Tensor | None = None, voxels: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits; with ``known`` channels of annotated slices also the logits corrected by them.

        With ``voxels`` (n,), flat indices into (b, z, y, x), both are told of these only, as a row (1, c, n, 1, 1);
        ``known`` is such a row, too. In training few voxels are annotated, and the others need no logits.
        """
        return self.decide(self.features(x), known, voxels)

    def voxel_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (classes, ...) from the filters (n, ...) around each voxel alone, see `voxel_features`."""
        return self.voxel_network(features)

    def decide(
        self, features: torch.Tensor, known: torch.Tensor | None = None, voxels: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What ``forward`` returns for an image with these features."""
        x = features
        if voxels is not None:
            x = x.movedim(1, -1).flatten(0, 3).index_select(0, voxels).T[None, ..., None, None]
        logits = self.head(x)
        if known is None:
            return logits
        return logits, logits + self.correction(torch.cat([x, logits, known.to(x.dtype)], dim=1))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layer decides by: (b, width, z, y, x)."""
        skips = []
        for index, level in enumerate(self.down):
            if index:
                skips.append(x)
                x = max_pool(x, self.strides[index - 1])
            x = level(x)
        for index in reversed(range(len(self.up))):
            x = enlarge(self.narrow[index](x), self.strides[index])
            x = self.up[index]((skips[index], x))
        return x


def _correction(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, CORRECTION_WIDTH, 1),
        nn.LeakyReLU(0.01, inplace=True),
        nn.Conv3d(CORRECTION_WIDTH, classes, 1),
    )
