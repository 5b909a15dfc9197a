"""Stains and optics of the phantom: what three stains show of its cells, and what a microscope makes of that.

Lengths are in µm; arrays and positions are ordered (z, y, x). A grid is given by its axes, the coordinates of
the voxels along z, y and x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

CHANNEL_NAMES = ("Tomato-Lectin", "DAPI", "beta-Catenin")

#: Least distance between the middles of cells.
_WALL_CELL, _STROMA_CELL = 3.4, 2.9
#: Largest distance of a stroma cell's border from its middle; beyond it lies dark matrix.
_STROMA_REACH = 2.3
#: Radii of an average nucleus; each is turned at random.
_NUCLEUS = (1.0, 1.25, 1.6)
#: Thickness (standard deviation) of a membrane.
_MEMBRANE = 0.28
#: Standard deviation of the point-spread function.
_BLUR = (0.8, 0.32, 0.32)
#: Depth over which a channel fades to 1/e, as a multiple of the volume's depth; short waves fade sooner.
_FADING = (1.5, 1.1, 1.6)
#: Standard deviation of the logarithm of the illumination, and its length as a share of the volume's.
_SHADING, _SHADING_LENGTH = 0.18, 0.5
#: Photons of a structure of brightness 1, gray values for each photon and for none, noise of the camera.
_PHOTONS = (45, 55, 50)
_GAIN, _OFFSET, _READ_NOISE = 2.0, 8.0, 2.0


@dataclass(frozen=True, eq=False)
class _Cells:
    """The nearest cell of each voxel; every array is (z, y, x).

    Attributes:
        nucleus: brightness of the nucleus that the voxel lies in; 0 where there is none.
        border: distance to where the next cell begins; infinite outside the tissue.
        middle: distance to the cell's middle; infinite outside the tissue.
    """

    nucleus: np.ndarray
    border: np.ndarray
    middle: np.ndarray


def stain(
    rng: np.random.Generator, axes: Sequence[np.ndarray], outside: np.ndarray, inside: np.ndarray
) -> list[np.ndarray]:
    """Brightness (z, y, x) of each channel as the stains are spread in the tissue; 1 is a bright structure.

    Args:
        axes: the grid.
        outside: (z, y, x) distance to the outer surface of the nearest tubule, negative within it.
        inside: (z, y, x) distance to the surface of its lumen, negative within that.
    """
    lumen, stroma = inside < 0, outside >= 0
    wall = ~lumen & ~stroma
    # One layer of cells makes the wall. The stroma has loose places without cells, as dark as a lumen.
    layer = wall & (abs(inside / (inside - outside) - 0.45) < 0.15)
    crowded = stroma & (outside > 0.8) & (smooth_noise(rng, axes, 7.0) > -0.5)
    wall_cells = _cells(rng, _positions(axes, layer), axes, wall, _WALL_CELL)
    stroma_cells = _cells(rng, _positions(axes, crowded), axes, stroma, _STROMA_CELL)
    # Staining is grainy, whatever it stains.
    grain = 1 + 0.2 * smooth_noise(rng, axes, 0.8)
    lectin = _lectin(rng, axes, outside, inside)
    nuclei = 0.05 + wall_cells.nucleus + stroma_cells.nucleus
    catenin = _catenin(rng, axes, outside, inside, wall_cells, stroma_cells)
    return [lectin * grain, nuclei * grain, catenin * grain]


def _lectin(
    rng: np.random.Generator, axes: Sequence[np.ndarray], outside: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Basement membranes, the brush border along some stretches of the lumina, and sheets of vessels in the stroma."""
    basal = _varying(rng, axes, 5.0, 0.85, 0.45, 0.2) * _shell(outside - 0.2, 0.45)
    brush = _varying(rng, axes, 6.0, 0.0, 0.45, 0.0) * _shell(inside, 0.4)
    # A smooth field is 0 on a sheet; half of it is kept.
    sheet = _shell(smooth_noise(rng, axes, 5.0), 0.09) * (smooth_noise(rng, axes, 5.0) > 0) * (outside > 0.5)
    return 0.06 + 0.06 * ((outside < 0) & (inside >= 0)) + basal + brush + 0.9 * sheet


def _catenin(
    rng: np.random.Generator,
    axes: Sequence[np.ndarray],
    outside: np.ndarray,
    inside: np.ndarray,
    wall_cells: _Cells,
    stroma_cells: _Cells,
) -> np.ndarray:
    """Cell borders: strong between the cells of the wall and at its inner surface, weak in the stroma."""
    wall = (outside < 0) & (inside >= 0)
    apical = 0.5 * _varying(rng, axes, 4.0, 1.0, 0.4, 0.2) * _shell(inside - 0.2, 0.35)
    basal = 0.25 * wall * _shell(outside + 0.2, 0.35)
    lateral = wall * (0.12 + 0.95 * _shell(wall_cells.border, _MEMBRANE))
    rim = np.minimum(stroma_cells.border, abs(stroma_cells.middle - _STROMA_REACH))
    mesenchyme = _varying(rng, axes, 4.0, 0.36, 0.3, 0.05) * _shell(rim, _MEMBRANE)
    mesenchyme += 0.1 * (stroma_cells.middle < _STROMA_REACH)
    debris = 0.5 * ((inside < 0) & (smooth_noise(rng, axes, 1.2) > 2.2))
    return 0.05 + apical + basal + lateral + mesenchyme + debris


