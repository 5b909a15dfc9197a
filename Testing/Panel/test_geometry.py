"""Where things lie: volumes and annotations on any grid, under any transform, and the result exactly on the volume."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

import vtk
from driving import PAINTED, SHAPE, addAnnotation, addVolume, denseLabels, gridOf, labelsOf, nodeNames, translation
from SparseUNet3DModule.painted import paintedOn
from SparseUNet3DModule.results import newConfidence, newSegmentation, showLabels
from SparseUNet3DModule.volumes import checkChannels, geometryOf

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.volumes import read_volume

OBLIQUE = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
OBLIQUE *= np.sign(np.linalg.det(OBLIQUE))
DIRECTIONS = {
    "RAS": np.eye(3), "LPS": np.diag([-1.0, -1.0, 1.0]), "left-handed": np.diag([1.0, 1.0, -1.0]),
    "oblique": OBLIQUE, "oblique left-handed": -OBLIQUE, "sagittal": np.eye(3)[:, [1, 2, 0]],
}
SEGMENTS = (Segment("Segment_9", "ball", (0.2, 0.4, 0.6), {"TerminologyEntry": "a~b"}), Segment("x", "core"))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_the_grid_is_that_of_the_saved_file(panel, direction, tmp_path):
    volume = addVolume(direction=direction)
    slicer.util.saveNode(volume, str(tmp_path / "v.nrrd"))
    assert geometryOf(volume).same_grid(read_volume(tmp_path / "v.nrrd").geometry)


def seenAlongItsSlices(volume) -> bool:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    axes = slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
    views = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    assert len(views) == 3
    normals = [slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())[:3, 2] for view in views]
    return np.allclose([np.abs(n @ (axes / np.linalg.norm(axes, axis=0))).max() for n in normals], 1.0)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_volume_that_is_chosen_is_seen_along_its_own_slices(panel, direction):
    """In a tilted view no single slice can be painted."""
    upright, chosen = addVolume("upright"), addVolume("chosen", direction=direction)
    for volume in (upright, chosen, upright):
        panel.ui.volumeSelector.setCurrentNode(volume)
        assert seenAlongItsSlices(volume)


def test_so_is_one_that_is_chosen_by_itself(panel):
    widget = slicer.modules.SparseUNet3DWidget
    widget.exit()
    slicer.mrmlScene.Clear(0)
    volume = addVolume("oblique", direction=DIRECTIONS["oblique"])
    slicer.util.setSliceViewerLayers(background=volume)
    widget.enter()
    assert panel.parameters.volume is volume and seenAlongItsSlices(volume)


def test_a_view_that_is_not_tilted_stays_where_it_is(panel):
    """From one volume to another on the same grid, the user goes on looking at the same slice."""
    panel.ui.volumeSelector.setCurrentNode(addVolume("T1"))
    view = slicer.util.getNodesByClass("vtkMRMLSliceNode")[0]
    view.SetSliceOffset(37.5)
    view.SetFieldOfView(11.0, 12.0, 1.0)
    panel.ui.volumeSelector.setCurrentNode(addVolume("T2"))
    assert view.GetSliceOffset() == 37.5 and view.GetFieldOfView()[:2] == (11.0, 12.0)


def test_the_table_tells_slices_as_the_views_show_them(panel, drive):
    """In the world, and not as the volume would have them without its transform."""
    volume = addVolume()
    turned, matrix = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode"), vtk.vtkMatrix4x4()
    slicer.util.updateVTKMatrixFromArray(matrix, np.array([[0, 0, 1, 5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]))
    turned.SetMatrixTransformToParent(matrix)
    volume.SetAndObserveTransformNodeID(turned.GetID())
    panel.parameters.volume, panel.parameters.annotation = volume, addAnnotation(volume, planes=(8,))
    assert drive(lambda: panel.ui.sliceTable.rowCount == 1)
    texts = [panel.ui.sliceTable.item(0, column).text() for column in range(2)]
    assert texts == ["sagittal 8", f"{30 + 8 * 1.5 + 5:.1f} mm"]
    assert panel.logic.annotatedSlices(volume, panel.parameters.annotation).rows[0].orientation == "sagittal"


def test_what_is_made_for_a_moved_volume_has_its_own_grid_and_moves_with_it(panel):
    volume = addVolume()
    ownGrid = gridOf(panel.logic.createAnnotation(volume))
    volume.SetAndObserveTransformNodeID(translation(30.0, 0.0, 1.5).GetID())
    for node in (panel.logic.createAnnotation(volume), newSegmentation("result", volume)):
        assert gridOf(node) == ownGrid and node.GetTransformNodeID() == volume.GetTransformNodeID()


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_painting_comes_out_as_slicer_exports_it(panel, direction):
    volume = addVolume(direction=direction)
    annotation = addAnnotation(volume)
    labels = paintedOn(annotation, volume).labels
    np.testing.assert_array_equal(labels, labelsOf(annotation, volume))
    expected = np.zeros(SHAPE, int)
    expected[list(PAINTED)] = denseLabels()[list(PAINTED)]
    np.testing.assert_array_equal(labels, expected)


def test_painting_is_read_whether_or_not_segments_share_a_layer(panel):
    volume = addVolume()
    annotation = addAnnotation(volume)
    segmentation = annotation.GetSegmentation()
    expected = labelsOf(annotation, volume)
    for n in range(2):
        segmentation.SeparateSegmentLabelmap(segmentation.GetNthSegmentID(n))
    np.testing.assert_array_equal(paintedOn(annotation, volume).labels, expected)
    segmentation.CollapseBinaryLabelmaps()
    assert segmentation.GetNumberOfLayers() == 1
    np.testing.assert_array_equal(paintedOn(annotation, volume).labels, expected)


def test_names_colours_and_terminology_are_taken_over(panel):
    volume = addVolume()
    annotation = addAnnotation(volume)
    segment = annotation.GetSegmentation().GetNthSegment(0)
    segment.SetColor(0.25, 0.5, 0.75)
    segment.SetTag("TerminologyEntry", "one~two")
    found = paintedOn(annotation, volume).segments[0]
    assert (found.name, found.color, found.tags) == ("ball", (0.25, 0.5, 0.75), {"TerminologyEntry": "one~two"})


def test_painting_beyond_the_volume_is_left_out(panel):
    volume = addVolume()
    annotation = addAnnotation(volume)
    part = addVolume("part", np.zeros((10, 20, 24), np.int16))
    part.SetOrigin(10.0 + 3, -20.0 + 4, 30.0 + 5 * 1.5)
    np.testing.assert_array_equal(
        paintedOn(annotation, part).labels, labelsOf(annotation, volume)[5:15, 4:24, 3:27]
    )


def test_painting_on_another_grid_is_resampled_as_slicer_does(panel):
    volume = addVolume()
    annotation = addAnnotation(volume, planes=tuple(range(24)))
    coarse = addVolume("coarse", np.zeros((12, 16, 16), np.int16))
    coarse.SetSpacing(2.0, 2.0, 3.0)
    coarse.SetOrigin(10.5, -19.5, 30.75)
    labels = paintedOn(annotation, coarse).labels
    for n in range(2):
        identifier = annotation.GetSegmentation().GetNthSegmentID(n)
        expected = slicer.util.arrayFromSegmentBinaryLabelmap(annotation, identifier, coarse)
        assert np.count_nonzero((labels == n + 1) != (expected > 0)) <= np.count_nonzero(labels) * 0.02


def test_transformed_volumes(panel):
    """The annotation moves along with the volume, or not; the result lies on the volume."""
    volume = addVolume()
    transform = translation(3.0, 0.0, 1.5)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    together = addAnnotation(volume)
    expected = labelsOf(together, volume)
    np.testing.assert_array_equal(paintedOn(together, volume).labels[list(PAINTED)], denseLabels()[list(PAINTED)])
    apart = addAnnotation(volume)
    apart.SetAndObserveTransformNodeID(None)
    moved = paintedOn(apart, volume).labels
    np.testing.assert_array_equal(moved[:-1, :, :-3], expected[1:, :, 3:])
    result = newSegmentation("result", volume)
    showLabels(result, denseLabels(), SEGMENTS, volume)
    assert result.GetTransformNodeID() == volume.GetTransformNodeID()
    np.testing.assert_array_equal(labelsOf(result, volume), denseLabels())


def test_a_warped_volume(panel):
    volume = addVolume()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    spline = vtk.vtkThinPlateSplineTransform()
    for name, shift in (("SetSourceLandmarks", 0.0), ("SetTargetLandmarks", 2.0)):
        points = vtk.vtkPoints()
        for n in range(8):
            points.InsertNextPoint(*(40.0 * (n >> axis & 1) + shift * (n == 3) for axis in range(3)))
        getattr(spline, name)(points)
    spline.SetBasisToR()
    transform.SetAndObserveTransformToParent(spline)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    annotation = addAnnotation(volume)
    assert not transform.IsTransformToWorldLinear()
    np.testing.assert_array_equal(paintedOn(annotation, volume).labels[list(PAINTED)], denseLabels()[list(PAINTED)])
    result = newSegmentation("result", volume)
    showLabels(result, denseLabels(), SEGMENTS, volume)
    assert result.GetTransformNodeID() == transform.GetID()


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_results_lie_on_the_volume(panel, direction):
    volume = addVolume(direction=direction)
    node = newSegmentation("result", volume)
    showLabels(node, denseLabels(), SEGMENTS, volume)
    np.testing.assert_array_equal(labelsOf(node, volume), denseLabels())
    segmentation = node.GetSegmentation()
    assert [segmentation.GetNthSegmentID(n) for n in range(2)] == ["Segment_9", "x"]
    assert segmentation.GetNthSegment(0).GetColor() == (0.2, 0.4, 0.6)
    assert segmentation.GetNumberOfLayers() == 1
    tag = vtk.reference("")
    assert segmentation.GetNthSegment(0).GetTag("TerminologyEntry", tag) and str(tag) == "a~b"
    confidence = newConfidence("confidence", np.full(SHAPE, 50, np.uint8), volume)
    assert geometryOf(confidence) == geometryOf(volume)
    assert slicer.util.arrayFromVolume(confidence).mean() == 50


def test_results_can_be_edited_and_saved_like_any_segmentation(panel, tmp_path):
    volume = addVolume()
    node = newSegmentation("result", volume)
    showLabels(node, denseLabels(), SEGMENTS, volume)
    mask = (denseLabels() == 1).astype(np.uint8)
    mask[0, 0, 0] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "Segment_9", volume)
    expected = denseLabels()
    expected[0, 0, 0] = 1
    np.testing.assert_array_equal(labelsOf(node, volume), expected)
    assert slicer.util.saveNode(node, str(tmp_path / "r.seg.nrrd"))
    from SparseUNet3DLib.segmentation_files import on_grid, read_segmentation

    saved = read_segmentation(tmp_path / "r.seg.nrrd")
    np.testing.assert_array_equal(on_grid(saved, geometryOf(volume)).labels, expected)
    assert node.CreateClosedSurfaceRepresentation()


def test_results_are_placed_beside_the_volume(panel):
    volume = addVolume()
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    node = newSegmentation("result", volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_vector_volumes_and_sequences_are_refused(panel):
    vector = addVolume("rgb", np.zeros((*SHAPE, 3), np.uint8), nodeClass="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match="'rgb' has 3 values per voxel"):
        checkChannels([vector])
    volume = addVolume("frame")
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "beating heart")
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode")
    sequence.SetDataNodeAtValue(volume, "0")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(volume, sequence, False)
    with pytest.raises(InputError, match="'frame' shows one frame of the sequence 'beating heart'"):
        checkChannels([volume])


def test_an_oblique_transformed_volume_from_end_to_end(panel, drive, train):
    volume = addVolume(direction=DIRECTIONS["oblique left-handed"])
    volume.SetAndObserveTransformNodeID(translation(5.0, 6.0, 7.0).GetID())
    annotation = addAnnotation(volume)
    panel.parameters.volume, panel.parameters.annotation = volume, annotation
    assert drive(lambda: panel.ui.segmentButton.enabled and panel.ui.sliceTable.rowCount == 5)
    train()
    result = panel.parameters.result
    assert result.GetTransformNodeID() == volume.GetTransformNodeID()
    assert geometryOf(panel.parameters.confidence) == geometryOf(volume)
    np.testing.assert_array_equal(labelsOf(result, volume)[list(PAINTED)], denseLabels()[list(PAINTED)])
    assert nodeNames("vtkMRMLLabelMapVolumeNode") == []
