"""What the user changes between painting, training and result: nothing is taken for something else, nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import NAMES, PAINTED, SHAPE, addAnnotation, addVolume, grayValues, labelsOf, paint, translation
from SparseUNet3DModule import begun, runs

from SparseUNet3DLib.errors import InputError, UsageError


def namesOf(node) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]


def interrupted(panel, drive) -> Path:
    """Begin a training and leave it with a checkpoint; the run's folder."""
    panel.parameters.minutes = 30.0
    panel.ui.segmentButton.click()
    assert drive(lambda: panel.ui.statusLabel.text.startswith("Training"), 60), panel.ui.errorLabel.text
    folder = Path(panel.parameters.runFolder)
    assert drive(lambda: any((folder / runs.CHECKPOINTS).glob("*.safetensors")), 60)
    panel.job.interrupt()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.parameters.result is None
    return folder


def test_what_is_said_of_slices_belongs_to_their_annotation(panel, ready):
    volume, annotation = panel.parameters.volume, panel.parameters.annotation
    panel.parameters.completeSlices, panel.parameters.sliceUse = ["z:0"], {"z:4": "held out"}
    other = addAnnotation(volume)
    panel.ui.annotationSelector.setCurrentNode(other)
    assert list(panel.parameters.completeSlices) == [] and dict(panel.parameters.sliceUse) == {}
    panel.parameters.completeSlices = ["z:1"]
    panel.ui.annotationSelector.setCurrentNode(annotation)
    assert list(panel.parameters.completeSlices) == ["z:0"]
    assert dict(panel.parameters.sliceUse) == {"z:4": "held out"}
    panel.ui.annotationSelector.setCurrentNode(other)
    assert list(panel.parameters.completeSlices) == ["z:1"]


def test_what_is_said_of_slices_outlasts_a_scene_that_is_added(panel, ready, tmp_path):
    """Its parameters take the place of those that were there."""
    assert slicer.util.saveScene(str(tmp_path / "other.mrb"))
    volume, annotation = panel.parameters.volume, panel.parameters.annotation
    panel.parameters.completeSlices, panel.parameters.sliceUse = ["z:0"], {"z:4": "held out"}
    slicer.util.loadScene(str(tmp_path / "other.mrb"), {"clear": False})
    assert panel.parameters.annotation is not annotation and list(panel.parameters.completeSlices) == []
    panel.ui.volumeSelector.setCurrentNode(volume)
    panel.ui.annotationSelector.setCurrentNode(annotation)
    assert list(panel.parameters.completeSlices) == ["z:0"]
    assert dict(panel.parameters.sliceUse) == {"z:4": "held out"}


def test_further_channels_stay_in_the_order_in_which_they_were_ticked(panel, ready):
    """A model may want another one than the scene's."""
    first, second, third = (addVolume(name) for name in ("T1", "T2", "PET"))
    for node in (third, first, second):
        panel.ui.channelSelector.check(node)
    assert [n.GetName() for n in panel.channels()] == ["CT", "PET", "T1", "T2"]
    panel.ui.channelSelector.uncheck(third)
    panel.ui.channelSelector.check(third)
    assert [n.GetName() for n in panel.channels()] == ["CT", "T1", "T2", "PET"]


def test_further_channels_do_not_stay_with_another_volume(panel, ready):
    """They would be another patient's, and on the same grid nothing would tell."""
    first, second, other = (addVolume(name) for name in ("T1", "T2", "another patient"))
    for node in (first, second):
        panel.ui.channelSelector.check(node)
    panel.ui.volumeSelector.setCurrentNode(first)  # one of them takes the volume's place
    assert [n.GetName() for n in panel.channels()] == ["T1", "T2"]
    panel.ui.volumeSelector.setCurrentNode(other)
    assert [n.GetName() for n in panel.channels()] == ["another patient"]


@pytest.mark.parametrize("name", ["CT annotation", "lungs"])
def test_a_new_annotation_is_named_once(panel, name):
    """Slicer before 5.11 tells twice of a node that was added, the second time with the name that the user gave."""
    for _ in range(2):  # in the next scene nodes have the same IDs again
        slicer.mrmlScene.Clear(0)
        panel.ui.volumeSelector.setCurrentNode(addVolume("CT"))
        node = panel.ui.annotationSelector.addNode()
        assert node.GetName() == "CT annotation"
        node.SetName(name)
        panel.ui.annotationSelector.nodeAddedByUser.emit(node)
        assert node.GetName() == name


