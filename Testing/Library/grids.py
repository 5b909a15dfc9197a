"""Voxel grids that are awkward in every way a scanner or microscope can make them."""

from __future__ import annotations

import numpy as np

from SparseUNet3DLib.geometry import Geometry


def random_direction(rng: np.random.Generator, left_handed: bool) -> tuple[float, ...]:
    """A random orthonormal matrix, row-major, with determinant -1 where ``left_handed``, else 1."""
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if (np.linalg.det(matrix) < 0) != left_handed:
        matrix[:, 0] *= -1
    return tuple(matrix.ravel().tolist())


def random_geometry(rng: np.random.Generator, size: tuple[int, int, int], left_handed: bool) -> Geometry:
    """An oblique, anisotropic grid somewhere within half a metre of the origin."""
    spacing = tuple(rng.uniform(0.05, 5.0, 3).tolist())
    origin = tuple(rng.uniform(-500.0, 500.0, 3).tolist())
    return Geometry(size, spacing, origin, random_direction(rng, left_handed))


def oblique_left_handed(size: tuple[int, int, int] = (7, 6, 5)) -> Geometry:
    """One fixed oblique, left-handed, anisotropic grid of ``size`` voxels (i, j, k)."""
    return random_geometry(np.random.default_rng(7), size, left_handed=True)
