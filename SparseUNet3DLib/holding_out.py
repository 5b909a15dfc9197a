"""Holding annotated planes out of training, to validate with what the network has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from SparseUNet3DLib.annotation import SparseAnnotation, join_planes, sorted_inside
from SparseUNet3DLib.errors import UsageError
from SparseUNet3DLib.plane_detection import Plane

#: Planes held out for validation: one in so many, at most so many, and none where there are too few.
PLANES_PER_HELD_OUT = 6
MAX_HELD_OUT = 6
MIN_PLANES_TO_HOLD_OUT = 5


def held_out(annotation: SparseAnnotation, planes: Iterable[Plane]) -> tuple[SparseAnnotation, SparseAnnotation]:
    """Split an annotation by planes into one to train on and one to validate with.

    Returns:
        training: the other planes, and voxels annotated on no plane at all.
        validation: voxels of the held-out ``planes`` that training does not know. These planes lack the
            lines where training planes cross them.

    Raises:
        UsageError: one of ``planes`` is not annotated, or training would lose a class.
    """
    planes = sorted_inside(planes, annotation.labels.shape)
    unknown = sorted(set(planes) - set(annotation.planes))
    if unknown:
        raise UsageError(
            f"Slices {join_planes(unknown)} cannot be held out, because they are not annotated completely; "
            f"choose among {join_planes(annotation.planes) or 'none'}."
        )
    kept = tuple(plane for plane in annotation.planes if plane not in planes)
    training = known_without(annotation, planes)
    lost = _lost_classes(annotation, planes)
    if lost:
        raise UsageError(
            f"Holding out {join_planes(planes)} would leave no annotated voxel of {', '.join(lost)} to train on; "
            "hold out other slices, or none."
        )
    return _part(annotation, training, kept), _part(annotation, annotation.annotated & ~training, planes)


def known_without(annotation: SparseAnnotation, planes: Iterable[Plane]) -> np.ndarray:
    """(z, y, x) bool: what is annotated if ``planes`` are taken away."""
    known = annotation.annotated.copy()
    for plane in planes:
        known[plane.voxels] = False
    for plane in set(annotation.planes) - set(planes):
        known[plane.voxels] = annotation.annotated[plane.voxels]
    return known


def _lost_classes(annotation: SparseAnnotation, planes: Sequence[Plane]) -> list[str]:
    """Names of the annotated classes that would have no voxel left if ``planes`` were taken away."""
    lost = (annotation.class_voxels > 0) & (annotation.class_voxels == _class_voxels_only_on(annotation, planes))
    return [f"'{annotation.class_names[n]}'" for n in np.flatnonzero(lost)]


def _class_voxels_only_on(annotation: SparseAnnotation, planes: Sequence[Plane]) -> np.ndarray:
    """(classes,) annotated voxels on ``planes`` and on no other; slice by slice, as volumes may be large."""
    counts = np.zeros(len(annotation.class_names), np.int64)
    counted = [plane for plane in annotation.planes if plane not in planes]
    for plane in planes:
        uncounted = annotation.annotated[plane.voxels].copy()
        for other in counted:
            if other.axis != plane.axis:
                line = tuple(index for axis, index in enumerate(other.voxels) if axis != plane.axis)
                uncounted[line] = False
        counts += np.bincount(annotation.labels[plane.voxels][uncounted], minlength=len(counts))
        counted.append(plane)
    return counts


def _part(annotation: SparseAnnotation, known: np.ndarray, planes: tuple[Plane, ...]) -> SparseAnnotation:
    # The labels are shared: copies for each of several networks would take many times the volume's memory.
    return SparseAnnotation(annotation.labels, known, annotation.segments, annotation.geometry, planes)


def held_out_again(annotation: SparseAnnotation, names: Sequence[str]) -> tuple[Plane, ...]:
    """Those of the planes called ``names`` ("z:10") that can be held out; none where training would lose a class.

    For a network that is trained further: it has learnt all the others.
    """
    planes = tuple(plane for plane in annotation.planes if str(plane) in names)
    return () if _lost_classes(annotation, planes) else planes


def choose_held_out(
    annotation: SparseAnnotation,
    count: int | None = None,
    before: Sequence[Plane] = (),
    learnt: Sequence[Plane] = (),
) -> tuple[Plane, ...]:
    """Choose planes for validation, spread over the orientations, that training can do without.

    Planes that show structures and lie between others are preferred, and no class is taken from training.

    Args:
        annotation: with its planes.
        count: how many; None for about one in six, at most six, and none of fewer than five.
        before: planes that other networks have held out, to be chosen only when there are no others.
        learnt: planes that this network has learnt from before: what it makes of them tells nothing. They are chosen
            only where ``count`` wants more than there are others; else at most half of the others are held out, as
            they have been annotated to be learnt.

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
        if learnt:
            wanted = min(wanted, (total - len(set(learnt) & set(annotation.planes))) // 2)
    shows = {plane: bool(annotation.labels[plane.voxels].any()) for plane in annotation.planes}
    chosen: list[Plane] = []
    while len(chosen) < wanted:
        others = [plane for plane in annotation.planes if plane not in chosen]
        others.sort(
            key=lambda p: (
                p in learnt, p in before, not shows[p], *_preference(p, annotation.planes, chosen, before)
            )
        )
        usable = (p for p in others if not _lost_classes(annotation, [*chosen, p]))
        plane = next(usable, None) if len(others) > 1 else None
        if count is None and (plane is None or plane in learnt):
            break
        if plane is None:
            raise UsageError(
                f"Only {len(chosen)} of the {total} annotated slices can be held out without taking a class from "
                f"training, but {count} are wanted; hold out fewer, or annotate more slices."
            )
        chosen.append(plane)
    return tuple(sorted(chosen))


def _preference(plane: Plane, planes: Sequence[Plane], chosen: Sequence[Plane], before: Sequence[Plane]) -> tuple:
    """Sort key, lowest first: orientations with planes to spare, evenly; then planes far from ends and chosen ones."""
    same = [other for other in planes if other.axis == plane.axis]
    taken = [same.index(other) for other in chosen if other.axis == plane.axis]
    earlier = sum(other.axis == plane.axis for other in before)
    rank = same.index(plane)
    distance = min([rank, len(same) - 1 - rank, *(abs(rank - other) for other in taken)])
    return len(same) - len(taken) < 2, len(taken) + earlier, -len(same), -distance, plane
