"""What Slicer's segment editor looks like: selectors, buttons, the list of segments and the effects, plainly drawn."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets

from .node_combo_boxes import qMRMLNodeComboBox, qMRMLWidget
from .own_widgets import with_properties
from .segment_editor_effects import EFFECTS
from .segments_table import qMRMLSegmentsTableView

#: Parts of the editor that a program can hide.
PARTS = ("segmentationNodeSelectorVisible", "sourceVolumeNodeSelectorVisible", "switchToSegmentationsButtonVisible",
         "undoEnabled", "addRemoveSegmentButtonsVisible", "show3DButtonVisible", "specifyGeometryButtonVisible",
         "maskingSectionVisible", "masterVolumeNodeSelectorVisible")  # fmt: skip


def _with_parts(base: type) -> type:
    """The class with a property and a setter for each part; the property tells whether the part is on the screen."""
    body: dict[str, Any] = {}
    for name in PARTS:

        def read(self: Any, name: str = name) -> bool:
            return self.parts[name].isVisible()

        def write(self: Any, visible: bool, name: str = name) -> None:
            self.parts[name].setVisible(visible)

        body[name] = QtCore.Property(bool, read, write)
        body[f"set{name[0].upper()}{name[1:]}"] = write
    return type(base)("qMRMLSegmentEditorWidget", (base,), body)


class SegmentEditorPanel(
    _with_parts(
        with_properties(
            qMRMLWidget,
            "qMRMLSegmentEditorWidget",
            written=(*PARTS, "maximumNumberOfUndoStates"),
            effectColumnCount=2,
            unorderedEffectsVisible=True,
            autoShowSourceVolumeNode=True,
        )
    )
):
    """The parts of the editor; what they do is the editor's business."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._order: list[str] = []
        self.parts: dict[str, QtWidgets.QWidget] = {}
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._build_selectors(layout)
        self._build_segments(layout)
        self._build_effects(layout)
        self.updateEffectList()

    def _build_selectors(self, layout: QtWidgets.QVBoxLayout) -> None:
        self.segmentation_box = self._selector(
            layout, "Segmentation:", "segmentationNodeSelectorVisible", "vtkMRMLSegmentationNode"
        )
        self.source_box = self._selector(
            layout, "Source volume:", "sourceVolumeNodeSelectorVisible", "vtkMRMLScalarVolumeNode"
        )
        self.parts["masterVolumeNodeSelectorVisible"] = self.parts["sourceVolumeNodeSelectorVisible"]
        self.segmentation_box.setObjectName("SegmentationNodeComboBox")
        self.source_box.setObjectName("SourceVolumeNodeComboBox")

    def _selector(self, layout: QtWidgets.QVBoxLayout, text: str, part: str, node_type: str) -> qMRMLNodeComboBox:
        frame = QtWidgets.QWidget(self)
        box = qMRMLNodeComboBox(frame)
        box.setProperty("nodeTypes", [node_type])
        row = QtWidgets.QHBoxLayout(frame)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QtWidgets.QLabel(text, frame))
        row.addWidget(box, 1)
        layout.addWidget(frame)
        self.parts[part] = frame
        return box

    def _build_segments(self, layout: QtWidgets.QVBoxLayout) -> None:
        segments = QtWidgets.QWidget(self)
        row = QtWidgets.QHBoxLayout(segments)
        row.setContentsMargins(0, 0, 0, 0)
        self.add_button = QtWidgets.QPushButton("Add", objectName="AddSegmentButton")
        self.remove_button = QtWidgets.QPushButton("Remove", objectName="RemoveSegmentButton")
        show_3d = QtWidgets.QPushButton("Show 3D", objectName="Show3DButton")
        geometry = QtWidgets.QToolButton(text="Geometry", objectName="SpecifyGeometryButton")
        switch = QtWidgets.QToolButton(text="Segmentations…", objectName="SwitchToSegmentationsButton")
        for button in (self.add_button, self.remove_button, show_3d, geometry, switch):
            row.addWidget(button)
        row.addStretch()
        layout.addWidget(segments)
        self.table = qMRMLSegmentsTableView(self)
        self.table.setSelectionMode(1)
        self.table.setMaximumHeight(130)
        layout.addWidget(self.table)
        self.parts |= {
            "addRemoveSegmentButtonsVisible": segments,
            "show3DButtonVisible": show_3d,
            "specifyGeometryButtonVisible": geometry,
            "switchToSegmentationsButtonVisible": switch,
        }

    def _build_effects(self, layout: QtWidgets.QVBoxLayout) -> None:
        self.effects_box = QtWidgets.QGroupBox("Effects", self, objectName="EffectsGroupBox")
        QtWidgets.QGridLayout(self.effects_box)
        layout.addWidget(self.effects_box)
        undo_box = QtWidgets.QGroupBox(self, objectName="UndoRedoGroupBox")
        row = QtWidgets.QHBoxLayout(undo_box)
        self.undo_button = QtWidgets.QToolButton(text="Undo", objectName="UndoButton")
        self.redo_button = QtWidgets.QToolButton(text="Redo", objectName="RedoButton")
        row.addWidget(self.undo_button)
        row.addWidget(self.redo_button)
        row.addStretch()
        layout.addWidget(undo_box)
        masking = QtWidgets.QGroupBox("Masking", self, objectName="MaskingGroupBox")
        layout.addWidget(masking)
        self.parts |= {"undoEnabled": undo_box, "maskingSectionVisible": masking}

    # -- effects ------------------------------------------------------------------------------------------------
    def property_changed(self, name: str) -> None:
        if name in ("effectColumnCount", "unorderedEffectsVisible"):
            self.updateEffectList()

    def updateEffectList(self) -> None:
        grid = self.effects_box.layout()
        while grid.count():
            grid.takeAt(0).widget().deleteLater()
        columns = max(1, self.property("effectColumnCount"))
        for index, name in enumerate(self._shown_effects()):
            button = QtWidgets.QToolButton(text=name, checkable=True, objectName=name)
            button.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
            button.clicked.connect(lambda checked, name=name: self.setActiveEffectByName(name if checked else ""))
            grid.addWidget(button, index // columns, index % columns)

    def _shown_effects(self) -> list[str]:
        ordered = [name for name in self._order if name in EFFECTS]
        rest = [name for name in EFFECTS if name not in ordered]
        return ordered + (rest if self.property("unorderedEffectsVisible") else [])

    def effectNameOrder(self) -> list[str]:
        return list(self._order)

    def setEffectNameOrder(self, names: list[str]) -> None:
        self._order = list(names)
        self.updateEffectList()
