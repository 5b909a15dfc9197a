"""The section "Result": what came out, how good and how sure it is, and how to go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.evaluation import CONFUSION_SEGMENTS
from SparseUNet3DLib.raw_nrrd import read_raw_nrrd
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DModule import runs
from SparseUNet3DModule.foregrounds import Foregrounds
from SparseUNet3DModule.painted import paintedOn, requireLabelmap
from SparseUNet3DModule.progress_view import FAILURES, sentenceOf
from SparseUNet3DModule.results import markDense, newSegmentation, showLabels, volumeOf
from SparseUNet3DModule.tasks import withoutBackground

_CONFIDENCE_OPACITY = 0.5
#: Attribute of a result that is hidden because its errors are shown; these are not saved with the scene.
_HIDDEN = "SparseUNet3D.HiddenByErrors"


class ResultSection:
    """Shows the parameters' result."""

    def __init__(self, panel: Any) -> None:
        self._panel, self._ui = panel, panel.ui
        self._errorsId = ""
        self._foregrounds = Foregrounds()
        ui = self._ui
        ui.show3DButton.connect("toggled(bool)", self._onShow3D)
        ui.showConfidenceButton.connect("toggled(bool)", self._onShowConfidence)
        ui.showErrorsButton.connect("toggled(bool)", self._onShowErrors)
        ui.copyButton.connect("clicked()", self._onCopy)
        ui.scoreTable.verticalHeader().setVisible(False)
        ui.scoreTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)

    def enter(self) -> None:
        """Nothing to do: `update` shows all there is."""

    def update(self) -> None:
        """Show the parameters."""
        parameters, ui = self._panel.parameters, self._ui
        if parameters is None:
            self._errorsId = ""  # IDs mean other nodes in the next scene
            self._foregrounds.forget()
            self.showNothing()
        result = parameters.result if parameters is not None else None
        confidence = parameters.confidence if parameters is not None else None
        if result is not None and result.GetAttribute(_HIDDEN) and not self._errorsId:  # a scene was loaded
            self._hideBehindErrors(result, False)
        ui.show3DButton.enabled = result is not None
        ui.showConfidenceButton.enabled = confidence is not None
        ui.showErrorsButton.enabled = result is not None and self._errorFile() is not None
        isOfOther = result is not None and volumeOf(result) is not parameters.volume
        ui.copyButton.enabled = (
            result is not None and parameters.annotation is not None and parameters.volume is not None
            and not isOfOther and not self._panel.isBusy
        )
        ui.copyButton.toolTip = (
            _("The result is of another volume; choose that one, and its annotation, under Data.") if isOfOther
            else _("Replace the annotation by the result, to correct it there. Asks first; one undo step.")
        )
        scores = dict(parameters.heldOutIou) if result is not None else {}
        ui.scoreTable.visible = bool(scores)
        ui.scoreTable.setRowCount(len(scores))
        for row, (name, iou) in enumerate(scores.items()):
            ui.scoreTable.setItem(row, 0, qt.QTableWidgetItem(name))
            ui.scoreTable.setItem(row, 1, qt.QTableWidgetItem(f"{iou:.3f}"))
        ui.scoreTable.resizeColumnToContents(1)
        ui.resultLabel.text = self._summary(result, scores)

    def showNothing(self) -> None:
        """Undo what the buttons show of the present result, before another takes its place."""
        for button in (self._ui.show3DButton, self._ui.showConfidenceButton, self._ui.showErrorsButton):
            button.checked = False

    def showNew(self, former: Any) -> None:
        """A new result is there: show it instead of the former one, and of the painting only the outline."""
        parameters = self._panel.parameters
        isOther = former is not None and former is not parameters.result and former is not parameters.annotation
        if isOther and former.GetDisplayNode() is not None and volumeOf(former) is volumeOf(parameters.result):
            former.GetDisplayNode().SetVisibility(False)
        self._fill(painting=False)

    def showPainting(self) -> None:
        """The user paints: of a result that is filled, and hides it, only the outline stays."""
        displays = self._displays()
        if displays and not displays[0].GetVisibility2DFill() and displays[1].GetVisibility2DFill():
            self._fill(painting=True)

    def _fill(self, painting: bool) -> None:
        """Fill the painting or the result in the slices."""
        for display, isFilled in zip(self._displays(), (painting, not painting), strict=False):
            display.SetVisibility2DFill(isFilled)

    def _displays(self) -> list[Any]:
        """Of the annotation and of the result; none where they are not both of the chosen volume."""
        parameters = self._panel.parameters
        if parameters is None or None in (parameters.annotation, parameters.result, parameters.volume):
            return []
        if volumeOf(parameters.result) is not parameters.volume:
            return []
        displays = [node.GetDisplayNode() for node in (parameters.annotation, parameters.result)]
        return displays if all(displays) else []

    def _summary(self, result: Any, scores: dict[str, float]) -> str:
        if result is None:
            return _("No result yet: press 'Segment'.")
        if not scores:
            return _("'{name}'. No slices were held out, so that it cannot be said how good it is.").format(
                name=result.GetName()
            )
        return _("'{name}', IoU {mean:.3f} on slices that were held out to measure it.").format(
            name=result.GetName(), mean=float(np.mean(list(scores.values())))
        )

    def _errorFile(self) -> Path | None:
        parameters = self._panel.parameters
        path = Path(parameters.resultFolder or ".") / runs.CONFUSION
        isThere = parameters.resultFolder and parameters.heldOutIou and path.exists()
        return path if isThere and volumeOf(parameters.result) is not None else None

    def _onShow3D(self, checked: bool) -> None:
        result = self._panel.parameters.result if self._panel.parameters is not None else None
        if result is None:
            return
        if checked:
            result.CreateClosedSurfaceRepresentation()
        result.GetDisplayNode().SetVisibility3D(checked)

    def _onShowConfidence(self, checked: bool) -> None:
        parameters = self._panel.parameters
        confidence = parameters.confidence if parameters is not None else None
        if not checked:
            self._foregrounds.restore()
        elif confidence is not None:
            self._foregrounds.replace(confidence, _CONFIDENCE_OPACITY)

    def _onShowErrors(self, checked: bool) -> None:
        parameters = self._panel.parameters
        node = slicer.mrmlScene.GetNodeByID(self._errorsId) if self._errorsId else None
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
            self._errorsId = ""
        if parameters is None or parameters.result is None:
            return
        self._hideBehindErrors(parameters.result, False)
        path, volume = self._errorFile(), volumeOf(parameters.result)  # another one may be chosen by now
        if not checked or path is None:
            return
        arrays: list[np.ndarray] = []
        for _fraction in read_raw_nrrd(path, arrays):
            slicer.app.processEvents()
        if arrays[0].shape != volume.GetImageData().GetDimensions()[::-1]:
            self._panel.progress.showProblem(
                _("'{name}' was changed since it was segmented; its errors cannot be shown on it.").format(
                    name=volume.GetName()
                )
            )
            return
        node = newSegmentation(_("{name} errors").format(name=volume.GetName()), volume)
        node.SetSaveWithScene(False)
        showLabels(node, arrays[0], CONFUSION_SEGMENTS, volume)
        self._errorsId = node.GetID()
        self._hideBehindErrors(parameters.result, True)

    def _hideBehindErrors(self, result: Any, hidden: bool) -> None:
        """Hide the result in the slices, or show it again; a scene that is saved meanwhile tells why it is hidden."""
        result.SetAttribute(_HIDDEN, "1" if hidden else None)
        if result.GetDisplayNode() is not None:
            result.GetDisplayNode().SetVisibility2D(not hidden)

    def _onCopy(self) -> None:
        parameters = self._panel.parameters
        question = _(
            "Replace what is painted in '{annotation}' by the result '{result}'? The slices that are annotated now "
            "stay marked as such; mark a slice as complete when you have corrected it. 'Undo' in the segment editor "
            "brings back what was painted."
        ).format(annotation=parameters.annotation.GetName(), result=parameters.result.GetName())
        if not self._panel.ask(question):
            return
        try:
            copyIntoAnnotation(self._panel)
        except FAILURES as error:
            self._panel.progress.showProblem(sentenceOf(error))


