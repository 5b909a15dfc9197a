"""How well a segmentation agrees with the truth: IoU and Dice per segment, and the map of what went wrong where.

The measure is the one of Çiçek et al. (MICCAI 2016): intersection over union,
IoU = true positives / (true positives + false negatives + false positives).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.segments import BACKGROUND_NAME, Segment, Segmentation

#: The regions in which a segmentation is judged; the first is the honest one after sparse annotation.
NEVER_ANNOTATED = "voxels never annotated"
HELD_OUT_PLANES = "held-out slices"
WHOLE_VOLUME = "whole volume"

TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE = 1, 2, 3
#: Legend of the map that `confusion` returns, in label order. The colours stay apart for the colour-blind
#: (green, blue and vermilion of Okabe and Ito's palette, lightened to stand out from dark images).
CONFUSION_SEGMENTS = (
    Segment("true_positives", "true positives", (0.1, 0.75, 0.45)),
    Segment("false_negatives", "false negatives", (0.15, 0.45, 1.0)),
    Segment("false_positives", "false positives", (1.0, 0.42, 0.1)),
)

_SLAB_VOXELS = 2**22  # voxels counted at a time: bounds the memory of the temporary arrays
_NAME_WIDTH = 32  # with six-character scores and three counts of up to ten digits the table has 80 columns


@dataclass(frozen=True)
class ClassScore:
    """Agreement on one segment. ``iou`` and ``dice`` are NaN where it is in neither truth nor prediction."""

    name: str
    iou: float
    dice: float
    voxels_true: int
    voxels_predicted: int
    true_positives: int
    false_negatives: int
    false_positives: int


@dataclass(frozen=True)
class Scores:
    """Agreement on all segments within one region.

    Attributes:
        region: what was counted, in words ("voxels never annotated", ...).
        voxels: how many voxels that is.
        classes: one score per segment, in label order.
    """

    region: str
    voxels: int
    classes: tuple[ClassScore, ...]

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the segments that are present; NaN if none is."""
        return _mean([c.iou for c in self.classes])

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the segments that are present; NaN if none is."""
        return _mean([c.dice for c in self.classes])

    def to_dict(self) -> dict:
        """For JSON, which knows no NaN: a score that is undefined is None."""
        return {
            "region": self.region,
            "voxels": self.voxels,
            "mean_iou": _none_if_nan(self.mean_iou),
            "mean_dice": _none_if_nan(self.mean_dice),
            "segments": [{key: _none_if_nan(value) for key, value in asdict(c).items()} for c in self.classes],
        }

    def as_table(self) -> str:
        """Text for a terminal of 80 columns, without a newline at the end."""
        lines = [
            f"Agreement with the truth on {self.region} ({self.voxels} voxels)",
            _row("segment", "IoU", "Dice", "true pos.", "false neg.", "false pos."),
        ]
        lines += [
            _row(c.name, _number(c.iou), _number(c.dice), c.true_positives, c.false_negatives, c.false_positives)
            for c in self.classes
        ]
        lines.append(_row("mean", _number(self.mean_iou), _number(self.mean_dice), "", "", ""))
        if any(math.isnan(c.iou) for c in self.classes):
            lines.append("n/a: in neither the truth nor the segmentation, so left out of the mean")
        return "\n".join(line.rstrip() for line in lines)


def score(
    prediction: np.ndarray,
    truth: np.ndarray,
    segments: Sequence[Segment],
    where: np.ndarray | None = None,
    region: str = WHOLE_VOLUME,
) -> Scores:
    """Count, per segment, where ``prediction`` and ``truth`` agree.

    Args:
        prediction: (z, y, x) integer labels; 0 is background, n is ``segments[n - 1]``.
        truth: the same for the truth.
        segments: the segments, in label order.
        where: (z, y, x) bool, the voxels to count; all if not given.
        region: what ``where`` selects, in words.

    Raises:
        InputError: the shapes differ, or there are labels without a segment.
    """
    _check(prediction, truth, where)
    true, predicted, agreed = (np.zeros(len(segments) + 1, np.int64) for _ in range(3))
    for slab in _slabs(truth.shape):
        t, p = truth[slab], prediction[slab]
        if where is not None:
            t, p = t[where[slab]], p[where[slab]]
        true += _count(t, "truth", len(segments))
        predicted += _count(p, "segmentation", len(segments))
        agreed += _count(t[t == p], "truth", len(segments))
    classes = tuple(
        _class_score(segment.name, int(true[n]), int(predicted[n]), int(agreed[n]))
        for n, segment in enumerate(segments, start=1)
    )
    return Scores(region, int(true.sum()), classes)


def match_segments(found: Segmentation, truth: Segmentation) -> tuple[np.ndarray, np.ndarray, tuple[Segment, ...]]:
    """Labels of both segmentations with one numbering: segments of the same name are the same.

    A segment named "background" (in any case) stands for none of the structures, as in annotations.

    Returns:
        Found labels, true labels (z, y, x), and all segments: those found, then those only in the truth.

    Raises:
        InputError: the two have no segment name in common, so nothing could agree.
    """
    found, truth = without_background(found), without_background(truth)
    found_names = [s.name for s in found.segments]
    only_true = [s for s in truth.segments if s.name not in found_names]
    if found.segments and truth.segments and len(only_true) == len(truth.segments):
        raise InputError(
            f"The segmentation has the segments {', '.join(found_names)} and the truth "
            f"{', '.join(s.name for s in truth.segments)}: no name is the same, so they cannot be compared; "
            "rename them."
        )
    segments = (*found.segments, *only_true)
    values = {s.name: n for n, s in reversed(list(enumerate(segments, start=1)))}
    table = np.array([0, *(values[s.name] for s in truth.segments)], np.uint16)
    return found.labels, table[truth.labels], segments


def without_background(segmentation: Segmentation, background: str = BACKGROUND_NAME) -> Segmentation:
    """``segmentation`` without the segment named ``background`` (in any case), whose voxels become label 0."""
    name = background.strip().casefold()
    kept = [n for n, s in enumerate(segmentation.segments, 1) if s.name.strip().casefold() != name]
    if len(kept) == len(segmentation.segments):
        return segmentation
    table = np.zeros(len(segmentation.segments) + 1, np.uint16)
    table[kept] = np.arange(1, len(kept) + 1)
    segments = tuple(segmentation.segments[n - 1] for n in kept)
    return Segmentation(table[segmentation.labels], segments, segmentation.geometry)


def score_segmentation(
    found: Segmentation, truth: Segmentation, where: np.ndarray | None = None, region: str = WHOLE_VOLUME
) -> Scores:
    """As ``score``, for two segmentations on the same grid whose segments are matched by name.

    Raises:
        InputError: the grids differ or no segment name is common to both.
    """
    found_labels, true_labels, segments = match_segments(found, truth)
    return score(found_labels, true_labels, segments, where, region)


def confusion(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Map of where a segmentation is right and wrong, for pictures with the legend `CONFUSION_SEGMENTS`.

    A voxel that belongs to one segment and was given another is wrong for both (`score` counts it as a
    false negative of the one and a false positive of the other). The map has one value per voxel and
    calls it a false positive: the segmentation claims something there that is not so.

    Args:
        prediction: (z, y, x) integer labels, 0 is background.
        truth: the same for the truth.
        where: (z, y, x) bool, the voxels to judge; all if not given.

    Returns:
        (z, y, x) uint8: 1 true positive, 2 false negative, 3 false positive, and 0 where both say
        background or ``where`` is false.

    Raises:
        InputError: the shapes differ.
    """
    _check(prediction, truth, where)
    result = np.zeros(truth.shape, np.uint8)
    for slab in _slabs(truth.shape):
        t, p, part = truth[slab], prediction[slab], result[slab]
        part[(t > 0) & (p == 0)] = FALSE_NEGATIVE
        part[(p > 0) & (p != t)] = FALSE_POSITIVE
        part[(p > 0) & (p == t)] = TRUE_POSITIVE
        if where is not None:
            part[~where[slab]] = 0
    return result


