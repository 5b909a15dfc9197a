"""Where a voxel grid lies in space: size, spacing, origin and direction, in ITK's convention (LPS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

#: Array axes (z, y, x) by the letter used on the command line.
AXIS_NAMES = ("z", "y", "x")
#: What two files may differ by and still lie on the same grid, as a fraction of a voxel; formats that
#: store single precision (NIfTI) round by about 1e-6 of the coordinates.
GRID_TOLERANCE = 1e-3


def describe_direction(direction: Sequence[float]) -> str:
    """The sides of the patient that i, j and k run towards, like "LPS"; of oblique axes the nearest.

    ``direction`` is as in ``Geometry``.
    """
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)


@dataclass(frozen=True)
class Geometry:
    """A regular voxel grid in physical space (millimetres, LPS axes).

    Attributes:
        size: voxels along i, j, k (= x, y, z), the reverse of the array's shape (z, y, x).
        spacing: distance between voxel centres along i, j, k in mm.
        origin: position of the centre of voxel (0, 0, 0) in mm.
        direction: row-major 3x3 matrix; its columns are the unit vectors of i, j, k. Oblique and
            left-handed matrices are valid.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def from_image(cls, image: sitk.Image) -> Geometry:
        """Geometry of a three-dimensional SimpleITK image, or of the header of one.

        A header may have a negative spacing, where the image that is read has an axis that runs the other way.
        """
        spacing, direction = np.array(image.GetSpacing()), np.reshape(image.GetDirection(), (3, 3))
        direction = np.where(spacing < 0, -direction, direction)
        return cls(
            image.GetSize(), tuple(np.abs(spacing).tolist()), image.GetOrigin(), tuple(direction.ravel().tolist())
        )

    def apply_to(self, image: sitk.Image) -> None:
        """Put ``image`` (which has this size already) on this grid."""
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)

    @property
    def array_shape(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of an array on this grid."""
        return tuple(reversed(self.size))

    @property
    def array_spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm."""
        return tuple(reversed(self.spacing))

    def index_to_physical(self) -> np.ndarray:
        """4x4 matrix from (i, j, k, 1) to (L, P, S, 1) in mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def around(self, other: Geometry) -> Geometry:
        """The smallest grid that has all voxels of both; this one where the two lattices do not coincide."""
        offset = other.offset_to(self)
        if offset is None:
            return self
        starts = [min(0, o) for o in offset]
        stops = [max(n, o + m) for n, o, m in zip(self.size, offset, other.size, strict=True)]
        origin = (self.index_to_physical() @ [*starts, 1])[:3]
        size = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return Geometry(size, self.spacing, tuple(float(o) for o in origin), self.direction)

    def same_grid(self, other: Geometry) -> bool:
        """Whether both grids have the same voxels, to within a thousandth of a voxel."""
        return self.size == other.size and self.offset_to(other) == (0, 0, 0)

    def offset_to(self, other: Geometry) -> tuple[int, int, int] | None:
        """Voxel (i, j, k) of ``other`` on which this grid's first voxel lies.

        None where the two lattices do not coincide (other spacing or direction, or shifted by a
        fraction of a voxel). Neither grid's size matters, so a cropped grid has an offset in the
        grid it was cropped from.
        """
        to_other = np.linalg.inv(other.index_to_physical()) @ self.index_to_physical()
        offset = np.round(to_other[:3, 3])
        # Rounding in spacing or direction adds up over the grid, so it is judged at the far corner.
        corner = to_other @ np.array([*(n - 1 for n in self.size), 1.0])
        expected = offset + np.array(self.size) - 1
        start_fits = np.allclose(to_other[:3, 3], offset, rtol=0, atol=GRID_TOLERANCE)
        axes_fit = np.allclose(to_other[:3, :3], np.eye(3), rtol=0, atol=GRID_TOLERANCE)
        far_end_fits = np.allclose(corner[:3], expected, rtol=0, atol=10 * GRID_TOLERANCE)
        return tuple(int(o) for o in offset) if start_fits and axes_fit and far_end_fits else None

    def describe(self) -> str:
        """One line for messages: size, spacing, origin and, unless it is the identity, direction."""
        text = (
            f"{self.size[0]}x{self.size[1]}x{self.size[2]} voxels of "
            f"{self.spacing[0]:.6g}x{self.spacing[1]:.6g}x{self.spacing[2]:.6g} mm "
            f"at ({', '.join(f'{o:.6g}' for o in self.origin)})"
        )
        if not np.array_equal(np.reshape(self.direction, (3, 3)), np.eye(3)):
            text += f" with direction ({', '.join(f'{d:.4g}' for d in self.direction)})"
        return text
