"""The panel from end to end: painted slices in, a real worker process, segmentation and scores out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import (
    NAMES,
    PAINTED,
    SHAPE,
    addAnnotation,
    addVolume,
    denseLabels,
    iou,
    labelsOf,
    nodeNames,
    paint,
    table,
)
from SparseUNet3DModule.results import isDense
from SparseUNet3DModule.slices import HELD_OUT, TRAIN

# -- training ----------------------------------------------------------------------------------------------------------


def test_from_painted_slices_to_the_whole_volume(panel, ready, train):
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    before = labelsOf(annotation, volume)
    train(minutes=0.2)
    result = panel.parameters.result
    assert result is not annotation and result.GetName() == "CT segmented"
    names = [result.GetSegmentation().GetNthSegment(n).GetName() for n in range(2)]
    assert names == list(NAMES)
    for n in range(2):
        painted, found = (node.GetSegmentation().GetNthSegment(n) for node in (annotation, result))
        assert painted.GetColor() == found.GetColor()
    labels = labelsOf(result, volume)
    np.testing.assert_array_equal(labels[list(PAINTED)], denseLabels()[list(PAINTED)])
    others = [k for k in range(SHAPE[0]) if k not in PAINTED]
    assert iou(labels[others], denseLabels()[others], 1) > 0.4
    np.testing.assert_array_equal(labelsOf(annotation, volume), before)
    confidence = slicer.util.arrayFromVolume(panel.parameters.confidence)
    assert confidence.shape == SHAPE and (confidence[list(PAINTED)] == 100).all() and confidence.min() < 100
    # what is shown
    ui = panel.ui
    assert ui.progressBar.value == 100 and ui.statusLabel.text == "Done."
    assert ui.scoreTable.rowCount == 2 and ui.scoreTable.item(0, 0).text() == "ball"
    assert "on slices that were held out to measure it" in ui.resultLabel.text
    held = [panel.ui.sliceTable.cellWidget(r, 3).currentText for r in range(5)]
    assert held.count("held out (automatic)") == 1
    chart = panel.train.chart
    assert chart.viewNode(panel.parameters.parameterNode).GetPlotChartNode() is chart.chartNode()
    assert chart.chartNode().GetNumberOfPlotSeriesNodes() == 2
    assert len(chart.values("loss")) > 1 and len(chart.values("held-out IoU")) >= 1
    highest = max(value for name in ("loss", "held-out IoU") for _step, value in chart.values(name))
    assert chart.chartNode().GetYAxisRange() == pytest.approx((0, 1.4 * max(1, highest)))
    assert "preview" not in " ".join(nodeNames("vtkMRMLSegmentationNode"))
    assert Path(panel.parameters.modelPath).exists() and ui.saveModelButton.enabled
    # errors on the held-out slice, 3D, confidence
    ui.showErrorsButton.click()
    errors = slicer.util.getNode("CT errors")
    assert errors.GetSegmentation().GetNumberOfSegments() == 3
    assert not result.GetDisplayNode().GetVisibility2D()
    ui.showErrorsButton.click()
    assert "CT errors" not in nodeNames("vtkMRMLSegmentationNode")
    assert result.GetDisplayNode().GetVisibility2D()
    ui.show3DButton.click()
    assert result.GetSegmentation().ContainsRepresentation("Closed surface")
    ui.showConfidenceButton.click()
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetForegroundVolumeID() == panel.parameters.confidence.GetID()
    ui.showConfidenceButton.click()
    assert not composite.GetForegroundVolumeID()


def test_painting_more_and_continuing_goes_on_from_the_model(panel, ready, train, drive):
    train()
    first, model = panel.parameters.result, panel.parameters.modelPath
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    for number in (1, 2):
        paint(annotation, annotation.GetSegmentation().GetNthSegmentID(number - 1), volume, number, (10,))
    assert drive(lambda: len(table(panel)) == 6)
    train(panel.ui.continueButton)
    assert panel.parameters.result is not first and panel.parameters.modelPath != model
    assert panel.logic.modelCard(panel.parameters.modelPath)["header"]["record"]["started_from"]


def test_previews_are_shown_while_it_trains(panel, ready, drive):
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "segmentations")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(annotation), folder)
    panel.ui.minutesSpinBox.value = 30
    panel.ui.segmentButton.click()
    assert drive(lambda: "CT preview" in nodeNames("vtkMRMLSegmentationNode"), 90)
    preview = slicer.util.getNode("CT preview")
    names = [preview.GetSegmentation().GetNthSegment(n).GetName() for n in range(2)]
    assert names == list(NAMES) and not preview.GetSaveWithScene()
    assert labelsOf(preview, volume).any()
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert "CT preview" not in nodeNames("vtkMRMLSegmentationNode")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(panel.parameters.result)) == folder


def test_stop_keeps_what_was_learnt(panel, ready, drive):
    panel.ui.minutesSpinBox.value = 30
    panel.ui.segmentButton.click()
    assert panel.ui.stopButton.enabled and not panel.ui.segmentButton.enabled
    assert drive(lambda: panel.ui.statusLabel.text.startswith("Training"), 60)
    panel.ui.stopButton.click()
    assert panel.ui.stopButton.text == "Stop now"
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.ui.statusLabel.text == "Done."
    assert panel.parameters.result is not None


def test_stop_now_keeps_a_checkpoint_to_continue_from(panel, ready, drive, train):
    panel.ui.minutesSpinBox.value = 30
    panel.ui.segmentButton.click()
    assert drive(lambda: panel.ui.statusLabel.text.startswith("Training"), 60)
    folder = panel.parameters.runFolder
    panel.ui.stopButton.click()
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.parameters.result is None or panel.ui.statusLabel.text == "Done."
    if panel.parameters.result is None:
        assert panel.ui.continueButton.enabled and panel.ui.errorFrame.isHidden()
        assert panel.ui.statusLabel.text == "Stopped. Press 'Continue' to go on."
        train(panel.ui.continueButton)
        assert panel.parameters.runFolder == folder


def test_copying_the_result_into_the_annotation_asks_and_can_be_undone(panel, ready, train, dialogs):
    train()
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    painted = labelsOf(annotation, volume)
    dialogs.answer("yesNo", False)
    panel.ui.copyButton.click()
    np.testing.assert_array_equal(labelsOf(annotation, volume), painted)
    dialogs.answer("yesNo", True)
    panel.ui.copyButton.click()
    result = labelsOf(panel.parameters.result, volume)
    np.testing.assert_array_equal(labelsOf(annotation, volume), result)
    assert isDense(annotation) and isDense(panel.parameters.result)
    assert list(panel.parameters.completeSlices) == sorted(f"z:{k}" for k in PAINTED)
    panel.ui.segmentEditorWidget.undo()
    np.testing.assert_array_equal(labelsOf(annotation, volume), painted)


def test_two_channels_and_scribbles(panel, drive, train):
    volume, other = addVolume("confidence"), addVolume("two", np.zeros(SHAPE, np.float32) + denseLabels())
    annotation = addAnnotation(volume, names=("Background", "core"))
    panel.parameters.volume, panel.parameters.annotation = volume, annotation
    panel.ui.channelSelector.check(other)
    panel.ui.scribblesCheckBox.click()
    assert drive(lambda: panel.ui.segmentButton.enabled and not table(panel))
    train()
    segmentation = panel.parameters.result.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 1 and segmentation.GetNthSegment(0).GetName() == "core"
    channels = panel.logic.modelCard(panel.parameters.modelPath)["header"]["channels"]
    assert [channel["name"] for channel in channels] == ["confidence", "two"]
    results = len(nodeNames("vtkMRMLSegmentationNode"))
    panel.parameters.volume, panel.parameters.furtherChannels = other, [volume]
    panel.ui.applyButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    told = "The channels of 'two' are two, confidence, but those of the model are confidence, two;"
    assert panel.ui.errorLabel.text.startswith(told)
    assert len(nodeNames("vtkMRMLSegmentationNode")) == results
    panel.parameters.volume, panel.parameters.furtherChannels = volume, [other]
    panel.ui.applyButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert len(nodeNames("vtkMRMLSegmentationNode")) == results + 1


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_model_is_saved_loaded_and_applied(panel, ready, train, drive, tmp_path):
    train()
    panel.model.save(str(tmp_path / "kept"))
    assert panel.parameters.modelPath == str(tmp_path / "kept.safetensors")
    slicer.mrmlScene.Clear(0)
    assert panel.parameters.modelPath == ""
    panel.model.load(str(tmp_path / "kept.safetensors"))
    assert "1  ball" in panel.ui.modelCard.plainText
    panel.model.load(str(tmp_path / "kept.safetensors"))
    assert "1  ball" in panel.ui.modelCard.plainText and panel.ui.loadModelButton.enabled
    one, two = addVolume("one"), addVolume("two")
    panel.ui.volumeSelector.setCurrentNode(one)
    panel.ui.applyButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.parameters.result.GetName() == "one segmented" and panel.parameters.confidence is not None
    for node in (one, two):
        panel.ui.applySelector.check(node)
    panel.ui.applyManyButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert nodeNames("vtkMRMLSegmentationNode") == ["one segmented", "one segmented_1", "two segmented"]
    (tmp_path / "in").mkdir()
    slicer.util.saveNode(one, str(tmp_path / "in" / "a.nrrd"))
    slicer.util.saveNode(two, str(tmp_path / "in" / "b.nii.gz"))
    slicer.util.saveNode(panel.parameters.result, str(tmp_path / "in" / "a.seg.nrrd"))  # no volume
    panel.ui.inputFolderButton.directory = str(tmp_path / "in")
    panel.ui.outputFolderButton.directory = str(tmp_path / "out")
    panel.ui.applyFolderButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a.seg.nrrd", "b.seg.nrrd"]
    assert panel.ui.statusLabel.text.startswith("2 segmentations were written to")
    # a second time, when all are there; and with a further one
    panel.ui.applyFolderButton.click()
    assert not panel.isBusy and "All 2 volumes have a segmentation in" in panel.ui.errorLabel.text
    before = (tmp_path / "out" / "a.seg.nrrd").stat().st_mtime_ns
    slicer.util.saveNode(two, str(tmp_path / "in" / "c.nrrd"))
    panel.ui.applyFolderButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.ui.statusLabel.text.endswith("2 were there already and stay as they are.")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a.seg.nrrd", "b.seg.nrrd", "c.seg.nrrd"]
    assert (tmp_path / "out" / "a.seg.nrrd").stat().st_mtime_ns == before


def test_a_broken_model_is_refused_in_a_sentence(panel, ready, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense" * 20)
    panel.ui.trainSection.collapsed = True
    panel.model.load(str(tmp_path / "bad.safetensors"))
    assert "bad.safetensors" in panel.ui.errorLabel.text and not panel.ui.errorFrame.isHidden()
    assert not panel.ui.trainSection.collapsed  # where it is shown
    assert panel.parameters.modelPath == ""


def test_the_choices_are_in_the_scene(panel, ready, tmp_path, drive):
    panel.ui.presetSelector.setCurrentIndex(2)
    panel.ui.minutesSpinBox.value = 7.5
    panel.ui.sliceTable.cellWidget(1, 3).setCurrentIndex(1)
    panel.parameters.completeSlices = ["z:0"]
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb")) or slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Clear(0)
    assert panel.parameters.volume is None and panel.ui.minutesSpinBox.value == 0
    saved = next(tmp_path.glob("scene.*"))
    slicer.util.loadScene(str(saved))
    assert panel.parameters.volume.GetName() == "CT"
    assert panel.ui.presetSelector.currentIndex == 2 and panel.ui.minutesSpinBox.value == 7.5
    assert drive(lambda: [r.use for r in panel.annotate.overview.rows][:3] == [TRAIN, TRAIN, HELD_OUT], 5), (
        panel.annotate.overview, dict(panel.parameters.sliceUse))
