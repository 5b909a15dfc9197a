"""A form and code for it with nothing wrong, for the tests of the static check."""

from __future__ import annotations

FORM = """\
<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0">
 <widget class="qMRMLWidget" name="Panel">
  <layout class="QFormLayout" name="rows">
   <property name="leftMargin">
    <number>0</number>
   </property>
   <item row="0" column="0">
    <widget class="QPushButton" name="trainButton">
     <property name="text">
      <string>Train</string>
     </property>
    </widget>
   </item>
   <item row="1" column="0">
    <widget class="qMRMLNodeComboBox" name="volumeSelector">
     <property name="nodeTypes">
      <stringlist>
       <string>vtkMRMLScalarVolumeNode</string>
      </stringlist>
     </property>
     <property name="SlicerParameterName" stdset="0">
      <string>volume</string>
     </property>
    </widget>
   </item>
   <item row="2" column="0">
    <widget class="QLabel" name="status">
     <property name="alignment">
      <set>Qt::AlignLeft|Qt::AlignTop</set>
     </property>
    </widget>
   </item>
  </layout>
 </widget>
 <connections>
  <connection>
   <sender>Panel</sender>
   <signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
   <receiver>volumeSelector</receiver>
   <slot>setMRMLScene(vtkMRMLScene*)</slot>
  </connection>
 </connections>
</ui>
"""

GOOD = """\
from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import qt
import slicer
import vtk
from scipy import ndimage
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from SparseUNet3DLib import events

from .chart import Chart

if TYPE_CHECKING:
    import torch


class Row(qt.QWidget):
    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)
        self.label = qt.QLabel("")
        qt.QHBoxLayout(self).addWidget(self.label)

    def show_text(self, text: str) -> None:
        self.label.text = text
        self.setToolTip(text)


class PanelWidget(ScriptedLoadableModuleWidget):
    def setup(self) -> None:
        panel = slicer.util.loadUI(self.resourcePath("UI/Panel.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.row = Row()
        self.row.show_text(_("Painted slices: {count}").format(count=3))
        self.ui.trainButton.connect("clicked(bool)", self.on_train)
        self.ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: None)
        self.timer = qt.QTimer()
        self.timer.setInterval(200)
        self.timer.timeout.connect(self.on_train)
        qt.QTimer.singleShot(0, self.on_train)
        self.process = qt.QProcess()
        self.process.connect("finished(int,QProcess::ExitStatus)", self.on_finished)
        self.process.readyReadStandardOutput.connect(self.on_train)
        shortcut = None
        if panel.isVisible():
            shortcut = qt.QShortcut(qt.QKeySequence("Ctrl+T"), slicer.util.mainWindow())
            shortcut.connect("activated()", self.on_train)
        line = qt.QFrame()
        line.setFrameShape(qt.QFrame.HLine)
        self.ui.status.setAlignment(qt.Qt.AlignLeft | qt.Qt.AlignTop)
        self.chart = Chart()

    def on_train(self) -> None:
        volume = self.ui.volumeSelector.currentNode()
        self.ui.trainButton.enabled = volume is not None
        layout = slicer.app.layoutManager()
        if layout is not None:
            layout.sliceWidget("Red").sliceController().setSliceVisible(True)
        arguments = ["-m", "x"]
        self.process.start("python", *[arguments])
        output = self.process.readAllStandardOutput().data().decode()
        for widget in (self.ui.trainButton, self.ui.status):
            widget.toolTip = output
        self.apply(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"), volume)

    def on_finished(self, code, status) -> None:
        dialog = qt.QMessageBox(slicer.util.mainWindow())
        dialog.setText(_("It ended."))
        dialog.exec()

    def apply(self, node: slicer.vtkMRMLSegmentationNode, volume: vtkMRMLScalarVolumeNode | None) -> None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.GetSegmentation().AddEmptySegment("a", "a")
        node.GetDisplayNode().SetSegmentOpacity3D("a", 1.0)
        logic = slicer.modules.segmentations.logic()
        logic.ExportAllSegmentsToLabelmapNode(node, slicer.vtkMRMLLabelMapVolumeNode())
        names = vtk.vtkStringArray()
        names.InsertNextValue("a")
"""
