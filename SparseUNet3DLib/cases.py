"""Training cases: a volume with its sparse annotation, checked against each other and among themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.holding_out import choose_held_out, held_out, held_out_again
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.volumes import Volume, require_channel_order


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
    """Give all cases the same segments, matched by name, in order of first appearance, and names of their own.

    Raises:
        InputError: no case, different numbers or another order of channels, or fewer than two classes annotated in all.
    """
    if not cases:
        raise InputError("There is no volume to train on.")
    channels = {c.volume.array.shape[0] for c in cases}
    if len(channels) > 1:
        raise InputError(
            "All training volumes need the same channels, but "
            + ", ".join(f"'{c.volume.name}' has {c.volume.array.shape[0]}" for c in cases) + "."
        )
    for case in cases[1:]:
        require_channel_order(case.volume, cases[0].volume.channel_names, f"'{cases[0].volume.name}'")
    segments: dict[str, Segment] = {}
    for case in cases:
        for segment in case.annotation.segments:
            if segment.name not in segments:
                segments[segment.name] = _with_own_id(segment, {s.id for s in segments.values()})
    result = [
        Case(
            c.volume if name == c.volume.name else replace(c.volume, name=name),
            _with_segments(c.annotation, segments),
        )
        for c, name in zip(cases, _unique_names(cases), strict=True)
    ]
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
        complete: cases to train on once the network has been scored: with the planes that the program chose to hold
            out, without those that the user did.
        learnt: by name of the volume, the planes that the network has learnt from before, held out now or not.
    """

    training: list[Case]
    validation: list[Case]
    complete: list[Case] = field(default_factory=list)
    learnt: dict[str, tuple[Plane, ...]] = field(default_factory=dict)

    @property
    def learns_more_later(self) -> bool:
        """Whether there is more in ``complete`` than in ``training``."""
        pairs = zip(self.training, self.complete, strict=True)
        return any(later.annotation is not first.annotation for first, later in pairs)


@dataclass(frozen=True)
class Learnt:
    """What a network that is to be trained further knows, as names ("z:10") of planes by the volume's name.

    Attributes:
        annotated: planes that were annotated then.
        held_out: those of them that it has not learnt from.
    """

    annotated: Mapping[str, Sequence[str]]
    held_out: Mapping[str, Sequence[str]]

    def choose(self, case: Case) -> tuple[Plane, ...]:
        """What was held out before, as far as it can be again: there alone its IoU tells anything."""
        return held_out_again(case.annotation, self.held_out.get(case.volume.name, ()))

    def learnt(self, case: Case) -> tuple[Plane, ...]:
        """The planes of ``case`` that it has learnt from."""
        name = case.volume.name
        names = set(self.annotated.get(name, ())) - set(self.held_out.get(name, ()))
        return tuple(plane for plane in case.annotation.planes if str(plane) in names)


def make_folds(
    cases: Sequence[Case],
    planes_per_case: int | None,
    number: int = 1,
    learnt: Sequence[Learnt] = (),
) -> list[Fold]:
    """For each of ``number`` networks, the cases with other planes held out, as long as there are others.

    Args:
        planes_per_case: number of planes held out in each volume; None takes those that its annotation names, for
            all networks, or else about one in six.
        learnt: of the first networks, what they know already; where nothing else is wanted, they go on without the
            planes that they were held out from, or else without some of those that are new to them, half at most.
    """
    folds = []
    before: list[tuple[Plane, ...]] = [()] * len(cases)
    for network in range(number):
        fold = Fold([], [])
        known = learnt[network] if network < len(learnt) else Learnt({}, {})
        for n, case in enumerate(cases):
            planes = case.annotation.held_out
            by_program = planes is None and planes_per_case is None
            if planes is None or planes_per_case is not None:
                planes = () if planes_per_case is not None else known.choose(case)
                planes = planes or choose_held_out(case.annotation, planes_per_case, before[n], known.learnt(case))
            before[n] += planes
            fold.learnt[case.volume.name] = known.learnt(case)
            try:
                kept, withheld = held_out(case.annotation, planes) if planes else (case.annotation, None)
            except UsageError as error:
                raise UsageError(f"'{case.volume.name}': {error}" if len(cases) > 1 else str(error)) from None
            fold.training.append(replace(case, annotation=kept))
            fold.complete.append(case if by_program else fold.training[-1])
            if withheld is not None:
                fold.validation.append(replace(case, annotation=withheld))
        folds.append(fold)
    return folds


def _with_own_id(segment: Segment, taken: set[str]) -> Segment:
    """"Segment_1" is the first one of any segmentation; in one that is made of several, each needs an ID of its own."""
    return replace(segment, id=_unused(segment.id, taken, "{}_{}"))


def _unique_names(cases: Sequence[Case]) -> list[str]:
    """Names of the volumes; what is told of each is kept by its name, so a second "image" is an "image (2)"."""
    names: list[str] = []
    for case in cases:
        names.append(_unused(case.volume.name, names, "{} ({})"))
    return names


def _unused(wanted: str, taken: Collection[str], numbered: str) -> str:
    """``wanted`` as it is, or, where it is taken, with the first free number from 2."""
    candidates = itertools.chain([wanted], (numbered.format(wanted, number) for number in itertools.count(2)))
    return next(name for name in candidates if name not in taken)


def _with_segments(annotation: SparseAnnotation, segments: dict[str, Segment]) -> SparseAnnotation:
    values = {name: i + 1 for i, name in enumerate(segments)}
    table = np.array([0, *(values[s.name] for s in annotation.segments)], np.uint16)
    is_same = np.array_equal(table, np.arange(len(table)))  # of a single volume, say, which may be a large one
    labels = annotation.labels if is_same else table[annotation.labels]
    return replace(annotation, labels=labels, segments=tuple(segments.values()))


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
