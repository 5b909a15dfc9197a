"""Which planes of a label map were painted completely, found from the painted voxels alone.

A person paints the structures on some planes, in up to three orientations. The painted voxels are then
the structures, cut by the union of these planes. Every other plane shows a painted line where it crosses
a painted one, and has to be told apart from it: a plane declared by mistake would teach its unpainted
structures as background, while the voxels of a missed plane remain usable as painted voxels. So a plane is
only declared on evidence that no other set of planes explains as well:

* A slab of w neighbouring painted planes leaves runs of exactly w voxels across it, which begin and end
  at the same two indices all over a two-dimensional patch. Isolated planes that cross an unpainted one
  leave lines on it, but no patch of two by two voxels.
* Longer runs leave a slab only within an orthogonal painted plane.
* Structures are rounded, cuts are straight: a slab of several planes counts only where many of its runs
  are cut at both ends while its outline is not straight as well.
* No few orthogonal planes explain the same voxels and others besides.

The slab with most evidence is taken first and explains all voxels on its planes; painted voxels that no
slab explains in the end are loose. Isolated planes are found reliably, since crossing isolated planes
cannot imitate them. Two or three neighbouring planes are found where the structures are large enough;
only planes across structures one to three voxels thick can still imitate one. Longer stacks are not told
from structures that thick: they remain loose, and the detection is called dense.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from SparseUNet3DLib.geometry import AXIS_NAMES
from SparseUNet3DLib.plane_evidence import Runs, Slab, in_patch, is_rounded, loose_counts, rivalled

#: Planes in a slab. A longer stack is not told from a structure which is that thick.
MAX_WIDTH = 3
#: Share of the runs through a slab that may leave it outside all orthogonal planes found.
MAX_LEAVING = 0.1
#: The same while orthogonal planes may still be found; only two-dimensional patches of such runs count.
MAX_LEAVING_PATCHES = 0.25
#: Share of a slab that few orthogonal planes may explain better.
MAX_RIVALLED = 0.5
#: Share of the runs through a slab of several planes which must be cut at both ends.
MIN_CUT = 0.35
#: Share of the painted voxels that lie deep inside the painting but on no plane, from which on it is dense.
MIN_DENSE = 0.1


@dataclass(frozen=True, order=True)
class Plane:
    """One slice of a volume: array axis 0 = z, 1 = y, 2 = x, and the index along it."""

    axis: int
    index: int

    def __str__(self) -> str:
        return f"{AXIS_NAMES[self.axis]}:{self.index}"

    @property
    def voxels(self) -> tuple[int | slice, ...]:
        """Index that selects this plane from a (z, y, x) array."""
        return tuple(self.index if axis == self.axis else slice(None) for axis in range(3))


@dataclass(frozen=True, eq=False)
class Detection:
    """Result of `detect_planes`.

    Attributes:
        planes: the planes painted completely, sorted; planes given as known are among them.
        loose: (z, y, x) bool, painted voxels that lie on none of these planes.
        dense: the painting fills neighbouring slices in all directions, so that its planes cannot be told.
    """

    planes: tuple[Plane, ...]
    loose: np.ndarray
    dense: bool


def detect_planes(painted: np.ndarray, known: Iterable[Plane] = ()) -> Detection:
    """Find the planes which were painted completely.

    Args:
        painted: (z, y, x) bool.
        known: planes that are annotated for certain; they explain the voxels painted on them.
    """
    planes = set(known)
    loose = painted.copy()
    dense = False
    if painted.any():
        box = _bounding_box(painted)
        inside = np.ascontiguousarray(painted[box])
        certain = [np.zeros(n, bool) for n in painted.shape]
        for plane in planes:
            certain[plane.axis][plane.index] = True
        certain = [flags[part] for flags, part in zip(certain, box, strict=True)]
        search = _Search(inside, [-part.start for part in box], painted.shape, certain)
        for axis, chosen in enumerate(search.run()):
            planes |= {Plane(axis, int(index) + box[axis].start) for index in np.flatnonzero(chosen)}
        for plane in planes:
            loose[plane.voxels] = False
        deep = np.count_nonzero(_deep(inside) & loose[box])
        dense = deep > MIN_DENSE * np.count_nonzero(inside)
    return Detection(tuple(sorted(planes)), loose, dense)


def _bounding_box(painted: np.ndarray) -> tuple[slice, slice, slice]:
    rows = painted.any(axis=2)
    present = (rows.any(axis=1), rows.any(axis=0), painted.any(axis=(0, 1)))
    return tuple(slice(int(np.argmax(p)), len(p) - int(np.argmax(p[::-1]))) for p in present)


def _deep(painted: np.ndarray) -> np.ndarray:
    """Voxels whose six neighbours are painted, too."""
    deep = painted.copy()
    for axis in range(3):
        inner, whole = np.moveaxis(deep, axis, 0), np.moveaxis(painted, axis, 0)
        inner[[0, -1]] = False
        inner[1:-1] &= whole[:-2]
        inner[1:-1] &= whole[2:]
    return deep


class _Search:
    """Choose slabs by their evidence, then drop those which the others contradict.

    Args:
        painted: (z, y, x) bool, cropped to the painted voxels.
        first: index (z, y, x) of the volume's first voxel, counted within `painted` (0 or negative).
        shape: shape (z, y, x) of the whole volume.
        certain: per axis, a bool per plane of `painted`: annotated for certain.
    """

    def __init__(
        self, painted: np.ndarray, first: list[int], shape: tuple[int, ...], certain: list[np.ndarray]
    ) -> None:
        self.painted = painted
        self.first = first
        self.shape = shape
        self.certain = certain
        self.chosen = [planes.copy() for planes in certain]
        self.runs = [Runs.of(painted, axis) for axis in range(3)]

    def run(self) -> list[np.ndarray]:
        """Per axis, a bool per plane of `painted`: painted completely."""
        self._choose()
        while self._drop_worst():
            pass
        return self.chosen

    def _choose(self) -> None:
        members = {slab: part for axis in range(3) for slab, part in self._slabs(axis)}
        # The evidence of a slab only shrinks while others explain voxels, so that an old count is an upper bound.
        heap = [(-self.painted.size, slab) for slab in members]
        heapq.heapify(heap)
        doubtful = []
        while heap:
            bound, slab = heapq.heappop(heap)
            support = self._support(slab.axis, members[slab])
            evidence = -len(support) * slab.width
            if not evidence or self.chosen[slab.axis][slab.planes].all():
                continue
            if evidence > bound:
                heapq.heappush(heap, (evidence, slab))
            elif self._convincing(slab, support):
                self.chosen[slab.axis][slab.planes] = True
                # The new planes may explain what spoke against other slabs.
                for item in doubtful:
                    heapq.heappush(heap, item)
                doubtful = []
            else:
                doubtful.append((evidence, slab))

    def _slabs(self, axis: int) -> Iterator[tuple[Slab, slice]]:
        """Every narrow slab with runs cut at both its ends, and where these runs are."""
        runs = self.runs[axis]
        opens = np.flatnonzero((np.diff(runs.start) != 0) | (np.diff(runs.end) != 0)) + 1
        bounds = np.concatenate([[0], opens, [len(runs.start)]])
        for begin, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            slab = Slab(axis, int(runs.start[begin]), int(runs.end[begin]))
            # Where the volume ends, a structure ends as straight as a cut.
            inner = slab.first > self.first[axis] and slab.last < self.first[axis] + self.shape[axis] - 1
            if slab.width == 1 or (slab.width <= MAX_WIDTH and inner):
                yield slab, slice(begin, stop)

    def _support(self, axis: int, members: slice) -> np.ndarray:
        """Indices of the runs in `members` that form patches and that no chosen orthogonal plane explains."""
        runs = self.runs[axis]
        left = members.start + np.flatnonzero(~runs.explained(self.chosen, members))
        return left[in_patch(runs.row[left], runs.column[left])]

    def _through(self, slab: Slab) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The runs through a slab that no chosen orthogonal plane explains.

        Returns:
            their indices, which of them leave the slab, and which are cut at both its ends.
        """
        runs = self.runs[slab.axis]
        until = int(np.searchsorted(runs.start, slab.last, side="right"))
        through = np.flatnonzero(runs.end[:until] >= slab.first)
        through = through[~runs.explained(self.chosen, through)]
        start, end = runs.start[through], runs.end[through]
        leaving = (start < slab.first) | (end > slab.last)
        return through, leaving, (start == slab.first) & (end == slab.last)

    def _convincing(self, slab: Slab, support: np.ndarray) -> bool:
        """Whether no other explanation of the runs in `support` is as good."""
        runs = self.runs[slab.axis]
        through, leaving, cut = self._through(slab)
        out = through[leaving]
        order = np.lexsort((runs.column[out], runs.row[out]))
        # Lines of isolated orthogonal planes may still be unexplained, but only their crossings form patches.
        patches = np.count_nonzero(in_patch(runs.row[out][order], runs.column[out][order]))
        if patches > MAX_LEAVING_PATCHES * (patches + len(support)):
            return False
        if slab.width > 1 and np.count_nonzero(cut) < MIN_CUT * (len(through) - np.count_nonzero(leaving)):
            return False
        middle = self.painted.take((slab.first + slab.last) // 2, axis=slab.axis)
        row, column = runs.row[support], runs.column[support]
        return all(
            is_rounded(slab.width, image, line, position, self.shape[axis])
            for image, line, position, axis in (
                (middle, row, column, runs.others[1]),
                (middle.T, column, row, runs.others[0]),
            )
        )

    def _drop_worst(self) -> bool:
        """Drop the most doubtful slab, judged by all planes chosen; return whether there was one."""
        loose = loose_counts(self.painted, self.chosen)
        worst, slab = max(
            ((self._doubt(slab, loose), slab) for axis in range(3) for slab in self._chosen_slabs(axis)),
            default=(0, None),
        )
        if worst <= 1:
            return False
        self.chosen[slab.axis][slab.planes] = self.certain[slab.axis][slab.planes]
        return True

    def _chosen_slabs(self, axis: int) -> Iterator[Slab]:
        edges = np.flatnonzero(np.diff(self.chosen[axis], prepend=False, append=False))
        for first, stop in edges.reshape(-1, 2):
            if not self.certain[axis][first:stop].all():
                yield Slab(axis, int(first), int(stop) - 1)

    def _doubt(self, slab: Slab, loose: list[np.ndarray]) -> float:
        """How far the runs through a slab speak against it; acceptable up to 1."""
        through, leaving, cut = self._through(slab)
        if not cut.any():
            return np.inf
        doubts = [np.mean(leaving) / MAX_LEAVING]
        if slab.width > 1:
            doubts.append(MIN_CUT / np.mean(cut))
        runs = self.runs[slab.axis]
        for axis, index in zip(runs.others, (runs.row, runs.column), strict=True):
            lines = np.bincount(index[through], minlength=len(loose[axis]))
            doubts.append(rivalled(lines, loose[axis], slab.width) / MAX_RIVALLED)
        return max(doubts)
