"""The sparse annotation that a network learns from: which voxels are known, and what class they have.

A voxel that is not annotated is unknown, not background (Çiçek et al., MICCAI 2016): it takes no part in
the loss. On a plane which is annotated completely, whatever is not painted is known to be background.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.geometry import AXIS_NAMES, Geometry
from SparseUNet3DLib.plane_detection import Detection, Plane, detect_planes
from SparseUNet3DLib.segments import BACKGROUND_NAME, Segment, Segmentation

#: Name of the planes across array axes z, y, x.
ORIENTATIONS = ("xy", "xz", "yz")
#: Planes held out for validation: one in so many, at most so many, and none where there are too few.
PLANES_PER_HELD_OUT = 6
MAX_HELD_OUT = 6
MIN_PLANES_TO_HOLD_OUT = 5


@dataclass(frozen=True, eq=False)
class SparseAnnotation:
    """Classes of some of the voxels of a volume.

    Attributes:
        labels: (z, y, x) uint16, class per annotated voxel: 0 is background, n is ``segments[n - 1]``;
            0 where nothing is annotated.
        annotated: (z, y, x) bool.
        segments: the structures, without the background.
        geometry: the grid of both arrays.
        planes: completely annotated planes, sorted; further voxels may be annotated besides.
    """

    labels: np.ndarray
    annotated: np.ndarray
    segments: tuple[Segment, ...]
    geometry: Geometry
    planes: tuple[Plane, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, background first."""
        return (BACKGROUND_NAME, *(segment.name for segment in self.segments))

    @property
    def class_voxels(self) -> np.ndarray:
        """(classes,) number of annotated voxels per class, background first."""
        return _count_classes(self, self.annotated)

    @property
    def missing_segments(self) -> tuple[Segment, ...]:
        """Segments without any annotated voxel: they cannot be learnt."""
        return tuple(s for s, count in zip(self.segments, self.class_voxels[1:], strict=True) if count == 0)


def from_planes(
    segmentation: Segmentation, planes: Iterable[Plane], background: str = BACKGROUND_NAME
) -> SparseAnnotation:
    """Annotation of exactly these planes, each of them completely: what is not painted on them is background.

    A segment named ``background`` (in any case) stands for background, too.

    Raises:
        InputError: fewer than two classes are annotated.
        UsageError: no plane is given, or one lies outside the volume.
    """
    planes = _sorted_inside(planes, segmentation.labels.shape)
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
    also = _sorted_inside(also, painted.shape)
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
    where = f" on the slices {_join(annotation.planes)}" if annotation.planes else ""
    if not counts[1:].any():
        raise InputError(f"No structure is painted{where}; paint at least one segment there, or name other slices.")
    if np.count_nonzero(counts) < 2:
        name = annotation.class_names[int(np.argmax(counts))]
        raise InputError(
            f"Only '{name}' is annotated{where}, and nothing to tell it from; annotate background as well, "
            f"on complete slices or as a segment named '{background}'."
        )


def _count_classes(annotation: SparseAnnotation, where: np.ndarray) -> np.ndarray:
    return np.bincount(annotation.labels[where], minlength=len(annotation.segments) + 1)


def _join(planes: Iterable[Plane]) -> str:
    return ", ".join(str(plane) for plane in planes)


def _sorted_inside(planes: Iterable[Plane], shape: Sequence[int]) -> tuple[Plane, ...]:
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


def held_out(annotation: SparseAnnotation, planes: Iterable[Plane]) -> tuple[SparseAnnotation, SparseAnnotation]:
    """Split an annotation by planes into one to train on and one to validate with.

    Returns:
        training: the other planes, and voxels annotated on no plane at all.
        validation: voxels of the held-out ``planes`` that training does not know. These planes lack the
            lines where training planes cross them.

    Raises:
        UsageError: one of ``planes`` is not annotated, or training would lose a class.
    """
    planes = _sorted_inside(planes, annotation.labels.shape)
    unknown = sorted(set(planes) - set(annotation.planes))
    if unknown:
        raise UsageError(
            f"Slices {_join(unknown)} cannot be held out, because they are not annotated completely; "
            f"choose among {_join(annotation.planes) or 'none'}."
        )
    kept = tuple(plane for plane in annotation.planes if plane not in planes)
    training = _known_without(annotation, planes)
    lost = _lost_classes(annotation, training)
    if lost:
        raise UsageError(
            f"Holding out {_join(planes)} would leave no annotated voxel of {', '.join(lost)} to train on; "
            "hold out other slices, or none."
        )
    return _part(annotation, training, kept), _part(annotation, annotation.annotated & ~training, planes)


def _known_without(annotation: SparseAnnotation, planes: Iterable[Plane]) -> np.ndarray:
    """(z, y, x) bool: what is annotated if ``planes`` are taken away."""
    known = annotation.annotated.copy()
    for plane in planes:
        known[plane.voxels] = False
    for plane in set(annotation.planes) - set(planes):
        known[plane.voxels] = annotation.annotated[plane.voxels]
    return known


