"""qMRMLPlotView: the curves of a plot chart, drawn with Qt instead of VTK so that screenshots show them."""

from __future__ import annotations

import math
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from .implementations import implements
from .own_widgets import Observers

_DASHES = {
    slicer.vtkMRMLPlotSeriesNode.LineStyleSolid: QtCore.Qt.PenStyle.SolidLine,
    slicer.vtkMRMLPlotSeriesNode.LineStyleDash: QtCore.Qt.PenStyle.DashLine,
    slicer.vtkMRMLPlotSeriesNode.LineStyleDot: QtCore.Qt.PenStyle.DotLine,
    slicer.vtkMRMLPlotSeriesNode.LineStyleDashDot: QtCore.Qt.PenStyle.DashDotLine,
    slicer.vtkMRMLPlotSeriesNode.LineStyleDashDotDot: QtCore.Qt.PenStyle.DashDotDotLine,
}
_LEFT, _TOP, _RIGHT, _BOTTOM = 62, 30, 14, 46


@implements
class qMRMLPlotView(QtWidgets.QWidget):
    """Draws the chart of its plot view node, and again whenever a node that it shows changes."""

    mrmlSceneChanged = QtCore.Signal(object)
    dataSelected = QtCore.Signal(object, object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._node: Any = None
        self._view_observers, self._observers = Observers(), Observers()
        self.setMinimumSize(120, 80)

    def sizeHint(self) -> QtCore.QSize:
        return QtCore.QSize(400, 260)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def setMRMLPlotViewNode(self, node: Any) -> None:
        self._view_observers.remove_all()
        self._node = node
        if node is not None:
            self._view_observers.add(node, vtk.vtkCommand.ModifiedEvent, self._observe_contents)
            self._view_observers.add(node, slicer.vtkMRMLNode.ReferenceModifiedEvent, self._observe_contents)
        self._observe_contents()

    def fitToContent(self) -> None:
        self.update()

    def RemovePlotSelections(self) -> None:
        """Nothing can be selected here."""

    def _chart(self) -> Any:
        return self._node.GetPlotChartNode() if self._node is not None else None

    def _series(self) -> list[Any]:
        chart = self._chart()
        if chart is None:
            return []
        nodes = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())]
        return [node for node in nodes if node is not None and node.GetTableNode() is not None]

    def _observe_contents(self) -> None:
        self._observers.remove_all()
        chart = self._chart()
        if chart is not None:
            self._observers.add(chart, vtk.vtkCommand.ModifiedEvent, self._observe_contents)
            self._observers.add(chart, slicer.vtkMRMLNode.ReferenceModifiedEvent, self._observe_contents)
        for series in self._series():
            self._observers.add(series, vtk.vtkCommand.ModifiedEvent, self._redraw)
            self._observers.add(series.GetTableNode(), vtk.vtkCommand.ModifiedEvent, self._redraw)
            self._observers.add(series.GetTableNode().GetTable(), vtk.vtkCommand.ModifiedEvent, self._redraw)
        self.update()

    def _redraw(self) -> None:
        self.update()

    # -- drawing ------------------------------------------------------------------------------------------------
    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QtCore.Qt.GlobalColor.white)
        chart = self._chart()
        if chart is None:
            return
        plots = [(series, _points(series)) for series in self._series()]
        area = QtCore.QRectF(_LEFT, _TOP, self.width() - _LEFT - _RIGHT, self.height() - _TOP - _BOTTOM)
        points = [point for _, found in plots for point in found]
        x_range = _range(chart.GetXAxisRangeAuto(), chart.GetXAxisRange(), [x for x, _ in points])
        y_range = _range(chart.GetYAxisRangeAuto(), chart.GetYAxisRange(), [y for _, y in points])

        def place(x: float, y: float) -> QtCore.QPointF:
            across = (x - x_range[0]) / (x_range[1] - x_range[0])
            up = (y - y_range[0]) / (y_range[1] - y_range[0])
            return QtCore.QPointF(area.left() + across * area.width(), area.bottom() - up * area.height())

        self._draw_axes(painter, chart, area, x_range, y_range, place)
        painter.setClipRect(area.adjusted(-3, -3, 3, 3))
        for series, found in plots:
            _draw_series(painter, series, [place(x, y) for x, y in found])
        painter.setClipping(False)
        if chart.GetLegendVisibility():
            self._draw_legend(painter, area)

    def _draw_axes(
        self, painter: QtGui.QPainter, chart: Any, area: QtCore.QRectF, x_range: Any, y_range: Any, place: Any
    ) -> None:
        right_of_axis = QtCore.Qt.AlignmentFlag.AlignRight | QtCore.Qt.AlignmentFlag.AlignVCenter
        centred = QtCore.Qt.AlignmentFlag.AlignCenter
        grid = QtGui.QPen(QtGui.QColor(225, 225, 225))
        for x in _ticks(*x_range):
            position = place(x, y_range[0])
            painter.setPen(grid)
            if chart.GetGridVisibility():
                painter.drawLine(position, QtCore.QPointF(position.x(), area.top()))
            painter.setPen(QtCore.Qt.GlobalColor.black)
            painter.drawText(QtCore.QRectF(position.x() - 40, area.bottom() + 2, 80, 16), centred, f"{x:g}")
        for y in _ticks(*y_range):
            position = place(x_range[0], y)
            painter.setPen(grid)
            if chart.GetGridVisibility():
                painter.drawLine(position, QtCore.QPointF(area.right(), position.y()))
            painter.setPen(QtCore.Qt.GlobalColor.black)
            painter.drawText(QtCore.QRectF(16, position.y() - 8, _LEFT - 20, 16), right_of_axis, f"{y:g}")
        painter.setPen(QtCore.Qt.GlobalColor.black)
        painter.drawRect(area)
        if chart.GetTitleVisibility():
            painter.drawText(QtCore.QRectF(0, 4, self.width(), 22), centred, chart.GetTitle() or "")
        if chart.GetXAxisTitleVisibility():
            painter.drawText(QtCore.QRectF(area.left(), area.bottom() + 20, area.width(), 20), centred,
                             chart.GetXAxisTitle() or "")  # fmt: skip
        if chart.GetYAxisTitleVisibility():
            painter.save()
            painter.translate(4, area.center().y())
            painter.rotate(-90)
            painter.drawText(QtCore.QRectF(-150, 0, 300, 16), centred, chart.GetYAxisTitle() or "")
            painter.restore()

    def _draw_legend(self, painter: QtGui.QPainter, area: QtCore.QRectF) -> None:
        series = self._series()
        if not series:
            return
        width = max(painter.fontMetrics().horizontalAdvance(node.GetName() or "") for node in series) + 44
        line = painter.fontMetrics().height() + 2
        box = QtCore.QRectF(area.right() - width - 6, area.top() + 6, width, line * len(series) + 6)
        painter.setPen(QtGui.QColor(180, 180, 180))
        painter.setBrush(QtGui.QColor(255, 255, 255, 220))
        painter.drawRect(box)
        for row, node in enumerate(series):
            middle = box.top() + 3 + (row + 0.5) * line
            _draw_series(
                painter, node, [QtCore.QPointF(box.left() + 6, middle), QtCore.QPointF(box.left() + 30, middle)]
            )
            painter.setPen(QtCore.Qt.GlobalColor.black)
            text = QtCore.QRectF(box.left() + 36, middle - line / 2, width - 36, line)
            painter.drawText(text, QtCore.Qt.AlignmentFlag.AlignVCenter, node.GetName() or "")


