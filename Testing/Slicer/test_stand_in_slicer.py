"""The stand-in's forms, widgets of nodes, parameter nodes and modules behave as Slicer's."""

from __future__ import annotations

import sys
from typing import Annotated

import numpy as np
import pytest

# -- forms -------------------------------------------------------------------------------------------------------
FORM = """<ui version="4.0"><class>F</class><widget class="qMRMLWidget" name="F"><layout class="QVBoxLayout" name="all">
<item><widget class="ctkCollapsibleButton" name="section"><property name="text"><string>Data</string></property>
<property name="collapsed"><bool>true</bool></property><layout class="QFormLayout" name="rows">
<item row="0" column="0"><widget class="QLabel" name="label"><property name="text"><string>Volume:</string></property>
</widget></item><item row="0" column="1"><widget class="qMRMLNodeComboBox" name="selector"><property name="nodeTypes">
<stringlist notr="true"><string>vtkMRMLScalarVolumeNode</string></stringlist></property><property name="noneEnabled">
<bool>true</bool></property></widget></item></layout></widget></item></layout></widget>
<connections><connection><sender>F</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>selector</receiver>
<slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def test_a_form_with_slicers_widgets_is_loaded(stand_in, tmp_path):
    import slicer

    path = tmp_path / "form.ui"
    path.write_text(FORM)
    form = slicer.util.loadUI(str(path))
    ui = slicer.util.childWidgetVariables(form)
    assert ui.selector.nodeTypes == ("vtkMRMLScalarVolumeNode",) and ui.selector.noneEnabled
    assert ui.section.text == "Data" and ui.section.collapsed
    form.setMRMLScene(slicer.mrmlScene)
    volume = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4)), name="CT")
    ui.selector.setCurrentNode(volume)
    assert ui.selector.currentNode() is volume
    form.show()
    assert ui.selector.isHidden()
    ui.section.click()
    assert not ui.section.collapsed and ui.selector.visible
    form.hide()


def test_a_form_with_an_unknown_signal_is_refused(stand_in, tmp_path):
    import slicer

    path = tmp_path / "form.ui"
    path.write_text(FORM.replace("<signal>mrmlSceneChanged", "<signal>sceneChanged"))
    with pytest.raises(RuntimeError, match="cannot connect sceneChanged"):
        slicer.util.loadUI(str(path))


# -- widgets of nodes --------------------------------------------------------------------------------------------
def test_checkable_nodes(stand_in):
    import slicer

    box = slicer.qMRMLCheckableNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.setMRMLScene(slicer.mrmlScene)
    changes = []
    box.connect("checkedNodesChanged()", lambda: changes.append(1))
    nodes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("a", "b")]
    assert box.checkedNodes() == () and box.noneChecked()
    box.setCheckState(nodes[1], 2)
    assert box.checkedNodes() == (nodes[1],) and box.uncheckedNodes() == (nodes[0],) and len(changes) == 1
    slicer.mrmlScene.RemoveNode(nodes[1])
    assert box.checkedNodes() == () and len(changes) == 2


def test_the_editor_lists_segments_and_undoes(stand_in):
    import slicer

    volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.uint8), name="CT")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = node.GetSegmentation().AddEmptySegment("", "liver")
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(slicer.mrmlScene)
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setSegmentationNode(node)
    assert editor.sourceVolumeNode() is volume and editor.currentSegmentID() == segment
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[2] = 1

    def painted() -> int:
        return int(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume).sum())

    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    editor.saveStateForUndo()
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask * 0, node, segment, volume)
    editor.undo()
    assert painted() == 30
    editor.redo()
    assert painted() == 0
    slicer.util.findChild(editor, "AddSegmentButton").click()
    assert node.GetSegmentation().GetNumberOfSegments() == 2 and editor.currentSegmentID() != segment
    slicer.util.findChild(editor, "Paint").click()
    assert editor.activeEffect().name == "Paint"
    editor.activeEffect().setParameter("BrushSphere", 1)
    assert editor.activeEffect().integerParameter("BrushSphere") == 1


def test_the_plot_view_draws_the_curve(stand_in, tmp_path):
    import SimpleITK
    import slicer

    def picture() -> np.ndarray:
        stand_in.grab(view, tmp_path / "plot.png", 300, 200)
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "plot.png")))

    view = slicer.qMRMLPlotView()
    view.setMRMLScene(slicer.mrmlScene)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    view.setMRMLPlotViewNode(node)
    empty = picture()
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, [np.arange(5.0), np.arange(5.0) ** 2], ["step", "loss"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "loss")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("step")
    series.SetYColumnName("loss")
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetColor(1.0, 0.0, 0.0)
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", "curve")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    node.SetPlotChartNodeID(chart.GetID())
    drawn = picture()
    assert np.count_nonzero(np.any(drawn != empty, axis=2)) > 1000
    red = [np.count_nonzero((image[..., 0] > 200) & (image[..., 1] < 80)) for image in (empty, drawn)]
    assert red[0] == 0 and red[1] > 100


# -- parameter nodes ---------------------------------------------------------------------------------------------
def test_parameters_live_in_the_scene(stand_in):
    import slicer
    from slicer import vtkMRMLScalarVolumeNode
    from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper

    class Parameters:
        steps = 7
        done = True
        # Not written as annotations, which would be texts in this file, of names that only this function knows.
        __annotations__ = {
            "volume": vtkMRMLScalarVolumeNode,
            "channels": list[vtkMRMLScalarVolumeNode],
            "preset": Annotated[str, Choice(["balanced", "quick"])],
            "minutes": Annotated[float, WithinRange(0.5, 60), Default(4)],
            "steps": int,
            "planes": list[str],
            "use": dict[str, str],
            "done": bool,
        }

    make = parameterNodeWrapper(Parameters)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = make(node)
    assert (parameters.volume, parameters.channels, parameters.planes, parameters.use) == (None, [], [], {})
    assert (parameters.preset, parameters.minutes, parameters.steps, parameters.done) == ("balanced", 4.0, 7, True)
    events = []
    parameters.AddObserver("ModifiedEvent", lambda *_: events.append(1))
    volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ab"]
    parameters.volume, parameters.channels = volumes[0], volumes
    parameters.use = {"z:4": "held out"}
    parameters.planes = ["z", "y"]
    assert len(events) == 4
    parameters.planes = ["x"]
    again = make(node)
    assert (again.volume, again.channels, again.planes, again.use) == (volumes[0], volumes, ["x"], {"z:4": "held out"})
    for name, value in (("preset", "slow"), ("minutes", 90.0), ("steps", "many"), ("volume", node)):
        with pytest.raises((ValueError, TypeError)):
            setattr(parameters, name, value)
    slicer.mrmlScene.RemoveNode(volumes[0])
    assert parameters.volume is None and again.steps == 7


def test_parameters_are_saved_with_the_scene(stand_in, tmp_path):
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    wrap = parameterNodeWrapper(type("Parameters", (), {"__annotations__": {"use": dict[str, str]}}))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "MadeUp")
    wrap(node).use = {"z:4": "held out"}
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    stand_in.clear()
    assert slicer.util.getFirstNodeByName("MadeUp") is None
    slicer.util.loadScene(path)
    assert wrap(slicer.util.getNode("MadeUp")).use == {"z:4": "held out"}


# -- modules -----------------------------------------------------------------------------------------------------
MODULE = """
import qt, slicer
from slicer.ScriptedLoadableModule import *