def test_the_second_of_two_nodes_with_the_same_name_can_be_chosen(panel, ready):
    """In Qt 6 that changes no text, and so it is told by nodeActivated only."""
    volume, annotation = addVolume("CT"), addAnnotation(panel.parameters.volume)
    panel.ui.volumeSelector.nodeActivated.emit(volume)
    panel.ui.annotationSelector.nodeActivated.emit(annotation)
    assert panel.parameters.volume is volume and panel.parameters.annotation is annotation


def test_what_is_said_of_slices_belongs_to_the_grid_in_which_they_are_counted(panel, ready):
    volume = panel.parameters.volume
    like, larger = addVolume("like"), addVolume("larger", grayValues(1, (30, 32, 32)))
    panel.parameters.completeSlices = ["z:0"]
    panel.ui.volumeSelector.setCurrentNode(like)  # another contrast
    assert list(panel.parameters.completeSlices) == ["z:0"]
    panel.ui.volumeSelector.setCurrentNode(larger)
    assert list(panel.parameters.completeSlices) == []
    panel.ui.volumeSelector.setCurrentNode(volume)
    assert list(panel.parameters.completeSlices) == ["z:0"]


def test_what_is_said_of_slices_outlives_a_volume_that_is_loaded_again(panel, ready, drive):
    volume, annotation = panel.parameters.volume, panel.parameters.annotation
    panel.parameters.completeSlices = ["z:0"]
    slicer.mrmlScene.RemoveNode(volume)
    assert drive(lambda: panel.parameters.volume is None)
    panel.ui.volumeSelector.setCurrentNode(addVolume())
    panel.ui.annotationSelector.setCurrentNode(annotation)
    assert list(panel.parameters.completeSlices) == ["z:0"]
    panel.ui.volumeSelector.setCurrentNode(None)
    panel.data.enter()
    assert list(panel.parameters.completeSlices) == ["z:0"]


def test_the_volume_that_is_looked_at_is_the_first_choice(panel):
    first, second = addVolume("MR"), addVolume("CT")
    slicer.util.setSliceViewerLayers(background=None)
    panel.data.enter()
    assert panel.parameters.volume is None  # which one nobody knows
    slicer.util.setSliceViewerLayers(background=second)
    panel.data.enter()
    assert panel.parameters.volume is second
    panel.parameters.volume = None
    slicer.util.setSliceViewerLayers(background=None)
    slicer.mrmlScene.RemoveNode(second)
    panel.data.enter()
    assert panel.parameters.volume is first


def test_slices_held_out_of_another_annotation_are_not_marked(panel, ready, train, drive):
    train()

    def marked() -> int:
        uses = [panel.ui.sliceTable.cellWidget(row, 3).currentText for row in range(panel.ui.sliceTable.rowCount)]
        return uses.count("held out (automatic)")

    assert marked() == 1
    panel.ui.annotationSelector.setCurrentNode(addAnnotation(panel.parameters.volume))
    assert drive(lambda: panel.annotate.isUpToDate and panel.ui.sliceTable.rowCount == len(PAINTED))
    assert marked() == 0


def test_channels_whose_names_differ_in_capitals_only_are_two_files():
    files = runs.channelFiles(["T1", "t1", "T1 2", "T1"], Path("folder"))
    assert [file.name for file in files] == ["T1.nrrd", "t1 2.nrrd", "T1 2 2.nrrd", "T1 3.nrrd"]


def test_a_volume_that_moves_under_its_annotation_shows_other_slices(panel, ready, drive):
    volume = panel.parameters.volume
    before = panel.annotate.overview.planes()
    moved = translation(0, 0, 3.0)  # two slices of 1.5 mm
    volume.SetAndObserveTransformNodeID(moved.GetID())
    assert not panel.ui.segmentButton.enabled  # until the slices are found again
    assert drive(lambda: panel.annotate.isUpToDate)
    assert panel.annotate.overview.planes() != before
    volume.SetAndObserveTransformNodeID(None)
    assert drive(lambda: panel.annotate.isUpToDate and panel.annotate.overview.planes() == before)
    volume.SetOrigin(10.0, -20.0, 33.0)
    assert drive(lambda: panel.annotate.isUpToDate and panel.annotate.overview.planes() != before)


