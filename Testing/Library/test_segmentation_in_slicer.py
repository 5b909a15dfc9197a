"""What 3D Slicer itself, without its windows, makes of the segmentations that are written, and the reverse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grids import oblique_left_handed

from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segmentation_files import on_grid, read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation

slicer = pytest.importorskip("slicer", exc_type=ImportError)
vtk = pytest.importorskip("vtk")
numpy_support = pytest.importorskip("vtk.util.numpy_support")

RIB = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
    "~SCT^113197003^Rib~^^~Anatomic codes - DICOM master list~^^~^^"
)
SEGMENTS = (
    Segment("ribs.id", "ribs", (0.25, 0.5, 0.75), {"TerminologyEntry": RIB, "Segmentation.Status": "inprogress"}),
    Segment("2.25.7", "größe := 中", (1.0, 0.125, 0.0), {"reviewed by": "A: B"}),
    Segment("empty", "no voxels yet", (0.0, 1.0, 0.0)),
)
GRID = oblique_left_handed((7, 6, 5))
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def scene():
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)  # registers the segmentation nodes
    yield scene
    logic.SetMRMLScene(None)
    scene.Clear(1)


def storage(scene, path: Path):
    node = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(node)
    node.SetFileName(str(path))
    return node


def load(scene, path: Path):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage(scene, path).ReadData(node) == 1
    return node


def save(scene, node, path: Path) -> None:
    assert storage(scene, path).WriteData(node) == 1


def example() -> Segmentation:
    labels = np.zeros(GRID.array_shape, np.uint16)
    labels[1:3, 2:4, 1:5] = 1
    labels[3, 4, 6] = 2
    return Segmentation(labels, SEGMENTS, GRID)


def ijk_to_ras(image) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def segment_mask(node, segment_id: str) -> np.ndarray:
    """Mask (z, y, x) of a segment on ``GRID``; its labelmap in the scene may cover a part of it."""
    segment = node.GetSegmentation().GetSegment(segment_id)
    image = segment.GetRepresentation("Binary labelmap")
    mask = np.zeros(GRID.array_shape, bool)
    if image.IsEmpty():
        return mask
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    values = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    values = values.reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
    mask[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = values == segment.GetLabelValue()
    return mask


def test_slicer_shows_names_colours_and_terminology(scene, tmp_path: Path):
    write_segmentation(example(), tmp_path / "a.seg.nrrd")
    segmentation = load(scene, tmp_path / "a.seg.nrrd").GetSegmentation()
    assert [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())] == [
        s.id for s in SEGMENTS
    ]
    for expected in SEGMENTS:
        segment = segmentation.GetSegment(expected.id)
        assert segment.GetName() == expected.name
        assert segment.GetColor() == expected.color
        for key, value in expected.tags.items():
            tag = vtk.reference("")
            assert segment.GetTag(key, tag)
            assert str(tag) == value


def test_slicer_has_the_same_voxels_at_the_same_place(scene, tmp_path: Path):
    write_segmentation(example(), tmp_path / "a.seg.nrrd")
    node = load(scene, tmp_path / "a.seg.nrrd")
    for n, segment in enumerate(SEGMENTS, start=1):
        np.testing.assert_array_equal(segment_mask(node, segment.id), example().labels == n)
    image = node.GetSegmentation().GetSegment("ribs.id").GetRepresentation("Binary labelmap")
    np.testing.assert_allclose(ijk_to_ras(image), LPS_TO_RAS @ GRID.index_to_physical(), rtol=1e-12, atol=1e-12)


def test_the_voxel_positions_in_slicer_are_those_of_the_grid(scene, tmp_path: Path):
    """The same with the segment's own bounds, which do not go through the matrix above."""
    write_segmentation(example(), tmp_path / "a.seg.nrrd")
    node = load(scene, tmp_path / "a.seg.nrrd")
    center = node.GetSegmentCenterRAS("2.25.7")
    expected = LPS_TO_RAS @ GRID.index_to_physical() @ [6, 4, 3, 1]
    np.testing.assert_allclose(center, expected[:3], atol=1e-9)


def test_a_segmentation_saved_by_slicer_again_is_unchanged(scene, tmp_path: Path):
    write_segmentation(example(), tmp_path / "a.seg.nrrd")
    save(scene, load(scene, tmp_path / "a.seg.nrrd"), tmp_path / "b.seg.nrrd")
    back = on_grid(read_segmentation(tmp_path / "b.seg.nrrd"), GRID)
    np.testing.assert_array_equal(back.labels, example().labels)
    assert [s.id for s in back.segments] == [s.id for s in SEGMENTS]
    for actual, expected in zip(back.segments, SEGMENTS, strict=True):
        assert (actual.name, actual.color) == (expected.name, expected.color)
        assert expected.tags.items() <= actual.tags.items()


def test_a_segmentation_that_slicer_cropped_is_put_in_its_place(scene, tmp_path: Path):
    write_segmentation(example(), tmp_path / "a.seg.nrrd")
    node = load(scene, tmp_path / "a.seg.nrrd")
    node.GetSegmentation().RemoveSegment("2.25.7")
    node.GetSegmentation().RemoveSegment("empty")
    image = node.GetSegmentation().GetSegment("ribs.id").GetRepresentation("Binary labelmap")
    cropped = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.CopyImage(image, cropped, [1, 4, 2, 3, 1, 2])
    image.DeepCopy(cropped)
    writer = storage(scene, tmp_path / "b.seg.nrrd")
    writer.SetCropToMinimumExtent(True)
    assert writer.WriteData(node) == 1
    saved = read_segmentation(tmp_path / "b.seg.nrrd")
    assert saved.geometry.size == (4, 2, 2)
    back = on_grid(saved, GRID)
    np.testing.assert_array_equal(back.labels, example().labels == 1)
    assert back.geometry == GRID


def test_a_segmentation_that_slicer_saved_empty_fits_any_volume(scene, tmp_path: Path):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.GetSegmentation().AddEmptySegment("a", "first")
    node.GetSegmentation().AddEmptySegment("b", "second")
    save(scene, node, tmp_path / "empty.seg.nrrd")
    back = on_grid(read_segmentation(tmp_path / "empty.seg.nrrd"), Geometry((4, 3, 2)))
    assert [s.name for s in back.segments] == ["first", "second"]
    assert back.labels.shape == (2, 3, 4)
    assert not back.labels.any()
