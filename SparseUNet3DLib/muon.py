"""Muon: momentum made orthogonal, an optimiser for the weight matrices of hidden layers (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

#: Coefficients of the quintic Newton-Schulz iteration that takes singular values to about 1 (Jordan et al. 2024).
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_NEWTON_SCHULZ_STEPS = 5
#: Makes a step about as long as one of AdamW with the same learning rate (Liu et al. 2025).
_ROOT_MEAN_SQUARE = 0.2


class Muon(torch.optim.Optimizer):
    """Steps in which all directions of a layer's weights count alike, also those that a gradient hardly shows.

    A convolution's kernels (out, in, z, y, x) are taken as a matrix (out, in z y x). Torch's own Muon takes
    matrices only. Meant for hidden layers; scales, shifts and the last layer want another optimiser.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        """``weight_decay`` is decoupled, as in AdamW."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Change each parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, group["lr"], group["momentum"], group["weight_decay"])

    def _change(self, parameter: nn.Parameter, rate: float, momentum: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        ahead = torch.lerp(parameter.grad, average, momentum)  # Nesterov
        matrix = ahead.reshape(len(ahead), -1)
        length = _ROOT_MEAN_SQUARE * max(matrix.shape) ** 0.5
        parameter.mul_(1 - rate * weight_decay)
        parameter.sub_(orthogonalise(matrix).reshape(parameter.shape), alpha=rate * length)


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix (m, n) with its singular values brought to about 1 (0.7 to 1.2), by Newton-Schulz iteration.

    Each step multiplies by a polynomial of the Gram matrix, which is small where a layer has few outputs
    and many inputs; so the polynomials are multiplied first, and the matrix once in the end.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalise(matrix.T).T
    matrix = matrix.float()
    matrix = matrix / (matrix.norm() + 1e-7)
    gram = matrix @ matrix.T
    product = torch.eye(len(gram), device=gram.device)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        polynomial = _CUBIC * gram + _QUINTIC * (gram @ gram)
        polynomial.diagonal().add_(_LINEAR)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    return product @ matrix
