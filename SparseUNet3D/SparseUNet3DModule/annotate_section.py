"""The section "Annotate": the segment editor, and the table of slices that fills itself while one paints."""

from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from SparseUNet3DModule.background import Background
from SparseUNet3DModule.painted import paintedOn
from SparseUNet3DModule.progress_view import FAILURES, sentenceOf
from SparseUNet3DModule.results import isDense
from SparseUNet3DModule.slices import HELD_OUT, IGNORE, TRAIN, USES, SliceOverview, overview
from SparseUNet3DModule.view_row import ViewRow
from SparseUNet3DModule.volumes import ijkToWorld

_EFFECTS = ("Paint", "Draw", "Erase", "Level tracing", "Scissors", "Islands", "Smoothing", "Threshold")
_EDITOR_TAG = "SparseUNet3D"
#: Milliseconds without painting before the slices are looked for again, and between looks at the thread.
_QUIET_MS, _POLL_MS = 400, 50


class AnnotateSection:
    """Keeps the table in step with the painting; computes it in a thread, as large volumes take a while.

    Attributes:
        overview: what is annotated, as of the last look.
        heldOutByProgram: slices that the program chose to hold out.
        views: the row of buttons below the table.
    """

    def __init__(self, panel: Any) -> None:
        self._panel, self._ui = panel, panel.ui
        self.overview = SliceOverview()
        self.heldOutByProgram: set[str] = set()
        self._background = Background()
        self._question: tuple[Any, ...] = ()
        self._observed: list[tuple[Any, int]] = []
        self._watched: tuple[Any, ...] = (None, None, None)  # segmentation, annotation, volume
        self._placesLookedAt: tuple[Any, ...] = ()
        self.views = ViewRow(panel, self)
        self._isOutdated = True
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._onTimer)
        ui = self._ui
        ui.segmentEditorWidget.setEffectNameOrder(list(_EFFECTS))
        ui.segmentEditorWidget.maximumNumberOfUndoStates = 5
        ui.segmentEditorWidget.undoEnabled = True
        # Both are chosen under "Data".
        ui.segmentEditorWidget.segmentationNodeSelectorVisible = False
        ui.segmentEditorWidget.sourceVolumeNodeSelectorVisible = False
        ui.segmentEditorWidget.switchToSegmentationsButtonVisible = False
        ui.sliceTable.horizontalHeader().setStretchLastSection(False)
        ui.sliceTable.horizontalHeader().setSectionResizeMode(2, qt.QHeaderView.Stretch)
        ui.sliceTable.verticalHeader().setVisible(False)
        ui.scribblesCheckBox.connect("toggled(bool)", self._onScribbles)

    # -- life ------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The module is opened: shortcuts and the segment editor come alive."""
        self._ui.segmentEditorWidget.setupViewObservations()
        self._ui.segmentEditorWidget.installKeyboardShortcuts()
        self.views.enter()
        self.update()
        if self._isOutdated:  # painted in the segment editor's own module, say
            self._lookSoon()

    def exit(self) -> None:
        """The module is left: nothing may react to keys or the mouse any more."""
        self.views.exit()
        self._ui.segmentEditorWidget.setActiveEffectByName("")
        self._ui.segmentEditorWidget.uninstallKeyboardShortcuts()
        self._ui.segmentEditorWidget.removeViewObservations()

    def update(self) -> None:
        """Show the parameters; look again at what is painted."""
        parameters, ui = self._panel.parameters, self._ui
        annotation = parameters.annotation if parameters is not None else None
        volume = parameters.volume if parameters is not None else None
        self._observe(annotation, volume)
        ready = annotation is not None and volume is not None and volume.GetImageData() is not None
        ui.segmentEditorWidget.enabled = ready and not self._panel.isBusy
        if ui.segmentEditorWidget.readOnly != self._panel.isBusy:  # its shortcuts work even where it is disabled
            ui.segmentEditorWidget.readOnly = self._panel.isBusy
        self.views.update(ready)
        if parameters is None:
            self._timer.stop()
            self._question = ()
            ui.sliceTable.setRowCount(0)
            return
        ui.scribblesCheckBox.checked = parameters.scribbles
        if self._panel.isEntered:
            self._showInEditor(annotation, volume)
        question = (
            annotation, volume, tuple(parameters.completeSlices), tuple(sorted(parameters.sliceUse.items())),
            parameters.scribbles, self._panel.data.problem(), self._places(),
        )
        if question != self._question:
            self._question, self._placesLookedAt = question, self._places()
            self._lookSoon()

    def _showInEditor(self, annotation: Any, volume: Any) -> None:
        editor = self._ui.segmentEditorWidget
        node = slicer.mrmlScene.GetSingletonNode(_EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag(_EDITOR_TAG)
            node = slicer.mrmlScene.AddNode(node)
        if editor.mrmlSegmentEditorNode() is not node:
            editor.setMRMLSegmentEditorNode(node)
        if editor.segmentationNode() is not annotation:
            editor.setSegmentationNode(annotation)
        if annotation is not None and editor.sourceVolumeNode() is not volume:  # refused without a segmentation
            editor.setSourceVolumeNode(volume)

    @property
    def isUpToDate(self) -> bool:
        """Whether `overview` is of what is painted now."""
        return not self._isOutdated and not self._background.isBusy

    # -- looking at what is painted --------------------------------------------------------------------------

    def _observe(self, annotation: Any, volume: Any) -> None:
        segmentation = annotation.GetSegmentation() if annotation is not None else None
        if self._watched == (segmentation, annotation, volume):
            return
        self._watched = (segmentation, annotation, volume)
        self.heldOutByProgram = set()  # of what was shown before
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed = []
        for node in (annotation, volume):  # moved against each other, other slices are painted
            if node is not None:
                for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLTransformableNode.TransformModifiedEvent):
                    self._observed.append((node, node.AddObserver(event, self._onMoved)))
        if segmentation is not None:
            kind = slicer.vtkSegmentation
            for event, call in (
                (kind.SourceRepresentationModified, self._onPainted), (kind.SegmentAdded, self._onSegment),
                (kind.SegmentRemoved, self._onSegment), (kind.SegmentModified, self._onSegment),
            ):
                self._observed.append((segmentation, segmentation.AddObserver(event, call)))

    def _onMoved(self, _caller: Any, _event: str) -> None:
        if self._places() != self._placesLookedAt:
            self.update()

    def _places(self) -> tuple[Any, ...]:
        """Where annotation and volume lie."""
        return tuple(_placeOf(node) for node in self._watched[1:])

    def _onPainted(self, _caller: Any, _event: str) -> None:
        self.views.chooseViewUnderMouse()
        self._panel.result.showPainting()
        self._lookSoon()

    def _onSegment(self, _caller: Any, _event: str) -> None:
        self._lookSoon()

    def _lookSoon(self) -> None:
        self._isOutdated = True
        if self._panel.isEntered:  # else when it is: nobody sees the table, and who paints elsewhere shall not wait
            self._timer.start(_QUIET_MS)
        self._panel.train.updateButtons()

    def _onTimer(self) -> None:
        if not self._background.isBusy:
            self._look()
            return
        if not self._background.isReady():
            self._timer.start(_POLL_MS)
            return
        self._timer.stop()
        try:
            self.showOverview(self._background.fetch())
        except Exception as error:
            self.showOverview(SliceOverview(problem=sentenceOf(error)))
        if self._isOutdated:  # something was painted while it was computed
            self._lookSoon()

    def _look(self) -> None:
        parameters = self._panel.parameters
        self._timer.stop()
        self._isOutdated = False
        if parameters is None or parameters.annotation is None or not self._panel.channels():
            self.showOverview(SliceOverview())
            return
        if self._panel.data.problem():
            self.showOverview(SliceOverview())
            return
        try:
            painted = paintedOn(parameters.annotation, parameters.volume)
        except FAILURES as error:
            self.showOverview(SliceOverview(problem=sentenceOf(error)))
            return
        self._background.start(
            overview, painted, list(parameters.completeSlices), dict(parameters.sliceUse), parameters.scribbles,
            ijkToWorld(parameters.volume), isDense(parameters.annotation),
        )
        self._timer.start(_POLL_MS)

    # -- the table -------------------------------------------------------------------------------------------

    def showOverview(self, found: SliceOverview) -> None:
        """Fill the table and the line below it."""
        self.overview = found
        table = self._ui.sliceTable
        table.setRowCount(len(found.rows))
        for number, row in enumerate(found.rows):
            names = ", ".join(row.segments) or _("nothing (background)")
            texts = (f"{row.orientation} {row.plane.index}", f"{row.position:.1f} mm", names)
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(_("Array slice {plane}").format(plane=row.plane))
                table.setItem(number, column, item)
            table.setCellWidget(number, 3, self._useSelector(str(row.plane), row.use))
        table.resizeColumnsToContents()
        self._ui.sliceMessage.text = self._message()
        self._panel.train.updateButtons()

    def _useSelector(self, plane: str, use: str) -> Any:
        selector = qt.QComboBox()
        texts = {TRAIN: _("train"), HELD_OUT: _("held out"), IGNORE: _("ignore")}
        for value in USES:
            selector.addItem(texts[value], value)
        if use == TRAIN and plane in self.heldOutByProgram:
            selector.setItemText(0, _("held out (automatic)"))
        selector.setCurrentIndex(USES.index(use))
        selector.toolTip = _(
            "Slices that are held out measure how good the result is. If you choose none, the program holds out about "
            "one in six, and learns from these as well at the end, when they have been measured with. Those that you "
            "choose are never learnt."
        )
        selector.connect("currentIndexChanged(int)", lambda index, plane=plane: self._onUse(plane, USES[index]))
        return selector

    def _message(self) -> str:
        found = self.overview
        lines = []
        if found.shares:
            parts = [f"{name} {100 * share:.2g} %" for name, share in found.shares.items()]
            total = 100 * sum(found.shares.values())
            lines.append(_("{total:.2g} % of the volume is annotated: {parts}.").format(
                total=total, parts=", ".join(parts)))
        if found.problem:
            lines.append(found.problem)
        return " ".join(lines)

    def showHeldOut(self, planes: set[str]) -> None:
        """Mark the slices that the program chose to hold out."""
        self.heldOutByProgram = planes
        self.showOverview(self.overview)

    # -- what the user does ----------------------------------------------------------------------------------

    def _onUse(self, plane: str, use: str) -> None:
        parameters = self._panel.parameters
        if parameters is not None:
            uses = {p: u for p, u in dict(parameters.sliceUse).items() if p != plane}
            parameters.sliceUse = uses if use == TRAIN else {**uses, plane: use}

    def _onScribbles(self, checked: bool) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.scribbles = checked


def _placeOf(node: Any) -> tuple[float, ...]:
    """Where a node's voxels lie in the world, as numbers that differ after it was moved or got another transform."""
    if node is None:
        return ()
    place = vtk.vtkMatrix4x4()
    if node.IsA("vtkMRMLVolumeNode"):
        node.GetIJKToRASMatrix(place)
    numbers = [place.GetElement(row, column) for row in range(3) for column in range(4)]
    transform = node.GetParentTransformNode()
    if transform is not None:
        numbers.append(float(transform.GetTransformToWorldMTime()))
    return tuple(numbers)