def _lost_classes(annotation: SparseAnnotation, known: np.ndarray) -> list[str]:
    """Names of the annotated classes without any voxel in ``known``."""
    lost = (annotation.class_voxels > 0) & (_count_classes(annotation, known) == 0)
    return [f"'{annotation.class_names[n]}'" for n in np.flatnonzero(lost)]


def _part(annotation: SparseAnnotation, known: np.ndarray, planes: tuple[Plane, ...]) -> SparseAnnotation:
    labels = np.where(known, annotation.labels, np.uint16(0))
    return SparseAnnotation(labels, known, annotation.segments, annotation.geometry, planes)


def choose_held_out(annotation: SparseAnnotation, count: int | None = None) -> tuple[Plane, ...]:
    """Choose planes for validation, spread over the orientations, that training can do without.

    Planes that show structures and lie between others are preferred, and no class is taken from training.

    Args:
        annotation: with its planes.
        count: how many; None for about one in six, at most six, and none of fewer than five.

    Raises:
        UsageError: ``count`` is negative, or so many planes cannot be held out.
    """
    total = len(annotation.planes)
    if count is not None and count < 0:
        raise UsageError(f"The number of slices to hold out is {count}, but it must be 0 or more.")
    wanted = count
    if wanted is None:
        nearest = (total + PLANES_PER_HELD_OUT // 2) // PLANES_PER_HELD_OUT
        wanted = min(MAX_HELD_OUT, nearest) if total >= MIN_PLANES_TO_HOLD_OUT else 0
    shows = {plane: bool(annotation.labels[plane.voxels].any()) for plane in annotation.planes}
    chosen: list[Plane] = []
    while len(chosen) < wanted:
        others = [plane for plane in annotation.planes if plane not in chosen]
        others.sort(key=lambda plane: (not shows[plane], *_preference(plane, annotation.planes, chosen)))
        usable = (p for p in others if not _lost_classes(annotation, _known_without(annotation, [*chosen, p])))
        plane = next(usable, None) if len(others) > 1 else None
        if plane is None and count is None:
            break
        if plane is None:
            raise UsageError(
                f"Only {len(chosen)} of the {total} annotated slices can be held out without taking a class from "
                f"training, but {count} are wanted; hold out fewer, or annotate more slices."
            )
        chosen.append(plane)
    return tuple(sorted(chosen))


def _preference(plane: Plane, planes: Sequence[Plane], chosen: Sequence[Plane]) -> tuple:
    """Sort key, lowest first: orientations with planes to spare, evenly; then planes far from ends and chosen ones."""
    same = [other for other in planes if other.axis == plane.axis]
    taken = [same.index(other) for other in chosen if other.axis == plane.axis]
    rank = same.index(plane)
    distance = min([rank, len(same) - 1 - rank, *(abs(rank - other) for other in taken)])
    return len(same) - len(taken) < 2, len(taken), -len(same), -distance, plane


@dataclass(frozen=True)
class ClassShare:
    """One class: its name, annotated voxels, and their share (0..1) of all annotated voxels."""

    name: str
    voxels: int
    share: float


@dataclass(frozen=True)
class Shares:
    """How much of a volume is annotated.

    Attributes:
        total: annotated share of all voxels, 0..1.
        voxels: annotated voxels.
        loose: those of them that lie on no completely annotated plane.
        classes: per class, background first.
        planes: number of annotated planes per array axis (z, y, x).
        plane_shares: per array axis, the share (0..1) of all voxels that these planes hold.
    """

    total: float
    voxels: int
    loose: int
    classes: tuple[ClassShare, ...]
    planes: tuple[int, int, int]
    plane_shares: tuple[float, float, float]

    def as_table(self) -> str:
        """Text for the user; planes are counted in the order (yz, xz, xy) of the paper's Table 2."""
        counts = ",".join(str(count) for count in reversed(self.planes))
        names = ", ".join(reversed(ORIENTATIONS))
        lines = [f"{counts} planes ({names}): {100 * self.total:.1f} % of voxels annotated"]
        if self.loose and any(self.planes):
            lines.append(f"{self.loose} of {self.voxels} annotated voxels lie on none of these planes")
        width = max(len(entry.name) for entry in self.classes)
        for entry in self.classes:
            share = f"{100 * entry.share:5.1f} %" if entry.voxels else "not annotated"
            lines.append(f"  {entry.name:<{width}}  {entry.voxels:>10}  {share}")
        return "\n".join(lines)


def share_annotated(annotation: SparseAnnotation) -> Shares:
    """Count what is annotated, in all, per class and per orientation."""
    counts = annotation.class_voxels
    voxels = int(counts.sum())
    planes = tuple(sum(plane.axis == axis for plane in annotation.planes) for axis in range(3))
    return Shares(
        total=voxels / annotation.annotated.size,
        voxels=voxels,
        loose=int(np.count_nonzero(_known_without(annotation, annotation.planes))),
        classes=tuple(
            ClassShare(name, int(n), int(n) / max(voxels, 1))
            for name, n in zip(annotation.class_names, counts, strict=True)
        ),
        planes=planes,
        plane_shares=tuple(n / size for n, size in zip(planes, annotation.annotated.shape, strict=True)),
    )
