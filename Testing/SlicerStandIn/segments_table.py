"""qMRMLSegmentsTableView: a segmentation's segments with colour and name."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from .implementations import implements
from .node_combo_boxes import qMRMLWidget
from .own_widgets import Observers, with_properties

_SEGMENT_EVENTS = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified")


@implements
class qMRMLSegmentsTableView(
    with_properties(
        qMRMLWidget,
        "qMRMLSegmentsTableView",
        written=("segmentCount",),
        selectionMode=3,  # extended
        headerVisible=True,
        visibilityColumnVisible=True,
        colorColumnVisible=True,
        opacityColumnVisible=True,
    )
):
    """The table; its rows can be selected."""

    selectionChanged = QtCore.Signal(object, object)
    segmentAboutToBeModified = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._ids: list[str] = []
        self._hidden: list[str] = []
        self._observers = Observers()
        self._table = QtWidgets.QTableWidget(0, 2, self)
        self._table.setHorizontalHeaderLabels(["", "Name"])
        self._table.verticalHeader().hide()
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.setColumnWidth(0, 28)
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setEditTriggers(QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._table.selectionModel().selectionChanged.connect(lambda *changes: self.selectionChanged.emit(*changes))

    def property_changed(self, name: str) -> None:
        self._table.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode(self.property("selectionMode")))
        self._table.horizontalHeader().setVisible(self.property("headerVisible"))
        self._table.setColumnHidden(0, not self.property("colorColumnVisible"))
        self._show()

    def tableWidget(self) -> QtWidgets.QTableView:
        return self._table

    def segmentationNode(self) -> Any:
        return self._node

    def setSegmentationNode(self, node: Any) -> None:
        self._observers.remove_all()
        self._node = node
        if node is not None:
            for name in _SEGMENT_EVENTS:
                self._observers.add(node.GetSegmentation(), getattr(slicer.vtkSegmentation, name), self._show)
            self._observers.add(node, slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent, self._show)
        self._show()

    def _show(self) -> None:
        selected = self.selectedSegmentIDs()
        self._ids = []
        self._table.setRowCount(0)
        if self._node is None or self._node.GetSegmentation() is None:
            return
        segmentation = self._node.GetSegmentation()
        text = self.property("textFilter").lower()
        for index in range(segmentation.GetNumberOfSegments()):
            segment_id = segmentation.GetNthSegmentID(index)
            segment = segmentation.GetSegment(segment_id)
            if segment_id in self._hidden or text not in segment.GetName().lower():
                continue
            row = len(self._ids)
            self._ids.append(segment_id)
            self._table.insertRow(row)
            colour = QtWidgets.QTableWidgetItem()
            colour.setFlags(QtCore.Qt.ItemFlag.ItemIsEnabled)  # so that a selected row shows its colour
            colour.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, 0, colour)
            self._table.setItem(row, 1, QtWidgets.QTableWidgetItem(segment.GetName()))
        self.setSelectedSegmentIDs(selected)

    segmentCount = QtCore.Property(int, lambda self: len(self._ids))

    def selectedSegmentIDs(self) -> list[str]:
        rows = sorted({index.row() for index in self._table.selectionModel().selectedIndexes()})
        return [self._ids[row] for row in rows if row < len(self._ids)]

    def setSelectedSegmentIDs(self, ids: list[str]) -> None:
        model = self._table.selectionModel()
        flags = QtCore.QItemSelectionModel.SelectionFlag
        selection = QtCore.QItemSelection()
        for row, segment_id in enumerate(self._ids):
            if segment_id in ids:
                selection.select(self._table.model().index(row, 0), self._table.model().index(row, 1))
        model.select(selection, flags.ClearAndSelect | flags.Rows)

    def clearSelection(self) -> None:
        self._table.clearSelection()

    def displayedSegmentIDs(self) -> list[str]:
        return list(self._ids)

    def hideSegments(self) -> list[str]:
        return list(self._hidden)

    def setHideSegments(self, ids: list[str]) -> None:
        self._hidden = list(ids)
        self._show()

    def rowForSegmentID(self, segment_id: str) -> int:
        return self._ids.index(segment_id) if segment_id in self._ids else -1

    def segmentIDForRow(self, row: int) -> str:
        return self._ids[row] if 0 <= row < len(self._ids) else ""

    def setSelectionMode(self, mode: int) -> None:
        self.setProperty("selectionMode", mode)

    def setHeaderVisible(self, visible: bool) -> None:
        self.setProperty("headerVisible", visible)

    def setVisibilityColumnVisible(self, visible: bool) -> None:
        self.setProperty("visibilityColumnVisible", visible)

    def setColorColumnVisible(self, visible: bool) -> None:
        self.setProperty("colorColumnVisible", visible)

    def setOpacityColumnVisible(self, visible: bool) -> None:
        self.setProperty("opacityColumnVisible", visible)

    def setStatusColumnVisible(self, visible: bool) -> None:
        self.setProperty("statusColumnVisible", visible)

    def setReadOnly(self, read_only: bool) -> None:
        self.setProperty("readOnly", read_only)

    def setTextFilter(self, text: str) -> None:
        self.setProperty("textFilter", text)
