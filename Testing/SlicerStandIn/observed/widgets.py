"""How the qMRML and CTK widgets that the panel needs behave in a running Slicer 5.13; its answers are in widgets.txt.

Same rules as rules.py: the stand-in must give the same lines.
"""

import sys

import ctk
import numpy as np
import qt
import slicer

OUT = open(sys.argv[1] if len(sys.argv) > 1 else "widgets.txt", "w", encoding="utf-8")  # noqa: SIM115
EVENTS = []


def ask(what, question):
    try:
        answer = question()
    except BaseException as error:  # the exception is the answer
        answer = f"{type(error).__name__}: {str(error)[:90]}"
    print(what, "->", repr(answer)[:200], file=OUT, flush=True)


def seen():
    events, EVENTS[:] = list(EVENTS), []
    return events


def listen(widget, *signals):
    for signal in signals:
        name = signal.split("(")[0]
        ok = widget.connect(signal, lambda *args, name=name: EVENTS.append((name, *(describe(a) for a in args))))
        print("connect", widget.className(), signal, "->", ok, file=OUT, flush=True)


def describe(argument):
    return argument.GetName() if hasattr(argument, "GetName") else argument


scene = slicer.mrmlScene
scene.Clear()

# -- qMRMLNodeComboBox ------------------------------------------------------------------------------------------------
combo = slicer.qMRMLNodeComboBox()
combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
listen(
    combo,
    "currentNodeChanged(vtkMRMLNode*)",
    "currentNodeChanged(bool)",
    "nodeAdded(vtkMRMLNode*)",
    "nodeAddedByUser(vtkMRMLNode*)",
    "nodeAboutToBeRemoved(vtkMRMLNode*)",
)
ask("combo without scene: enabled", lambda: combo.enabled)
ask("combo without scene: currentNode()", lambda: combo.currentNode())
combo.setMRMLScene(scene)
ask(
    "combo defaults: noneEnabled addEnabled removeEnabled renameEnabled editEnabled selectNodeUponCreation showHidden",
    lambda: (
        combo.noneEnabled,
        combo.addEnabled,
        combo.removeEnabled,
        combo.renameEnabled,
        combo.editEnabled,
        combo.selectNodeUponCreation,
        combo.showHidden,
    ),
)
ask("events after setMRMLScene", seen)
volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "A")
ask("events after a volume is added", seen)
ask("current", lambda: describe(combo.currentNode()))
second = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "B")
ask("events after a second volume", seen)
ask("nodeCount()", lambda: combo.nodeCount())
combo.setCurrentNode(second)
ask("events after setCurrentNode(B)", seen)
combo.setCurrentNode(second)
ask("events after setCurrentNode(B) again", seen)
combo.noneEnabled = True
ask("events after noneEnabled", seen)
combo.setCurrentNode(None)
ask("events after setCurrentNode(None)", seen)
ask("current is None", lambda: combo.currentNode() is None)
ask("currentNodeID when none", lambda: combo.currentNodeID)
combo.setCurrentNodeID(volume.GetID())
ask("events after setCurrentNodeID(A)", seen)
scene.RemoveNode(volume)
ask("events after A is removed from the scene", seen)
ask("current after removal", lambda: describe(combo.currentNode()) if combo.currentNode() else None)
added = combo.addNode()
ask("addNode() returns", lambda: (describe(added), describe(combo.currentNode())))
ask("events after addNode()", seen)
label = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "L")
ask(
    "label map shown among scalar volumes (showChildNodeTypes default)",
    lambda: (combo.showChildNodeTypes, combo.nodeCount()),
)
seen()
scene.Clear()
ask("events after scene.Clear()", seen)
ask("current after Clear", lambda: combo.currentNode())

