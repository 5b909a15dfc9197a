"""What a segmentation is: segments with names and colours, and a label map on a grid."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import numpy as np

from SparseUNet3DLib.geometry import Geometry

#: The name (in any case) of the segment that stands for "none of the structures".
BACKGROUND_NAME = "background"
#: Hues that far apart (as a fraction of the colour wheel) stay distinct however many there are.
_GOLDEN_RATIO = 0.618034


@dataclass(frozen=True)
class Segment:
    """One structure of a segmentation.

    Attributes:
        id: identifier, unique within the segmentation (Slicer's segment ID).
        name: name shown to the user.
        color: red, green, blue in 0..1.
        tags: further Slicer tags by name; "TerminologyEntry" holds the coded terminology.
        value: its voxels' value in the file that it was read from, which label maps that are written keep.
    """

    id: str
    name: str
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    value: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Segmentation:
    """A label map with named segments.

    Attributes:
        labels: (z, y, x) uint16; 0 is background, value n is ``segments[n - 1]``.
        segments: the segments, in label order.
        geometry: the grid of ``labels``.
    """

    labels: np.ndarray
    segments: tuple[Segment, ...]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.labels.shape != self.geometry.array_shape:
            raise ValueError(f"labels {self.labels.shape} do not fill the grid {self.geometry.array_shape}")


def distinct_color(number: int) -> tuple[float, float, float]:
    """A color for the segment of this number, unlike those of its neighbours."""
    return colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1, 0.7, 0.9)
