"""Training cases: a volume with its sparse annotation, checked against each other and among themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.holding_out import choose_held_out, held_out
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.volumes import Volume


@dataclass(frozen=True)
class Case:
    """One training volume with its sparse annotation, both on the same grid."""

    volume: Volume
    annotation: SparseAnnotation

    def __post_init__(self) -> None:
        if not self.volume.geometry.same_grid(self.annotation.geometry):
            raise InputError(
                f"The annotation of '{self.volume.name}' lies on another grid ({self.annotation.geometry.describe()}) "
                f"than the volume ({self.volume.geometry.describe()}); export it with the volume as reference."
            )


def harmonise(cases: Sequence[Case], warn: Callable[[str], None]) -> list[Case]:
    """Give all cases the same segments, matched by name, in order of first appearance.

    Raises:
        InputError: no case, different numbers of channels, or fewer than two classes annotated in all.
    """
    if not cases:
        raise InputError("There is no volume to train on.")
    channels = {c.volume.array.shape[0] for c in cases}
    if len(channels) > 1:
        raise InputError(
            "All training volumes need the same channels, but "
            + ", ".join(f"'{c.volume.name}' has {c.volume.array.shape[0]}" for c in cases) + "."
        )
    segments: dict[str, Segment] = {}
    for case in cases:
        for segment in case.annotation.segments:
            segments.setdefault(segment.name, segment)
    result = [replace(c, annotation=_with_segments(c.annotation, segments)) for c in cases]
    for case in cases:
        absent = segments.keys() - {s.name for s in case.annotation.segments}
        for name in sorted(absent):
            warn(f"'{case.volume.name}' has no segment '{name}'; its annotated voxels are taken to show none of it.")
    _require_two_classes(result, warn)
    return result


@dataclass(frozen=True)
class Fold:
    """What one network learns from, and what it is scored on.

    Attributes:
        training: cases to train on.
        validation: those of the same volumes that have planes held out, with these planes only.
    """

    training: list[Case]
    validation: list[Case]


def make_folds(cases: Sequence[Case], planes_per_case: int | None, number: int = 1) -> list[Fold]:
    """For each of ``number`` networks, the cases with other planes held out, as long as there are others.

    ``planes_per_case`` is the number of planes held out in each volume; None takes those that its annotation
    names, for all networks, or else about one in six.
    """
    folds = []
    before: list[tuple[Plane, ...]] = [()] * len(cases)
    for _ in range(number):
        fold = Fold([], [])
        for n, case in enumerate(cases):
            planes = case.annotation.held_out
            if planes is None or planes_per_case is not None:
                planes = choose_held_out(case.annotation, planes_per_case, before[n])
            before[n] += planes
            kept, withheld = held_out(case.annotation, planes) if planes else (case.annotation, None)
            fold.training.append(replace(case, annotation=kept))
            if withheld is not None:
                fold.validation.append(replace(case, annotation=withheld))
        folds.append(fold)
    return folds


def _with_segments(annotation: SparseAnnotation, segments: dict[str, Segment]) -> SparseAnnotation:
    values = {name: i + 1 for i, name in enumerate(segments)}
    table = np.array([0, *(values[s.name] for s in annotation.segments)], np.uint16)
    return replace(annotation, labels=table[annotation.labels], segments=tuple(segments.values()))


def _require_two_classes(cases: Sequence[Case], warn: Callable[[str], None]) -> None:
    segments = cases[0].annotation.segments
    counts = sum(
        np.bincount(c.annotation.labels[c.annotation.annotated], minlength=len(segments) + 1) for c in cases
    )
    names = ["background", *(s.name for s in segments)]
    present = [n for n, count in zip(names, counts, strict=True) if count]
    if len(present) < 2:
        what = f"only '{present[0]}'" if present else "nothing"
        raise InputError(
            f"The annotated voxels show {what}, but telling structures apart needs at least two classes; "
            "annotate slices on which a structure and its surroundings are seen."
        )
    for name, count in zip(names[1:], counts[1:], strict=True):
        if not count:
            warn(f"Segment '{name}' is on no annotated slice, so it will be found nowhere.")
