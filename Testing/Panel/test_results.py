"""What is shown of a result, and on which volume: also when another one is chosen, painted on, or gone by then."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import addAnnotation, addVolume, grayValues, labelsOf, nodeNames, paint, translation
from SparseUNet3DModule.results import newSegmentation, showLabels, volumeOf

from SparseUNet3DLib.segments import Segment


def isFilled(node) -> bool:
    return bool(node.GetDisplayNode().GetVisibility2DFill())


def closedSurfaces(volume):
    """An annotation that Slicer keeps as surfaces, as that of an STL file."""
    annotation = addAnnotation(volume)
    segmentation = annotation.GetSegmentation()
    assert annotation.CreateClosedSurfaceRepresentation()
    segmentation.SetSourceRepresentationName("Closed surface")
    return annotation


def test_errors_lie_on_the_volume_that_was_segmented(panel, ready, train):
    train()
    volume = panel.parameters.volume
    larger = addVolume("larger", grayValues(1, (30, 40, 50)))
    larger.SetOrigin(-100.0, 0.0, 0.0)
    panel.ui.volumeSelector.setCurrentNode(larger)
    assert volumeOf(panel.parameters.result) is volume
    panel.ui.showErrorsButton.click()
    errors = slicer.util.getNode("CT errors")
    assert volumeOf(errors) is volume and labelsOf(errors, volume).any()
    panel.ui.showErrorsButton.click()
    slicer.util.updateVolumeFromArray(volume, np.zeros((5, 6, 7), np.int16))
    panel.ui.showErrorsButton.click()
    assert "CT errors" not in nodeNames("vtkMRMLSegmentationNode")
    assert panel.parameters.result.GetDisplayNode().GetVisibility2D()
    assert "'CT' was changed since it was segmented" in panel.ui.errorLabel.text
    slicer.mrmlScene.RemoveNode(volume)
    panel.update()
    assert not panel.ui.showErrorsButton.enabled


def test_what_is_new_is_filled_the_result_or_the_painting(panel, ready, train, drive, dialogs):
    train()
    annotation, result = panel.parameters.annotation, panel.parameters.result
    assert isFilled(result) and not isFilled(annotation)
    paint(annotation, annotation.GetSegmentation().GetNthSegmentID(0), panel.parameters.volume, 1, (10,))
    assert isFilled(annotation) and not isFilled(result)
    annotation.GetDisplayNode().SetVisibility2DFill(False)  # the user's own choice, which stays
    paint(annotation, annotation.GetSegmentation().GetNthSegmentID(0), panel.parameters.volume, 1, (11,))
    assert not isFilled(annotation)
    assert drive(lambda: panel.ui.segmentButton.enabled)
    train()
    assert isFilled(panel.parameters.result) and not isFilled(annotation)
    assert panel.parameters.result.GetDisplayNode().GetVisibility() and not result.GetDisplayNode().GetVisibility()
    dialogs.answer("yesNo", True)
    panel.ui.copyButton.click()  # to be corrected now
    assert isFilled(annotation) and not isFilled(panel.parameters.result)


def test_no_confidence_of_another_result_is_shown(panel, ready, train, drive):
    train()
    assert panel.ui.showConfidenceButton.enabled
    former = panel.parameters.result
    one, two = addVolume("one"), addVolume("two")
    for node in (one, two):
        panel.ui.applySelector.check(node)
    panel.ui.applyManyButton.click()
    assert drive(lambda: panel.job is None or panel.job.state == "running", 30)
    slicer.mrmlScene.RemoveNode(one)  # a loss of one result only
    assert drive(lambda: not panel.isBusy, 60)
    assert "The volume of 'one segmented' was deleted meanwhile" in panel.ui.errorLabel.text
    assert panel.parameters.result.GetName() == "two segmented"
    assert former.GetDisplayNode().GetVisibility()  # it is of another volume
    assert panel.parameters.confidence is None and not panel.ui.showConfidenceButton.enabled


def test_files_are_segmented_although_the_scene_is_closed(panel, ready, train, drive, tmp_path):
    train()
    panel.model.save(str(tmp_path / "model"))
    (tmp_path / "in").mkdir()
    slicer.util.saveNode(panel.parameters.volume, str(tmp_path / "in" / "a.nrrd"))
    panel.ui.inputFolderButton.directory = str(tmp_path / "in")
    panel.ui.outputFolderButton.directory = str(tmp_path / "out")
    panel.ui.applyFolderButton.click()
    assert drive(lambda: panel.job is None or panel.job.state == "running", 30)
    slicer.mrmlScene.Clear(0)
    assert panel.isBusy and panel.ui.stopButton.enabled
    assert drive(lambda: not panel.isBusy, 60)
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["a.seg.nrrd"]
    assert panel.ui.statusLabel.text.startswith("1 segmentations were written to")


def test_the_result_of_another_volume_is_not_copied(panel, ready, train):
    """Its slices would be taken for this one's, and learnt from."""
    from SparseUNet3DModule.result_section import copyIntoAnnotation

    from SparseUNet3DLib.errors import InputError  # as it is after other tests have reloaded the library

    train()
    assert panel.ui.copyButton.enabled and "Asks first" in panel.ui.copyButton.toolTip
    other = addVolume("other")
    panel.parameters.volume, panel.parameters.annotation = other, addAnnotation(other)
    before = labelsOf(panel.parameters.annotation, other)
    assert not panel.ui.copyButton.enabled and "of another volume" in panel.ui.copyButton.toolTip
    with pytest.raises(InputError, match="'CT segmented' was not made of 'other'; choose its own volume"):
        copyIntoAnnotation(panel)
    np.testing.assert_array_equal(labelsOf(panel.parameters.annotation, other), before)


