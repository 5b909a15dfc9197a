"""The moving average of a network's weights, which segments better than the weights of any one step."""

from __future__ import annotations

import torch
from torch import nn


class MovingAverage:
    """Follows the weights and statistics of a network.

    Attributes:
        tensors: the average by the names that the network's state has.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """``decay`` is what a step leaves of the former average (0..1)."""
        self._decay = decay
        present = network.state_dict()
        self.tensors = {name: tensor.detach().clone() for name, tensor in present.items()}
        # Lists made once: to ask a network for its state takes as long as a GPU takes for the update.
        smooth = [name for name, tensor in present.items() if tensor.is_floating_point()]
        self._smooth = [self.tensors[name] for name in smooth], [present[name] for name in smooth]
        counts = present.keys() - set(smooth)
        self._counts = [(self.tensors[name], present[name]) for name in counts]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after so many ``steps``."""
        # Early on the average follows quickly, so that random first weights do not linger in it.
        decay = min(self._decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(*self._smooth, 1 - decay)
        for average, present in self._counts:
            average.copy_(present)

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from ``tensors``.

        Raises:
            KeyError, RuntimeError: they are of another network.
        """
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
