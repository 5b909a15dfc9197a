"""Several networks that answer as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """Networks of the same shape whose logits are averaged.

    Each is wrong in its own way where nothing was annotated, and what they agree on is more often right
    (Lakshminarayanan et al. 2017).
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The networks' mean logits."""
        return torch.stack([network(x) for network in self.networks]).mean(0)

    def voxel_logits(self, features: torch.Tensor) -> torch.Tensor:
        """The networks' mean of what they tell from the filters around each voxel alone."""
        return torch.stack([network.voxel_logits(features) for network in self.networks]).mean(0)


def join_weights(members: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The weights of an ``Ensemble`` of networks with these weights; of a single network its own."""
    if len(members) == 1:
        return members[0]
    return {f"networks.{n}.{name}": t for n, weights in enumerate(members) for name, t in weights.items()}


def split_weights(weights: dict[str, torch.Tensor], members: int) -> list[dict[str, torch.Tensor]]:
    """The weights of each network, of which ``join_weights`` made one."""
    if members == 1:
        return [weights]
    prefixes = [f"networks.{n}." for n in range(members)]
    return [{n.removeprefix(p): t for n, t in weights.items() if n.startswith(p)} for p in prefixes]
