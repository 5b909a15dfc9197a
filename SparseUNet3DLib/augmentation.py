"""Random patches: rotation, scaling, elastic deformation, mirroring and gray-value curves.

All geometric changes are composed into one map from patch to volume, in millimetres, so that each
voxel is interpolated once: the image linearly, the labels by nearest neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from SparseUNet3DLib.plan import ANISOTROPIC, Plan
from SparseUNet3DLib.recipe import AugmentationRecipe

_AXES = ("z", "y", "x")


@dataclass(frozen=True)
class RandomTransform:
    """Random changes of one patch.

    Attributes:
        matrix: (3, 3) in mm, (z, y, x): patch coordinates about its centre to volume coordinates.
        displacement: (3, nz, ny, nx) B-spline coefficients in mm, or None.
        slopes: (c, segments) of the gray-value curves, or None.
    """

    matrix: torch.Tensor
    displacement: torch.Tensor | None = None
    slopes: torch.Tensor | None = None


#: Two axes whose extents in a patch differ by more than this factor are not rotated into each other.
_THIN = 3.0
#: Knots of the gray-value curves, in normalised gray values; beyond the ends the curve goes on straight.
_KNOTS = (-1.5, -0.5, 0.5, 1.5)


def draw_transform(recipe: AugmentationRecipe, plan: Plan, generator: torch.Generator) -> RandomTransform:
    """Draw the changes of one patch from ``generator`` (a CPU generator, the same for every device)."""

    def uniform(size: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    angles = uniform(3, -1, 1) * math.radians(recipe.rotation)
    scale = torch.exp(uniform(1, -1, 1) * math.log1p(recipe.scaling))
    mirror = torch.where(uniform(3, 0, 1) < 0.5, -1.0, 1.0)
    slopes = torch.exp(uniform(plan.in_channels * (len(_KNOTS) + 1), -1, 1) * math.log(recipe.gray_slope))
    angles = angles * torch.tensor(_free_rotations(plan))
    allowed = torch.tensor([axis in recipe.mirror for axis in _AXES])
    matrix = _rotation(angles) * scale @ torch.diag(torch.where(allowed, mirror, torch.ones(3)))
    displacement = None
    if recipe.elastic_sd > 0:
        spacing = _elastic_spacing(recipe, plan)
        counts = [math.ceil(n / s) + 4 for n, s in zip(plan.patch_size, spacing, strict=True)]
        displacement = torch.randn(3, *counts, generator=generator) * recipe.elastic_sd * min(plan.spacing)
        if _is_flat(plan):
            displacement[0] = 0.0
    return RandomTransform(matrix, displacement, slopes.reshape(plan.in_channels, -1))


def patch_coordinates(
    transform: RandomTransform, recipe: AugmentationRecipe, plan: Plan, device: torch.device
) -> torch.Tensor:
    """Where each voxel of a patch lies relative to the patch's centre: (z, y, x, 3) in mm, (z, y, x) order."""
    axes = [
        (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2) * s
        for n, s in zip(plan.patch_size, plan.spacing, strict=True)
    ]
    matrix = transform.matrix.to(device)
    # Row by row instead of one big matrix product: three sums over vectors that broadcast.
    coordinates = [
        axes[0][:, None, None] * row[0] + axes[1][None, :, None] * row[1] + axes[2][None, None, :] * row[2]
        for row in matrix
    ]
    if transform.displacement is not None:
        field = elastic_field(transform.displacement.to(device), plan.patch_size, _elastic_spacing(recipe, plan))
        coordinates = [c + d for c, d in zip(coordinates, field, strict=True)]
    return torch.stack(coordinates, dim=-1)


def elastic_field(
    coefficients: torch.Tensor, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> torch.Tensor:
    """Uniform cubic B-spline without prefilter, evaluated on voxels: (3, nz, ny, nx) to (3, *size).

    ``spacing`` is the distance of the control points in voxels. As in the authors' layer the spline
    smooths its coefficients: with standard deviation 4 the displacement's is 4 (151/315)^1.5 = 1.33
    per component, at a control-point-independent average.
    """
    for axis, (n, step) in enumerate(zip(size, spacing, strict=True)):
        basis = _cubic_basis(n, coefficients.shape[1 + axis], step, coefficients.device)
        coefficients = torch.movedim(torch.movedim(coefficients, 1 + axis, -1) @ basis, -1, 1 + axis)
    return coefficients


def adjust_gray_values(image: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Pass normalised gray values (c, z, y, x) through monotone piecewise-linear curves.

    ``slopes`` (c, 5) are positive; each curve keeps the value 0, the mean gray value, where it is.
    """
    knots = torch.tensor(_KNOTS, device=image.device)
    result = torch.empty_like(image)
    for channel, (values, slope) in enumerate(zip(image, slopes.to(image.device), strict=True)):
        curve = values.clamp(max=_KNOTS[0]) * slope[0]
        for low, high, s in zip(knots[:-1], knots[1:], slope[1:-1], strict=True):
            curve += (values.clamp(low, high) - low) * s
        curve += (values.clamp(min=_KNOTS[-1]) - _KNOTS[-1]) * slope[-1]
        # The curve starts at the first knot; shift it so that value 0 stays 0.
        at_zero = _KNOTS[0] * slope[0] + (knots[1] - knots[0]) * slope[1] - knots[1] * slope[2]
        result[channel] = curve - at_zero
    return result


def _cubic_basis(n: int, controls: int, step: float, device: torch.device) -> torch.Tensor:
    """(controls, n) weights of the control points on each voxel."""
    position = torch.arange(n, dtype=torch.float32, device=device) / step + 1
    distance = (position[None, :] - torch.arange(controls, dtype=torch.float32, device=device)[:, None]).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """Product of rotations about z, y and x by ``angles`` (z, y, x) in radians."""
    result = torch.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (a for a in range(3) if a != axis)
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = torch.cos(angle)
        turn[first, second], turn[second, first] = -torch.sin(angle), torch.sin(angle)
        result = turn @ result
    return result


def _free_rotations(plan: Plan) -> list[float]:
    """1 for each axis (z, y, x) that patches may be rotated about, else 0.

    Rotating a 10 mm slice out of its plane would sample the few slices there are into stripes, and
    rotating a thin patch would turn most of it out of the volume, so a rotation needs two axes that
    are alike in spacing and extent.
    """
    extents = [(n - 1) * s for n, s in zip(plan.patch_size, plan.spacing, strict=True)]
    pairs = [[a for a in range(3) if a != axis] for axis in range(3)]
    return [
        float(_alike(plan.spacing, pair, ANISOTROPIC) and _alike(extents, pair, _THIN)) for pair in pairs
    ]


def _alike(values: Sequence[float], pair: Sequence[int], factor: float) -> bool:
    low, high = sorted(values[axis] for axis in pair)
    return high <= factor * low


def _elastic_spacing(recipe: AugmentationRecipe, plan: Plan) -> tuple[float, float, float]:
    """Distance of the control points in voxels of each axis, equal in mm."""
    mm = recipe.elastic_spacing * min(plan.spacing)
    return tuple(mm / s for s in plan.spacing)


def _is_flat(plan: Plan) -> bool:
    return plan.patch_size[0] == 1