CALLS = []

class MadeUp(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        parent.title = "Made up"
        parent.categories = ["Segmentation"]

class MadeUpWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        super().setup()
        self.logic = MadeUpLogic()
        self.button = qt.QPushButton("Press")
        self.layout.addWidget(self.button)
        CALLS.append("setup")
    def enter(self): CALLS.append("enter")
    def exit(self): CALLS.append("exit")
    def cleanup(self): CALLS.append("cleanup")

class MadeUpLogic(ScriptedLoadableModuleLogic):
    pass
"""


def test_a_module_is_loaded_reloaded_and_unloaded(stand_in, tmp_path):
    import slicer

    (tmp_path / "MadeUp.py").write_text(MODULE)
    widget = stand_in.load_module(tmp_path, "MadeUp")
    assert slicer.modules.madeup.title == "Made up" and slicer.modules.madeup.categories == ("Segmentation",)
    assert slicer.util.getModuleWidget("MadeUp") is widget and slicer.modules.MadeUpWidget is widget
    assert slicer.util.getModuleLogic("MadeUp") is widget.logic
    node = widget.logic.getParameterNode()
    assert node is widget.logic.getParameterNode() and node.GetAttribute("ModuleName") == "MadeUp"
    window = stand_in.show_main_window()
    assert slicer.util.mainWindow() is window
    slicer.util.selectModule("MadeUp")
    slicer.util.selectModule("Volumes")
    calls = sys.modules["MadeUp"].CALLS
    assert calls == ["setup", "enter", "enter", "exit"]
    stand_in.grab(widget, tmp_path / "panel.png", width=300)
    assert (tmp_path / "panel.png").stat().st_size > 500
    again = slicer.util.reloadScriptedModule("MadeUp")
    assert slicer.modules.MadeUpWidget is not widget and calls[-1] == "cleanup" and again.CALLS == ["setup"]
    stand_in.unload_module("MadeUp")
    assert again.CALLS[-2:] == ["exit", "cleanup"] and not hasattr(slicer.modules, "madeup")


def test_views_files_settings_and_environment(stand_in, tmp_path):
    import qt
    import slicer

    volume = slicer.util.addVolumeFromArray(np.arange(24.0).reshape(2, 3, 4), name="CT")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    red = slicer.app.layoutManager().sliceWidget("Red")
    assert red.sliceLogic().GetBackgroundLayer().GetVolumeNode() is volume
    assert red.mrmlSliceNode().GetOrientation() == "Axial"
    slicer.util.forceRenderAllViews()
    slicer.util.resetSliceViews()
    path = str(tmp_path / "ct.nrrd")
    assert slicer.util.saveNode(volume, path)
    assert np.array_equal(slicer.util.arrayFromVolume(slicer.util.loadVolume(path)), slicer.util.array("CT"))
    qt.QSettings().setValue("MadeUp/folder", "/tmp")
    assert slicer.util.settingsValue("MadeUp/folder", None) == slicer.app.settings().value("MadeUp/folder") == "/tmp"
    assert "PATH" in slicer.util.startupEnvironment()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemByDataNode(volume) != hierarchy.GetInvalidItemID()
    quits = []
    slicer.app.connect("aboutToQuit()", lambda: quits.append(1))
    stand_in.quit()
    assert quits == [1]


def test_images_pass_to_simpleitk_and_back(stand_in):
    import sitkUtils
    import slicer
    import vtk

    volume = slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), name="CT")
    volume.SetIJKToRASDirections([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    volume.SetSpacing(1, 2, 3)
    volume.SetOrigin(4, 5, 6)
    image = sitkUtils.PullVolumeFromSlicer(volume)
    assert image.GetSpacing() == (1, 2, 3) and image.GetOrigin() == (-4, -5, 6)
    copy = sitkUtils.PushVolumeToSlicer(image, name="copy")
    assert np.array_equal(slicer.util.arrayFromVolume(copy), slicer.util.arrayFromVolume(volume))
    expected, found = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(expected)
    copy.GetIJKToRASMatrix(found)
    assert np.allclose(slicer.util.arrayFromVTKMatrix(found), slicer.util.arrayFromVTKMatrix(expected))


def test_sample_data_is_registered(stand_in):
    import SampleData
    import slicer

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Made up", sampleName="Dots", uris=[], fileNames=[],
        customDownloader=lambda source: f"downloaded {source.sampleName}",
    )
    (source,) = slicer.modules.sampleDataSources["Made up"]
    assert source.download() == "downloaded Dots"
