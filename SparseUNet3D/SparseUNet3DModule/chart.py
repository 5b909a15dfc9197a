"""Loss and held-out IoU of a training as a native plot that grows while it runs."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

_STEP, _LOSS, _IOU = "step", "loss", "held-out IoU"
_COLORS = {_LOSS: (0.85, 0.37, 0.01), _IOU: (0.0, 0.45, 0.7)}
#: Of Slicer's singleton-tagged nodes: one chart for the module, however often it runs.
_TAG = "SparseUNet3D"
#: Shares of the old in the smoothed loss.
_SMOOTHING = 0.9


class TrainingChart:
    """The plot chart node, its two series and their tables. Made when first needed, and again after a scene closed."""

    def __init__(self) -> None:
        self._smoothed: float | None = None

    def chartNode(self) -> slicer.vtkMRMLPlotChartNode:
        """The chart; made with all that belongs to it if it is not in the scene."""
        node = _singleton("vtkMRMLPlotChartNode", "")
        if node is None:
            node = _addSingleton("vtkMRMLPlotChartNode", "", "SparseUNet3D training")
            node.SetXAxisTitle("training step")
            node.SetYAxisTitle("loss, IoU")
            node.SetTitle("")
            for name in (_LOSS, _IOU):
                node.AddAndObservePlotSeriesNodeID(_makeSeries(name).GetID())
        return node

    def viewNode(self) -> slicer.vtkMRMLPlotViewNode:
        """The plot view node that shows the chart in the panel."""
        node = _singleton("vtkMRMLPlotViewNode", "")
        if node is None:
            node = _addSingleton("vtkMRMLPlotViewNode", "", "SparseUNet3D training")
        node.SetPlotChartNodeID(self.chartNode().GetID())
        return node

    def clear(self) -> None:
        """Begin a new training."""
        self._smoothed = None
        self.chartNode()
        for name in (_LOSS, _IOU):
            table = _singleton("vtkMRMLTableNode", name)
            if table is not None:
                table.GetTable().SetNumberOfRows(0)
                table.Modified()

    def take(self, event: dict[str, Any]) -> None:
        """Draw a "step" or "validation" event; others are left alone."""
        if event["event"] == "step" and event["loss"] is not None:
            before = event["loss"] if self._smoothed is None else self._smoothed
            self._smoothed = _SMOOTHING * before + (1 - _SMOOTHING) * event["loss"]
            self._append(_LOSS, event["iteration"], self._smoothed)
        if event["event"] == "validation" and event["mean_iou"] is not None:
            self._append(_IOU, event["iteration"], event["mean_iou"])

    def _append(self, name: str, step: float, value: float) -> None:
        self.chartNode()
        tableNode = _singleton("vtkMRMLTableNode", name)
        table = tableNode.GetTable()
        row = table.InsertNextBlankRow()
        table.SetValue(row, 0, vtk.vtkVariant(float(step)))
        table.SetValue(row, 1, vtk.vtkVariant(float(value)))
        table.Modified()
        tableNode.Modified()


def _makeSeries(name: str) -> slicer.vtkMRMLPlotSeriesNode:
    tableNode = _addSingleton("vtkMRMLTableNode", name, f"SparseUNet3D {name}")
    for title in (_STEP, name):
        column = vtk.vtkFloatArray()
        column.SetName(title)
        tableNode.AddColumn(column)
    series = _addSingleton("vtkMRMLPlotSeriesNode", name, name)
    series.SetAndObserveTableNodeID(tableNode.GetID())
    series.SetXColumnName(_STEP)
    series.SetYColumnName(name)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    isIou = name == _IOU
    style = slicer.vtkMRMLPlotSeriesNode
    series.SetMarkerStyle(style.MarkerStyleCircle if isIou else style.MarkerStyleNone)
    series.SetLineStyle(style.LineStyleSolid)
    series.SetColor(*_COLORS[name])
    return series


def _singleton(nodeClass: str, name: str) -> slicer.vtkMRMLNode | None:
    return slicer.mrmlScene.GetSingletonNode(f"{_TAG}{name}", nodeClass)


def _addSingleton(nodeClass: str, tag: str, name: str) -> slicer.vtkMRMLNode:
    node = slicer.mrmlScene.CreateNodeByClass(nodeClass)
    node.UnRegister(None)
    node.SetSingletonTag(f"{_TAG}{tag}")
    node.SetName(name)
    node.SetHideFromEditors(1)
    node.SetSaveWithScene(False)
    return slicer.mrmlScene.AddNode(node)
