"""How much the U-Net and the classifier of single voxels count, found by the slices that neither had learnt from.

Which of the two is better between the slices depends on the volume, and a network that has learnt few slices for long
is too certain of itself. Both are mended by two factors for their logits, fitted to the held-out slices: stacking
(Wolpert 1992), and temperature scaling (Guo et al. 2017), by which confidence comes closer to the share that is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

#: Voxels to fit to; more would not change two numbers.
_MOST_VOXELS = 50_000
#: How strongly the usual factors are held on to, in the units of the mean cross-entropy for a factor e times as large.
_PRIOR = 0.0005
#: How far, as logarithms, a single slice may move both factors together, and their ratio; it may be unlike all others.
_REACH = math.log(2.5)


@dataclass(frozen=True)
class Mixture:
    """Factors of the two logits; the usual ones are what was best on average over several volumes.

    Attributes:
        network: of the U-Net's.
        voxels: of those of the classifier of single voxels.
    """

    network: float = 1.0
    voxels: float = 0.5

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> Mixture:
        """The mixture that ``dataclasses.asdict`` made ``values`` of."""
        return cls(values["network"], values["voxels"])

    def of(self, network: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        """The logits that are to decide, in float32."""
        return self.network * network.float() + self.voxels * voxels.float()


USUAL = Mixture()


@dataclass(frozen=True)
class HeldOutLogits:
    """What both make of a slice that was held out.

    Attributes:
        network: (classes, n) logits of the U-Net for the slice's annotated voxels; a large slice has millions, so that
            they may be of half precision.
        voxels: (classes, n), those of the classifier.
        labels: (n,) int64, the truth.
    """

    network: torch.Tensor
    voxels: torch.Tensor
    labels: torch.Tensor


def fit_mixture(answers: Sequence[HeldOutLogits], slices: int) -> Mixture:
    """The factors by which the truth is most likely; not far from the usual ones where slices are few.

    Args:
        answers: of networks that have not learnt from the slice.
        slices: how many different ones they are about: what several networks make of one is little more to go by.
    """
    answers = [a for a in answers if len(a.labels)]
    if not answers:
        return USUAL
    network, voxels, labels = _sample(answers)
    # Of both factors together and of their ratio: logarithms, while they are small; 0 is as usual.
    changes = torch.zeros(2, requires_grad=True)
    reach = _REACH * math.sqrt(slices)
    optimizer = torch.optim.LBFGS([changes], max_iter=60, line_search_fn="strong_wolfe")

    def mixture() -> tuple[torch.Tensor, torch.Tensor]:
        overall, ratio = torch.exp(reach * torch.tanh(changes / reach))
        return overall * USUAL.network, overall * ratio * USUAL.voxels

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        of_network, of_voxels = mixture()
        logits = of_network * network + of_voxels * voxels
        value = F.cross_entropy(logits.T, labels) + _PRIOR / slices * changes.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    factors = [factor.item() for factor in mixture()]
    return Mixture(*factors) if all(map(_is_usable, factors)) else USUAL


def _sample(answers: Sequence[HeldOutLogits]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of both (classes, n), float32, and labels (n,), of some voxels of each answer."""
    total = sum(len(a.labels) for a in answers)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for answer in answers:
        count = len(answer.labels)
        chosen = torch.randperm(count, generator=generator)[: math.ceil(count * min(1.0, _MOST_VOXELS / total))]
        parts.append((answer.network[:, chosen].float(), answer.voxels[:, chosen].float(), answer.labels[chosen]))
    network, voxels, labels = zip(*parts, strict=True)
    return torch.cat(network, dim=1), torch.cat(voxels, dim=1), torch.cat(labels)


def _is_usable(factor: float) -> bool:
    return 0 <= factor < float("inf")
