"""The weights of a run's networks: of those that are finished, and of each when it was scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from SparseUNet3DLib.networks.ensemble import join_weights
from SparseUNet3DLib.tensor_file import tensors_below

Weights = dict[str, torch.Tensor]


@dataclass
class LearntNetworks:
    """What a run's networks have come to.

    Attributes:
        finished: weights of the networks that were trained before the present one.
        scored: by number of the network, from 0, its weights when it had not learnt yet from the slices that were held
            out to score it. None of a network that never came to learn them.
    """

    finished: list[Weights] = field(default_factory=list)
    scored: dict[int, Weights] = field(default_factory=dict)

    def join(self, present: Weights | None) -> tuple[Weights, Weights | None]:
        """Weights of all networks in one, and those when they were scored; None where these are no others.

        Args:
            present: weights of the present network; None where it does not count.
        """
        networks = [*self.finished, *([] if present is None else [present])]
        if not any(number in self.scored for number in range(len(networks))):
            return join_weights(networks), None
        # Copies: a file takes no tensor twice.
        scored = [
            self.scored.get(number) or {name: t.clone() for name, t in weights.items()}
            for number, weights in enumerate(networks)
        ]
        return join_weights(networks), join_weights(scored)

    def tensors(self) -> Weights:
        """All of them by one name each, for a checkpoint."""
        named = {f"finished{n}": weights for n, weights in enumerate(self.finished)}
        named |= {f"scored{n}": weights for n, weights in self.scored.items()}
        return {f"{prefix}.{name}": t for prefix, weights in named.items() for name, t in weights.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], number: int) -> LearntNetworks:
        """What ``tensors()`` gave, of a run that is training the network ``number``, from 0."""
        finished = [tensors_below(tensors, f"finished{n}.") for n in range(number)]
        scored = {n: weights for n in range(number + 1) if (weights := tensors_below(tensors, f"scored{n}."))}
        return cls(finished, scored)
