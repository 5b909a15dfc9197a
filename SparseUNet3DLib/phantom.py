"""A generated volume to try things on: kidney tubules as fluorescence microscopy shows them, with the truth.

It stands in for the volumes of Çiçek et al. (embryonic kidney of *Xenopus*, stained with tomato lectin,
DAPI and an antibody against beta-catenin; annotated were the tubules and their inside), so that a first try
needs no download and no painting. Its tubules are some three times thinner than those in the embryo, so that
a small volume shows several.

No channel shows a segment by its brightness alone: lectin lines the tubules but also what lies between them,
there are nuclei inside and outside the walls, cells meet in the stroma as well, and lumina are as dark as the
gaps between cells. What tells the tubules apart is their shape and texture.

Lengths are in the unit of the spacing, meant as µm. Arrays and positions are ordered (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.phantom_tubules import make_tubules, nearest_tubule
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.volumes import Volume

CHANNEL_NAMES = ("Tomato-Lectin", "DAPI", "beta-Catenin")
#: Colours of the paper's figures would hide in the stains; these two stay apart for the colour-blind.
SEGMENTS = (
    Segment("Segment_1", "tubule", (0.90, 0.62, 0.0)),
    Segment("Segment_2", "lumen", (0.34, 0.71, 0.91)),
)
TUBULE, LUMEN = 1, 2

#: Width of the border around the volume that is made as well, so that cells and blur go on across its sides.
_MARGIN = 3.0
#: How far the surfaces of tubules deviate from round, and over which length.
_WOBBLE, _WOBBLE_LENGTH = 0.35, 3.0
#: Least distance between the middles of cells.
_WALL_CELL, _STROMA_CELL = 3.0, 2.9
#: Largest distance of a stroma cell's border from its middle; beyond it lies dark matrix.
_STROMA_REACH = 2.3
#: Radii of an average nucleus; each is turned at random.
_NUCLEUS = (0.95, 1.15, 1.45)
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
    """The nearest cell of each voxel that was asked for; n voxels.

    Attributes:
        nucleus: (n,) 1 inside a nucleus, 0 outside.
        border: (n,) distance to the border between this cell and the next.
        middle: (n,) distance to the cell's middle.
    """

    nucleus: np.ndarray
    border: np.ndarray
    middle: np.ndarray


def make_phantom(
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 96, 96),
    spacing: tuple[float, float, float] = (1.0, 0.5, 0.5),
) -> tuple[Volume, Segmentation]:
    """A volume with the channels `CHANNEL_NAMES` (uint8), and which voxels are tubule and lumen.

    Equal arguments give equal volumes, every seed another one of the same kind. Walls are about 3 µm
    thick: where the spacing is much larger than 1 µm, they get holes.

    Args:
        seed: chooses the volume, 0 or larger.
        shape: voxels along z, y, x.
        spacing: distance between voxels along z, y, x in µm, z being the depth.
    """
    rng = np.random.default_rng(seed)
    margin = [int(np.ceil(_MARGIN / step)) for step in spacing]
    axes = [np.arange(-m, n + m) * step for n, m, step in zip(shape, margin, spacing, strict=True)]
    inner = tuple(slice(m, m + n) for n, m in zip(shape, margin, strict=True))
    extent = [n * step for n, step in zip(shape, spacing, strict=True)]

    tubules = make_tubules(rng, extent)
    nearest = nearest_tubule(tubules, axes)
    distance = nearest.distance + _WOBBLE * _smooth_noise(rng, axes, _WOBBLE_LENGTH)
    labels = np.zeros(distance.shape, np.uint16)
    labels[distance < nearest.outer] = TUBULE
    labels[distance < nearest.lumen] = LUMEN

    channels = _stain(rng, axes, labels, distance - nearest.outer, distance - nearest.lumen)
    array = np.stack([_take_picture(rng, channel, axes, n)[inner] for n, channel in enumerate(channels)])
    geometry = Geometry(tuple(reversed(shape)), tuple(float(step) for step in reversed(spacing)))
    truth = Segmentation(np.ascontiguousarray(labels[inner]), SEGMENTS, geometry)
    return Volume(array, geometry, CHANNEL_NAMES, "phantom"), truth


def _stain(
    rng: np.random.Generator, axes: Sequence[np.ndarray], labels: np.ndarray, outside: np.ndarray, inside: np.ndarray
) -> list[np.ndarray]:
    """Brightness (z, y, x) of each channel before any blur.

    Args:
        axes: coordinates along z, y, x.
        labels: (z, y, x).
        outside: (z, y, x) distance to the outer surface of the nearest tubule, negative within it.
        inside: (z, y, x) distance to the surface of its lumen, negative within that.
    """
    wall, stroma, lumen = labels == TUBULE, labels == 0, labels == LUMEN
    dense = _smooth_noise(rng, axes, 7.0) > -0.9
    middle_of_wall = wall & (abs(inside / (inside - outside) - 0.45) < 0.15)
    wall_cells = _cells(rng, axes, middle_of_wall, wall, _WALL_CELL)
    stroma_cells = _cells(rng, axes, stroma & dense & (outside > 0.8), stroma, _STROMA_CELL)

    patches = [_smooth_noise(rng, axes, length) for length in (5.0, 5.0, 4.0, 4.0, 6.0)]
    texture = 1 + 0.2 * _smooth_noise(rng, axes, 0.8)

    # Basement membrane, with gaps; the brush border in some stretches; and sheets of vessels in between.
    vessel = _shell(_smooth_noise(rng, axes, 5.0) * 4.0, 0.35) * (patches[1] > 0) * (outside > 0.5)
    lectin = 0.06 + 0.06 * wall
    lectin += np.clip(0.75 + 0.45 * patches[0], 0.1, 1.5) * _shell(outside - 0.2, 0.45)
    lectin += np.clip(0.45 * patches[4], 0, 0.9) * _shell(inside, 0.4)
    lectin += 0.9 * vessel

    nuclei = np.full(labels.shape, 0.05)
    nuclei[wall] += wall_cells.nucleus
    nuclei[stroma] += stroma_cells.nucleus

    catenin = np.full(labels.shape, 0.05)
    catenin[wall] += 0.12 + 0.95 * _shell(wall_cells.border, _MEMBRANE)
    catenin += 0.5 * _shell(inside - 0.2, 0.35) * np.clip(1 + 0.4 * patches[2], 0.2, 2)
    catenin += 0.25 * _shell(outside + 0.2, 0.35) * wall
    body = stroma_cells.middle < _STROMA_REACH
    rim = np.minimum(stroma_cells.border, abs(stroma_cells.middle - _STROMA_REACH))
    catenin[stroma] += np.where(body, 0.1, 0) + np.clip(0.5 + 0.35 * patches[3][stroma], 0.05, 1.2) * _shell(
        rim, _MEMBRANE
    )
    # Shed cells and cilia.
    debris = lumen & (_smooth_noise(rng, axes, 1.2) > 2.2)
    catenin[debris] += 0.5
    return [lectin * texture, nuclei * texture, catenin * texture]


def _cells(
    rng: np.random.Generator, axes: Sequence[np.ndarray], allowed: np.ndarray, tissue: np.ndarray, apart: float
) -> _Cells:
    """Cells with their middles where ``allowed`` and least distance ``apart``, seen from the voxels in ``tissue``."""
    candidates = rng.permutation(_positions(axes, allowed))
    tree = KDTree(candidates)
    free = np.ones(len(candidates), bool)
    chosen = []
    for n in range(len(candidates)):
        if free[n]:
            free[tree.query_ball_point(candidates[n], apart)] = False
            chosen.append(n)
    # Off the grid of voxels.
    middles = candidates[chosen]
    middles += rng.uniform(-0.5, 0.5, middles.shape) * [axis[1] - axis[0] for axis in axes]
    positions = _positions(axes, tissue)
    distance, nearest = KDTree(middles).query(positions, k=2)
    size = np.array(_NUCLEUS) * rng.uniform(0.85, 1.15, (len(middles), 3))
    to_sphere = np.linalg.qr(rng.normal(size=(len(middles), 3, 3)))[0] / size[:, None]
    cell = nearest[:, 0]
    radius = np.sqrt((np.einsum("ni,nij->nj", positions - middles[cell], to_sphere[cell]) ** 2).sum(axis=1))
    brightness = rng.uniform(0.55, 1.2, len(middles))
    return _Cells(brightness[cell] * (radius < 1), (distance[:, 1] - distance[:, 0]) / 2, distance[:, 0])


def _take_picture(
    rng: np.random.Generator, brightness: np.ndarray, axes: Sequence[np.ndarray], channel: int
) -> np.ndarray:
    """What the microscope makes of a channel's brightness (z, y, x): uint8."""
    blurred = gaussian_filter(brightness, [sd / (axis[1] - axis[0]) for sd, axis in zip(_BLUR, axes, strict=True)])
    extent = [axis[-1] - axis[0] for axis in axes]
    light = np.exp(-(axes[0] - axes[0][0]) / (extent[0] * _FADING[channel]))[:, None, None]
    shade = np.exp(_SHADING * _smooth_noise(rng, axes, [_SHADING_LENGTH * length for length in extent]))
    photons = rng.poisson(_PHOTONS[channel] * blurred * light * shade)
    gray = _GAIN * photons + _OFFSET + _READ_NOISE * rng.normal(size=photons.shape)
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)