# -- segmentation and editor ------------------------------------------------------------------------------------------
volume = slicer.util.addVolumeFromArray(np.zeros((10, 12, 14), np.uint8), name="V")
segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
segmentation.CreateDefaultDisplayNodes()
segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
first = segmentation.GetSegmentation().AddEmptySegment("", "tubule")
ask(
    "AddEmptySegment id, name, colour",
    lambda: (
        first,
        segmentation.GetSegmentation().GetSegment(first).GetName(),
        tuple(round(x, 3) for x in segmentation.GetSegmentation().GetSegment(first).GetColor()),
    ),
)
editor = slicer.qMRMLSegmentEditorWidget()
listen(
    editor,
    "currentSegmentIDChanged(QString)",
    "segmentationNodeChanged(vtkMRMLSegmentationNode*)",
    "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)",
)
ask("editor without scene: segmentationNode()", lambda: editor.segmentationNode())
editor.setMRMLScene(scene)
node = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode", "E")
editor.setMRMLSegmentEditorNode(node)
ask("events after setMRMLSegmentEditorNode", seen)
editor.setSegmentationNode(segmentation)
ask("events after setSegmentationNode", seen)
editor.setSourceVolumeNode(volume)
ask("events after setSourceVolumeNode", seen)
ask(
    "editor node has both",
    lambda: (describe(node.GetSegmentationNode()), describe(node.GetSourceVolumeNode()), node.GetSelectedSegmentID()),
)
ask("available effects", lambda: tuple(editor.availableEffectNames()))
ask("setEffectNameOrder", lambda: editor.setEffectNameOrder(["Paint", "Draw", "Erase"]))
ask(
    "unorderedEffectsVisible = False",
    lambda: (setattr(editor, "unorderedEffectsVisible", False), editor.unorderedEffectsVisible)[1],
)
editor.setActiveEffectByName("Paint")
ask("activeEffect().name", lambda: editor.activeEffect().name)
editor.setActiveEffectByName("")
ask("activeEffect() after ''", lambda: editor.activeEffect())
other = segmentation.GetSegmentation().AddEmptySegment("", "lumen")
editor.setCurrentSegmentID(other)
ask("events after setCurrentSegmentID", seen)
ask("currentSegmentID()", lambda: editor.currentSegmentID())
segmentation.GetSegmentation().RemoveSegment(other)
ask("events after the current segment is removed", seen)
ask(
    "visibility properties",
    lambda: (
        editor.segmentationNodeSelectorVisible,
        editor.sourceVolumeNodeSelectorVisible,
        editor.switchToSegmentationsButtonVisible,
        editor.undoEnabled,
        editor.maximumNumberOfUndoStates,
        editor.readOnly,
    ),
)
mask = np.zeros((10, 12, 14), np.uint8)
mask[4, 2:9, 3:9] = 1
slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, first, volume)
ask(
    "painted voxels, full extent",
    lambda: (
        int(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, volume).sum()),
        slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, volume).shape,
    ),
)
ask(
    "internal label map is cropped",
    lambda: slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, first).shape,
)
editor.saveStateForUndo()
slicer.util.updateSegmentBinaryLabelmapFromArray(mask * 0, segmentation, first, volume)
editor.undo()
ask("voxels after undo", lambda: int(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, volume).sum()))
seen()
scene.Clear()
ask("events after scene.Clear() with an editor", seen)
ask(
    "editor nodes after Clear",
    lambda: (editor.segmentationNode(), editor.sourceVolumeNode(), editor.mrmlSegmentEditorNode()),
)

# -- segments table, plot, CTK ----------------------------------------------------------------------------------------
table = slicer.qMRMLSegmentsTableView()
ask("segments table without node", lambda: (table.segmentationNode(), tuple(table.selectedSegmentIDs())))
plot = slicer.qMRMLPlotView()
plot.setMRMLScene(scene)
plotView = scene.AddNewNodeByClass("vtkMRMLPlotViewNode")
plot.setMRMLPlotViewNode(plotView)
chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "curve")
plotView.SetPlotChartNodeID(chart.GetID())
ask("plot view shows", lambda: describe(plotView.GetPlotChartNode()))
slider = ctk.ctkSliderWidget()
listen(slider, "valueChanged(double)", "valueIsChanging(double)")
slider.minimum, slider.maximum, slider.singleStep, slider.decimals = 0, 10, 0.5, 1
slider.value = 3.24
ask("slider value rounds", lambda: (slider.value, seen()))
slider.value = 99
ask("slider clamps", lambda: (slider.value, seen()))
path = ctk.ctkPathLineEdit()
listen(path, "currentPathChanged(QString)", "validInputChanged(bool)")
path.currentPath = "/nowhere/at all"
ask("path", lambda: (path.currentPath, seen()))
button = ctk.ctkCollapsibleButton()
listen(button, "contentsCollapsed(bool)", "clicked(bool)", "toggled(bool)")
ask("collapsible defaults", lambda: (button.collapsed, button.text, button.checkable, button.checked))
button.collapsed = True
ask("collapsible after collapsed = True", lambda: (button.collapsed, button.checked, seen()))
widget = qt.QTableWidget(2, 3)
listen(widget, "cellClicked(int,int)", "itemSelectionChanged()", "cellChanged(int,int)")
widget.setItem(0, 0, qt.QTableWidgetItem("x"))
ask("table setItem", seen)
widget.selectRow(1)
ask("table selectRow", lambda: (seen(), [i.row() for i in widget.selectionModel().selectedRows()]))
box = qt.QComboBox()
listen(box, "currentIndexChanged(int)", "currentTextChanged(QString)", "activated(int)")
box.addItems(["a", "b"])
ask("combo addItems", seen)
box.currentText = "b"
ask("combo currentText = b", lambda: (box.currentIndex, seen()))
progress = qt.QProgressBar()
ask("progress defaults", lambda: (progress.minimum, progress.maximum, progress.value, progress.text))
progress.value = 150
ask("progress over the maximum", lambda: progress.value)

# -- process ----------------------------------------------------------------------------------------------------------
process = qt.QProcess()
listen(
    process,
    "finished(int,QProcess::ExitStatus)",
    "readyReadStandardOutput()",
    "started()",
    "errorOccurred(QProcess::ProcessError)",
    "stateChanged(QProcess::ProcessState)",
)
process.start("/bin/sh", ["-c", "printf 'one\\ntwo'; exit 3"])
ask("waitForFinished", lambda: process.waitForFinished(5000))
ask("output", lambda: process.readAllStandardOutput().data())
ask("exit", lambda: (process.exitCode(), process.exitStatus(), process.state()))
ask("events of a process", seen)
process.start("/no/such/program", [])
ask("no such program", lambda: (process.waitForStarted(2000), process.errorString(), process.error(), seen()))
OUT.close()
