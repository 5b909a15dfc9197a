"""The panel: its five sections, the scene's parameters that they share, and the one run at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from SparseUNet3DModule.annotate_section import AnnotateSection
from SparseUNet3DModule.data_section import DataSection
from SparseUNet3DModule.job import Job
from SparseUNet3DModule.model_section import ModelSection
from SparseUNet3DModule.parameters import SparseUNet3DParameters
from SparseUNet3DModule.progress_view import FAILURES, ProgressView, sentenceOf
from SparseUNet3DModule.result_section import ResultSection
from SparseUNet3DModule.tasks import Outcome
from SparseUNet3DModule.train_section import TrainSection


class Panel:
    """Keeps the sections together.

    Attributes:
        ui: the widgets by name.
        logic: the module's logic.
        parameters: the scene's parameters, or None while a scene closes.
        job: the run in progress, or None.
        scene: counts the scenes, so that what takes a while can tell whether it is still of the same one.
        isImporting: a scene is being loaded; selectors change by themselves and say nothing of what is wanted.
        isEntered: the module is the one that is open.
        progress: how a run goes, and what goes wrong in any of the sections.
    """

    def __init__(self, widget: Any, ui: Any, logic: Any) -> None:
        self.widget, self.ui, self.logic = widget, ui, logic
        self.parameters: SparseUNet3DParameters | None = None
        self.job: Job | None = None
        self.isImporting = self.isEntered = False
        self._observer: tuple[Any, int] | None = None
        self.scene, self._isStarting = 0, False
        self.progress = ProgressView(ui)
        self.data = DataSection(self)
        self.annotate = AnnotateSection(self)
        self.train = TrainSection(self)
        self.result = ResultSection(self)
        self.model = ModelSection(self)
        self._sections = (self.data, self.annotate, self.train, self.result, self.model)

    def setParameters(self, parameters: SparseUNet3DParameters | None) -> None:
        """Show another scene's parameters; None lets go of everything in the scene."""
        if self._observer is not None:
            node, tag = self._observer
            node.RemoveObserver(tag)
            self._observer = None
        self.parameters = parameters
        if parameters is None:
            # What a run of the closing scene still says, and brings, belongs to no scene.
            self.scene += 1
            if self.job is not None and self.job.isOfScene:
                self.job = None
        else:
            node = parameters.parameterNode
            self._observer = (node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onModified))
        self.update()

    def update(self) -> None:
        """Show what the parameters say."""
        for section in self._sections:
            section.update()

    def enter(self) -> None:
        """The user opens the module."""
        self.isEntered = True
        for section in self._sections:
            section.enter()

    def exit(self) -> None:
        """The user leaves the module."""
        self.isEntered = False
        self.annotate.exit()

    def cleanup(self) -> None:
        """Let go of all nodes and shortcuts."""
        self.exit()
        self.result.showNothing()  # what it lent of the slice views is given back
        self.annotate.views.cleanup()
        self.setParameters(None)

    def channels(self) -> list[slicer.vtkMRMLScalarVolumeNode]:
        """The chosen volume and its further channels."""
        if self.parameters is None or self.parameters.volume is None:
            return []
        further = [n for n in self.parameters.furtherChannels if n is not None and n is not self.parameters.volume]
        return [self.parameters.volume, *further]

    @property
    def isBusy(self) -> bool:
        """Whether a run is in progress, or about to be."""
        return self._isStarting or self.job is not None

    def run(self, start: Any, *arguments: Any, **options: Any) -> bool:
        """Call one of the logic's methods, which returns a job; whether it could be started.

        ``onEvent`` and ``onEnd`` among the options are called besides the panel's own.
        """
        onEvent, onEnd = options.pop("onEvent", None), options.pop("onEnd", None)
        scene, job = self.scene, None

        def isForeign() -> bool:
            """Whether the panel shows another scene by now, and not this job."""
            return scene != self.scene and (job is None or job is not self.job)

        def event(record: dict[str, Any]) -> None:
            if isForeign():
                return
            self.progress.showEvent(record)
            if onEvent is not None:
                onEvent(record)

        def end(outcome: Outcome) -> None:
            if isForeign():
                return
            self.job = None
            self.train.showEnd(outcome)
            if onEnd is not None:
                onEnd(outcome)
            self.update()

        try:
            with self.busy():
                self.train.showStart()
                self.progress.tellOfInstallation()
                job = start(*arguments, wait=False, onEvent=event, onEnd=end, **options)
        except FAILURES as error:
            if scene == self.scene:
                self.progress.showProblem(sentenceOf(error))
            return False
        if scene != self.scene and job.isOfScene:
            job.abandon()
            return False
        self.job = job
        self.update()
        return True

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """What is called processes events, and nobody may start a run meanwhile."""
        self._isStarting = True
        self.update()
        try:
            yield
        finally:
            self._isStarting = False
            self.update()

    def ask(self, question: str) -> bool:
        """A yes or no from the user."""
        return bool(slicer.util.confirmYesNoDisplay(question, windowTitle=_("Sparse U-Net 3D")))

    def _onModified(self, _caller: Any, _event: Any) -> None:
        self.update()
