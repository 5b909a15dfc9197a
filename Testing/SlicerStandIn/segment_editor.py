"""qMRMLSegmentEditorWidget: Slicer's segment editor.

Its effects cannot paint: a test paints through the segmentation itself. The editor node, the lists of segments and
effects, and undo are real.
"""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from .implementations import implements
from .own_widgets import Observers
from .segment_editor_effects import EFFECTS, qSlicerSegmentEditorAbstractEffect
from .segment_editor_panel import SegmentEditorPanel


@implements
class qMRMLSegmentEditorWidget(SegmentEditorPanel):
    """The editor."""

    currentSegmentIDChanged = QtCore.Signal(str)
    sourceVolumeNodeChanged = QtCore.Signal(object)
    masterVolumeNodeChanged = QtCore.Signal(object)
    segmentationNodeChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._segmentation: Any = None
        self._source: Any = None
        self._current = ""
        self._active: qSlicerSegmentEditorAbstractEffect | None = None
        self._filling = False
        self._observers, self._scene_observers = Observers(), Observers()
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(5)
        self._effects = [qSlicerSegmentEditorAbstractEffect(self, name) for name in EFFECTS]
        self.segmentation_box.currentNodeChanged.connect(self.setSegmentationNode)
        self.source_box.currentNodeChanged.connect(self.setSourceVolumeNode)
        self.add_button.clicked.connect(self._add_segment)
        self.remove_button.clicked.connect(self._remove_segment)
        self.undo_button.clicked.connect(self.undo)
        self.redo_button.clicked.connect(self.redo)
        self.table.selectionChanged.connect(self._row_selected)

    # -- nodes --------------------------------------------------------------------------------------------------
    def setMRMLScene(self, scene: Any) -> None:
        super().setMRMLScene(scene)
        self._scene_observers.remove_all()
        if scene is not None:
            self._scene_observers.add(scene, slicer.vtkMRMLScene.EndCloseEvent, self._scene_closed)
            self._scene_observers.add_with_node(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._node_removed)
        self.segmentation_box.setMRMLScene(scene)
        self.source_box.setMRMLScene(scene)

    def _scene_closed(self) -> None:
        self._source = None
        self._forget_segmentation()

    def _node_removed(self, node: Any) -> None:
        if self.mrmlScene().IsClosing():
            return
        if node is self._segmentation:
            self._forget_segmentation()
        elif node is self._source:
            self.setSourceVolumeNode(None)

    def _forget_segmentation(self) -> None:
        """The node is gone from the scene; that its segments are gone too is not told."""
        if self._segmentation is not None:
            self._observers.remove_all()
            self._segmentation, self._current = None, ""
            self.table.setSegmentationNode(None)
            self._history.SetSegmentation(None)
            self.segmentationNodeChanged.emit(None)

    def mrmlSegmentEditorNode(self) -> Any:
        return self._node

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        self._node = node
        self.updateWidgetFromMRML()

    def updateWidgetFromMRML(self) -> None:
        if self._node is not None:
            if self._node.GetSegmentationNode() is not None:
                self.setSegmentationNode(self._node.GetSegmentationNode())
            if self._node.GetSourceVolumeNode() is not None:
                self.setSourceVolumeNode(self._node.GetSourceVolumeNode())
            self._show_effect(self._node.GetActiveEffectName() or "")

    def segmentationNode(self) -> Any:
        return self._segmentation

    def segmentationNodeID(self) -> str:
        return self._segmentation.GetID() if self._segmentation is not None else ""

    def setSegmentationNodeID(self, node_id: str) -> None:
        self.setSegmentationNode(self.mrmlScene().GetNodeByID(node_id))

    def setSegmentationNode(self, node: Any) -> None:
        if node is self._segmentation or self._node is None:
            return
        self._observers.remove_all()
        self._segmentation = node
        self._node.SetAndObserveSegmentationNode(node)
        self._history.RemoveAllStates()
        self._history.SetSegmentation(node.GetSegmentation() if node is not None else None)
        if node is not None:
            role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
            self._observers.add(node.GetSegmentation(), slicer.vtkSegmentation.SegmentRemoved, self._segment_removed)
            self.setSourceVolumeNode(node.GetNodeReference(role))
        self.table.setSegmentationNode(node)
        segments = node.GetSegmentation() if node is not None else None
        first = segments.GetNthSegmentID(0) if segments is not None and segments.GetNumberOfSegments() else ""
        self._change_segment(first)
        self.segmentation_box.setCurrentNode(node)
        self.segmentationNodeChanged.emit(node)

    def sourceVolumeNode(self) -> Any:
        return self._source

    def sourceVolumeNodeID(self) -> str:
        return self._source.GetID() if self._source is not None else ""

    def setSourceVolumeNodeID(self, node_id: str) -> None:
        self.setSourceVolumeNode(self.mrmlScene().GetNodeByID(node_id))

    def setSourceVolumeNode(self, node: Any) -> None:
        if node is self._source or self._node is None:
            return
        if node is not None and self.segmentationNode() is None:  # Slicer writes an error, and takes no volume
            raise RuntimeError("SetSourceVolumeNode: need to set segment editor and segmentation nodes first")
        self._source = node
        self._node.SetAndObserveSourceVolumeNode(node)
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        if node is not None and self._segmentation.GetNodeReference(role) is None:
            # To know whether the views are tilted against the segmentation, Slicer's editor asks for its grid.
            self._segmentation.SetReferenceImageGeometryParameterFromVolumeNode(node)
        self.source_box.setCurrentNode(node)
        self.sourceVolumeNodeChanged.emit(node)
        self.masterVolumeNodeChanged.emit(node)

    # -- segments -----------------------------------------------------------------------------------------------
    def currentSegmentID(self) -> str:
        return self._current

    def setCurrentSegmentID(self, segment_id: str) -> None:
        """Tells nobody, as in Slicer."""
        self._current = segment_id
        if self._node is not None:
            self._node.SetSelectedSegmentID(segment_id or None)
        self._filling = True
        self.table.setSelectedSegmentIDs([segment_id])
        self._filling = False

    def _change_segment(self, segment_id: str) -> None:
        if segment_id != self._current:
            self.setCurrentSegmentID(segment_id)
            self.currentSegmentIDChanged.emit(segment_id)

    def _segment_removed(self) -> None:
        if self._current and self._segmentation.GetSegmentation().GetSegment(self._current) is None:
            self._change_segment("")

    def _row_selected(self, *_: Any) -> None:
        chosen = self.table.selectedSegmentIDs()
        if not self._filling and chosen:
            self._change_segment(chosen[0])

    def _add_segment(self) -> None:
        if self._segmentation is not None:
            self.saveStateForUndo()
            self._change_segment(self._segmentation.GetSegmentation().AddEmptySegment())

    def _remove_segment(self) -> None:
        if self._segmentation is not None and self._current:
            self.saveStateForUndo()
            self._segmentation.GetSegmentation().RemoveSegment(self._current)

    def selectNextSegment(self) -> None:
        self.selectSegmentAtOffset(1)

    def selectPreviousSegment(self) -> None:
        self.selectSegmentAtOffset(-1)

    def selectSegmentAtOffset(self, offset: int) -> None:
        shown = self.table.displayedSegmentIDs()
        if shown:
            index = shown.index(self._current) if self._current in shown else -1
            self._change_segment(shown[(index + offset) % len(shown)])

    # -- effects ------------------------------------------------------------------------------------------------
    def availableEffectNames(self) -> list[str]:
        return list(EFFECTS)

    def effectCount(self) -> int:
        return len(self._effects)

    def effectByIndex(self, index: int) -> qSlicerSegmentEditorAbstractEffect:
        return self._effects[index]

    def effectByName(self, name: str) -> qSlicerSegmentEditorAbstractEffect | None:
        return next((effect for effect in self._effects if effect.property("name") == name), None)

    def activeEffect(self) -> qSlicerSegmentEditorAbstractEffect | None:
        return self._active

    def setActiveEffect(self, effect: qSlicerSegmentEditorAbstractEffect | None) -> None:
        self.setActiveEffectByName(effect.property("name") if effect is not None else "")

    def setActiveEffectByName(self, name: str) -> None:
        if self._node is not None:
            self._node.SetActiveEffectName(name)
        self._show_effect(name)

    def _show_effect(self, name: str) -> None:
        self._active = self.effectByName(name)
        for button in self.effects_box.findChildren(QtWidgets.QToolButton):
            button.setChecked(button.objectName() == name)

    # -- undo ---------------------------------------------------------------------------------------------------
    def saveStateForUndo(self) -> None:
        if self._segmentation is not None:
            self._history.SaveState()

    def undo(self) -> None:
        self._history.RestorePreviousState()

    def redo(self) -> None:
        self._history.RestoreNextState()

    def setMaximumNumberOfUndoStates(self, count: int) -> None:
        self._history.SetMaximumNumberOfStates(count)

    maximumNumberOfUndoStates = QtCore.Property(
        int, lambda self: self._history.GetMaximumNumberOfStates(), setMaximumNumberOfUndoStates
    )

    # -- views and keys, of which there are none here -----------------------------------------------------------
    def setupViewObservations(self) -> None: ...
    def removeViewObservations(self) -> None: ...
    def installKeyboardShortcuts(self, parent: QtWidgets.QWidget | None = None) -> None: ...
    def uninstallKeyboardShortcuts(self) -> None: ...
    def hideLabelLayer(self) -> None: ...
    def jumpSlices(self) -> None: ...
    def rotateSliceViewsToSegmentation(self) -> None: ...

    def turnOffLightboxes(self) -> bool:
        return True
