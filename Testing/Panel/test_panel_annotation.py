"""The panel before a training: what it makes of a scene, and of slices while they are painted."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import (
    PAINTED,
    SHAPE,
    addAnnotation,
    addVolume,
    gridOf,
    paint,
    table,
    translation,
)
from SparseUNet3DModule.slices import HELD_OUT, IGNORE, TRAIN


def test_an_empty_scene_says_what_to_do(panel):
    ui = panel.ui
    assert not ui.segmentButton.enabled and not ui.stopButton.enabled and not ui.continueButton.enabled
    assert ui.segmentButton.toolTip == "Choose a volume first."
    assert "press 'Segment'" in ui.resultLabel.text
    assert ui.errorFrame.isHidden()


@pytest.mark.parametrize("isMoved", [False, True])
def test_a_new_annotation_lies_on_the_volume(panel, isMoved):
    """And moves with it: its grid is the volume's own."""
    volume = addVolume("CT")
    ownGrid = gridOf(addAnnotation(volume, planes=()))
    if isMoved:
        volume.SetAndObserveTransformNodeID(translation(30.0, 0.0, 1.5).GetID())
    panel.ui.volumeSelector.setCurrentNode(volume)
    assert panel.parameters.volume is volume
    node = panel.ui.annotationSelector.addNode()
    assert panel.parameters.annotation is node
    assert node.GetName() == "CT annotation"
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume
    assert node.GetTransformNodeID() == volume.GetTransformNodeID() and gridOf(node) == ownGrid
    assert panel.ui.segmentEditorWidget.segmentationNode() is node
    assert panel.ui.segmentEditorWidget.sourceVolumeNode() is volume


def test_the_table_fills_while_one_paints(panel, drive):
    volume = addVolume()
    annotation = addAnnotation(volume, planes=())
    panel.parameters.volume, panel.parameters.annotation = volume, annotation
    assert drive(lambda: "Nothing is painted yet" in panel.ui.sliceMessage.text)
    assert not panel.ui.segmentButton.enabled
    ids = [annotation.GetSegmentation().GetNthSegmentID(n) for n in range(2)]
    for number, identifier in enumerate(ids, start=1):
        paint(annotation, identifier, volume, number, (8,))
    assert drive(lambda: table(panel) == [("axial 8", "42.0 mm", "ball, core")])
    for number, identifier in enumerate(ids, start=1):
        paint(annotation, identifier, volume, number, (16,))
    assert drive(lambda: [row[0] for row in table(panel)] == ["axial 8", "axial 16"])
    assert "8.3 % of the volume is annotated: background" in panel.ui.sliceMessage.text
    assert panel.ui.segmentButton.enabled


def test_what_is_painted_while_the_slices_are_looked_for_is_seen_too(panel, ready, drive):
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    identifiers = [annotation.GetSegmentation().GetNthSegmentID(n) for n in range(2)]
    paint(annotation, identifiers[0], volume, 1, (10,))
    assert drive(lambda: panel.annotate._background.isBusy)
    paint(annotation, identifiers[0], volume, 1, (14,))
    assert drive(lambda: [row[0] for row in table(panel)] == [f"axial {k}" for k in (4, 8, 10, 12, 14, 16, 20)])


def test_what_is_deleted_is_not_replaced_by_another_node(panel, ready, drive):
    addVolume("other")
    addAnnotation(panel.parameters.volume)
    for name in ("annotation", "volume"):
        slicer.mrmlScene.RemoveNode(getattr(panel.parameters, name))
        assert getattr(panel.parameters, name) is None
        assert drive(lambda: not panel.data._isRemoving, 5)
        assert getattr(panel.parameters, name) is None
        assert getattr(panel.ui, f"{name}Selector").currentNode() is None


def test_a_second_click_starts_nothing_more(panel, ready, drive, monkeypatch):
    """While the first one is being started, which lets events through."""
    calls = []
    make = panel.logic.makeCase

    def makeCase(*arguments, **options):
        calls.append(panel.isBusy)
        panel.ui.segmentButton.click()
        slicer.app.processEvents()
        return make(*arguments, **options)

    monkeypatch.setattr(panel.logic, "makeCase", makeCase)
    panel.parameters.minutes = 0.02
    panel.ui.segmentButton.click()
    assert calls == [True] and panel.isBusy
    assert drive(lambda: not panel.isBusy, 60)


def test_closing_the_scene_while_a_run_is_started(panel, ready, drive, monkeypatch):
    make = panel.logic.makeCase

    def makeCase(*arguments, **options):
        case = make(*arguments, **options)
        slicer.mrmlScene.Clear(0)
        return case

    monkeypatch.setattr(panel.logic, "makeCase", makeCase)
    panel.ui.segmentButton.click()
    assert not panel.isBusy and panel.parameters.runFolder == ""
    assert drive(lambda: not panel.logic._jobs, 30)


