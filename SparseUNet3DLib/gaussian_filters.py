"""Gaussian derivatives and what is made of them, as products with banded matrices: fast on CPUs and GPUs alike.

A box of voxels (..., z, y, x) is given with a halo along the axes that are looked along, and comes back without.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

#: Results of ``filters``.
FILTERS = 8
#: Standard deviations in voxels, and how many standard kernels reach: of the derivatives, and of the window that the
#: structure tensor is averaged over.
_DERIVATIVE, _WINDOW = (0.7, 2), (2.0, 5)
#: Voxels beyond the border that ``filters`` needs to see.
HALO = _DERIVATIVE[1] + _WINDOW[1]
_HALVING = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
#: Orders of the derivatives along (z, y, x): of the gradient, and the upper triangle of the Hessian.
_FIRST = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_SECOND = ((2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2))


def filters(image: torch.Tensor, size: Sequence[int], wide: Sequence[bool]) -> torch.Tensor:
    """Smoothed value, gradient magnitude, and eigenvalues of Hessian and structure tensor (their roots): (8, *size).

    Args:
        image: gray values of a box of ``size`` (z, y, x), with ``HALO`` voxels around it along the ``wide`` axes.
        wide: the axes to smooth and derive along; the others' derivatives are 0.
    """
    crop = tuple(slice(_WINDOW[1], -_WINDOW[1]) if w else slice(None) for w in wide)
    derivatives = _derivatives(image, [n + 2 * _WINDOW[1] * w for n, w in zip(size, wide, strict=True)], wide)
    zero = image.new_zeros(tuple(size))
    result = image.new_empty(FILTERS, *size)
    result[0] = derivatives[0, 0, 0][crop]
    result[1] = sum((derivatives[o][crop].square() for o in _FIRST if o in derivatives), zero).sqrt()
    result[2:5] = _eigenvalues([derivatives[o][crop] if o in derivatives else zero for o in _SECOND])
    tensor = []
    for a in range(3):
        for b in range(a, 3):
            known = wide[a] and wide[b]
            product = derivatives[_FIRST[a]] * derivatives[_FIRST[b]] if known else None
            tensor.append(zero if product is None else _smooth(product, size, wide))
    result[5:8] = _eigenvalues(tensor).clamp_min(0).sqrt()
    return result


def halve(image: torch.Tensor, wide: Sequence[bool]) -> torch.Tensor:
    """Every second voxel of ``image`` (z, y, x) along the ``wide`` axes, smoothed before; mirrored at the border.

    Where the last voxel is none of them, another one follows beyond the border, so that it lies between two.
    """
    for axis in (a for a in range(3) if wide[a]):
        n = image.shape[axis]
        offsets = torch.arange(0, n + 1, 2, device=image.device)
        total: torch.Tensor | float = 0.0
        for shift, weight in enumerate(_HALVING, start=-2):
            index = (offsets + shift).abs()
            index = torch.minimum(index, 2 * (n - 1) - index).clamp_min(0)
            total = total + weight * image.index_select(axis, index)
        image = total
    return image


def enlarge(
    values: torch.Tensor, offset: Sequence[int], size: Sequence[int], step: Sequence[int]
) -> torch.Tensor:
    """Interpolate ``values`` (n, z, y, x) linearly to a grid ``step`` times as fine: (n, *size) from ``offset`` on."""
    for axis in (a for a in range(3) if step[a] > 1):
        matrix = _interpolation(offset[axis], size[axis], values.shape[1 + axis], step[axis])
        values = _along(values, matrix.to(values.device), axis)
    return values


def _derivatives(
    image: torch.Tensor, size: Sequence[int], wide: Sequence[bool]
) -> dict[tuple[int, ...], torch.Tensor]:
    """Gaussian derivatives of ``size`` by their orders along (z, y, x), up to the second."""
    found: dict[tuple[int, ...], torch.Tensor] = {(): image}
    for axis in range(3):
        following = {}
        for orders, values in found.items():
            if not wide[axis]:
                following[(*orders, 0)] = values
                continue
            for order in range(3 - sum(orders)):
                matrix = _kernels(order, size[axis], *_DERIVATIVE)
                following[(*orders, order)] = _along(values, matrix.to(values.device), axis)
        found = following
    return found


def _smooth(values: torch.Tensor, size: Sequence[int], wide: Sequence[bool]) -> torch.Tensor:
    for axis in (a for a in range(3) if wide[a]):
        values = _along(values, _kernels(0, size[axis], *_WINDOW).to(values.device), axis)
    return values


def _along(values: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """``matrix`` (after, before) times ``values`` (..., z, y, x) along one of the last three axes."""
    if axis == 2:
        return values @ matrix.T
    if axis == 1:
        return matrix @ values
    return (matrix @ values.flatten(-2)).unflatten(-1, values.shape[-2:])


@functools.lru_cache(maxsize=256)
def _kernels(order: int, n: int, sd: float, reach: int) -> torch.Tensor:
    """(n, n + 2 reach): the kernel of a Gaussian derivative around each of n voxels."""
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sd) ** 2)
    kernel /= kernel.sum()
    # Sampled so coarsely a kernel is not what it should be: made exact for a slope of 1 and a parabola x^2 / 2.
    if order == 1:
        kernel *= x
        kernel /= (kernel * x).sum()
    elif order == 2:
        kernel *= x * x / sd**2 - 1
        kernel -= kernel.mean()
        kernel /= (kernel * x * x / 2).sum()
    matrix = torch.zeros(n, n + 2 * reach)
    for shift, value in enumerate(kernel):
        matrix.diagonal(shift)[:n] = value
    return matrix


@functools.lru_cache(maxsize=256)
def _interpolation(offset: int, n: int, before: int, step: int) -> torch.Tensor:
    """(n, before): what each of the coarse voxels counts for the fine ones ``offset``..``offset`` + n - 1."""
    positions = (offset + torch.arange(n)) / step
    return (1 - (positions[:, None] - torch.arange(before)).abs()).clamp_min(0)


def _eigenvalues(upper: Sequence[torch.Tensor]) -> torch.Tensor:
    """(3, ...), highest first, of symmetric matrices given by their upper triangle, row by row (Smith 1961)."""
    zz, zy, zx, yy, yx, xx = upper
    mean = (zz + yy + xx) / 3
    a, b, c = zz - mean, yy - mean, xx - mean
    spread = ((a * a + b * b + c * c + 2 * (zy * zy + zx * zx + yx * yx)) / 6).sqrt().clamp_min(1e-6)
    determinant = a * (b * c - yx * yx) - zy * (zy * c - yx * zx) + zx * (zy * yx - b * zx)
    angle = (determinant / (2 * spread**3)).clamp(-1, 1).acos() / 3
    highest = mean + 2 * spread * angle.cos()
    lowest = mean + 2 * spread * (angle + 2 * math.pi / 3).cos()
    return torch.stack([highest, 3 * mean - highest - lowest, lowest])
