"""Random patches: rotation, scaling, elastic deformation, mirroring and gray-value curves.

All geometric changes are composed into one map from patch to volume, in millimetres, so that each
voxel is interpolated once: the image linearly, the labels by nearest neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from SparseUNet3DLib.device import send
from SparseUNet3DLib.plan import ANISOTROPIC, Plan
from SparseUNet3DLib.recipe import AugmentationRecipe

_AXES = ("z", "y", "x")
_CPU = torch.device("cpu")


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
        counts = _control_points(recipe, plan)
        displacements = torch.randn(number, 3, *counts, generator=generator) * _elastic_sds(recipe, plan)
    return RandomTransforms(matrices, displacements, slopes)


def patch_positions(
    transforms: RandomTransforms,
    recipe: AugmentationRecipe,
    plan: Plan,
    spacings: np.ndarray,
    places: np.ndarray,
    voxels: np.ndarray,
    device: torch.device,
) -> torch.Tensor:
    """Where each voxel of the patches lies in its volume: (b, 3, z, y, x) float32, in voxels of the volume.

    Args:
        spacings: (b, 3) of the volumes, (z, y, x) in mm.
        places: (b, 3) which voxels of the patches are to lie exactly on
        voxels: (b, 3), these of the volumes.
    """
    # All but the last lines are about a few control points, in main memory: to tell a GPU takes longer than to do it.
    coefficients = spline_coefficients(transforms, recipe, plan) / torch.from_numpy(spacings)[..., None, None, None]
    spacing = elastic_spacing(recipe, plan)
    at_place = [
        _cubic_basis(n, controls, step).double()[:, place]
        for n, controls, step, place in zip(plan.patch_size, coefficients.shape[2:], spacing, places.T, strict=True)
    ]
    there = torch.einsum("bczyx,zb,yb,xb->bc", coefficients, *at_place)
    # From the place, as a product may be rounded to less than the exact numbers of a large volume's voxels.
    coefficients -= there[..., None, None, None]
    from_place = elastic_field(send(coefficients.float(), device), plan.patch_size, spacing)
    return from_place.add_(send(torch.from_numpy(voxels).float()[..., None, None, None], device))


def spline_coefficients(transforms: RandomTransforms, recipe: AugmentationRecipe, plan: Plan) -> torch.Tensor:
    """Of the cubic B-spline that says where a patch's voxels lie about its centre.

    (b, 3, nz, ny, nx) float64 in mm, (z, y, x) order, ``elastic_spacing`` apart, for ``elastic_field``. A B-spline
    whose coefficients lie on a straight line is that line: so rotation and scaling are in them, too.
    """
    counts = _control_points(recipe, plan)
    z, y, x = (
        ((torch.arange(count, dtype=torch.float64) - 1) * step - (n - 1) / 2) * mm
        for count, step, n, mm in zip(counts, elastic_spacing(recipe, plan), plan.patch_size, plan.spacing, strict=True)
    )
    straight = torch.stack(torch.meshgrid(z, y, x, indexing="ij"))
    turned = torch.einsum("bij,jzyx->bizyx", transforms.matrices.double(), straight)
    return turned if transforms.displacements is None else turned + transforms.displacements


def elastic_field(
    coefficients: torch.Tensor, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> torch.Tensor:
    """Uniform cubic B-spline without prefilter, evaluated on voxels: (..., nz, ny, nx) to (..., *size).

    ``spacing`` is the distance of the control points in voxels. As in the authors' layer the spline
    smooths its coefficients: with standard deviation 4 the displacement's is 4 (151/315)^1.5 = 1.33
    per component, at a control-point-independent average.
    """
    of_z, of_y, of_x = (
        _cubic_basis(n, controls, step, coefficients.device)
        for n, controls, step in zip(size, coefficients.shape[-3:], spacing, strict=True)
    )
    slices = of_y.T @ (coefficients @ of_x)  # (..., nz, y, x)
    return (of_z.T @ slices.flatten(-2)).unflatten(-1, slices.shape[-2:])


def adjust_gray_values(images: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Pass normalised gray values (b, c, z, y, x) through monotone piecewise-linear curves.

    ``slopes`` (b, c, 5) are positive; each curve keeps the value 0, the mean gray value, where it is.
    """
    # A straight line that bends at each knot by how much the slope changes there: what is below counts as the knot.
    bends = slopes.diff(dim=-1)
    at_zero = (bends * torch.tensor(_KNOTS).clamp_min(0.0)).sum(-1, keepdim=True)
    numbers = send(torch.cat([-at_zero, slopes[..., :1], bends], dim=-1), images.device)
    offset, slope, *bends = numbers.permute(2, 0, 1)[..., None, None, None]
    curve = torch.addcmul(offset, images, slope)
    for knot, bend in zip(_KNOTS, bends, strict=True):
        curve.addcmul_(images.clamp_min(knot), bend)
    return curve


@lru_cache(maxsize=64)
def _cubic_basis(n: int, controls: int, step: float, device: torch.device = _CPU) -> torch.Tensor:
    """(controls, n) weights of the control points on each voxel."""
    position = torch.arange(n, dtype=torch.float64) / step + 1
    distance = (position[None, :] - torch.arange(controls)[:, None]).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far).float().to(device)


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


def elastic_spacing(recipe: AugmentationRecipe, plan: Plan) -> tuple[float, float, float]:
    """Distance of the control points in voxels of each axis, equal in mm."""
    mm = recipe.elastic_spacing * min(plan.spacing)
    return tuple(mm / s for s in plan.spacing)


def _control_points(recipe: AugmentationRecipe, plan: Plan) -> list[int]:
    """How many there are along each axis."""
    return [math.ceil(n / step) + 4 for n, step in zip(plan.patch_size, elastic_spacing(recipe, plan), strict=True)]


def _elastic_sds(recipe: AugmentationRecipe, plan: Plan) -> torch.Tensor:
    """(3, 1, 1, 1) in mm: how far the control points are displaced along each axis.

    As far along all; but out of a thin patch the deformation would carry most of what is annotated in it.
    """
    most = recipe.elastic_sd * min(plan.spacing)
    extents = [(n - 1) * s for n, s in zip(plan.patch_size, plan.spacing, strict=True)]
    return torch.tensor([min(most, extent / _ELASTIC_EXTENTS) for extent in extents])[:, None, None, None]