def _points(series: Any) -> list[tuple[float, float]]:
    """The series' points, without gaps (not a number)."""
    table = series.GetTableNode().GetTable()
    ys = table.GetColumnByName(series.GetYColumnName() or "")
    xs = table.GetColumnByName(series.GetXColumnName() or "")
    if ys is None:
        return []
    rows = range(ys.GetNumberOfValues())
    points = [
        (xs.GetVariantValue(row).ToDouble() if xs is not None else float(row), ys.GetVariantValue(row).ToDouble())
        for row in rows
    ]
    return [point for point in points if all(map(math.isfinite, point))]


def _range(automatic: bool, fixed: tuple[float, float], values: list[float]) -> tuple[float, float]:
    low, high = (min(values, default=0.0), max(values, default=1.0)) if automatic else fixed
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two limits."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _draw_series(painter: QtGui.QPainter, series: Any, points: list[QtCore.QPointF]) -> None:
    colour = QtGui.QColor.fromRgbF(*series.GetColor(), series.GetOpacity())
    style = _DASHES.get(series.GetLineStyle())
    if style is not None and series.GetPlotType() != slicer.vtkMRMLPlotSeriesNode.PlotTypeScatterBar:
        painter.setPen(QtGui.QPen(colour, series.GetLineWidth(), style))
        painter.setBrush(QtCore.Qt.BrushStyle.NoBrush)
        painter.drawPolyline(points)
    if series.GetMarkerStyle() != slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone:
        painter.setPen(QtGui.QPen(colour))
        painter.setBrush(colour)
        radius = series.GetMarkerSize() / 2
        for point in points:
            painter.drawEllipse(point, radius, radius)
