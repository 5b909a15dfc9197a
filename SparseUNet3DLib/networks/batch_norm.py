"""Batch normalisation with a choice of the statistics used at test time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn


class BatchNorm(nn.BatchNorm3d):
    """Batch normalisation in one of three test-time modes.

    - "batch": the statistics of what is being segmented, also at test time. The paper's choice: with
      a batch of one and few samples they "work best" (Çiçek et al. 2016, section 3.1).
    - "running": moving averages from training, the usual choice.
    - "frozen": like "running", after ``recompute_statistics`` has measured them with the final weights.
    """

    def __init__(self, channels: int, mode: str) -> None:
        super().__init__(channels)
        if mode not in ("batch", "running", "frozen"):
            raise ValueError(f"no such batch normalisation mode: {mode}")
        self.mode = mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mode == "batch" and not self.training:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(x)


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics by plain means over ``batches`` (b, c, z, y, x) under current weights."""
    layers = [m for m in network.modules() if isinstance(m, BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average: every batch counts the same
        layer.train()
    for batch in batches:
        network(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
