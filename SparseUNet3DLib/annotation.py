"""The sparse annotation that a network learns from: which voxels are known, and what class they have.

A voxel that is not annotated is unknown, not background (Çiçek et al., MICCAI 2016): it takes no part in
the loss. On a plane which is annotated completely, whatever is not painted is known to be background.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.geometry import AXIS_NAMES, Geometry
from SparseUNet3DLib.plane_detection import Detection, Plane, detect_planes
from SparseUNet3DLib.segments import BACKGROUND_NAME, Segment, Segmentation


@dataclass(frozen=True, eq=False)
class SparseAnnotation:
    """Classes of some of the voxels of a volume.

    Attributes:
        labels: (z, y, x) uint16, class per annotated voxel: 0 is background, n is ``segments[n - 1]``;
            where nothing is annotated they mean nothing.
        annotated: (z, y, x) bool.
        segments: the structures, without the background.
        geometry: the grid of both arrays.
        planes: completely annotated planes, sorted; further voxels may be annotated besides.
        held_out: those of the planes that the user wants held out for validation; None leaves it to
            `holding_out.choose_held_out`.
    """

    labels: np.ndarray
    annotated: np.ndarray
    segments: tuple[Segment, ...]
    geometry: Geometry
    planes: tuple[Plane, ...] = ()
    held_out: tuple[Plane, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, background first."""
        return (BACKGROUND_NAME, *(segment.name for segment in self.segments))

    @cached_property
    def class_voxels(self) -> np.ndarray:
        """(classes,) number of annotated voxels per class, background first."""
        return np.bincount(self.labels[self.annotated], minlength=len(self.segments) + 1)


def from_planes(
    segmentation: Segmentation, planes: Iterable[Plane], background: str = BACKGROUND_NAME
) -> SparseAnnotation:
    """Annotation of exactly these planes, each of them completely: what is not painted on them is background.

    A segment named ``background`` (in any case) stands for background, too.

    Raises:
        InputError: fewer than two classes are annotated.
        UsageError: no plane is given, or one lies outside the volume.
    """
    planes = sorted_inside(planes, segmentation.labels.shape)
    if not planes:
        raise UsageError("No annotated slices are given; name at least one, for example 'z:10'.")
    return _annotation(segmentation, np.zeros(segmentation.labels.shape, bool), planes, background)


def from_painted(
    segmentation: Segmentation, also: Iterable[Plane] = (), background: str = BACKGROUND_NAME
) -> SparseAnnotation:
    """Annotation of the planes which were painted completely, found by `detect_planes`, and of ``also``.

    All structures are taken to be painted on each of these planes. Voxels painted elsewhere are annotated
    as painted, without their surroundings.

    Args:
        segmentation: the painted label map.
        also: planes known to be annotated completely, such as those where no structure is present.
        background: name (in any case) of the segment for background, if there is one; it counts as painted.

    Raises:
        InputError: nothing is painted, it cannot be told which planes are painted completely, or fewer
            than two classes are annotated.
        UsageError: a plane of ``also`` lies outside the volume.
    """
    painted = segmentation.labels > 0
    also = sorted_inside(also, painted.shape)
    if not painted.any():
        raise InputError("Nothing is painted in the segmentation; paint the structures on a few slices first.")
    detection = detect_planes(painted, also)
    if not also and not _is_background(segmentation, background)[segmentation.labels].any():
        _check_detection(detection, background)
    return _annotation(segmentation, painted, detection.planes, background)


def _check_detection(detection: Detection, background: str) -> None:
    """Whether the planes found can stand for the background, where none is painted."""
    if detection.dense:
        raise InputError(
            "The segmentation fills neighbouring slices in all directions, so that the slices which were annotated "
            "completely cannot be told; name them, for example with --slices z:10-30."
        )
    if not detection.planes:
        raise InputError(
            "No slice was found that is certain to be annotated completely; name the annotated slices, for example "
            f"with --slices z:10,20, or paint background, too, as a segment named '{background}'."
        )


def from_scribbles(segmentation: Segmentation, background: str = BACKGROUND_NAME) -> SparseAnnotation:
    """Annotation of the painted voxels only; the segment named ``background`` (in any case) is class 0.

    Raises:
        InputError: there is no such segment, it is not painted, or nothing else is painted.
    """
    if not _is_background(segmentation, background).any():
        names = ", ".join(f"'{segment.name}'" for segment in segmentation.segments) or "none"
        raise InputError(
            f"Scribbles need a segment named '{background}' for what is none of the structures, "
            f"but the segments are: {names}; add and paint it."
        )
    return _annotation(segmentation, segmentation.labels > 0, (), background)


