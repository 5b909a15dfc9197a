"""A generated volume to try things on: kidney tubules as fluorescence microscopy shows them, with the truth.

It stands in for the volumes of Çiçek et al. (embryonic kidney of *Xenopus*, stained with tomato lectin,
DAPI and an antibody against beta-catenin; annotated were the tubules and their inside), so that a first try
needs no download and no painting. Its tubules are some three times thinner than those in the embryo, so that
a small volume shows several.

No channel shows a segment by its brightness alone: lectin lines the tubules but also what lies between them,
there are nuclei inside and outside the walls, cells meet in the stroma as well, and lumina are as dark as its
loose places. What tells the tubules apart is their shape and texture.

Lengths are in the unit of the spacing, meant as µm. Arrays and positions are ordered (z, y, x).
"""

from __future__ import annotations

import numpy as np

from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.phantom_stains import CHANNEL_NAMES, photograph, smooth_noise, stain
from SparseUNet3DLib.phantom_tubules import make_tubules, nearest_tubule
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.volumes import Volume

#: Neither colour is one of the stains', and the colour-blind can tell them apart.
SEGMENTS = (
    Segment("Segment_1", "tubule", (0.90, 0.62, 0.0)),
    Segment("Segment_2", "lumen", (0.34, 0.71, 0.91)),
)
TUBULE, LUMEN = 1, 2

#: Width of the border around the volume that is made as well, so that cells and blur go on across its sides.
_MARGIN = 2.0
#: How far the surfaces of tubules deviate from round, and over which length.
_WOBBLE, _WOBBLE_LENGTH = 0.25, 3.0
#: Share of the voxels which the planes of the sample stay below.
_SAMPLE_SHARE = 0.1


def make_phantom(
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 96, 96),
    spacing: tuple[float, float, float] = (1.0, 0.5, 0.5),
    light: float = 1.0,
) -> tuple[Volume, Segmentation]:
    """A volume with the channels `CHANNEL_NAMES` (uint8), and which voxels are tubule and lumen.

    Equal arguments give equal volumes, every seed another one of the same kind. Walls are about 3 µm
    thick: where the spacing is much larger than 1 µm, they get holes.

    Args:
        seed: chooses the volume, 0 or larger.
        shape: voxels along z, y, x.
        spacing: distance between voxels along z, y, x in µm, z being the depth.
        light: how much of the usual light it is taken with; less makes a darker, noisier volume, unlike others.
    """
    rng = np.random.default_rng(seed)
    margin = [int(np.ceil(_MARGIN / step)) for step in spacing]
    axes = [np.arange(-m, n + m) * float(step) for n, m, step in zip(shape, margin, spacing, strict=True)]
    inner = tuple(slice(m, m + n) for n, m in zip(shape, margin, strict=True))
    extent = [n * step for n, step in zip(shape, spacing, strict=True)]

    tubules = make_tubules(rng, extent)
    nearest = nearest_tubule(tubules, axes)
    distance = nearest.distance + _WOBBLE * smooth_noise(rng, axes, _WOBBLE_LENGTH)
    labels = np.zeros(distance.shape, np.uint16)
    labels[distance < nearest.outer] = TUBULE
    labels[distance < nearest.lumen] = LUMEN

    channels = stain(rng, axes, distance - nearest.outer, distance - nearest.lumen)
    array = np.stack([photograph(rng, channel, axes, n, light)[inner] for n, channel in enumerate(channels)])
    geometry = Geometry(tuple(reversed(shape)), tuple(float(step) for step in reversed(spacing)))
    truth = Segmentation(np.ascontiguousarray(labels[inner]), SEGMENTS, geometry)
    return Volume(array, geometry, CHANNEL_NAMES, "phantom"), truth


def sample_planes(truth: Segmentation) -> list[Plane]:
    """Planes that a person might annotate: up to two per orientation, together less than a tenth of the voxels.

    Each shows both segments, as much of the rarer one as any near a third or two thirds of its axis.
    """
    planes: list[Plane] = []
    known = np.zeros(truth.labels.shape, bool)
    for part in (1 / 3, 2 / 3):
        for axis, count in enumerate(truth.labels.shape):
            first, last = int(count * (part - 1 / 12)), int(count * (part + 1 / 12))
            near = (Plane(axis, index) for index in range(first, last + 1))
            plane = max(near, key=lambda plane: _rarer(truth.labels[plane.voxels]))
            with_it = known.copy()
            with_it[plane.voxels] = True
            if with_it.mean() < _SAMPLE_SHARE and _rarer(truth.labels[plane.voxels]):
                planes.append(plane)
                known = with_it
    return sorted(planes)


def _rarer(labels: np.ndarray) -> int:
    """Voxels of the segment which has the fewest."""
    return min(np.count_nonzero(labels == value) for value in (TUBULE, LUMEN))


def best_threshold_iou(volume: Volume, truth: Segmentation) -> dict[str, float]:
    """How well a single threshold on a single channel could find each segment, and all of them together.

    Returns:
        for each segment's name and for "union": the largest IoU of all thresholds, channels and directions
        (brighter or darker than it).
    """
    targets = {s.name: truth.labels == n for n, s in enumerate(truth.segments, start=1)} | {"union": truth.labels > 0}
    levels = [np.unique(channel, return_inverse=True)[1].ravel() for channel in volume.array]
    return {name: max(_best_iou(level, target.ravel()) for level in levels) for name, target in targets.items()}


def _best_iou(level: np.ndarray, target: np.ndarray) -> float:
    """The same for voxels (n,) of one channel, numbered by their gray value, and one target (n,) bool."""
    sizes, hits = np.bincount(level), np.bincount(level, weights=target)
    total = hits.sum()
    ious = []
    for order in (slice(None), slice(None, None, -1)):
        found, right = sizes[order].cumsum(), hits[order].cumsum()
        ious.append((right / (found + total - right)).max())
    return float(max(ious))
