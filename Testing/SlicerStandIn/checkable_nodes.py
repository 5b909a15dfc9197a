"""qMRMLCheckableNodeComboBox."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .implementations import implements
from .node_combo_boxes import ID_ROLE, qMRMLNodeComboBox

_CHECKED, _UNCHECKED = QtCore.Qt.CheckState.Checked, QtCore.Qt.CheckState.Unchecked


@implements
class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """A choice of any number of nodes: the list has check marks."""

    checkedNodesChanged = QtCore.Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        self._checked: set[str] = set()
        self._fixed: set[str] = set()  # the user cannot change these nodes' check marks
        self._filling = False
        super().__init__(parent)
        self.combo.setModel(QtGui.QStandardItemModel(self.combo))
        self.combo.model().itemChanged.connect(self._item_changed)

    def _show(self) -> None:
        self._filling = True
        self.combo.clear()
        for node in self._nodes():
            item = QtGui.QStandardItem(node.GetName() or node.GetID())
            item.setData(node.GetID(), ID_ROLE)
            item.setCheckable(True)
            item.setEnabled(node.GetID() not in self._fixed)
            item.setCheckState(self.checkState(node))
            self.combo.model().appendRow(item)
        self.combo.setCurrentIndex(-1)
        names = [node.GetName() for node in self.checkedNodes()]
        self.combo.setPlaceholderText(", ".join(names) if names else "None")
        self._filling = False

    def _show_current(self) -> None:
        """No node is chosen, only checked."""

    def _item_changed(self, item: QtGui.QStandardItem) -> None:
        if not self._filling and self._scene is not None:
            self.setCheckState(self._scene.GetNodeByID(item.data(ID_ROLE)), item.checkState())

    def _node_removed(self, node: Any) -> None:
        super()._node_removed(node)
        self._forget_removed()

    def _batch_ended(self) -> None:
        super()._batch_ended()
        self._forget_removed()

    def _forget_removed(self) -> None:
        left = {node_id for node_id in self._checked if self._scene.GetNodeByID(node_id) is not None}
        if left != self._checked:
            self._checked = left
            self._show()
            self.checkedNodesChanged.emit()

    def checkedNodes(self) -> list[Any]:
        return [node for node in self._nodes() if node.GetID() in self._checked]

    def uncheckedNodes(self) -> list[Any]:
        return [node for node in self._nodes() if node.GetID() not in self._checked]

    def allChecked(self) -> bool:
        return not self.uncheckedNodes()

    def noneChecked(self) -> bool:
        return not self.checkedNodes()

    def checkState(self, node: Any) -> QtCore.Qt.CheckState:
        return _CHECKED if node.GetID() in self._checked else _UNCHECKED

    def setCheckState(self, node: Any, state: QtCore.Qt.CheckState) -> None:
        others = self._checked - {node.GetID()}
        wanted = others if state == _UNCHECKED else others | {node.GetID()}
        if wanted != self._checked:
            self._checked = wanted
            self._show()
            self.checkedNodesChanged.emit()

    def setUserCheckable(self, node: Any, checkable: bool) -> None:
        (self._fixed.discard if checkable else self._fixed.add)(node.GetID())
        self._show()

    def check(self, node: Any) -> None:
        self.setCheckState(node, _CHECKED)

    def uncheck(self, node: Any) -> None:
        self.setCheckState(node, _UNCHECKED)