def _is_background(segmentation: Segmentation, name: str) -> np.ndarray:
    """(label values,) bool: which labels belong to a segment of this name, in any case."""
    wanted = name.strip().casefold()
    return np.array([False, *(segment.name.strip().casefold() == wanted for segment in segmentation.segments)])


def _annotation(
    segmentation: Segmentation, annotated: np.ndarray, planes: tuple[Plane, ...], background: str
) -> SparseAnnotation:
    """The segmentation where ``annotated`` (changed in place) or on ``planes``, with background as class 0."""
    for plane in planes:
        annotated[plane.voxels] = True
    kept = np.flatnonzero(~_is_background(segmentation, background)[1:])
    classes = np.zeros(len(segmentation.segments) + 1, np.uint16)
    classes[kept + 1] = np.arange(1, len(kept) + 1)
    labels = classes[segmentation.labels]
    labels[~annotated] = 0
    segments = tuple(segmentation.segments[n] for n in kept)
    annotation = SparseAnnotation(labels, annotated, segments, segmentation.geometry, planes)
    _check_classes(annotation, background)
    return annotation


def _check_classes(annotation: SparseAnnotation, background: str) -> None:
    counts = annotation.class_voxels
    where = f" on the slices {join_planes(annotation.planes)}" if annotation.planes else ""
    if not counts[1:].any():
        raise InputError(f"No structure is painted{where}; paint at least one segment there, or name other slices.")
    if np.count_nonzero(counts) < 2:
        name = annotation.class_names[int(np.argmax(counts))]
        raise InputError(
            f"Only '{name}' is annotated{where}, and nothing to tell it from; annotate background as well, "
            f"on complete slices or as a segment named '{background}'."
        )


def join_planes(planes: Iterable[Plane]) -> str:
    """The planes in words, "z:10, y:33"."""
    return ", ".join(str(plane) for plane in planes)


def sorted_inside(planes: Iterable[Plane], shape: Sequence[int]) -> tuple[Plane, ...]:
    """The planes sorted and each once; raises UsageError where one lies outside the volume."""
    planes = tuple(sorted(set(planes)))
    for plane in planes:
        _check_inside(plane.axis, plane.index, shape)
    return planes


def _check_inside(axis: int, index: int, shape: Sequence[int]) -> None:
    if not 0 <= index < shape[axis]:
        letter = AXIS_NAMES[axis]
        raise UsageError(
            f"Slice {letter}:{index} lies outside the volume; {letter} goes from 0 to {shape[axis] - 1} here."
        )


def parse_planes(texts: Sequence[str], shape: Sequence[int]) -> tuple[Plane, ...]:
    """Planes from texts like ``z:10,20``, ``y:33``, ``z:5-9`` (9 included) or ``z:0-33:5`` (every fifth).

    Args:
        texts: each an axis letter (x, y or z), a colon, and slice numbers from 0.
        shape: of the volume, (z, y, x).

    Returns:
        The planes, sorted, each once.

    Raises:
        UsageError: a text does not read like this, or a slice lies outside the volume.
    """
    planes: set[Plane] = set()
    for text in texts:
        letter, colon, numbers = text.partition(":")
        letter = letter.strip().lower()
        if not colon or letter not in AXIS_NAMES:
            raise UsageError(f"'{text}' names no slices; write an axis x, y or z and slice numbers, such as 'z:10,20'.")
        axis = AXIS_NAMES.index(letter)
        for part in numbers.split(","):
            indices = _parse_indices(part.strip(), text)
            for index in (indices[0], indices[-1]):
                _check_inside(axis, index, shape)
            planes |= {Plane(axis, index) for index in indices}
    return tuple(sorted(planes))


def _parse_indices(part: str, text: str) -> range:
    match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part, re.ASCII)
    if not match:
        raise UsageError(
            f"'{part}' in '{text}' is no slice number; write numbers from 0 such as '10', ranges such as '5-9', "
            "or ranges with a step such as '0-30:5'."
        )
    first = int(match[1])
    last = int(match[2] or first)
    step = int(match[3] or 1)
    if last < first or step < 1:
        raise UsageError(
            f"'{part}' in '{text}' holds no slice; a range goes from the lower to the higher number, in steps of 1 "
            "or more."
        )
    return range(first, last + 1, step)
