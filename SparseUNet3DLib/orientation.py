"""Volumes turned so that their axes run towards the same sides of the patient.

A network knows an axis as the first, second or third, and left from right by the way the axis runs. Files of the same
anatomy differ in both: one scanner's slices are sagittal, another program's NIfTI runs from right to left. Turning
exchanges and reverses axes, and moves no voxel in space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.volumes import Volume

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "S": "I", "I": "S"}


def orientation_of(geometry: Geometry) -> str:
    """The sides of the patient that i, j and k run towards, like "LPS"; of oblique axes the nearest."""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)


def is_orientation(letters: str) -> bool:
    """Whether ``letters`` name each of the three axes of the patient once."""
    return len(letters) == 3 and {frozenset((n, _OPPOSITE.get(n))) for n in letters} == {
        frozenset("LR"), frozenset("PA"), frozenset("SI")
    }


def turn_volume(volume: Volume, orientation: str) -> Volume:
    """``volume`` with axes that run as ``orientation`` says; the same one where they do, or where it says nothing."""
    turn = _Turn.between(volume.geometry, orientation)
    if turn is None:
        return volume
    return replace(volume, array=turn.apply(volume.array), geometry=turn.apply_to_geometry(volume.geometry))


def turn_annotation(annotation: SparseAnnotation, orientation: str) -> SparseAnnotation:
    """``annotation``, as ``turn_volume`` turns its volume."""
    turn = _Turn.between(annotation.geometry, orientation)
    if turn is None:
        return annotation
    shape = annotation.labels.shape
    held_out = annotation.held_out
    return replace(
        annotation,
        labels=turn.apply(annotation.labels),
        annotated=turn.apply(annotation.annotated),
        geometry=turn.apply_to_geometry(annotation.geometry),
        planes=tuple(sorted(turn.apply_to_plane(p, shape) for p in annotation.planes)),
        held_out=None if held_out is None else tuple(sorted(turn.apply_to_plane(p, shape) for p in held_out)),
    )


def turn_case(case: Case, orientation: str) -> Case:
    """Volume and annotation of ``case``, turned."""
    return Case(turn_volume(case.volume, orientation), turn_annotation(case.annotation, orientation))


def turn_back(array: np.ndarray, geometry: Geometry, orientation: str) -> np.ndarray:
    """On the grid ``geometry``, an ``array`` (z, y, x) that lies on it turned to ``orientation``."""
    turn = _Turn.between(geometry, orientation)
    return array if turn is None else turn.undo(array)


@dataclass(frozen=True)
class _Turn:
    """What is done to the last three axes of an array.

    Attributes:
        sources: the array axis (z, y, x) that each new one is.
        reversed_axes: the new axes that run the other way then.
    """

    sources: tuple[int, int, int]
    reversed_axes: tuple[int, ...]

    @classmethod
    def between(cls, geometry: Geometry, orientation: str) -> _Turn | None:
        """From how the grid ``geometry`` runs to ``orientation``; None where there is nothing to do."""
        own = orientation_of(geometry)
        if orientation in ("", own):
            return None
        # From x, y, z as in the letters to z, y, x as in arrays.
        own, wanted = own[::-1], orientation[::-1]
        sources = tuple(own.index(n) if n in own else own.index(_OPPOSITE[n]) for n in wanted)
        return cls(sources, tuple(axis for axis, n in enumerate(wanted) if n not in own))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """``array`` (..., z, y, x) turned."""
        first = array.ndim - 3
        axes = (*range(first), *(first + s for s in self.sources))
        return np.ascontiguousarray(np.flip(array.transpose(axes), [first + a for a in self.reversed_axes]))

    def undo(self, array: np.ndarray) -> np.ndarray:
        """``array`` (z, y, x) as it was before ``apply``."""
        return np.ascontiguousarray(np.flip(array, self.reversed_axes).transpose(np.argsort(self.sources)))

    def apply_to_plane(self, plane: Plane, shape: tuple[int, ...]) -> Plane:
        """Where a plane of an array of ``shape`` (z, y, x) lies in the turned one."""
        axis = self.sources.index(plane.axis)
        return Plane(axis, shape[plane.axis] - 1 - plane.index if axis in self.reversed_axes else plane.index)

    def apply_to_geometry(self, geometry: Geometry) -> Geometry:
        """The grid of the turned array."""
        sources = [2 - s for s in reversed(self.sources)]  # of i, j, k
        reversed_axes = [2 - a for a in self.reversed_axes]
        steps = geometry.index_to_physical()[:3, :3]
        directions = np.reshape(geometry.direction, (3, 3))[:, sources].copy()
        origin = np.array(geometry.origin)
        for axis in reversed_axes:
            origin += (geometry.size[sources[axis]] - 1) * steps[:, sources[axis]]
            directions[:, axis] *= -1
        return Geometry(
            tuple(geometry.size[s] for s in sources),
            tuple(geometry.spacing[s] for s in sources),
            tuple(float(o) for o in origin),
            tuple(float(d) for d in directions.flat),
        )
