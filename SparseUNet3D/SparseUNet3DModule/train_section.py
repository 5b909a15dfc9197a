"""The section "Train and segment": presets, device, start and stop, curve, preview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SparseUNet3DModule import begun, runs
from SparseUNet3DModule.chart import TrainingChart
from SparseUNet3DModule.installation import isTorchInstalled, missingPackages
from SparseUNet3DModule.preview import Preview
from SparseUNet3DModule.progress_view import FAILURES
from SparseUNet3DModule.slices import HELD_OUT, IGNORE
from SparseUNet3DModule.tasks import Outcome

_PRESETS = ("quick", "balanced", "thorough", "paper")
_DEVICES = ("auto", "cpu", "cuda", "mps")


class TrainSection:
    """Runs the worker and shows what it says."""

    def __init__(self, panel: Any) -> None:
        self._panel, self._ui = panel, panel.ui
        self.chart = TrainingChart()
        self.preview = Preview()
        self._stopPressed = False
        self._deviceAsked = ""
        self._updating = False
        ui = self._ui
        texts = {
            "quick": _("quick: 1 minute"), "balanced": _("balanced: 4 minutes"), "thorough": _("thorough: 30 minutes"),
            "paper": _("paper: 70,000 steps, days on a CPU"),
        }
        for name in _PRESETS:
            ui.presetSelector.addItem(texts[name], name)
        for name, text in zip(_DEVICES, (_("automatic"), "CPU", "NVIDIA GPU", "Apple GPU"), strict=True):
            ui.deviceSelector.addItem(text, name)
        ui.presetSelector.connect("currentIndexChanged(int)", self._onChoice)
        ui.deviceSelector.connect("currentIndexChanged(int)", self._onChoice)
        ui.minutesSpinBox.connect("valueChanged(double)", self._onChoice)
        ui.segmentButton.connect("clicked()", self.onSegment)
        ui.stopButton.connect("clicked()", self.onStop)
        ui.continueButton.connect("clicked()", self.onContinue)
        # Made here, as forms cannot: there is no plug-in of this class for Qt's form builder.
        self._plotView = slicer.qMRMLPlotView()
        self._plotView.setMRMLScene(slicer.mrmlScene)
        ui.plotHolder.layout().addWidget(self._plotView)

    def enter(self) -> None:
        """Say which device there is."""
        self._askDevice()

    def update(self) -> None:
        """Show the parameters."""
        parameters, ui = self._panel.parameters, self._ui
        self.updateButtons()
        if parameters is None:
            self.preview.forget()
            self._panel.progress.clear()
            return
        self._updating = True
        ui.presetSelector.setCurrentIndex(_PRESETS.index(parameters.preset) if parameters.preset in _PRESETS else 1)
        ui.deviceSelector.setCurrentIndex(_DEVICES.index(parameters.device) if parameters.device in _DEVICES else 0)
        if ui.minutesSpinBox.value != parameters.minutes:  # setting it moves the cursor of who is typing
            ui.minutesSpinBox.value = parameters.minutes
        self._updating = False
        self._plotView.setMRMLPlotViewNode(self.chart.viewNode(parameters.parameterNode))

    def updateButtons(self) -> None:
        """Enable what can be pressed, and say in a tooltip why the rest cannot."""
        ui, busy, problem = self._ui, self._panel.isBusy, self.problem()
        ui.segmentButton.enabled = not busy and not problem
        ui.segmentButton.toolTip = problem or _("Learn from the annotated slices and segment the whole volume.")
        ui.stopButton.enabled = busy
        ui.stopButton.text = _("Stop now") if busy and self._stopPressed else _("Stop")
        ui.continueButton.enabled = not busy and not problem and (self._canResume() or self._modelPath() is not None)
        for widget in (ui.presetSelector, ui.minutesSpinBox, ui.deviceSelector):
            widget.enabled = not busy

    def problem(self) -> str:
        """What keeps a training from being started, in one sentence; "" if nothing does."""
        parameters = self._panel.parameters
        if parameters is None or parameters.volume is None:
            return _("Choose a volume first.")
        if parameters.annotation is None:
            return _("Create an annotation first, and paint a few slices.")
        problem = self._panel.data.problem()
        if not problem and not self._panel.annotate.isUpToDate:
            return _("Looking for annotated slices; one moment.")
        return problem or self._panel.annotate.overview.problem

    # -- starting and stopping -------------------------------------------------------------------------------

    def onSegment(self) -> None:
        """Learn from the slices and segment the volume, from the beginning."""
        if self.mayInstall():
            self._start()

    def onContinue(self) -> None:
        """Go on: with the checkpoint of a run that stopped, or else from the present model."""
        if not self.mayInstall():
            return
        if not self._canResume():
            self._start(startFrom=self._modelPath())
        elif self._isAsBegun() or self._panel.ask(
            _("What is painted is not what it was when this run was begun. Go on with the run as it was begun? (Press "
              "'Segment' instead to begin anew with what is painted now.)")
        ):
            self._start(resumeFolder=self._panel.parameters.runFolder)

    def onStop(self) -> None:
        """End training well; pressed again, leave at once with a checkpoint."""
        job = self._panel.job
        if job is None or job.state == "taking back":  # all is computed
            return
        wasPressed, self._stopPressed = self._stopPressed, True
        # The text comes first: a job that has not begun to compute ends at once, and says so.
        if not job.canFinishEarly:
            self._ui.statusLabel.text = _("Stopping.")
            job.interrupt()
        elif wasPressed:
            self._ui.statusLabel.text = _("Leaving; a checkpoint is kept.")
            job.interrupt()
        else:
            self._ui.statusLabel.text = _("Ending the training; the volume is segmented with what was learnt so far.")
            job.finishEarly()
        self.updateButtons()

    def _start(self, **options: Any) -> None:
        parameters = self._panel.parameters
        slices, heldOut = self._slices()
        if not options.get("resumeFolder"):
            self.chart.clear()
        self._panel.result.showNothing()
        volume, *further = self._panel.channels()
        started = self._panel.run(
            self._panel.logic.densify, volume, parameters.annotation, furtherChannels=further,
            slices=slices, heldOut=heldOut,
            scribbles=parameters.scribbles, preset=parameters.preset, minutes=parameters.minutes or None,
            device=parameters.device, onEnd=self._takeOutcome, onEvent=self._takeEvent, **options,
        )
        if started:
            self._panel.parameters.runFolder = str(self._panel.job.folder)

    def _slices(self) -> tuple[list[str], list[str] | None]:
        """The annotated slices to learn from or validate with, and those to validate with, if the user chose some."""
        found = self._panel.annotate.overview
        slices = [str(row.plane) for row in found.rows if row.use != IGNORE]
        heldOut = [str(plane) for plane in found.planes(HELD_OUT)]
        return [] if self._panel.parameters.scribbles else slices, heldOut or None

    def _isAsBegun(self) -> bool:
        """Whether the run that can be gone on with learns from what is painted now."""
        parameters = self._panel.parameters
        try:
            case = self._panel.logic.makeCase(
                self._panel.channels(), parameters.annotation, *self._slices(), parameters.scribbles
            )
        except FAILURES:
            return False
        then = begun.read(Path(parameters.runFolder))
        return then is not None and then.annotation == begun.annotationDigest(case)

    def mayInstall(self) -> bool:
        """Whether nothing has to be installed into Slicer, or the user agrees to it."""
        missing = missingPackages()
        return not missing or self._panel.ask(
            _("{packages} must be installed into Slicer once (PyTorch: 200 MB to 3 GB, several minutes). Install now?")
            .format(packages=_(" and ").join(missing))
        )

    def mayGiveUpRun(self) -> bool:
        """Whether there is no stopped run to go on with, or the user leaves it for another model."""
        return not self._canResume() or self._panel.ask(
            _("The run that was stopped can still be continued. Give that up, and go on from the other model?")
        )

    def _takeEvent(self, event: dict[str, Any]) -> None:
        if self._panel.parameters is None:
            return
        self.chart.take(event)
        if event["event"] == "plan":
            planes = {plane for planes in event["held_out"].values() for plane in planes}
            self._panel.annotate.showHeldOut(planes)
            if not self._deviceAsked:  # as long as PyTorch was not installed nobody could tell
                self._ui.deviceSentence.text = _("This run works on: {device}.").format(device=event["device"])
        if event["event"] == "preview" and self._ui.previewCheckBox.checked:
            self.preview.show(Path(event["path"]), self._panel.parameters.volume)

    def _takeOutcome(self, outcome: Outcome) -> None:
        self.preview.remove()
        parameters = self._panel.parameters
        model = outcome.folder / runs.MODEL
        if model.exists():  # what was learnt is not lost, even if the result cannot be taken back
            parameters.modelPath = str(model)
        if outcome.error:
            return
        self._panel.result.showNothing()  # of the former result, which may be looked at meanwhile
        parameters.resultFolder, former = str(outcome.folder), parameters.result
        parameters.result = slicer.mrmlScene.GetNodeByID(outcome.segmentations[0])
        parameters.confidence = slicer.mrmlScene.GetNodeByID(outcome.confidences[0])
        parameters.heldOutIou = outcome.heldOutIou
        self._panel.result.showNew(former)

    def _canResume(self) -> bool:
        parameters = self._panel.parameters
        if parameters is None or not parameters.runFolder:
            return False
        folder = Path(parameters.runFolder)
        then = begun.read(folder)
        isOfVolume = then is not None and parameters.volume is not None and then.volumeId == parameters.volume.GetID()
        hasCheckpoint = any((folder / runs.CHECKPOINTS).glob("*.safetensors"))
        return isOfVolume and hasCheckpoint and not (folder / runs.RESULT).exists()

    def _modelPath(self) -> str | None:
        parameters = self._panel.parameters
        path = parameters.modelPath if parameters is not None else ""
        return path if path and Path(path).exists() else None

    # -- showing ---------------------------------------------------------------------------------------------

    def showStart(self) -> None:
        """Something begins."""
        self._ui.segmentEditorWidget.setActiveEffectByName("")  # it would go on painting in a locked panel
        self._stopPressed = False
        self._panel.progress.begin()

    def showEnd(self, outcome: Outcome) -> None:
        """Show how it ended."""
        if outcome.error and not outcome.interrupted:
            self._panel.progress.showProblem(outcome.error)
        else:
            self._panel.progress.end(self._howItEnded(outcome), not outcome.error)
        self._askDevice()  # the first run may have installed PyTorch

    def _howItEnded(self, outcome: Outcome) -> str:
        if not outcome.error:
            return _("Done.")
        parameters = self._panel.parameters
        isLatest = parameters is not None and str(outcome.folder) == parameters.runFolder
        if outcome.interrupted and isLatest and self._canResume():
            return _("Stopped. Press 'Continue' to go on.")
        return outcome.error

    def _onChoice(self, _value: float) -> None:
        parameters = self._panel.parameters
        if parameters is None or self._updating:
            return
        ui = self._ui
        parameters.preset = _PRESETS[ui.presetSelector.currentIndex]
        parameters.minutes = ui.minutesSpinBox.value
        if parameters.device != _DEVICES[ui.deviceSelector.currentIndex]:
            parameters.device = _DEVICES[ui.deviceSelector.currentIndex]
            self._askDevice()

    def _askDevice(self) -> None:
        parameters = self._panel.parameters
        if parameters is None or self._panel.isBusy or parameters.device == self._deviceAsked:
            return
        if not isTorchInstalled():
            self._ui.deviceSentence.text = _("PyTorch is not installed yet; you are asked at the first 'Segment'.")
            return
        self._deviceAsked = parameters.device
        self._ui.deviceSentence.text = _("Looking for a GPU ...")
        self._panel.logic.askDevice(parameters.device, self._showDevice, self._onDeviceAsked)

    def _showDevice(self, event: dict[str, Any]) -> None:
        if event["event"] == "device":
            self._ui.deviceSentence.text = event["sentence"]

    def _onDeviceAsked(self, outcome: Outcome) -> None:
        if outcome.error:
            self._ui.deviceSentence.text = outcome.error
            self._deviceAsked = ""  # asked again later
