"""A segmentation with unusual names, written as Slicer writes it, for the tests of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from grids import oblique_left_handed

from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segments import Segment, Segmentation

RIB = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
    "~SCT^113197003^Rib~^^~Anatomic codes - DICOM master list~^^~^^"
)
SEGMENTS = (
    Segment("Segment_9", "ribs", (0.992157, 0.909804, 0.619608), {"TerminologyEntry": RIB, "Segmentation.Status": "x"}),
    Segment("1.2.840.1", "größe := 中 / b|c", (0.1, 1 / 3, 1.0)),
    Segment("empty", "no voxels yet", (0.0, 1.0, 0.0)),
)
SIZE = (7, 6, 5)


def example(geometry: Geometry | None = None) -> Segmentation:
    geometry = geometry or oblique_left_handed(SIZE)
    labels = np.random.default_rng(3).integers(0, 3, geometry.array_shape).astype(np.uint16)
    return Segmentation(labels, SEGMENTS, geometry)


def write_slicer_file(path: Path, array: np.ndarray, metadata: dict[str, str]) -> None:
    """Write ``array``, (z, y, x) or with layers (z, y, x, c), with ``metadata``."""
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), True)


def assert_equal(actual: Segmentation, expected: Segmentation) -> None:
    np.testing.assert_array_equal(actual.labels, expected.labels)
    assert actual.labels.dtype == np.uint16
    assert actual.segments == expected.segments