def copyIntoAnnotation(panel: Any) -> None:
    """Put the result's segments into the annotation, as one undo step of the segment editor.

    Segments are the same by their name, or by their ID where they were renamed. The annotated slices are declared
    complete, as they can no longer be told from the painting. A painted background keeps nothing: every voxel is
    decided now.

    Raises:
        InputError: a painted segment has no counterpart in the result; it would be erased. Or the result is of another
            volume, or the annotation cannot take the volume's voxels as they are.
    """
    parameters = panel.parameters
    if volumeOf(parameters.result) is not parameters.volume:
        raise InputError(
            f"'{parameters.result.GetName()}' was not made of '{parameters.volume.GetName()}'; choose its own volume "
            "and annotation before you copy."
        )
    requireLabelmap(parameters.annotation)
    if parameters.annotation.GetTransformNodeID() != parameters.volume.GetTransformNodeID():
        # Slicer would move what is written into a segmentation by the transform twice.
        names = f"'{parameters.annotation.GetName()}' and '{parameters.volume.GetName()}'"
        raise InputError(
            f"{names} have different parent transforms; harden both in the Data module before you copy: where they are "
            "linear, that leaves everything in its place."
        )
    painted = paintedOn(parameters.result, parameters.volume)
    numbers = _counterparts(painted, paintedOn(parameters.annotation, parameters.volume))
    panel.ui.segmentEditorWidget.saveStateForUndo()
    slices = [str(row.plane) for row in panel.annotate.overview.rows]
    annotation = parameters.annotation
    segmentation = annotation.GetSegmentation()
    with slicer.util.NodeModify(annotation):
        for n in range(segmentation.GetNumberOfSegments()):
            identifier = segmentation.GetNthSegmentID(n)
            number = numbers.get(identifier)
            mask = (painted.labels == number).astype(np.uint8) if number else np.zeros(painted.labels.shape, np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, annotation, identifier, parameters.volume)
    markDense(annotation)
    parameters.completeSlices = sorted({*parameters.completeSlices, *slices})


def _counterparts(result: Segmentation, annotation: Segmentation) -> dict[str, int]:
    """For the ID of each segment of the annotation the number of the same one in the result, if there is one."""
    names = {s.name: n for n, s in enumerate(result.segments, start=1)}
    ids = {s.id: n for n, s in enumerate(result.segments, start=1)}
    # An ID tells nothing where another segment of the annotation has the name: "Segment_1" is any first one.
    others = {s.name for s in annotation.segments}
    found: dict[str, int] = {}
    for number, segment in enumerate(annotation.segments, start=1):
        same = names.get(segment.name)
        if same is None and segment.id in ids and result.segments[ids[segment.id] - 1].name not in others:
            same = ids[segment.id]
        if same is not None:
            found[segment.id] = same
        elif withoutBackground([segment]) and (annotation.labels == number).any():
            raise InputError(
                f"The result has no segment '{segment.name}', so that what is painted of it would be erased; rename it "
                "as in the result, or remove it."
            )
    return found
