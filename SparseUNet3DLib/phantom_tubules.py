"""Convoluted tubules for the phantom: random smooth curves that keep apart, and where voxels lie along them.

Positions and lengths are in µm; positions are ordered (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree

#: Mean outer radius of a tubule, and the share by which it swells and narrows.
_RADIUS = (5.0, 7.0)
_SWELLING = 0.12
#: Radius of the lumen as a share of the outer radius, changing slowly along the tubule.
_LUMEN_SHARE = (0.36, 0.6)
#: Least distance between the outsides of two tubules, or of two windings of one.
_GAP = 0.6
_STEP = 1.0
#: Smallest radius of a bend: the widest tubule can turn round within it without touching itself.
_BEND_RADIUS = 8.5
#: Points back along a curve that count as the same winding, so that they may be near.
_SAME_WINDING = 20
#: How far beyond the least distance others are felt, and how strongly they bend a curve away.
_SIGHT = 5.0
_REPULSION = 0.4
#: Length over which a curve forgets how it bends, and the radii change.
_MEMORY = 10.0
#: Share of the box at which it is full, which few reach, and attempts for each tubule that would fit.
_FILLING = 0.42
_ATTEMPTS = 60
_MOST_POINTS = 1000
#: Distance between the points among which voxels look for the nearest; small against a voxel.
_FINE_STEP = 0.5


@dataclass(frozen=True, eq=False)
class Tubule:
    """A tubule by points (n, 3) along its middle, 1 µm apart, with the outer and the lumen's radius (n,) at each."""

    points: np.ndarray
    outer: np.ndarray
    lumen: np.ndarray


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest tubule of each voxel; every array is (z, y, x).

    Attributes:
        index: which tubule it is.
        distance: distance to its middle.
        outer: its outer radius there.
        lumen: the radius of its lumen there.
    """

    index: np.ndarray
    distance: np.ndarray
    outer: np.ndarray
    lumen: np.ndarray


def make_tubules(rng: np.random.Generator, extent: Sequence[float]) -> list[Tubule]:
    """One or more tubules that pass through a box from (0, 0, 0) to ``extent`` and fill some 30 % of it.

    None of them ends or touches another, or another winding of its own, inside the box.
    """
    extent = np.asarray(extent, float)
    tubules: list[Tubule] = []
    wanted, filled, attempts = _FILLING * extent.prod(), 0.0, 0
    usual = np.pi * np.mean(_RADIUS) ** 2 * extent.mean()  # volume of a tubule that crosses the box
    while not tubules or (filled < wanted and attempts < _ATTEMPTS * (1 + wanted / usual)):
        attempts += 1
        # The first passes through the middle, so that a small box has one, too.
        start = rng.uniform(0, extent) if tubules else extent / 2
        tubule = _try_tubule(rng, start, extent, tubules)
        if tubule is not None:
            tubules.append(tubule)
            inside = np.all((tubule.points >= 0) & (tubule.points <= extent), axis=1)
            filled += np.pi * _STEP * (tubule.outer[inside] ** 2).sum()
    return tubules


def nearest_tubule(tubules: Sequence[Tubule], coordinates: Sequence[np.ndarray]) -> Nearest:
    """The nearest tubule of each voxel of a grid with these coordinates along z, y and x."""
    known = [np.arange(len(tubule.points)) * _STEP for tubule in tubules]
    fine = [np.arange(0, length[-1], _FINE_STEP) for length in known]
    points = [CubicSpline(s, tubule.points)(t) for tubule, s, t in zip(tubules, known, fine, strict=True)]
    index = np.repeat(np.arange(len(tubules)), [len(t) for t in fine])
    outer = [np.interp(t, s, tubule.outer) for tubule, s, t in zip(tubules, known, fine, strict=True)]
    lumen = [np.interp(t, s, tubule.lumen) for tubule, s, t in zip(tubules, known, fine, strict=True)]
    voxels = np.stack(np.meshgrid(*coordinates, indexing="ij"), axis=-1)
    distance, nearest = KDTree(np.concatenate(points), leafsize=20).query(voxels, workers=-1)
    return Nearest(index[nearest], distance, np.concatenate(outer)[nearest], np.concatenate(lumen)[nearest])


def _try_tubule(
    rng: np.random.Generator, start: np.ndarray, extent: np.ndarray, others: Sequence[Tubule]
) -> Tubule | None:
    """A tubule through ``start``; none where it would touch one of the ``others`` or itself."""
    mean = rng.uniform(*_RADIUS)
    widest = mean * (1 + _SWELLING)
    obstacles = np.concatenate([np.empty((0, 3)), *(other.points for other in others)])
    apart = np.concatenate([np.empty(0), *(other.outer + widest + _GAP for other in others)])
    heading = _unit(rng.normal(size=3))
    path = [start]
    for direction in (heading, -heading):
        if not _grow(rng, path, direction, extent, obstacles, apart, widest):
            return None
        path.reverse()
    outer = mean * (1 + _SWELLING * _slow(rng, len(path)))
    low, high = _LUMEN_SHARE
    return Tubule(np.array(path), outer, outer * (low + (high - low) * (1 + _slow(rng, len(path))) / 2))


def _grow(
    rng: np.random.Generator,
    path: list[np.ndarray],
    heading: np.ndarray,
    extent: np.ndarray,
    obstacles: np.ndarray,
    apart: np.ndarray,
    widest: float,
) -> bool:
    """Extend ``path`` until it has left the box; False where it comes too close to something.

    Args:
        heading: unit vector (3,) in which the path goes on.
        obstacles: points (n, 3) of other tubules.
        apart: least distance (n,) to each of them.
        widest: the tubule's largest radius.
    """
    keep = np.exp(-_STEP / _MEMORY)
    bend = np.zeros(3)
    while np.all((path[-1] > -widest - _STEP) & (path[-1] < extent + widest + _STEP)):
        own = np.array(path[:-_SAME_WINDING]).reshape(-1, 3)
        away = path[-1] - np.concatenate([obstacles, own])
        distance = np.sqrt((away**2).sum(axis=1))
        spare = distance - np.concatenate([apart, np.full(len(own), 2 * widest + _GAP)])
        if len(path) > _MOST_POINTS or (spare < 0).any():
            return False
        near = spare < _SIGHT
        push = ((1 - spare[near] / _SIGHT) ** 2 / distance[near]) @ away[near]
        # Random bending with the same strength all along the curve, as far as nothing is in the way.
        bend = keep * bend + np.sqrt(1 - keep**2) * rng.normal(size=3) / _BEND_RADIUS
        turn = bend + _REPULSION * push
        turn -= heading * (turn @ heading)
        turn *= min(1.0, 1 / _BEND_RADIUS / max(np.linalg.norm(turn), 1e-12))
        heading = _unit(heading + _STEP * turn)
        path.append(path[-1] + _STEP * heading)
    return True


def _slow(rng: np.random.Generator, count: int) -> np.ndarray:
    """Values (count,) between -1 and 1 that change slowly along a curve."""
    noise = gaussian_filter1d(rng.normal(size=count), _MEMORY / _STEP / 2, mode="reflect")
    return noise / max(abs(noise).max(), 1e-12)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
