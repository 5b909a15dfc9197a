"""Volumes turned so that their axes run as those of the first one do.

A network knows an axis as the first, second or third, and left from right by the way the axis runs. Files of the same
anatomy differ in both: one scanner's slices are sagittal, another program's NIfTI runs from right to left. Turning
exchanges and reverses axes, and moves no voxel in space.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.volumes import Volume

#: Axes are exchanged or reversed only for the cosines between old and new ones to add up to so much more: two oblique
#: grids may each be as near to one another as they can be.
_CLEARLY = 0.1


def is_direction(values: Sequence[float]) -> bool:
    """Whether ``values`` are nine numbers, in whose rows and columns three axes can be recognised."""
    numbers = all(isinstance(v, (int, float)) and abs(v) <= 2 for v in values)
    return len(values) == 9 and numbers and abs(np.linalg.det(np.reshape(values, (3, 3)))) > 0.1


@dataclass(frozen=True)
class Turn:
    """How the axes of a grid are exchanged and reversed.

    Attributes:
        sources: the array axis (z, y, x) that each new one is.
        reversed_axes: the new axes that run the other way then.
    """

    sources: tuple[int, int, int] = (0, 1, 2)
    reversed_axes: tuple[int, ...] = ()

    @classmethod
    def between(cls, direction: Sequence[float], wanted: Sequence[float]) -> Turn:
        """What brings axes of ``direction`` nearest to ``wanted`` ones; nothing where these are none.

        Both are as in ``Geometry.direction``.
        """
        if not len(wanted):
            return cls()
        # Cosines between new (rows) and own (columns) axes, as in arrays: z, y, x.
        cosines = (np.reshape(wanted, (3, 3)).T @ np.reshape(direction, (3, 3)))[::-1, ::-1]
        best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(cosines[n, s]) for n, s in enumerate(p)))
        chosen = [float(cosines[n, s]) for n, s in enumerate(best)]
        if sum(map(abs, chosen)) <= np.trace(cosines) + _CLEARLY:
            return cls()
        return cls(best, tuple(n for n, cosine in enumerate(chosen) if cosine < 0))

    @property
    def does_nothing(self) -> bool:
        """Whether axes stay as they are."""
        return self == Turn()

    def case(self, case: Case) -> Case:
        """``case`` turned; arrays are views of the same memory."""
        return Case(self.volume(case.volume), self.annotation(case.annotation))

    def volume(self, volume: Volume) -> Volume:
        """``volume`` turned."""
        if self.does_nothing:
            return volume
        return replace(volume, array=self.array(volume.array), geometry=self.geometry(volume.geometry))

    def annotation(self, annotation: SparseAnnotation) -> SparseAnnotation:
        """``annotation`` turned."""
        if self.does_nothing:
            return annotation
        shape, held_out = annotation.labels.shape, annotation.held_out
        return replace(
            annotation,
            labels=self.array(annotation.labels),
            annotated=self.array(annotation.annotated),
            geometry=self.geometry(annotation.geometry),
            planes=tuple(sorted(self.plane(p, shape) for p in annotation.planes)),
            held_out=None if held_out is None else tuple(sorted(self.plane(p, shape) for p in held_out)),
        )

    def array(self, array: np.ndarray) -> np.ndarray:
        """A view of ``array`` (..., z, y, x), turned."""
        first = array.ndim - 3
        axes = (*range(first), *(first + s for s in self.sources))
        return np.flip(array.transpose(axes), [first + a for a in self.reversed_axes])

    def back(self, array: np.ndarray) -> np.ndarray:
        """An array (z, y, x) that lies on the turned grid, on the grid as it was."""
        return np.ascontiguousarray(np.flip(array, self.reversed_axes).transpose(np.argsort(self.sources)))

    def plane(self, plane: Plane, shape: Sequence[int]) -> Plane:
        """Where a plane of an array of ``shape`` (z, y, x) lies in the turned one."""
        axis = self.sources.index(plane.axis)
        return Plane(axis, shape[plane.axis] - 1 - plane.index if axis in self.reversed_axes else plane.index)

    def geometry(self, geometry: Geometry) -> Geometry:
        """The grid of the turned array."""
        sources = [2 - s for s in reversed(self.sources)]  # of i, j, k
        steps = geometry.index_to_physical()[:3, :3]
        directions = np.reshape(geometry.direction, (3, 3))[:, sources].copy()
        origin = np.array(geometry.origin)
        for axis in (2 - a for a in self.reversed_axes):
            origin += (geometry.size[sources[axis]] - 1) * steps[:, sources[axis]]
            directions[:, axis] *= -1
        return Geometry(
            tuple(geometry.size[s] for s in sources),
            tuple(geometry.spacing[s] for s in sources),
            tuple(float(o) for o in origin),
            tuple(float(d) for d in directions.flat),
        )