def test_a_run_goes_on_as_it_was_begun(panel, ready, drive, train, dialogs):
    folder = interrupted(panel, drive)
    volume, annotation = panel.parameters.volume, panel.parameters.annotation
    volume.SetName("another name")
    first = annotation.GetSegmentation().GetNthSegmentID(0)
    annotation.GetSegmentation().GetSegment(first).SetName("globe")
    annotation.GetSegmentation().SetSegmentIndex(first, 1)
    paint(annotation, first, volume, 1, (10,))
    assert drive(lambda: panel.annotate.isUpToDate and panel.ui.continueButton.enabled)
    dialogs.answer("yesNo", False)
    panel.ui.continueButton.click()
    assert not panel.isBusy and panel.parameters.result is None
    dialogs.answer("yesNo", True)
    train(panel.ui.continueButton)
    assert panel.parameters.runFolder == str(folder)
    assert namesOf(panel.parameters.result) == list(NAMES)
    labels = labelsOf(panel.parameters.result, volume)
    assert labels[SHAPE[0] // 2, SHAPE[1] // 2, SHAPE[2] // 2] == 2  # the core is still the core


def test_a_run_that_goes_on_unchanged_needs_no_question(panel, ready, drive, train):
    folder = interrupted(panel, drive)
    train(panel.ui.continueButton)
    assert panel.parameters.runFolder == str(folder) and panel.parameters.result is not None


def test_a_run_goes_on_by_the_preset_that_it_was_begun_with(panel, ready, drive, train):
    folder = interrupted(panel, drive)
    was = panel.parameters.preset
    panel.ui.presetSelector.setCurrentIndex(2)
    assert panel.parameters.preset == "thorough" != was
    train(panel.ui.continueButton)
    assert panel.parameters.runFolder == str(folder) and panel.parameters.result is not None
    then = begun.read(folder)
    assert then.preset == was
    assert then.goingOn(was, None) == (was, None)
    assert then.goingOn("thorough", None) == (was, 30.0)
    assert then.goingOn("thorough", 7.0) == (was, 7.0)
    assert replace(then, preset="paper").goingOn("thorough", None) == ("paper", None)
    assert replace(then, preset="").goingOn("thorough", None) == ("thorough", None)  # of an earlier version
    with pytest.raises(UsageError, match="Unknown preset 'fast'"):
        then.goingOn("fast", None)


def test_a_run_does_not_go_on_with_another_volume(panel, ready, drive):
    folder = interrupted(panel, drive)
    volume = panel.parameters.volume
    assert panel.ui.continueButton.enabled
    other = addVolume("CT")
    panel.parameters.volume = other
    assert not panel.ui.continueButton.enabled
    logic = slicer.util.getModuleLogic("SparseUNet3D")
    for node, sentence in ((other, "was begun on another volume, 'CT'"), (volume, "no folder of an interrupted run")):
        where = folder if node is other else folder.parent
        with pytest.raises(InputError, match=sentence):
            logic.densify(node, panel.parameters.annotation, resumeFolder=where)


def test_what_nobody_needs_any_more_is_removed(panel, ready, train):
    train()
    folder = Path(panel.parameters.runFolder)
    kept = {path.name for path in folder.iterdir()}
    assert {runs.MODEL, runs.CONFUSION} <= kept
    assert not kept & {runs.INPUT, runs.CHECKPOINTS, runs.RESULT, runs.CONFIDENCE, runs.PREVIEW}
    panel.ui.showErrorsButton.click()
    assert slicer.util.getNode("CT errors") is not None


def test_applying_a_model_can_be_stopped_and_is_no_failure(panel, ready, drive, train):
    train()
    result = panel.parameters.result
    panel.ui.applyButton.click()
    assert drive(lambda: panel.job is None or panel.job.state == "running", 30)
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 30)
    assert panel.ui.errorFrame.isHidden() and panel.ui.statusLabel.text == "Stopped as asked."
    assert panel.parameters.result is result


def test_copying_knows_renamed_segments_and_erases_none_that_the_result_has_not(panel, ready, train, dialogs):
    train()
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    segmentation = annotation.GetSegmentation()
    segmentation.GetSegment(segmentation.GetNthSegmentID(0)).SetName("globe")
    extra = segmentation.AddEmptySegment("", "extra")
    mask = np.zeros(SHAPE, np.uint8)
    mask[PAINTED[0], :3, :3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, annotation, extra, volume)
    painted = labelsOf(annotation, volume)
    dialogs.answer("yesNo", True)
    panel.ui.copyButton.click()
    assert "The result has no segment 'extra'" in panel.ui.errorLabel.text
    np.testing.assert_array_equal(labelsOf(annotation, volume), painted)
    segmentation.RemoveSegment(extra)
    dialogs.answer("yesNo", True)
    panel.ui.copyButton.click()
    np.testing.assert_array_equal(labelsOf(annotation, volume), labelsOf(panel.parameters.result, volume))
