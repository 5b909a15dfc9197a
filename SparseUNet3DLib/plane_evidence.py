"""What painted voxels tell for and against planes that were painted completely; `plane_detection` weighs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Share of a slab of several planes that may have the same outline line after line; beyond it, a stack of orthogonal
#: planes explains the slab as well.
MAX_STRAIGHT = 0.75
#: A single plane could be confused with few orthogonal planes that cut a sheet one voxel thick: straight,
#: this wide at most and at least twice as long.
STRIP_WIDTH = 3
MAX_STRAIGHT_STRIP = 0.8


@dataclass(frozen=True, eq=False)
class Runs:
    """All maximal runs of painted voxels along one axis, ordered by start, end, row, column.

    `row` and `column` are indices along the other two axes, `others`, in array order.
    """

    others: tuple[int, int]
    row: np.ndarray
    column: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, painted: np.ndarray, axis: int) -> Runs:
        """Those of ``painted`` (z, y, x), bool."""
        along = np.moveaxis(painted, axis, -1)
        edge = along.copy(order="C")
        edge[..., 1:] &= ~along[..., :-1]
        row, column, start = (index.astype(np.int32) for index in np.nonzero(edge))
        edge = along.copy(order="C")
        edge[..., :-1] &= ~along[..., 1:]
        end = np.nonzero(edge)[2].astype(np.int32)
        # Stable, because the runs come ordered by row and column already.
        order = np.argsort(start.astype(np.int64) * along.shape[-1] + end, kind="stable")
        others = tuple(other for other in range(3) if other != axis)
        return cls(others, row[order], column[order], start[order], end[order])

    def explained(self, planes: list[np.ndarray], part: slice | np.ndarray) -> np.ndarray:
        """Which runs of `part` lie within one of the orthogonal `planes` (a bool per plane and axis)."""
        return planes[self.others[0]][self.row[part]] | planes[self.others[1]][self.column[part]]


@dataclass(frozen=True, order=True)
class Slab:
    """Neighbouring planes `first`..`last` of one axis."""

    axis: int
    first: int
    last: int

    @property
    def width(self) -> int:
        return self.last - self.first + 1

    @property
    def planes(self) -> slice:
        return slice(self.first, self.last + 1)


def rivalled(lines: np.ndarray, loose: np.ndarray, width: int) -> float:
    """Share of a slab that orthogonal planes explain better, because they would explain loose voxels, too.

    Args:
        lines: per orthogonal plane, the runs through the slab that lie on it.
        loose: per orthogonal plane, the loose voxels on it.
        width: planes in the slab.
    """
    rivals = (lines > 0) & (loose >= lines * width)
    gained = loose[rivals].sum() + width * lines[rivals].sum()
    # Any slab can be covered by ever so many planes: only those that explain more each are rivals.
    return lines[rivals].sum() / lines.sum() if gained > lines.sum() * np.count_nonzero(rivals) else 0.0


def loose_counts(painted: np.ndarray, planes: list[np.ndarray]) -> list[np.ndarray]:
    """Per axis and plane, the number of painted voxels that lie on none of `planes`."""
    loose = painted[np.ix_(*(~chosen for chosen in planes))]
    counts = []
    for axis, chosen in enumerate(planes):
        count = np.zeros(len(chosen), int)
        count[~chosen] = np.count_nonzero(loose, axis=tuple(other for other in range(3) if other != axis))
        counts.append(count)
    return counts


def in_patch(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Which positions, ordered by row and column, belong to a square of 2x2 positions."""
    inside = np.zeros(len(row), bool)
    if len(row) < 4:
        return inside
    # One column more than there are, so that no square reaches around into the next row.
    pitch = int(column.max()) + 2
    key = row.astype(np.int64) * pitch + column
    corner = np.flatnonzero(np.diff(key) == 1)
    below = np.minimum(np.searchsorted(key, key[corner] + pitch), len(key) - 2)
    square = (key[below] == key[corner] + pitch) & (key[below + 1] == key[below] + 1)
    for position in (corner[square], below[square]):
        inside[position] = inside[position + 1] = True
    return inside


def is_rounded(width: int, image: np.ndarray, line: np.ndarray, position: np.ndarray, length: int) -> bool:
    """Whether a slab's outline rules out that planes across its lines left it.

    Args:
        width: planes in the slab.
        image: (lines, positions) bool, one painted plane of the slab.
        line, position: where in the image the evidence for the slab lies.
        length: positions in the whole volume.
    """
    place = np.arange(image.shape[1])
    last_gap = np.maximum.accumulate(np.where(image, -1, place), axis=1)
    next_gap = np.minimum.accumulate(np.where(image, image.shape[1], place)[:, ::-1], axis=1)[:, ::-1]
    start, stop = last_gap[line, position] + 1, next_gap[line, position]
    counts = np.bincount(start * (length + 1) + stop)
    # What reaches from border to border of the volume (painted background) is not cut at all.
    counts[length : length + 1] = 0
    commonest = int(np.argmax(counts))
    straight = counts[commonest] / len(line)
    if width > 1:
        return straight < MAX_STRAIGHT and np.median(stop - start) > width
    across = commonest % (length + 1) - commonest // (length + 1)
    lines = len(np.unique(line[start * (length + 1) + stop == commonest]))
    return not (straight >= MAX_STRAIGHT_STRIP and across <= STRIP_WIDTH and lines >= 2 * across)
