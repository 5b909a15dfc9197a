"""The section "Model": keep it, load it, apply it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import SparseUNetError
from SparseUNet3DLib.image_files import SUPPORTED_SUFFIXES, volume_stem
from SparseUNet3DModule import runs
from SparseUNet3DModule.progress_view import FAILURES, sentenceOf
from SparseUNet3DModule.tasks import Outcome

_SUFFIX = ".safetensors"
_FILTER = f"*{_SUFFIX}"


class ModelSection:
    """Shows the parameters' model."""

    def __init__(self, panel: Any) -> None:
        self._panel, self._ui = panel, panel.ui
        self._shown, self._wereThere = "", 0
        ui = self._ui
        ui.saveModelButton.connect("clicked()", self._onSave)
        ui.loadModelButton.connect("clicked()", self._onLoad)
        ui.applyButton.connect("clicked()", self.onApply)
        ui.applyManyButton.connect("clicked()", self.onApplyMany)
        ui.applyFolderButton.connect("clicked()", self.onApplyFolder)
        ui.applySelector.connect("checkedNodesChanged()", self.update)

    def enter(self) -> None:
        """Nothing to do: `update` shows all there is."""

    def update(self) -> None:
        """Show the parameters."""
        parameters, ui = self._panel.parameters, self._ui
        path = parameters.modelPath if parameters is not None else ""
        exists = bool(path) and Path(path).exists()
        ready = exists and not self._panel.isBusy
        ui.modelLabel.text = self._describe(path, exists)
        ui.saveModelButton.enabled = exists
        ui.loadModelButton.enabled = parameters is not None and not self._panel.isBusy
        ui.applyButton.enabled = ready and parameters.volume is not None and not self._panel.data.problem()
        ui.applyManyButton.enabled = ready and not ui.applySelector.noneChecked()
        ui.applyFolderButton.enabled = ready
        if path != self._shown:
            ui.modelCard.plainText = ""
            self._shown = path
            if exists:
                runs.keepLonger(Path(path))

    def _describe(self, path: str, exists: bool) -> str:
        if not path:
            return _("No model yet: train one, or load one.")
        if not exists:
            return _("The model file '{path}' is gone; load another.").format(path=path)
        if runs.isNotSaved(Path(path)):
            return _(
                "The latest training's model, not saved yet: it lies in the temporary folder, which the system may "
                "empty when the computer is started anew."
            )
        return path

    def load(self, path: str) -> None:
        """Show the card of a model and use it from now on; *Continue* goes on from it."""
        scene = self._panel.scene
        if not self._panel.train.mayGiveUpRun() or not self._panel.train.mayInstall():
            return
        self._panel.progress.clear()
        try:
            with self._panel.busy():
                self._panel.progress.tellOfInstallation()
                card = self._panel.logic.modelCard(path)
        except FAILURES as error:
            self._panel.progress.showProblem(sentenceOf(error))
            return
        if scene != self._panel.scene:  # it was closed meanwhile
            return
        self._panel.parameters.modelPath, self._panel.parameters.runFolder = path, ""
        self.update()
        self._ui.modelCard.plainText = card["text"]
        self._ui.statusLabel.text = _("The model is loaded.")

    def save(self, path: str) -> None:
        """Copy the present model to ``path``; a file there is replaced only when all is written."""
        target = Path(_withSuffix(path))
        try:
            with atomic_path(target) as temporary:
                shutil.copyfile(self._panel.parameters.modelPath, temporary)
        except SparseUNetError as error:
            self._panel.progress.showProblem(str(error))
            return
        self._panel.parameters.modelPath = str(target)
        self._ui.statusLabel.text = _("The model is saved as '{path}'.").format(path=target)

    def onApply(self) -> None:
        """Segment the chosen volume with its channels."""
        self._apply([self._panel.channels()], confidence=True)

    def onApplyMany(self) -> None:
        """Segment all checked volumes."""
        self._apply([[node] for node in self._ui.applySelector.checkedNodes()], confidence=False)

    def onApplyFolder(self) -> None:
        """Segment all volume files of one folder into another."""
        parameters, ui = self._panel.parameters, self._ui
        source, target = Path(ui.inputFolderButton.directory), ui.outputFolderButton.directory
        if not self._panel.train.mayInstall():
            return
        files = sorted(
            f for f in source.glob("*")
            if f.is_file() and f.name.lower().endswith(SUPPORTED_SUFFIXES)
            and not f.name.lower().endswith(".seg.nrrd")  # a segmentation, perhaps the result of an earlier call
        )
        missing = [f for f in files if not (Path(target) / f"{volume_stem(f)}.seg.nrrd").exists()]
        if files and not missing:
            self._panel.progress.showProblem(
                _("All {count} volumes have a segmentation in '{folder}' already; choose another folder, or move them.")
                .format(count=len(files), folder=target)
            )
            return
        self._wereThere = len(files) - len(missing)
        self._panel.run(
            self._panel.logic.segmentFiles, parameters.modelPath, missing, target, parameters.device,
            onEnd=self._tellFiles,
        )

    def _apply(self, volumes: list[list[Any]], confidence: bool) -> None:
        parameters = self._panel.parameters
        if not self._panel.train.mayInstall():
            return
        self._panel.run(
            self._panel.logic.segment, parameters.modelPath, volumes, parameters.device, confidence,
            onEnd=self._take,
        )

    def _take(self, outcome: Outcome) -> None:
        if not outcome.segmentations:  # of several volumes some may have results, although others failed
            return
        parameters = self._panel.parameters
        if outcome.interrupted:
            self._ui.statusLabel.text = _("Stopped. Volumes that were segmented before: {count}.").format(
                count=len(outcome.segmentations)
            )
        self._panel.result.showNothing()
        parameters.heldOutIou, former = {}, parameters.result
        parameters.result = slicer.mrmlScene.GetNodeByID(outcome.segmentations[-1])
        confidences = [slicer.mrmlScene.GetNodeByID(identifier) for identifier in outcome.confidences]
        parameters.confidence = confidences[-1] if confidences else None  # not that of another result
        self._panel.result.showNew(former)

    def _tellFiles(self, outcome: Outcome) -> None:
        if outcome.error:
            return
        text = _("{count} segmentations were written to '{folder}'.").format(
            count=len(outcome.files), folder=self._ui.outputFolderButton.directory
        )
        if self._wereThere:
            text += " " + _("{count} were there already and stay as they are.").format(count=self._wereThere)
        self._ui.statusLabel.text = text

    def _onLoad(self) -> None:
        filters = _("Models ({filter})").format(filter=_FILTER)
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Load model"), "", filters)
        if path:
            self.load(path)

    def _onSave(self) -> None:
        filters = _("Models ({filter})").format(filter=_FILTER)
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Save model"), "model.safetensors", filters)
        if not path:
            return
        target = _withSuffix(path)
        # The dialog has asked about the name that was typed only.
        if target == path or not Path(target).exists() or self._panel.ask(
            _("'{path}' exists already. Replace it?").format(path=target)
        ):
            self.save(target)


def _withSuffix(path: str) -> str:
    return path if path.endswith(_SUFFIX) else f"{path}{_SUFFIX}"
