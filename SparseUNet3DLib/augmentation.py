"""Random patches: rotation, scaling, elastic deformation, mirroring and gray-value curves.

All geometric changes are composed into one map from patch to volume, in millimetres, so that each
voxel is interpolated once: the image linearly, the labels by nearest neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from SparseUNet3DLib.device import send
from SparseUNet3DLib.plan import ANISOTROPIC, Plan
from SparseUNet3DLib.recipe import AugmentationRecipe

_AXES = ("z", "y", "x")


@dataclass(frozen=True)
class RandomTransforms:
    """Random changes of a batch of patches.

    Attributes:
        matrices: (b, 3, 3) in mm, (z, y, x): patch coordinates about its centre to volume coordinates.
        displacements: (b, 3, nz, ny, nx) B-spline coefficients in mm, or None.
        slopes: (b, c, segments) of the gray-value curves, or None.
    """

    matrices: torch.Tensor
    displacements: torch.Tensor | None = None
    slopes: torch.Tensor | None = None


#: Two axes whose extents in a patch differ by more than this factor are not rotated into each other.
_THIN = 3.0
#: A patch is so many times as wide as the standard deviation of its control points, at least.
_ELASTIC_EXTENTS = 3.0
#: Knots of the gray-value curves, in normalised gray values; beyond the ends the curve goes on straight.
_KNOTS = (-1.5, -0.5, 0.5, 1.5)


def draw_transforms(
    recipe: AugmentationRecipe, plan: Plan, number: int, generator: torch.Generator
) -> RandomTransforms:
    """Draw the changes of ``number`` patches from ``generator`` (a CPU generator, the same for every device)."""

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(number, *size, generator=generator) * 2 - 1

    angles = uniform(3) * math.radians(recipe.rotation) * torch.tensor(_free_rotations(plan))
    scales = torch.exp(uniform(1, 1) * math.log1p(recipe.scaling))
    mirrored = (uniform(3) < 0) & torch.tensor([axis in recipe.mirror for axis in _AXES])
    slopes = torch.exp(uniform(plan.in_channels, len(_KNOTS) + 1) * math.log(recipe.gray_slope))
    matrices = _rotations(angles) * scales @ torch.diag_embed(torch.where(mirrored, -1.0, 1.0))
    displacements = None
    if recipe.elastic_sd > 0:
        spacing = _elastic_spacing(recipe, plan)
        counts = [math.ceil(n / s) + 4 for n, s in zip(plan.patch_size, spacing, strict=True)]
        displacements = torch.randn(number, 3, *counts, generator=generator) * _elastic_sds(recipe, plan)
    return RandomTransforms(matrices, displacements, slopes)


def patch_coordinates(
    transforms: RandomTransforms, recipe: AugmentationRecipe, plan: Plan, device: torch.device
) -> torch.Tensor:
    """Where each voxel of a patch lies relative to the patch's centre: (b, 3, z, y, x) in mm, (z, y, x) order."""
    if transforms.displacements is None:
        return _turned(transforms.matrices, plan, [range(n) for n in plan.patch_size], device)
    # A B-spline whose coefficients lie on a straight line is that line: the coefficients, which are few, are turned.
    spacing = _elastic_spacing(recipe, plan)
    places = [[(i - 1) * s for i in range(n)] for n, s in zip(transforms.displacements.shape[2:], spacing, strict=True)]
    coefficients = _turned(transforms.matrices, plan, places, device) + send(transforms.displacements, device)
    return elastic_field(coefficients, plan.patch_size, spacing)


def _turned(
    matrices: torch.Tensor, plan: Plan, places: Sequence[Sequence[float]], device: torch.device
) -> torch.Tensor:
    """(b, 3, nz, ny, nx) in mm: where ``matrices`` take the voxels at ``places`` along each axis of a patch."""
    z, y, x = (
        (send(torch.tensor(p, dtype=torch.float32), device) - (n - 1) / 2) * s
        for p, n, s in zip(places, plan.patch_size, plan.spacing, strict=True)
    )
    # (3, b, 3, 1, 1, 1): column by column instead of one big matrix product, three sums that broadcast.
    columns = send(matrices, device).permute(2, 0, 1)[..., None, None, None]
    return z[:, None, None] * columns[0] + y[:, None] * columns[1] + x * columns[2]


def elastic_field(
    coefficients: torch.Tensor, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> torch.Tensor:
    """Uniform cubic B-spline without prefilter, evaluated on voxels: (..., nz, ny, nx) to (..., *size).

    ``spacing`` is the distance of the control points in voxels. As in the authors' layer the spline
    smooths its coefficients: with standard deviation 4 the displacement's is 4 (151/315)^1.5 = 1.33
    per component, at a control-point-independent average.
    """
    for axis, (n, step) in zip((-3, -2, -1), zip(size, spacing, strict=True), strict=True):
        basis = _cubic_basis(n, coefficients.shape[axis], step, coefficients.device)
        coefficients = torch.movedim(torch.movedim(coefficients, axis, -1) @ basis, -1, axis)
    return coefficients


def adjust_gray_values(images: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Pass normalised gray values (b, c, z, y, x) through monotone piecewise-linear curves.

    ``slopes`` (b, c, 5) are positive; each curve keeps the value 0, the mean gray value, where it is.
    """
    below, *between, above = send(slopes, images.device).permute(2, 0, 1)[..., None, None, None]
    curve = images.clamp(max=_KNOTS[0]) * below
    for low, high, slope in zip(_KNOTS[:-1], _KNOTS[1:], between, strict=True):
        curve += (images.clamp(low, high) - low) * slope
    curve += (images.clamp(min=_KNOTS[-1]) - _KNOTS[-1]) * above
    # The curve starts at the first knot; shift it so that value 0 stays 0.
    return curve - (_KNOTS[0] * below + (_KNOTS[1] - _KNOTS[0]) * between[0] - _KNOTS[1] * between[1])


def _cubic_basis(n: int, controls: int, step: float, device: torch.device) -> torch.Tensor:
    """(controls, n) weights of the control points on each voxel."""
    position = torch.arange(n, dtype=torch.float32, device=device) / step + 1
    distance = (position[None, :] - torch.arange(controls, dtype=torch.float32, device=device)[:, None]).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _rotations(angles: torch.Tensor) -> torch.Tensor:
    """(b, 3, 3) products of rotations about z, y and x by ``angles`` (b, 3: z, y, x) in radians."""
    result = torch.eye(3).expand(len(angles), 3, 3)
    for axis, angle in enumerate(angles.unbind(1)):
        first, second = (a for a in range(3) if a != axis)
        turn = torch.eye(3).repeat(len(angles), 1, 1)
        turn[:, first, first] = turn[:, second, second] = torch.cos(angle)
        turn[:, first, second], turn[:, second, first] = -torch.sin(angle), torch.sin(angle)
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


def _elastic_sds(recipe: AugmentationRecipe, plan: Plan) -> torch.Tensor:
    """(3, 1, 1, 1) in mm: how far the control points are displaced along each axis.

    As far along all; but out of a thin patch the deformation would carry most of what is annotated in it.
    """
    most = recipe.elastic_sd * min(plan.spacing)
    extents = [(n - 1) * s for n, s in zip(plan.patch_size, plan.spacing, strict=True)]
    return torch.tensor([min(most, extent / _ELASTIC_EXTENTS) for extent in extents])[:, None, None, None]