def test_clicking_a_row_goes_there(panel, ready, drive):
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    panel.ui.sliceTable.cellClicked.emit(3, 0)
    assert red.GetSliceOffset() == pytest.approx(30 + 1.5 * PAINTED[3])
    panel.ui.sliceTable.setCurrentCell(3, 0)
    panel.ui.nextButton.click()
    assert red.GetSliceOffset() == pytest.approx(30 + 1.5 * PAINTED[4])
    panel.ui.nextButton.click()
    assert red.GetSliceOffset() == pytest.approx(30 + 1.5 * PAINTED[0])
    panel.ui.previousButton.click()
    assert red.GetSliceOffset() == pytest.approx(30 + 1.5 * PAINTED[4])


def test_a_slice_without_structures_is_declared_complete(panel, ready, drive):
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.SetSliceOffset(30.2)
    panel.ui.viewSelector.setCurrentIndex(panel.ui.viewSelector.findText("Red"))
    panel.ui.completeButton.click()
    assert drive(lambda: table(panel)[0] == ("axial 0", "30.0 mm", "nothing (background)"))
    assert panel.ui.completeButton.text == "Slice is not complete"
    red.SetSliceOffset(31.7)
    assert panel.ui.completeButton.text == "Slice is complete"  # the next one
    red.SetSliceOffset(30.2)
    panel.ui.completeButton.click()
    assert drive(lambda: table(panel)[0][0] == "axial 4")
    assert panel.ui.completeButton.text == "Slice is complete"


def test_a_tilted_view_is_no_slice(panel, ready):
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.GetSliceToRAS().SetElement(2, 0, 0.5)
    red.UpdateMatrices()
    panel.ui.viewSelector.setCurrentIndex(panel.ui.viewSelector.findText("Red"))
    panel.ui.completeButton.click()
    assert "tilted against the volume's slices" in panel.ui.sliceMessage.text
    red.SetOrientationToAxial()


def test_slices_are_held_out_or_ignored(panel, ready, drive):
    panel.ui.sliceTable.cellWidget(1, 3).setCurrentIndex(1)
    assert drive(lambda: [r.use for r in panel.annotate.overview.rows][1] == HELD_OUT)
    panel.ui.sliceTable.cellWidget(4, 3).setCurrentIndex(2)
    assert drive(lambda: [r.use for r in panel.annotate.overview.rows] == [TRAIN, HELD_OUT, TRAIN, TRAIN, IGNORE])
    assert dict(panel.parameters.sliceUse) == {"z:8": "held out", "z:20": "ignore"}
    panel.ui.sliceTable.cellWidget(4, 3).setCurrentIndex(0)
    assert drive(lambda: [r.use for r in panel.annotate.overview.rows][4] == TRAIN)


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (lambda node: node.SetSpacing(2, 2, 2), "lie on different voxel grids: 'CT' has 32x32x24 voxels"),
        (lambda node: node.SetAndObserveTransformNodeID(slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLLinearTransformNode").GetID()), "have different parent transforms"),
        (lambda node: node.SetAndObserveImageData(None), "'other' has no voxels"),
    ],
)
def test_channels_that_do_not_fit_are_refused_at_once(panel, ready, spoil, problem):
    other = addVolume("other")
    spoil(other)
    panel.ui.channelSelector.check(other)
    assert [n.GetName() for n in panel.parameters.furtherChannels] == ["other"]
    assert problem in panel.ui.dataMessage.text
    assert not panel.ui.segmentButton.enabled


def test_overlapping_segments_are_refused_in_a_sentence(panel, ready, drive):
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    segmentation = annotation.GetSegmentation()
    segmentation.SeparateSegmentLabelmap(segmentation.GetNthSegmentID(1))
    mask = np.zeros(SHAPE, np.uint8)
    mask[8, 10:22, 10:22] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, annotation, segmentation.GetNthSegmentID(1), volume)
    assert drive(lambda: "The segments 'ball' and 'core' overlap" in panel.ui.sliceMessage.text)
    assert not panel.ui.segmentButton.enabled


def test_one_segment_and_forty_segments(panel, drive):
    volume = addVolume()
    panel.parameters.volume, panel.parameters.annotation = volume, addAnnotation(volume, names=("ball",))
    assert drive(lambda: len(table(panel)) == len(PAINTED))
    assert panel.ui.segmentButton.enabled
    many = addAnnotation(volume, planes=(), names=tuple(f"s{n}" for n in range(40)))
    for n in range(40):
        mask = np.zeros(SHAPE, np.uint8)
        mask[8, 4 + n // 8 * 4 : 7 + n // 8 * 4, n % 8 * 4 : n % 8 * 4 + 3] = 1
        mask[16] = mask[8]
        identifier = many.GetSegmentation().GetNthSegmentID(n)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, many, identifier, volume)
    panel.parameters.annotation = many
    assert drive(lambda: [row[0] for row in table(panel)] == ["axial 8", "axial 16"])
    assert len(panel.annotate.overview.shares) == 41