def _check(prediction: np.ndarray, truth: np.ndarray, where: np.ndarray | None) -> None:
    for name, labels in (("segmentation", prediction), ("truth", truth)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"The {name} must hold whole-number labels, but its values are of type {labels.dtype}.")
    for name, array in (("segmentation", prediction), ("mask of voxels to count", where)):
        if array is not None and array.shape != truth.shape:
            raise InputError(
                f"The {name} has shape {array.shape} (z, y, x) but the truth has {truth.shape}: "
                "both must lie on the same voxel grid."
            )
    if where is not None and where.dtype != bool:
        raise InputError(f"The mask of voxels to count must be of type bool, not {where.dtype}.")


def _slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    planes = max(1, _SLAB_VOXELS // max(1, math.prod(shape[1:])))
    return (slice(start, start + planes) for start in range(0, shape[0], planes))


def _count(labels: np.ndarray, name: str, segments: int) -> np.ndarray:
    if labels.size and not 0 <= labels.min() <= labels.max() <= segments:
        raise InputError(
            f"The {name} has labels from {labels.min()} to {labels.max()}, but there are {segments} segments "
            f"(labels 0 to {segments}): give the segment list that belongs to it."
        )
    return np.bincount(labels.ravel(), minlength=segments + 1)


def _class_score(name: str, true: int, predicted: int, agreed: int) -> ClassScore:
    union = true + predicted - agreed
    return ClassScore(
        name=name,
        iou=agreed / union if union else math.nan,
        dice=2 * agreed / (true + predicted) if union else math.nan,
        voxels_true=true,
        voxels_predicted=predicted,
        true_positives=agreed,
        false_negatives=true - agreed,
        false_positives=predicted - agreed,
    )


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _none_if_nan(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _row(name: str, iou: object, dice: object, *counts: object) -> str:
    if len(name) > _NAME_WIDTH:
        name = name[: _NAME_WIDTH - 3] + "..."
    return f"{name:<{_NAME_WIDTH}}{iou:>6} {dice:>6} " + " ".join(f"{count:>10}" for count in counts)
