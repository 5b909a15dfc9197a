"""The panel while the user is elsewhere: other modules, other layouts, other scenes."""

from __future__ import annotations

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import PAINTED, addAnnotation, addVolume, nodeNames, paint


def views(panel) -> list[str]:
    selector = panel.ui.viewSelector
    return [selector.itemText(n) for n in range(selector.count)]


@pytest.fixture
def widget(panel):
    """The module's widget, which is open again in the end."""
    widget = slicer.modules.SparseUNet3DWidget
    yield widget
    widget.enter()


def test_the_views_offered_are_those_of_the_layout(panel, ready):
    manager = slicer.app.layoutManager()
    nodes = {name: manager.sliceWidget(name).mrmlSliceNode() for name in manager.sliceViewNames()}
    yellow = nodes["Yellow"]
    for node in nodes.values():
        node.SetMappedInLayout(1)  # as the layout manager of Slicer does
    assert set(views(panel)) == {"Red", "Yellow", "Green"}
    panel.ui.viewSelector.setCurrentIndex(panel.ui.viewSelector.findText("Yellow"))
    try:
        yellow.SetMappedInLayout(0)
        manager.layoutChanged.emit(manager.layout)
        assert set(views(panel)) == {"Red", "Green"} and panel.ui.viewSelector.currentText != "Yellow"
        chosen = panel.ui.viewSelector.currentText
    finally:
        yellow.SetMappedInLayout(1)
        manager.layoutChanged.emit(manager.layout)
    assert set(views(panel)) == {"Red", "Yellow", "Green"} and panel.ui.viewSelector.currentText == chosen
    yellow.SetSliceOffset(yellow.GetSliceOffset() + 1.5)  # it is followed
    assert panel.ui.viewSelector.currentText == "Yellow"


def test_the_view_that_the_mouse_is_in_is_the_one_that_is_meant(panel, ready, drive):
    manager = slicer.app.layoutManager()
    nodes = {name: manager.sliceWidget(name).mrmlSliceNode() for name in ("Red", "Green")}
    crosshair = slicer.mrmlScene.AddNode(slicer.vtkMRMLCrosshairNode())
    panel.ui.viewSelector.setCurrentIndex(panel.ui.viewSelector.findText("Red"))
    crosshair.SetCursorPositionXYZ([1.0, 2.0, 0.0], nodes["Red"])
    nodes["Green"].SetSliceOffset(nodes["Green"].GetSliceOffset() + 3.0)  # with Shift the mouse moves all other views
    assert panel.ui.viewSelector.currentText == "Red"
    crosshair.SetCursorPositionXYZ([1.0, 2.0, 0.0], nodes["Green"])
    nodes["Green"].SetSliceOffset(5.0 - 20.0)
    assert panel.ui.viewSelector.currentText == "Green"
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    crosshair.SetCursorPositionXYZ([1.0, 2.0, 0.0], nodes["Red"])
    paint(annotation, annotation.GetSegmentation().GetNthSegmentID(0), volume, 1, (10,))
    assert panel.ui.viewSelector.currentText == "Red"
    crosshair.SetCursorPositionXYZ([1.0, 2.0, 0.0], nodes["Green"])
    panel.annotate.views.declareComplete()  # by its shortcut
    assert list(panel.parameters.completeSlices) == ["y:5"]
    crosshair.SetCursorPositionInvalid()  # on the panel
    panel.ui.completeButton.click()
    assert list(panel.parameters.completeSlices) == []


def test_painting_in_another_module_is_looked_at_when_this_one_is_opened(panel, ready, widget, drive):
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    widget.exit()
    paint(annotation, annotation.GetSegmentation().GetNthSegmentID(0), volume, 1, (10,))
    assert not panel.annotate._timer.isActive() and not panel.annotate.isUpToDate
    widget.enter()
    assert drive(lambda: panel.annotate.isUpToDate and panel.ui.sliceTable.rowCount == len(PAINTED) + 1)


def test_a_scene_in_which_the_module_is_not_opened_has_no_curve_of_it(panel, widget, drive):
    widget.exit()
    slicer.mrmlScene.Clear(0)
    assert nodeNames("vtkMRMLPlotChartNode") == nodeNames("vtkMRMLTableNode") == []
    volume = addVolume()
    annotation = addAnnotation(volume)
    assert panel.parameters is None and nodeNames("vtkMRMLPlotChartNode") == []
    widget.enter()
    assert nodeNames("vtkMRMLPlotChartNode") == ["SparseUNet3D training"]
    panel.parameters.volume, panel.parameters.annotation = volume, annotation
    assert drive(lambda: panel.ui.sliceTable.rowCount == len(PAINTED) and panel.ui.segmentButton.enabled)


def test_a_closed_scene_comes_back_with_its_annotation_in_the_editor(panel, ready, widget, tmp_path):
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    widget.exit()
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    widget.enter()
    assert panel.parameters.annotation.GetName() == "painted"
    assert panel.ui.segmentEditorWidget.segmentationNode() is panel.parameters.annotation


def test_the_editor_takes_no_keys_during_a_run(panel, ready, drive):
    editor = panel.ui.segmentEditorWidget
    assert not editor.readOnly
    panel.parameters.minutes = 0.02
    panel.ui.segmentButton.click()
    assert panel.isBusy and editor.readOnly
    assert drive(lambda: not panel.isBusy, 60)
    assert not editor.readOnly


def test_why_no_device_is_told(panel, widget, drive, monkeypatch):
    widget.exit()
    monkeypatch.setenv("PATH", "/nowhere")
    panel.train._deviceAsked = ""
    widget.enter()
    assert drive(lambda: "The worker process did not start" in panel.ui.deviceSentence.text)


def test_the_plot_is_of_no_other_layout_in_the_next_scene(panel, ready):
    view = panel.train.chart.viewNode(panel.parameters.parameterNode)
    slicer.mrmlScene.Clear(0)
    assert panel.train.chart.viewNode(panel.parameters.parameterNode) is view
    assert view.GetParentLayoutNode() is panel.parameters.parameterNode
    assert not view.GetDoPropagatePlotChartSelection()
