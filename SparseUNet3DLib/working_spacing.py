"""The voxel size that the network works at: as coarse as the annotated structures allow, where a volume is large.

A patch of coarse voxels shows more of the surroundings, and the volume is seen more often in the same time.
How much of a structure a coarser grid can still show is measured on the annotated slices themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.ndimage

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.plane_detection import Plane

Spacing = tuple[float, float, float]

#: Coarser by this factor at a time, and in all by no more than the power that follows.
_STEP = 2**0.25
_MOST_STEPS = 12
#: A volume of more than so many times the usual voxels is made coarser as long as its structures keep this IoU, ...
_MANY, _KEPT = 2.5, 0.9
#: ... and one of more than the usual voxels as long as they keep nearly all of it.
_NEARLY_ALL_KEPT = 0.99
#: Annotated slices looked at, spread over all; more would not change the choice. Of slices larger than this fewer are
#: looked at, down to a few, because each takes seconds.
_MOST_SLICES, _FEW_SLICES, _PIXELS_OF_A_SLICE = 24, 3, 512**2


def choose_spacing(cases: Sequence[Case], usual_voxels: int) -> Spacing:
    """Spacing (z, y, x, mm) for a network to which volumes of up to ``usual_voxels`` are small.

    The finest axes are made coarser first, so that voxels become cubes before the others follow.
    """
    spacing = np.median([c.volume.geometry.array_spacing for c in cases], axis=0)
    extent = np.median([c.annotation.labels.shape for c in cases], axis=0) * spacing
    chosen = spacing
    for step in range(1, _MOST_STEPS + 1):
        size = math.prod(extent / chosen) / usual_voxels
        if size <= 1:
            break
        coarser = np.maximum(spacing, spacing.min() * _STEP**step)
        kept = _kept_detail([c.annotation for c in cases], coarser)
        if kept < (_KEPT if size > _MANY else _NEARLY_ALL_KEPT):
            break
        chosen = coarser
    return tuple(float(s) for s in chosen)


def choose_voxel_spacing(cases: Sequence[Case], most_voxels: int) -> Spacing:
    """Spacing (z, y, x, mm) at which single voxels are classified: the volumes' own, or coarser for ``most_voxels``.

    The voxels of all channels are counted.
    """
    spacing = np.median([c.volume.geometry.array_spacing for c in cases], axis=0)
    extent = np.median([c.annotation.labels.shape for c in cases], axis=0) * spacing
    most = most_voxels / len(cases[0].volume.array)
    chosen, step = spacing, 0
    while math.prod(np.maximum(1, extent / chosen)) > most:
        step += 1
        chosen = np.maximum(spacing, spacing.min() * _STEP**step)
    return tuple(float(s) for s in chosen)


def _kept_detail(annotations: Sequence[SparseAnnotation], spacing: np.ndarray) -> float:
    """Mean IoU of the annotated slices' segments with themselves after a way to ``spacing`` (z, y, x, mm) and back.

    0 where no slice shows a segment: then nothing is known about the structures' size.
    """
    classes = max(len(a.segments) for a in annotations) + 1
    both, either = np.zeros(classes), np.zeros(classes)
    for annotation, plane in _some_slices(annotations):
        labels = annotation.labels[plane.voxels]
        factors = [
            min(1.0, annotation.geometry.array_spacing[axis] / spacing[axis]) for axis in range(3) if axis != plane.axis
        ]
        present = np.unique(labels)
        back = _coarse_and_back(labels, factors, present)
        for value in present[present > 0]:
            both[value] += np.count_nonzero((labels == value) & (back == value))
            either[value] += np.count_nonzero((labels == value) | (back == value))
    shown = either > 0
    return float((both[shown] / either[shown]).mean()) if shown.any() else 0.0


def _some_slices(annotations: Sequence[SparseAnnotation]) -> list[tuple[SparseAnnotation, Plane]]:
    """Of all annotated slices so many that looking at them takes seconds."""
    slices = [(a, p) for a in annotations for p in a.planes]
    pixels = max((a.labels[p.voxels].size for a, p in slices), default=1)
    number = min(_MOST_SLICES, max(_FEW_SLICES, _MOST_SLICES * _PIXELS_OF_A_SLICE // pixels))
    return slices[:: math.ceil(len(slices) / number) or 1]


def _coarse_and_back(labels: np.ndarray, factors: Sequence[float], present: np.ndarray) -> np.ndarray:
    """The most likely class of each pixel, interpolated from what a grid with ``factors`` as many pixels shows.

    ``present`` are the classes in ``labels``, ascending: of hundreds of structures a slice shows a few.
    """
    coarse = [math.ceil((n - 1) * f) + 1 for n, f in zip(labels.shape, factors, strict=True)]
    blur = [0.5 * (1 / f - 1) for f in factors]

    def resample(image: np.ndarray, step: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        return scipy.ndimage.affine_transform(image, step, output_shape=shape, order=1, mode="nearest")

    shares = []
    for value in present:
        smooth = scipy.ndimage.gaussian_filter((labels == value).astype(np.float32), blur)
        shares.append(resample(resample(smooth, 1 / np.array(factors), coarse), np.array(factors), labels.shape))
    return present[np.argmax(shares, axis=0)]
