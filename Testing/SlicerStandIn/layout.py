"""The layout manager and its views. Slice views have real nodes and logic, but draw nothing."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from .implementations import implements
from .node_combo_boxes import qMRMLWidget
from .own_widgets import with_properties
from .plot_view import qMRMLPlotView
from .scene import Scene


@implements
class qMRMLAbstractViewWidget(with_properties(qMRMLWidget, "qMRMLAbstractViewWidget")):
    """A view with a bar of buttons above it."""

    def pauseRender(self) -> None: ...
    def resumeRender(self) -> None: ...
    def setRenderPaused(self, paused: bool) -> None: ...


@implements
class qMRMLSliceView(QtWidgets.QWidget):
    """Where a slice would be drawn."""

    def __init__(self, node: Any, parent: QtWidgets.QWidget) -> None:
        super().__init__(parent)
        self._node = node

    def mrmlSliceNode(self) -> Any:
        return self._node

    def forceRender(self) -> None: ...
    def scheduleRender(self) -> None: ...


@implements
class qMRMLSliceControllerWidget(with_properties(qMRMLWidget, "qMRMLSliceControllerWidget")):
    """The bar above a slice view."""

    def __init__(self, logic: Any, parent: QtWidgets.QWidget) -> None:
        super().__init__(parent)
        self._logic = logic

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def setSliceOffsetValue(self, offset: float) -> None:
        self._logic.SetSliceOffset(offset)

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()


@implements
class qMRMLSliceWidget(
    with_properties(qMRMLAbstractViewWidget, "qMRMLSliceWidget", written=("sliceOrientation", "sliceViewName"))
):
    """A slice view."""

    def __init__(self, logic: Any) -> None:
        super().__init__()
        self._logic = logic
        self._controller = qMRMLSliceControllerWidget(logic, self)
        self._view = qMRMLSliceView(logic.GetSliceNode(), self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(self._controller)
        layout.addWidget(self._view)

    def sliceLogic(self) -> Any:
        return self._logic

    def logic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlAbstractViewNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def sliceController(self) -> qMRMLSliceControllerWidget:
        return self._controller

    def sliceView(self) -> qMRMLSliceView:
        return self._view

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()

    def setSliceOrientation(self, orientation: str) -> None:
        self.mrmlSliceNode().SetOrientation(orientation)

    sliceOrientation = QtCore.Property(str, lambda self: self.mrmlSliceNode().GetOrientation(), setSliceOrientation)
    sliceViewName = QtCore.Property(str, lambda self: self.mrmlSliceNode().GetLayoutName())


@implements
class qMRMLPlotWidget(qMRMLAbstractViewWidget):
    """A plot view."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._view = qMRMLPlotView(self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(self._view)

    def setMRMLPlotViewNode(self, node: Any) -> None:
        self._node = node
        self._view.setMRMLPlotViewNode(node)

    def mrmlPlotViewNode(self) -> Any:
        return self._node

    def mrmlAbstractViewNode(self) -> Any:
        return self._node

    def plotView(self) -> qMRMLPlotView:
        return self._view

    def viewWidget(self) -> qMRMLPlotView:
        return self._view


@implements
class qSlicerLayoutManager(QtCore.QObject):
    """Three slice views and a plot view, whatever the layout; no 3D view and no table."""

    layoutChanged = QtCore.Signal(int)

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene
        logics = [scene.slice_logics.GetItemAsObject(i) for i in range(scene.slice_logics.GetNumberOfItems())]
        self._slices = {logic.GetSliceNode().GetLayoutName(): qMRMLSliceWidget(logic) for logic in logics}
        self._plot = qMRMLPlotWidget()
        self._plot.setMRMLScene(scene.mrml)
        self._plot.setMRMLPlotViewNode(scene.plot_view())

    def mrmlScene(self) -> Any:
        return self._scene.mrml

    def layoutLogic(self) -> Any:
        return self._scene.layout_logic

    def mrmlSliceLogics(self) -> Any:
        return self._scene.slice_logics

    def sliceViewNames(self) -> list[str]:
        return list(self._slices)

    def sliceWidget(self, name: str) -> qMRMLSliceWidget | None:
        return self._slices.get(name)

    def threeDWidget(self, which: Any) -> None:
        return None

    def tableWidget(self, index: int) -> None:
        return None

    def plotWidget(self, index: int) -> qMRMLPlotWidget | None:
        return self._plot if index == 0 else None

    def resetSliceViews(self) -> None:
        for widget in self._slices.values():
            widget.sliceLogic().FitSliceToAll()

    def resetThreeDViews(self) -> None: ...
    def pauseRender(self) -> None: ...
    def resumeRender(self) -> None: ...

    def _layout(self) -> int:
        node = self._scene.layout_logic.GetLayoutNode()
        return node.GetViewArrangement() if node is not None else slicer.vtkMRMLLayoutNode.SlicerLayoutNone

    def setLayout(self, layout: int) -> None:
        if layout != self._layout():
            self._scene.layout_logic.GetLayoutNode().SetViewArrangement(layout)
            self.layoutChanged.emit(layout)

    layout = QtCore.Property(int, _layout, setLayout)
    threeDViewCount = QtCore.Property(int, lambda self: 0)
    tableViewCount = QtCore.Property(int, lambda self: 0)
    plotViewCount = QtCore.Property(int, lambda self: 1)