def _shell(distance: np.ndarray, sd: float) -> np.ndarray:
    """1 at distance 0, falling off to both sides."""
    return np.exp(-0.5 * (distance / sd) ** 2)


def _positions(axes: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Positions (n, 3) of the voxels in ``mask`` (z, y, x)."""
    return np.stack([axis[index] for axis, index in zip(axes, np.nonzero(mask), strict=True)], axis=1)


def _smooth_noise(
    rng: np.random.Generator, axes: Sequence[np.ndarray], length: float | Sequence[float]
) -> np.ndarray:
    """Normally distributed values (z, y, x) of standard deviation 1 that change over ``length`` µm (per axis)."""
    weights = []
    for axis, scale in zip(axes, np.broadcast_to(length, 3), strict=True):
        knots = np.arange(axis[0] - 2 * scale, axis[-1] + 2.5 * scale, scale / 2)
        weight = np.exp(-2 * ((axis[:, None] - knots) / scale) ** 2)
        # The sum of squares is the variance that a voxel gets from independent knots.
        weights.append(weight / np.sqrt((weight**2).sum(axis=1, keepdims=True)))
    noise = rng.normal(size=[weight.shape[1] for weight in weights])
    for weight in reversed(weights):
        noise = np.moveaxis(np.tensordot(weight, noise, (1, -1)), 0, 0)
    return noise
