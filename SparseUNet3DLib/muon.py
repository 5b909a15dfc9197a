"""Muon: momentum made orthogonal, an optimiser for the weight matrices of hidden layers (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from SparseUNet3DLib.cuda_graph import CudaGraph
from SparseUNet3DLib.out_of_memory import is_out_of_memory

Factors = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]

#: Coefficients of the quintic Newton-Schulz iteration that takes singular values to about 1 (Jordan et al. 2024).
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_NEWTON_SCHULZ_STEPS = 5
#: Matrices of that many rows or columns are multiplied faster in a lower precision.
_LARGE = 64
#: Makes a step about as long as one of AdamW with the same learning rate (Liu et al. 2025).
_ROOT_MEAN_SQUARE = 0.2


class Muon(torch.optim.Optimizer):
    """Steps in which all directions of a layer's weights count alike, also those that a gradient hardly shows.

    A convolution's kernels (out, in, z, y, x) are taken as a matrix (out, in z y x). Torch's own Muon takes
    matrices only. Meant for hidden layers; scales, shifts and the last layer want another optimiser.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """``weight_decay`` is decoupled, as in AdamW.

        ``precision`` is that of the last product, the step; weights and momentum stay in their own.
        """
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._precision = precision
        self._recorded: dict[tuple[torch.Size, ...], Factors] = {}  # on a CUDA GPU, by the matrices' shapes

    @torch.no_grad()
    def step(self) -> None:
        """Change each parameter that has a gradient."""
        for group in self.param_groups:
            rate = group["lr"]
            parameters = [p for p in group["params"] if p.grad is not None]
            ahead = [self._ahead(p, group["momentum"]) for p in parameters]
            for parameter, matrix, factor in zip(parameters, ahead, self._factors(ahead), strict=True):
                length = rate * _ROOT_MEAN_SQUARE * max(matrix.shape) ** 0.5
                sides = (factor, matrix) if len(factor) == len(matrix) else (matrix, factor)
                weights, decay = _as_matrix(parameter), 1 - rate * group["weight_decay"]
                if self._precision == torch.float32 or len(factor) < _LARGE:
                    weights.addmm_(*sides, beta=decay, alpha=-length)  # product, decay and step in one pass
                else:
                    step = torch.mm(*(side.to(self._precision) for side in sides))
                    weights.mul_(decay).add_(step, alpha=-length)

    def _ahead(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov's momentum, as a matrix."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        # In the parameter's own layout, which that of its gradient need not be.
        return _as_matrix(torch.lerp(parameter.grad, average, momentum, out=torch.empty_like(parameter)))

    def _factors(self, matrices: list[torch.Tensor]) -> list[torch.Tensor]:
        if not matrices or not matrices[0].is_cuda:
            return orthogonal_factors(matrices)
        shapes = tuple(m.shape for m in matrices)
        if shapes not in self._recorded:
            self._recorded[shapes] = _record_factors(matrices)
        return self._recorded[shapes](matrices)


def _record_factors(matrices: Sequence[torch.Tensor]) -> Factors:
    """``orthogonal_factors`` for matrices of these shapes, recorded where it can be.

    So many small products take longer to be asked for than to be made.
    """
    try:
        graph = CudaGraph(lambda *inputs: orthogonal_factors(inputs), matrices)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return orthogonal_factors
    return lambda matrices: graph(*matrices)


def _as_matrix(kernels: torch.Tensor) -> torch.Tensor:
    """(out, in, z, y, x) as (out, in z y x), without a copy: the columns' order does not matter."""
    return (kernels if kernels.is_contiguous() else kernels.movedim(1, -1)).view(len(kernels), -1)


def orthogonal_factors(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What brings the singular values of each matrix (m, n) to about 1 (0.7 to 1.2), by Newton-Schulz iteration.

    A factor is (m, m), for the left of its matrix, where the matrix is square or wide, else (n, n), for the right.
    Each step multiplies by a polynomial of the Gram matrix, which is small where a layer has few outputs
    and many inputs; so the polynomials are multiplied first, and the matrix once in the end. Gram matrices of
    the same size go through this together.
    """
    grams = [m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m for m in matrices]
    factors: list[torch.Tensor] = [*grams]
    for height in {len(g) for g in grams}:
        chosen = [n for n, g in enumerate(grams) if len(g) == height]
        gram = torch.stack([grams[n] for n in chosen])
        # Its trace is the sum of the squared singular values: none is above 1 after the division.
        square = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-14
        for n, factor in zip(chosen, _newton_schulz(gram / square) / square.sqrt(), strict=True):
            factors[n] = factor
    return factors


def _newton_schulz(gram: torch.Tensor) -> torch.Tensor:
    """Factors (b, m, m) that make matrices orthogonal whose Gram matrices are ``gram`` (b, m, m)."""
    product: torch.Tensor | None = None
    for step in range(_NEWTON_SCHULZ_STEPS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=_CUBIC, alpha=_QUINTIC)
        polynomial.diagonal(dim1=1, dim2=2).add_(_LINEAR)
        product = polynomial if product is None else polynomial @ product
        if step < _NEWTON_SCHULZ_STEPS - 1:
            gram = polynomial @ gram @ polynomial
    return product