def test_a_scene_that_is_saved_while_errors_are_shown_shows_the_result(panel, ready, train, tmp_path):
    train()
    panel.ui.showErrorsButton.click()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    assert "CT errors" in nodeNames("vtkMRMLSegmentationNode")  # still, for the user
    assert not panel.parameters.result.GetDisplayNode().GetVisibility2D()
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert "CT errors" not in nodeNames("vtkMRMLSegmentationNode")
    assert panel.parameters.result.GetDisplayNode().GetVisibility2D()


def test_confidence_gives_the_foreground_back(panel, ready, train):
    train()
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    pet = addVolume("PET")
    slicer.util.setSliceViewerLayers(foreground=pet, foregroundOpacity=0.3)
    panel.ui.showConfidenceButton.click()
    assert composite.GetForegroundVolumeID() == panel.parameters.confidence.GetID()
    panel.ui.showConfidenceButton.click()
    assert composite.GetForegroundVolumeID() == pet.GetID()
    assert composite.GetForegroundOpacity() == pytest.approx(0.3)
    panel.ui.showConfidenceButton.click()
    other = addVolume("SPECT")
    slicer.util.setSliceViewerLayers(foreground=other)  # the user's choice meanwhile
    panel.ui.showConfidenceButton.click()
    assert composite.GetForegroundVolumeID() == other.GetID()


@pytest.mark.parametrize("moved", ["none", "volume", "annotation", "both"])
def test_a_copied_result_lies_where_the_result_lies(panel, drive, dialogs, moved):
    volume = addVolume()
    annotation = addAnnotation(volume)
    transform = translation(3.0, 0.0, 1.5)
    for node, name in ((volume, "volume"), (annotation, "annotation")):
        if moved in (name, "both"):
            node.SetAndObserveTransformNodeID(transform.GetID())
    before = labelsOf(annotation, volume)
    panel.parameters.volume, panel.parameters.annotation = volume, annotation
    result = newSegmentation("result", volume)
    labels = np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    labels[8:12, 10:20, 12:22], labels[9, 12:14, 14:16] = 1, 2
    showLabels(result, labels, (Segment("a", "ball"), Segment("b", "core")), volume)
    panel.parameters.result = result
    assert drive(lambda: panel.annotate.isUpToDate and panel.ui.copyButton.enabled)
    dialogs.answer("yesNo", True)
    panel.ui.copyButton.click()
    refused = moved in ("volume", "annotation")
    assert panel.ui.errorFrame.isHidden() != refused
    if refused:
        assert "have different parent transforms" in panel.ui.errorLabel.text
    np.testing.assert_array_equal(labelsOf(annotation, volume), before if refused else labels)
    for node in (volume, annotation):  # as the message says
        node.HardenTransform()
    assert drive(lambda: panel.annotate.isUpToDate and panel.ui.copyButton.enabled)
    panel.ui.copyButton.click()
    np.testing.assert_array_equal(labelsOf(annotation, volume), labels)


def test_surfaces_are_no_painting(panel, ready, drive, dialogs):
    volume = panel.parameters.volume
    annotation = closedSurfaces(volume)
    panel.parameters.annotation = annotation
    panel.parameters.result = addAnnotation(volume)
    assert drive(lambda: "The segment 'ball' is kept as 'Closed surface'" in panel.ui.sliceMessage.text)
    assert not panel.ui.segmentButton.enabled
    dialogs.answer("yesNo", True)
    panel.ui.copyButton.click()
    assert "'painted' is kept as 'Closed surface', not as painted voxels" in panel.ui.errorLabel.text
    segmentation = annotation.GetSegmentation()  # as the message says
    assert annotation.CreateBinaryLabelmapRepresentation()
    segmentation.SetSourceRepresentationName("Binary labelmap")
    assert drive(lambda: panel.annotate.isUpToDate and panel.ui.sliceTable.rowCount > 0)
