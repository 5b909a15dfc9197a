"""Loss and held-out IoU of a training as a native plot that grows while it runs."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

_STEP, _LOSS, _IOU = "step", "loss", "held-out IoU"
_COLORS = {_LOSS: (0.85, 0.37, 0.01), _IOU: (0.0, 0.45, 0.7)}
#: Layout name of the panel's plot view.
_VIEW = "SparseUNet3D"
#: Shares of the old in the smoothed loss.
_SMOOTHING = 0.9
#: How much higher than 1, or the highest loss, the axis is: the legend lies there, and hides no curve.
_HEADROOM = 1.4


class TrainingChart:
    """The plot chart node, its two series and their tables: made when needed, and anew after a scene was closed."""

    def __init__(self) -> None:
        self._smoothed: float | None = None
        self._chart: slicer.vtkMRMLPlotChartNode | None = None
        self._tables: dict[str, slicer.vtkMRMLTableNode] = {}

    def chartNode(self) -> slicer.vtkMRMLPlotChartNode:
        """The chart; made with all that belongs to it if it is not in the scene."""
        if self._chart is None or self._chart.GetScene() is None or any(
            table.GetScene() is None for table in self._tables.values()
        ):
            self._chart = _add("vtkMRMLPlotChartNode", "SparseUNet3D training")
            self._chart.SetXAxisTitle("training step")
            self._chart.SetYAxisTitle("loss, IoU")
            self._chart.YAxisRangeAutoOff()
            self._chart.SetYAxisRange(0.0, _HEADROOM)
            self._tables = {name: _addTable(name) for name in (_LOSS, _IOU)}
            for name, table in self._tables.items():
                self._chart.AddAndObservePlotSeriesNodeID(_addSeries(name, table).GetID())
        return self._chart

    def viewNode(self, owner: slicer.vtkMRMLNode) -> slicer.vtkMRMLPlotViewNode:
        """The plot view node that shows the chart in the panel and nowhere else; ``owner`` is any node of ours."""
        node = slicer.mrmlScene.GetSingletonNode(_VIEW, "vtkMRMLPlotViewNode")
        isNew = node is None
        if isNew:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLPlotViewNode")
            node.UnRegister(None)
            node.SetLayoutName(_VIEW)
            node.SetName("SparseUNet3D training")
            node.SetSaveWithScene(False)
        # Else Slicer's layout would show it as well, and other modules their charts in it. Each time, as closing a
        # scene keeps the node and takes away what was set.
        node.SetAndObserveParentLayoutNodeID(owner.GetID())
        node.SetDoPropagatePlotChartSelection(False)
        if isNew:
            node = slicer.mrmlScene.AddNode(node)
        node.SetPlotChartNodeID(self.chartNode().GetID())
        return node

    def clear(self) -> None:
        """Begin a new training."""
        self._smoothed = None
        self.chartNode().SetYAxisRange(0.0, _HEADROOM)
        for table in self._tables.values():
            table.GetTable().SetNumberOfRows(0)
            table.GetTable().Modified()
            table.Modified()

    def values(self, name: str) -> list[tuple[float, float]]:
        """The points of the curve "loss" or "held-out IoU"."""
        self.chartNode()
        table = self._tables[name].GetTable()
        return [
            (table.GetValue(row, 0).ToFloat(), table.GetValue(row, 1).ToFloat())
            for row in range(table.GetNumberOfRows())
        ]

    def take(self, event: dict[str, Any]) -> None:
        """Draw a "step" or "validation" event; others are left alone."""
        if event["event"] == "step" and event["loss"] is not None:
            before = event["loss"] if self._smoothed is None else self._smoothed
            self._smoothed = _SMOOTHING * before + (1 - _SMOOTHING) * event["loss"]
            self._append(_LOSS, event["iteration"], self._smoothed)
        if event["event"] == "validation" and event["mean_iou"] is not None:
            self._append(_IOU, event["iteration"], event["mean_iou"])

    def _append(self, name: str, step: float, value: float) -> None:
        chart = self.chartNode()
        chart.SetYAxisRange(0.0, max(chart.GetYAxisRange()[1], _HEADROOM * value))
        tableNode = self._tables[name]
        table = tableNode.GetTable()
        row = table.InsertNextBlankRow()
        table.SetValue(row, 0, vtk.vtkVariant(float(step)))
        table.SetValue(row, 1, vtk.vtkVariant(float(value)))
        table.Modified()
        tableNode.Modified()


def _addTable(name: str) -> slicer.vtkMRMLTableNode:
    node = _add("vtkMRMLTableNode", f"SparseUNet3D {name}")
    for title in (_STEP, name):
        column = vtk.vtkFloatArray()
        column.SetName(title)
        node.AddColumn(column)
    return node


def _addSeries(name: str, table: slicer.vtkMRMLTableNode) -> slicer.vtkMRMLPlotSeriesNode:
    series = _add("vtkMRMLPlotSeriesNode", name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(_STEP)
    series.SetYColumnName(name)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    style = slicer.vtkMRMLPlotSeriesNode
    series.SetMarkerStyle(style.MarkerStyleCircle if name == _IOU else style.MarkerStyleNone)
    series.SetLineStyle(style.LineStyleSolid)
    series.SetColor(*_COLORS[name])
    return series


def _add(nodeClass: str, name: str) -> slicer.vtkMRMLNode:
    """A node that is neither listed nor saved."""
    node = slicer.mrmlScene.CreateNodeByClass(nodeClass)
    node.UnRegister(None)
    node.SetName(name)
    node.SetHideFromEditors(1)
    node.SetSaveWithScene(False)
    return slicer.mrmlScene.AddNode(node)
