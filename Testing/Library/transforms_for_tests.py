"""Transforms of patches: what they do to positions, and patches cut out by them."""

from __future__ import annotations

import math

import numpy as np
import torch

from SparseUNet3DLib.augmentation import (
    RandomTransforms,
    draw_transforms,
    elastic_field,
    elastic_spacing,
    spline_coefficients,
)
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.recipe import AugmentationRecipe
from SparseUNet3DLib.sampling import PatchSampler

#: Standard deviation of one component of the displacement, in voxels of the finest spacing.
PAPER_RMS = 4 * (151 / 315) ** 1.5
STRONG = AugmentationRecipe(rotation=40.0, scaling=0.4, elastic_sd=6.0, elastic_spacing=8.0, gray_slope=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation_about(axis: int, degrees: float) -> torch.Tensor:
    """Turns the two other axes, in (z, y, x) order, into each other."""
    first, second = (a for a in range(3) if a != axis)
    matrix = torch.eye(3)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def coordinates(transforms: RandomTransforms, recipe: AugmentationRecipe, plan: Plan) -> np.ndarray:
    """(b, z, y, x, 3) positions of the voxels of patches about the patches' centres, in mm."""
    coefficients = spline_coefficients(transforms, recipe, plan).float()
    return elastic_field(coefficients, plan.patch_size, elastic_spacing(recipe, plan)).movedim(1, -1).numpy()


def displacement(recipe: AugmentationRecipe, plan: Plan, number: int = 1) -> np.ndarray:
    """(b, z, y, x, 3) how far, in mm, random transforms move the voxels of a patch."""
    transforms = draw_transforms(recipe, plan, number, generator())
    return coordinates(transforms, recipe, plan) - in_mm(plan)


def extract_one(
    sampler: PatchSampler, voxel: tuple | np.ndarray, place: tuple, transforms: torch.Tensor | RandomTransforms
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch of the first case whose output voxel ``place`` lies on ``voxel``; ``transforms`` may be a matrix."""
    if isinstance(transforms, torch.Tensor):
        transforms = RandomTransforms(transforms[None])
    batch = sampler.extract(sampler.cases[:1], np.array([voxel]), np.array([place]), transforms)
    return batch.images[0], batch.target[0]


def in_mm(plan: Plan) -> np.ndarray:
    """(z, y, x, 3) position of each voxel of a patch about the patch's centre, in mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(plan.patch_size, plan.spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