def _cells(
    rng: np.random.Generator, candidates: np.ndarray, axes: Sequence[np.ndarray], tissue: np.ndarray, apart: float
) -> _Cells:
    """Cells that fill a tissue (z, y, x) bool, with their middles ``apart`` or more, among ``candidates`` (n, 3)."""
    cells = _Cells(*(np.full(tissue.shape, value) for value in (0.0, np.inf, np.inf)))
    middles = _spread(rng, candidates, apart)
    if not len(middles):
        return cells
    # Off the grid of voxels.
    middles += rng.uniform(-0.5, 0.5, middles.shape) * [axis[1] - axis[0] for axis in axes]
    positions = _positions(axes, tissue)
    distance, nearest = KDTree(middles, leafsize=20).query(positions, k=2, workers=-1)
    cells.middle[tissue] = distance[:, 0]
    cells.border[tissue] = (distance[:, 1] - distance[:, 0]) / 2
    radii = np.array(_NUCLEUS) * rng.uniform(0.85, 1.15, (len(middles), 3))
    to_sphere = Rotation.from_quat(rng.normal(size=(len(middles), 4))).as_matrix() / radii[:, None]
    cell = nearest[:, 0]
    on_sphere = np.einsum("ni,nij->nj", positions - middles[cell], to_sphere[cell])
    cells.nucleus[tissue] = rng.uniform(0.55, 1.2, len(middles))[cell] * ((on_sphere**2).sum(axis=1) < 1)
    return cells


def _spread(rng: np.random.Generator, candidates: np.ndarray, apart: float) -> np.ndarray:
    """Those of ``candidates`` (n, 3), taken in random order, that are ``apart`` from all taken before."""
    candidates = rng.permutation(candidates)
    tree = KDTree(candidates)
    free = np.ones(len(candidates), bool)
    taken = []
    for n, candidate in enumerate(candidates):
        if free[n]:
            free[tree.query_ball_point(candidate, apart)] = False
            taken.append(n)
    return candidates[taken]


def photograph(
    rng: np.random.Generator, brightness: np.ndarray, axes: Sequence[np.ndarray], channel: int, strength: float
) -> np.ndarray:
    """Gray values (z, y, x) uint8 that the microscope makes of a channel's brightness (z, y, x).

    ``strength`` is that of the light that is shone on it, 1 the usual one.
    """
    blurred = gaussian_filter(brightness, [sd / (axis[1] - axis[0]) for sd, axis in zip(_BLUR, axes, strict=True)])
    extent = [axis[-1] - axis[0] for axis in axes]
    light = np.exp(-(axes[0] - axes[0][0]) / (extent[0] * _FADING[channel]))[:, None, None]
    shade = np.exp(_SHADING * smooth_noise(rng, axes, [_SHADING_LENGTH * length for length in extent]))
    photons = rng.poisson(strength * _PHOTONS[channel] * blurred * light * shade)
    gray = _GAIN * photons + _OFFSET + _READ_NOISE * rng.normal(size=photons.shape)
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)


def _shell(distance: np.ndarray, sd: float) -> np.ndarray:
    """1 at distance 0, falling off to both sides."""
    return np.exp(-0.5 * (distance / sd) ** 2)


def _varying(
    rng: np.random.Generator, axes: Sequence[np.ndarray], length: float, mean: float, sd: float, least: float
) -> np.ndarray:
    """Strength (z, y, x) of a stain that varies from place to place, but is ``least`` everywhere."""
    return np.maximum(mean + sd * smooth_noise(rng, axes, length), least)


def _positions(axes: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Positions (n, 3) of the voxels in ``mask`` (z, y, x)."""
    return np.stack([axis[index] for axis, index in zip(axes, np.nonzero(mask), strict=True)], axis=1)


def smooth_noise(rng: np.random.Generator, axes: Sequence[np.ndarray], length: float | Sequence[float]) -> np.ndarray:
    """Normally distributed values (z, y, x) of standard deviation 1 that change over ``length`` µm (per axis)."""
    weights = []
    for axis, scale in zip(axes, np.broadcast_to(length, 3), strict=True):
        knots = np.arange(axis[0] - 2 * scale, axis[-1] + 2.5 * scale, scale / 2)
        weight = np.exp(-2 * ((axis[:, None] - knots) / scale) ** 2)
        # The sum of squares is the variance that a voxel gets from independent knots.
        weights.append(weight / np.sqrt((weight**2).sum(axis=1, keepdims=True)))
    noise = rng.normal(size=[weight.shape[1] for weight in weights])
    along_z, along_y, along_x = weights
    # The new axis comes last each time; z, the last, is put in front without moving the large array.
    noise = np.tensordot(np.tensordot(noise, along_y, (1, 1)), along_x, (1, 1))
    return np.tensordot(along_z, noise, 1)
