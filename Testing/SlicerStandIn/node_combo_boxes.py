"""qMRMLWidget, and the combo box of nodes of the scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .implementations import implements
from .own_widgets import Observers, with_properties

ID_ROLE = QtCore.Qt.ItemDataRole.UserRole
_ADD = "create a node"  # in place of a node's ID


@implements
class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


@implements
class qMRMLNodeComboBox(
    with_properties(
        QtWidgets.QWidget,
        "qMRMLNodeComboBox",
        written=("currentNodeID", "currentNodeId"),
        showChildNodeTypes=True,
        addEnabled=True,
        removeEnabled=True,
        selectNodeUponCreation=True,
        noneDisplay="None",
    )
):
    """A choice among the scene's nodes of some types. No node is chosen until the user or the program does it."""

    currentNodeChanged = QtCore.Signal(object)
    currentNodeChangedToAny = QtCore.Signal(bool)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    nodeAddedByUserAction = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    nodeAboutToBeEdited = QtCore.Signal(object)
    currentNodeRenamed = QtCore.Signal(str)
    SIGNAL_NAMES = {"currentNodeChanged(bool)": "currentNodeChangedToAny"}  # noqa: RUF012

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._current: Any = None
        self._observers = Observers()
        self._names = Observers()
        self._attributes: list[tuple[str, str, Any]] = []
        self._labels: dict[str, str] = {}
        self.combo = QtWidgets.QComboBox(self)
        self.combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo)
        self.combo.activated.connect(self._activated)
        self.setEnabled(False)

    # -- the scene ----------------------------------------------------------------------------------------------
    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        self._observers.remove_all()
        self._scene = scene
        self.setEnabled(scene is not None)
        if scene is not None:
            events = slicer.vtkMRMLScene
            self._observers.add_with_node(scene, events.NodeAddedEvent, self._node_added)
            self._observers.add_with_node(scene, events.NodeAboutToBeRemovedEvent, self._node_about_to_be_removed)
            self._observers.add_with_node(scene, events.NodeRemovedEvent, self._node_removed)
            self._observers.add(scene, events.EndBatchProcessEvent, self._batch_ended)
        self._show()
        self._emit_current()

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if self._accepts(node)]

    def _accepts(self, node: Any) -> bool:
        types = self.property("nodeTypes")
        fitting = [kind for kind in types if node.IsA(kind)]
        if not self.property("showChildNodeTypes"):
            fitting = [kind for kind in types if node.GetClassName() == kind]
        if not fitting or any(node.IsA(kind) for kind in self.property("hideChildNodeTypes")):
            return False
        if node.GetHideFromEditors() and not self.property("showHidden"):
            return False
        return all(
            node.GetAttribute(name) is not None and (value is None or node.GetAttribute(name) == str(value))
            for kind, name, value in self._attributes
            if node.IsA(kind)
        )

    def _node_added(self, node: Any) -> None:
        if not self._scene.IsBatchProcessing() and self._accepts(node):
            self._show()
            self.nodeAdded.emit(node)

    def _node_about_to_be_removed(self, node: Any) -> None:
        if not self._scene.IsBatchProcessing() and self._accepts(node):
            self.nodeAboutToBeRemoved.emit(node)
            if node is self._current:
                # As in Qt's combo boxes: what moves up to the row is chosen.
                nodes = self._nodes()
                row = nodes.index(node)
                others = nodes[:row] + nodes[row + 1 :]
                self._set_current(others[min(row, len(others) - 1)] if others else None)

    def _node_removed(self, node: Any) -> None:
        if not self._scene.IsBatchProcessing() and self._accepts(node):
            self._show()

    def _batch_ended(self) -> None:
        self._show()
        if self._current is not None and not self._scene.IsNodePresent(self._current):
            self._set_current(None)

    # -- what is shown ------------------------------------------------------------------------------------------
    def property_changed(self, name: str) -> None:
        self._show()
        if name == "noneEnabled" and self._scene is not None:
            self._emit_current()
        elif self._current is not None and not self._accepts(self._current):
            self._set_current(None)

    def _show(self) -> None:
        """Fill the list; its own signals are not needed."""
        self._names.remove_all()
        self.combo.clear()
        self.combo.setPlaceholderText(f"Select a {self._type_label()}")
        if self.property("noneEnabled"):
            self.combo.addItem(self.property("noneDisplay"), "")
        for node in self._nodes():
            self.combo.addItem(node.GetName() or node.GetID(), node.GetID())
            self._names.add(node, vtk.vtkCommand.ModifiedEvent, self._node_modified)
        if self.property("addEnabled") and self.property("nodeTypes"):
            self.combo.insertSeparator(self.combo.count())
            self.combo.addItem(f"Create new {self._type_label()}", _ADD)
        self._show_current()

    def _show_current(self) -> None:
        self.combo.setCurrentIndex(
            self.combo.findData(self._current.GetID() if self._current is not None else "", ID_ROLE)
        )

    def _node_modified(self) -> None:
        names = [self.combo.itemText(row) for row in range(self.combo.count())]
        if any(node.GetName() not in names for node in self._nodes()):
            self._show()
            if self._current is not None:
                self.currentNodeRenamed.emit(self._current.GetName())

    def _type_label(self) -> str:
        types = self.property("nodeTypes")
        if not types:
            return "node"
        if types[0] in self._labels:
            return self._labels[types[0]]
        node = self._scene.CreateNodeByClass(types[0]) if self._scene is not None else None
        if node is None:
            return types[0].removeprefix("vtkMRML").removesuffix("Node")
        node.UnRegister(None)
        return node.GetNodeTagName()

    def _activated(self, row: int) -> None:
        node_id = self.combo.itemData(row, ID_ROLE)
        if node_id == _ADD:
            self._show_current()
            node = self.addNode()
            self.nodeAddedByUserAction.emit(node)
            return
        self.setCurrentNodeID(node_id or "")
        self.nodeActivated.emit(self._current)

    # -- the chosen node ----------------------------------------------------------------------------------------
    def currentNode(self) -> Any:
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and not (self._scene is not None and node in self._nodes()):
            node = None
        self._set_current(node)

    def _set_current(self, node: Any) -> None:
        changed = node is not self._current
        self._current = node
        self._show_current()
        if changed:
            self._emit_current()

    def _emit_current(self) -> None:
        self.currentNodeChanged.emit(self._current)
        self.currentNodeChangedToAny.emit(self._current is not None)
        self.currentNodeIDChanged.emit(self._current_id())

    def _current_id(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene is not None and node_id else None)

    def setCurrentNodeIndex(self, row: int) -> None:
        self.setCurrentNode(self.nodeFromIndex(row))

    currentNodeID = QtCore.Property(str, _current_id, setCurrentNodeID)
    currentNodeId = QtCore.Property(str, _current_id, setCurrentNodeID)

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, row: int) -> Any:
        nodes = self._nodes()
        return nodes[row] if 0 <= row < len(nodes) else None

    # -- adding, removing, renaming -----------------------------------------------------------------------------
    def addNode(self, node_type: str = "") -> Any:
        kind = node_type or self.property("nodeTypes")[0]
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        base = self.property("baseName") or self._labels.get(kind) or node.GetNodeTagName()
        node.SetName(self._scene.GenerateUniqueName(base))
        for attribute_kind, name, value in self._attributes:
            if node.IsA(attribute_kind) and value is not None:
                node.SetAttribute(name, str(value))
        self._scene.AddNode(node)
        if self.property("selectNodeUponCreation"):
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.append((node_type, name, value))
        self._show()

    def removeAttribute(self, node_type: str, name: str) -> None:
        self._attributes = [item for item in self._attributes if item[:2] != (node_type, name)]
        self._show()

    def setNodeTypeLabel(self, label: str, node_type: str) -> None:
        self._labels[node_type] = label
        self._show()

    def nodeTypeLabel(self, node_type: str) -> str:
        return self._labels.get(node_type, "")
