"""Everything the panel does, as calls for the Python console and for scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from SparseUNet3DLib.annotation import parse_planes
from SparseUNet3DLib.errors import InputError
from SparseUNet3DModule import begun, runs, tasks
from SparseUNet3DModule.installation import installMissing, missingPackages
from SparseUNet3DModule.job import Job
from SparseUNet3DModule.painted import paintedOn
from SparseUNet3DModule.parameters import SparseUNet3DParameters
from SparseUNet3DModule.results import isDense, newSegmentation
from SparseUNet3DModule.slices import SliceOverview, overview
from SparseUNet3DModule.volumes import checkChannels, ijkToWorld

VolumeNode = slicer.vtkMRMLScalarVolumeNode
SegmentationNode = slicer.vtkMRMLSegmentationNode


class SparseUNet3DLogic(ScriptedLoadableModuleLogic):
    """Everything the panel does, for the Python console.

        logic = slicer.util.getModuleLogic("SparseUNet3D")
        outcome = logic.densify(volumeNode, segmentationNode, minutes=4)
        slicer.mrmlScene.GetNodeByID(outcome.segmentations[0])

    With ``wait=False`` a call returns a running `Job`; ``onEvent`` and ``onEnd`` are told how it goes. Otherwise it
    returns an `Outcome` when all is done, and raises RuntimeError with one sentence if it failed.
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._jobs: list[Job] = []
        runs.removeOldRuns()

    def getParameters(self) -> SparseUNet3DParameters:
        """The scene's parameter node."""
        return SparseUNet3DParameters(ScriptedLoadableModuleLogic.getParameterNode(self))

    def createAnnotation(self, volumeNode: VolumeNode) -> SegmentationNode:
        """An empty segmentation on the volume's grid, to paint slices in."""
        checkChannels([volumeNode])
        return newSegmentation(_("{name} annotation").format(name=volumeNode.GetName()), volumeNode)

    def annotatedSlices(self, volumeNode: VolumeNode, annotationNode: SegmentationNode) -> SliceOverview:
        """The slices that are found to be annotated, what is on them, and what is missing, if anything is."""
        painted = paintedOn(annotationNode, volumeNode)
        return overview(painted, [], {}, toWorld=ijkToWorld(volumeNode), isDense=isDense(annotationNode))

    def densify(
        self,
        volumeNode: VolumeNode,
        annotationNode: SegmentationNode,
        furtherChannels: Sequence[VolumeNode] = (),
        slices: Sequence[str] | None = None,
        heldOut: Sequence[str] | None = None,
        scribbles: bool = False,
        preset: str = "balanced",
        minutes: float | None = None,
        device: str = "auto",
        startFrom: Path | str | None = None,
        resultNode: SegmentationNode | None = None,
        wait: bool = True,
        onEvent: Callable[[dict[str, Any]], None] | None = None,
        onEnd: Callable[[tasks.Outcome], None] | None = None,
        resumeFolder: Path | str | None = None,
    ) -> tasks.Outcome | Job:
        """Learn from the annotated slices of a volume and segment all of it.

        What was declared in the panel (complete, held out and ignored slices) does not count here.

        Args:
            furtherChannels: other volumes on the same grid.
            slices: annotated slices ("z:10", "z:10-13"; z, y, x are the array's axes, from 0) and no others; with
                "auto" among them, those that are found as well. None: those that are found.
            heldOut: those of them to validate with; None leaves the choice to the program.
            scribbles: only painted voxels count, not whole slices; one segment is named "background".
            preset: "quick" (1 minute), "balanced" (4), "thorough" (30) or "paper".
            minutes: time budget, training and segmenting, instead of the preset's.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".
            startFrom: a model to go on from.
            resultNode: a segmentation to refill; None makes a new one.
            wait: return when all is done; otherwise at once, with the running job.
            onEvent: told what the worker tells, as dictionaries (see `SparseUNet3DLib.events`).
            onEnd: told the outcome.
            resumeFolder: the folder of an interrupted run of this volume to go on with, as it was begun: what is
                painted now, slices and startFrom do not count, and of another preset only the time.

        Returns:
            ``segmentations``: IDs of the result nodes; ``model``: path of the model's file; ``heldOutIou`` by segment.

        Raises:
            InputError: the volume or the annotation cannot be used; one sentence says why.
            RuntimeError: the run failed.
        """
        if resumeFolder:
            case, folder = None, Path(resumeFolder).absolute()
            then = self._begunOn(volumeNode, folder)
        else:
            case = self.makeCase([volumeNode, *furtherChannels], annotationNode, slices, heldOut, scribbles)
        self._prepareWorker()
        if case is not None:
            folder = runs.newRunFolder()
            then = begun.Begun(
                volumeNode.GetID(), case.names, begun.annotationDigest(case), scribbles,
                str(Path(startFrom).absolute()) if startFrom else "", preset,
            )
            begun.write(then, folder)
        start = Path(then.startFrom) if then.startFrom else None
        choices = runs.TrainingChoices(*then.goingOn(preset, minutes), device, then.scribbles, start)
        target = tasks.ResultTarget(
            volumeNode.GetID(), _("{name} segmented").format(name=volumeNode.GetName()),
            resultNode.GetID() if resultNode else "", annotationNode.GetID() if annotationNode else "",
        )
        return self._run(
            lambda event, end: tasks.densifyJob(then.names, case, folder, choices, target, event, end),
            wait, onEvent, onEnd,
        )

    def _begunOn(self, volumeNode: VolumeNode, folder: Path) -> begun.Begun:
        """What the run in ``folder`` was begun with, which must have been on this volume."""
        then = begun.read(folder)
        if then is None or not (folder / runs.INPUT).is_dir():
            raise InputError(
                f"'{folder}' is no folder of an interrupted run; after a finished one, give startFrom=outcome.model."
            )
        if then.volumeId != volumeNode.GetID():
            raise InputError(
                f"The run in '{folder}' was begun on another volume, '{then.names[0]}'; choose that one, or begin anew."
            )
        return then

    def train(
        self,
        cases: Sequence[tuple[Sequence[VolumeNode], SegmentationNode] | tuple[
            Sequence[VolumeNode], SegmentationNode, Sequence[str]]],
        preset: str = "balanced",
        minutes: float | None = None,
        device: str = "auto",
        wait: bool = True,
        onEvent: Callable[[dict[str, Any]], None] | None = None,
        onEnd: Callable[[tasks.Outcome], None] | None = None,
    ) -> tasks.Outcome | Job:
        """Train one model on several volumes; the outcome's ``model`` is the path of its file.

        Args:
            cases: each (list of channels, annotation), and as a third, if need be, its ``slices`` as in `densify`.

        The others are as in `densify`.
        """
        made = [self.makeCase(*case) for case in cases]
        self._prepareWorker()
        folder = runs.newRunFolder()
        choices = runs.TrainingChoices(preset, minutes, device)
        return self._run(lambda event, end: tasks.trainJob(made, folder, choices, event, end), wait, onEvent, onEnd)

    def segment(
        self,
        model: Path | str,
        volumes: Sequence[Sequence[VolumeNode]],
        device: str = "auto",
        confidence: bool = False,
        wait: bool = True,
        onEvent: Callable[[dict[str, Any]], None] | None = None,
        onEnd: Callable[[tasks.Outcome], None] | None = None,
    ) -> tasks.Outcome | Job:
        """Apply a model to volumes of the scene; the outcome's ``segmentations`` are the IDs of the result nodes.

        Args:
            model: a model's file.
            volumes: each a list of its channels, in the order that the model was trained with.
            confidence: make a volume of the network's confidence, in percent, for each as well.

        The others are as in `densify`. Where one volume fails, or the worker does, the results of those that were
        finished are in the scene all the same.
        """
        for nodes in volumes:
            checkChannels(nodes)
        self._prepareWorker()
        folder = runs.newRunFolder()
        return self._run(
            lambda event, end: tasks.segmentNodesJob(
                Path(model).absolute(), volumes, folder, device, confidence, event, end
            ),
            wait, onEvent, onEnd,
        )

    def segmentFiles(
        self,
        model: Path | str,
        files: Sequence[Path | str],
        outputFolder: Path | str,
        device: str = "auto",
        wait: bool = True,
        onEvent: Callable[[dict[str, Any]], None] | None = None,
        onEnd: Callable[[tasks.Outcome], None] | None = None,
    ) -> tasks.Outcome | Job:
        """Apply a model to volume files; the segmentations are written into ``outputFolder`` and not loaded.

        Each file holds all channels of its volume. Volumes that have a segmentation there already are left out.
        The other arguments are as in `segment`.
        """
        if not files:
            raise InputError("There is no volume file to segment; choose a folder that holds some.")
        self._prepareWorker()
        folder = runs.newRunFolder()
        paths = [Path(file).absolute() for file in files]
        return self._run(
            lambda event, end: tasks.segmentFilesJob(
                Path(model).absolute(), paths, Path(outputFolder).absolute(), folder, device, event, end
            ),
            wait, onEvent, onEnd,
        )

    def modelCard(self, model: Path | str) -> dict[str, Any]:
        """A model's card: "text" for a person, "header" with all details."""
        self._prepareWorker()
        cards: list[dict[str, Any]] = []
        self._run(
            lambda event, end: tasks.askJob(["info", str(model)], event, end), True,
            lambda event: cards.append(event) if event["event"] == "card" else None, None,
        )
        return cards[0]

    def askDevice(
        self, device: str, onEvent: Callable[[dict[str, Any]], None], onEnd: Callable[[tasks.Outcome], None]
    ) -> Job:
        """Ask which device would be used; the answer comes as a "device" event, or else the outcome has an error."""
        return self._run(
            lambda event, end: tasks.askJob(["device", "--device", device], event, end), False, onEvent, onEnd
        )

    def makeCase(
        self,
        nodes: Sequence[VolumeNode],
        annotationNode: SegmentationNode,
        slices: Sequence[str] | None = None,
        heldOut: Sequence[str] | None = None,
        scribbles: bool = False,
    ) -> runs.TrainingCase:
        """Take a volume and its annotation out of the scene, checked; ``slices`` and ``heldOut`` as in `densify`.

        Raises:
            InputError, UsageError: they cannot be used.
        """
        geometry = checkChannels(nodes)
        if annotationNode is None:
            raise InputError("No annotation is chosen; create one under 'Annotation' and paint a few slices.")
        painted = paintedOn(annotationNode, nodes[0])
        wanted = ["auto"] if slices is None else slices
        planes = parse_planes([text for text in wanted if text != "auto"], geometry.array_shape)
        if "auto" in wanted:
            found = overview(painted, [str(plane) for plane in planes], {}, scribbles, isDense=isDense(annotationNode))
            if found.problem:
                raise InputError(found.problem)
            planes = found.planes()
        held = None if heldOut is None else parse_planes(heldOut, geometry.array_shape)
        names = tuple(node.GetName() for node in nodes)
        return runs.TrainingCase(names, runs.arraysOf(nodes), geometry, painted, tuple(planes), held)

    def abandonAll(self) -> None:
        """Ask each worker whose scene closes to keep a checkpoint and leave; returns at once, nothing comes back."""
        for job in list(self._jobs):
            if job.isOfScene:
                job.abandon()

    def endAll(self) -> None:
        """Leave no worker behind; waits a moment for checkpoints."""
        for job in list(self._jobs):
            job.endNow()

    def _prepareWorker(self) -> None:
        if missingPackages():
            installMissing()

    def _run(
        self,
        make: Callable[..., Job],
        wait: bool,
        onEvent: Callable[[dict[str, Any]], None] | None,
        onEnd: Callable[[tasks.Outcome], None] | None = None,
    ) -> tasks.Outcome | Job:
        outcomes: list[tasks.Outcome] = []

        def end(outcome: tasks.Outcome) -> None:
            outcomes.append(outcome)
            if job in self._jobs:
                self._jobs.remove(job)
            if onEnd is not None:
                onEnd(outcome)

        job = make(onEvent or (lambda event: None), end)
        self._jobs.append(job)
        job.start()
        if not wait:
            return job
        job.wait()
        if outcomes[0].error:
            raise RuntimeError(outcomes[0].error)
        return outcomes[0]
