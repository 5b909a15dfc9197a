"""A small network that tells a voxel's class from its features alone, beside the U-Net."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

#: Channels of the two hidden layers.
WIDTH = 64
#: Voxels that are classified at a time, so that hidden layers stay in the processor's cache.
_CHUNK = 2**16


class VoxelNetwork(nn.Module):
    """Two hidden layers over ``voxel_features``.

    It is fitted by itself (`voxel_classifier`), not together with the U-Net that it belongs to: for that one's training
    its weights are constants.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        sizes = (features, WIDTH, WIDTH, classes)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        for number, (before, after) in enumerate(itertools.pairwise(sizes)):
            self.register_buffer(f"weight{number}", torch.zeros(after, before))
            self.register_buffer(f"bias{number}", torch.zeros(after))

    @torch.no_grad()
    def fill(self, centre: torch.Tensor, spread: torch.Tensor, layers: Sequence[nn.Linear]) -> None:
        """Take over the features' ``centre`` and ``spread`` and the three ``layers``."""
        self.centre.copy_(centre)
        self.spread.copy_(spread)
        for number, layer in enumerate(layers):
            self.get_buffer(f"weight{number}").copy_(layer.weight)
            self.get_buffer(f"bias{number}").copy_(layer.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (classes, ...) of voxels with ``features`` (n, ...)."""
        chunks = [self._classify(chunk) for chunk in features.flatten(1).split(_CHUNK, dim=1)]
        return torch.cat(chunks, dim=1).unflatten(1, features.shape[1:])

    def _classify(self, features: torch.Tensor) -> torch.Tensor:
        x = compress(features.T, self.centre, self.spread)
        x = F.relu(F.linear(x, self.weight0, self.bias0))
        x = F.relu(F.linear(x, self.weight1, self.bias1))
        return F.linear(x, self.weight2, self.bias2).T


def compress(features: torch.Tensor, centre: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Features (..., n) around 0: as many times their spread as they are away from the centre, and less where many."""
    return torch.asinh((features - centre) / spread)
