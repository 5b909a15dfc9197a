"""How much the U-Net and the classifier of single voxels count, found by the slices that neither has learnt from.

Which of the two is better between the slices depends on the volume, and a network that has learnt few slices for long
is too certain of itself. Both are mended by two factors for their logits, fitted to the held-out slices: stacking
(Wolpert 1992), and temperature scaling (Guo et al. 2017), by which confidence comes closer to the share that is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

#: Voxels to fit to; more would not change two numbers.
_MOST_VOXELS = 50_000
#: How strongly the usual factors are held on to; a single slice may be unlike all others. In the units of the mean
#: cross-entropy for a factor e times as large.
_PRIOR = 0.004


@dataclass(frozen=True)
class Mixture:
    """Factors of the two logits; the usual ones are what was best on average over several volumes.

    Attributes:
        network: of the U-Net's.
        voxels: of those of the classifier of single voxels.
    """

    network: float = 1.0
    voxels: float = 0.35

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> Mixture:
        """The mixture that ``dataclasses.asdict`` made ``values`` of."""
        return cls(values["network"], values["voxels"])

    def of(self, network: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        """The logits that are to decide."""
        return self.network * network + self.voxels * voxels


USUAL = Mixture()


@dataclass(frozen=True)
class HeldOutLogits:
    """What both make of a slice that they have not learnt from.

    Attributes:
        network: (classes, n) logits of the U-Net for the slice's annotated voxels.
        voxels: (classes, n), those of the classifier.
        labels: (n,) int64, the truth.
    """

    network: torch.Tensor
    voxels: torch.Tensor
    labels: torch.Tensor


def fit_mixture(slices: Sequence[HeldOutLogits]) -> Mixture:
    """The factors by which the truth of the ``slices`` is most likely, not far from the usual ones."""
    slices = [s for s in slices if len(s.labels)]
    if not slices:
        return USUAL
    network, voxels = (torch.cat([getattr(s, name) for s in slices], dim=1) for name in ("network", "voxels"))
    labels = torch.cat([s.labels for s in slices])
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:_MOST_VOXELS]
    network, voxels, labels = network[:, chosen], voxels[:, chosen], labels[chosen]
    # As logarithms of the overall factor and of the classifier's share of it, both 0 where they are as usual.
    changes = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([changes], max_iter=60, line_search_fn="strong_wolfe")

    def mixture() -> tuple[torch.Tensor, torch.Tensor]:
        overall, share = changes.exp()
        return overall * USUAL.network, overall * share * USUAL.voxels

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        of_network, of_voxels = mixture()
        logits = of_network * network + of_voxels * voxels
        value = F.cross_entropy(logits.T, labels) + _PRIOR / len(slices) * changes.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    factors = [factor.item() for factor in mixture()]
    return Mixture(*factors) if all(map(_is_usable, factors)) else USUAL


def _is_usable(factor: float) -> bool:
    return 0 <= factor < float("inf")
