"""The MRML scene with the nodes that Slicer always has, and the logic classes of its modules; all of these are real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import slicer
import vtk

from .folders import folder

#: Slicer module -> its logic class, in the order in which they register their nodes with the scene.
LOGIC_CLASSES = {
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Colors": "vtkSlicerColorLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
}
SLICE_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}

# Nodes that Slicer puts into the subject hierarchy, where they are not hidden from editors.
_IN_SUBJECT_HIERARCHY = ("vtkMRMLDisplayableNode", "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLPlotChartNode",
                         "vtkMRMLPlotSeriesNode", "vtkMRMLSequenceNode")  # fmt: skip


# The first of Slicer's anatomical colours, which new segments get in turn; slicer-core comes without the table's file.
_ANATOMY_COLOURS = {
    "background": (0, 0, 0), "tissue": (128, 174, 128), "bone": (241, 214, 145), "skin": (177, 122, 101),
    "connective tissue": (111, 184, 210), "blood": (216, 101, 79), "organ": (221, 130, 101), "mass": (144, 238, 144),
    "muscle": (192, 104, 88), "foreign object": (220, 245, 20), "waste": (78, 63, 0), "teeth": (255, 250, 220),
    "fat": (230, 220, 70), "gray matter": (200, 200, 235), "white matter": (250, 250, 210), "nerve": (244, 214, 49),
    "vein": (0, 151, 206), "artery": (216, 101, 79), "capillary": (183, 156, 220), "ligament": (183, 214, 211),
}  # fmt: skip


class Scene:
    """Slicer's scene and what keeps it in order."""

    def __init__(self) -> None:
        with quiet():  # no files of terminologies and colours come with the Python package
            self.mrml = slicer.vtkMRMLScene()
            self.application_logic = slicer.vtkSlicerApplicationLogic()
            self.application_logic.SetMRMLScene(self.mrml)
            self.logics = {name: self._module_logic(name, cls) for name, cls in LOGIC_CLASSES.items()}
            self.application_logic.SetColorLogic(self.logics["Colors"])
            self.layout_logic = slicer.vtkMRMLLayoutLogic()
            self.layout_logic.SetMRMLApplicationLogic(self.application_logic)
            self.layout_logic.SetMRMLScene(self.mrml)
        self._add_anatomy_colours()
        self._remote_io = slicer.vtkMRMLRemoteIOLogic()  # without its cache no scene can be read from an .mrb file
        self._remote_io.SetMRMLScene(self.mrml)
        self._remote_io.GetCacheManager().SetRemoteCacheDirectory(folder("cache"))
        self._remote_io.AddDataIOToScene()
        self.slice_logics = vtk.vtkCollection()
        for name, orientation in SLICE_VIEWS.items():
            self.slice_logics.AddItem(self._slice_logic(name, orientation))
        self.application_logic.SetSliceLogics(self.slice_logics)
        self.plot_view()
        self.mrml.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._add_to_subject_hierarchy)
        self.mrml.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, self._remove_from_subject_hierarchy)
        self.mrml.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, lambda *_: self.plot_view())

    def _module_logic(self, name: str, class_name: str) -> Any:
        logic = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(self.application_logic)
        self.application_logic.SetModuleLogic(name, logic)
        logic.SetMRMLScene(self.mrml)
        return logic

    def _add_anatomy_colours(self) -> None:
        """Tables that Slicer's logic looks up by name, for segments and for label maps."""
        for name in ("GenericAnatomyColors", "GenericColors"):
            node = slicer.vtkMRMLColorTableNode()
            node.SetTypeToUser()
            node.SetName(name)
            node.SetSingletonTag(f"File{name}.txt")
            node.SetNumberOfColors(len(_ANATOMY_COLOURS))
            for index, (label, colour) in enumerate(_ANATOMY_COLOURS.items()):
                node.SetColor(index, label, *(channel / 255 for channel in colour), float(index > 0))
            self.mrml.AddNode(node)

    def _slice_logic(self, name: str, orientation: str) -> Any:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self.application_logic)
        logic.SetMRMLScene(self.mrml)
        logic.SetSliceNode(self.mrml.GetSingletonNode(name, "vtkMRMLSliceNode"))
        logic.GetSliceNode().SetOrientation(orientation)
        return logic

    def slice_logic(self, view_name: str) -> Any:
        return self.application_logic.GetSliceLogicByLayoutName(view_name)

    def plot_view(self) -> Any:
        """The node of the plot view, which is a singleton like those of the slice views."""
        node = self.mrml.GetSingletonNode("PlotView1", "vtkMRMLPlotViewNode")
        if node is None:
            node = slicer.vtkMRMLPlotViewNode()
            node.SetSingletonTag("PlotView1")
            node.SetName("PlotView1")
            node.SetLayoutName("PlotView1")
            node = self.mrml.AddNode(node)
        return node

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _add_to_subject_hierarchy(self, caller: Any, event: str, node: Any) -> None:
        if node.GetHideFromEditors() or not any(node.IsA(kind) for kind in _IN_SUBJECT_HIERARCHY):
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.mrml)
        if hierarchy.GetItemByDataNode(node) == hierarchy.GetInvalidItemID():
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _remove_from_subject_hierarchy(self, caller: Any, event: str, node: Any) -> None:
        # Not asked for by way of the scene: that would make a hierarchy while the scene closes.
        hierarchy = self.mrml.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
        if hierarchy is not None and not self.mrml.IsClosing():
            item = hierarchy.GetItemByDataNode(node)
            if item != hierarchy.GetInvalidItemID():
                hierarchy.RemoveItem(item, False, False)  # the node is being removed already

    def clear(self) -> None:
        """The scene as after "Close scene" in Slicer, with the slice views as at start."""
        self.mrml.Clear(0)
        for index, orientation in enumerate(SLICE_VIEWS.values()):
            self.slice_logics.GetItemAsObject(index).GetSliceNode().SetOrientation(orientation)


@contextmanager
def quiet() -> Iterator[None]:
    """VTK's messages do not reach the terminal."""
    before = vtk.vtkLogger.GetCurrentVerbosityCutoff()
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    try:
        yield
    finally:
        vtk.vtkLogger.SetStderrVerbosity(before)
