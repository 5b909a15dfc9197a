"""The effects of the segment editor: names and parameters. They cannot paint."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore

from .implementations import implements
from .own_widgets import with_properties

EFFECTS = ("Paint", "Erase", "Scissors", "Draw", "Fill between slices", "Grow from seeds", "Hollow", "Islands",
           "Level tracing", "Logical operators", "Margin", "Mask volume", "Smoothing", "Threshold")  # fmt: skip


@implements
class qSlicerSegmentEditorAbstractEffect(
    with_properties(QtCore.QObject, "qSlicerSegmentEditorAbstractEffect", perSegment=True, requireSegments=True)
):
    """An effect: a name, and parameters that the editor node keeps."""

    def __init__(self, editor: Any, name: str) -> None:
        super().__init__()
        self._editor = editor
        self.setProperty("name", name)
        self.setProperty("title", name)

    def parameterSetNode(self) -> Any:
        return self._editor.mrmlSegmentEditorNode()

    def scene(self) -> Any:
        return self._editor.mrmlScene()

    def active(self) -> bool:
        return self._editor.activeEffect() is self

    def selectEffect(self, name: str) -> None:
        self._editor.setActiveEffectByName(name)

    def saveStateForUndo(self) -> None:
        self._editor.saveStateForUndo()

    def parameter(self, name: str) -> str:
        return self._read(f"{self.property('name')}.{name}") or self._read(name)

    def integerParameter(self, name: str) -> int:
        return int(float(self.parameter(name) or 0))

    def doubleParameter(self, name: str) -> float:
        return float(self.parameter(name) or 0)

    def parameterDefined(self, name: str) -> bool:
        return bool(self._read(f"{self.property('name')}.{name}"))

    def setParameter(self, name: str, value: Any) -> None:
        self._write(f"{self.property('name')}.{name}", value)

    def setCommonParameter(self, name: str, value: Any) -> None:
        self._write(name, value)

    def _read(self, attribute: str) -> str:
        node = self.parameterSetNode()
        return (node.GetAttribute(attribute) or "") if node is not None else ""

    def _write(self, attribute: str, value: Any) -> None:
        if self.parameterSetNode() is not None:
            self.parameterSetNode().SetAttribute(attribute, str(value))
