"""The things that can be run: densify one volume, train on several, apply a model to nodes or files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.image_files import read_header
from SparseUNet3DLib.raw_nrrd import read_raw_nrrd
from SparseUNet3DLib.segment_records import records_from_metadata
from SparseUNet3DLib.segments import Segment
from SparseUNet3DModule import runs
from SparseUNet3DModule.job import Job
from SparseUNet3DModule.results import markDense, newConfidence, newSegmentation, placeBeside, showLabels
from SparseUNet3DModule.volumes import checkChannels

OnEvent = Callable[[dict[str, Any]], None]


@dataclass
class Outcome:
    """What a job brought.

    Attributes:
        folder: the run's folder.
        segmentations: IDs of the result nodes, one per volume.
        confidences: IDs of the confidence volumes.
        model: the trained model's file, or the one that was applied.
        heldOutIou: segment to IoU on the held-out slices; empty where none were held out.
        files: results that were written instead of loaded.
        error: one sentence, or "".
        interrupted: whether it ended because it was asked to.
    """

    folder: Path
    segmentations: list[str] = field(default_factory=list)
    confidences: list[str] = field(default_factory=list)
    model: Path | None = None
    heldOutIou: dict[str, float] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    error: str = ""
    interrupted: bool = False


OnEnd = Callable[[Outcome], None]


@dataclass(frozen=True)
class ResultTarget:
    """Where a result goes: nodes by ID, as they may be deleted meanwhile.

    Attributes:
        volumeId: the volume that it lies on.
        name: of a new segmentation node.
        segmentationId: a segmentation node to refill instead of a new one, or "".
        siblingId: a node beside which the result is placed in the subject hierarchy, if not the volume.
        confidence: whether the confidence volume is wanted.
    """

    volumeId: str
    name: str
    segmentationId: str = ""
    siblingId: str = ""
    confidence: bool = True


def densifyJob(
    names: Sequence[str], case: runs.TrainingCase | None, folder: Path, choices: runs.TrainingChoices,
    target: ResultTarget, onEvent: OnEvent, onEnd: OnEnd,
) -> Job:
    """Learn from the slices of one volume and segment all of it.

    Args:
        names: of the channels.
        case: what to learn from; None goes on with what was handed over into ``folder`` when the run began.
    """
    outcome = Outcome(folder)

    def takeBack(done: dict[str, Any]) -> Iterator[float]:
        outcome.model = folder / runs.MODEL
        outcome.heldOutIou = {n: v for n, v in (done["held_out_iou"] or {}).items() if v is not None}
        yield from loadResult(folder / runs.RESULT, folder / runs.CONFIDENCE, target, outcome)
        runs.removeWhatIsDone(folder)

    handOver = iter(()) if case is None else runs.handOver(case, folder / runs.INPUT)
    arguments = runs.densifyArguments(names, folder, choices, resume=case is None)
    return _job(folder, folder / runs.STOP_FILE, arguments, handOver, takeBack, outcome, onEvent, onEnd)


def trainJob(
    cases: Sequence[runs.TrainingCase], folder: Path, choices: runs.TrainingChoices, onEvent: OnEvent, onEnd: OnEnd
) -> Job:
    """Train one model on several volumes."""
    outcome = Outcome(folder)

    def takeBack(done: dict[str, Any]) -> Iterator[float]:
        outcome.model = folder / runs.MODEL
        outcome.heldOutIou = {n: v for n, v in (done["held_out_iou"] or {}).items() if v is not None}
        runs.removeWhatIsDone(folder)
        return iter(())

    handOver = (f for n, case in enumerate(cases) for f in runs.handOver(case, folder / str(n)))
    arguments = runs.trainArguments(cases, folder, choices)
    return _job(folder, folder / runs.STOP_FILE, arguments, handOver, takeBack, outcome, onEvent, onEnd)


def segmentNodesJob(
    model: Path, volumes: Sequence[Sequence[slicer.vtkMRMLScalarVolumeNode]],
    folder: Path, device: str, confidence: bool, onEvent: OnEvent, onEnd: OnEnd,
) -> Job:
    """Apply a model to volumes of the scene, each a list of channel nodes.

    One that cannot be segmented, or is not for want of time, does not keep the others from being taken back.
    """
    outcome = Outcome(folder, model=model)
    inputs, targets, warnings = [], [], []
    names: dict[Path, str] = {}  # the worker speaks of files, and the user knows nodes

    def take(event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            warnings.append(event["message"])
        onEvent(event)

    for number, nodes in enumerate(volumes):
        geometry = checkChannels(nodes)
        # By the channels' names the worker tells whether they are in the order that the model wants.
        others = [files[0] for *_, files in inputs]
        files = runs.channelFiles([node.GetName() for node in nodes], folder / str(number), others)
        inputs.append((runs.arraysOf(nodes), geometry, files))
        names |= {file: node.GetName() for file, node in zip(files, nodes, strict=True)}
        targets.append(ResultTarget(nodes[0].GetID(), f"{nodes[0].GetName()} segmented", confidence=confidence))

    def takeBack(_done: dict[str, Any]) -> Iterator[float]:
        problems = []
        for (_arrays, _geometry, files), target in zip(inputs, targets, strict=True):
            result = folder / "results" / f"{files[0].stem}.seg.nrrd"
            confidenceFile = result.with_name(f"{files[0].stem}.confidence.nrrd")
            if not result.exists() or (confidence and not confidenceFile.exists()):
                continue
            try:
                yield from loadResult(result, confidenceFile, target, outcome)
            except InputError as error:  # no reason to lose the others
                problems.append(str(error))
        if problems:
            raise InputError(" ".join(problems))
        runs.removeWhatIsDone(folder)
        leftOut = [w for w in warnings if any(f"'{files[0]}'" in w for *_, files in inputs)]
        if leftOut:
            raise InputError(" ".join(leftOut))

    def end(outcome: Outcome) -> None:
        for file, name in names.items():
            outcome.error = outcome.error.replace(f"'{file}'", f"'{name}'").replace(f"'{file.stem}'", f"'{name}'")
        onEnd(outcome)

    handOver = (f for arrays, geometry, files in inputs for f in runs.handOverChannels(arrays, geometry, files))
    arguments = runs.segmentArguments(
        model, [files for _arrays, _geometry, files in inputs], folder / "results", device, confidence, compress=False
    )
    return _job(folder, None, arguments, handOver, takeBack, outcome, take, end, keepsWhatIsDone=True)


def segmentFilesJob(
    model: Path, files: Sequence[Path], output: Path, folder: Path, device: str, onEvent: OnEvent, onEnd: OnEnd
) -> Job:
    """Apply a model to volume files, into the folder ``output``; nothing is loaded."""
    outcome = Outcome(folder, model=model)

    def takeBack(done: dict[str, Any]) -> Iterator[float]:
        outcome.files = [Path(path) for path in done["outputs"].values()]
        return iter(())

    arguments = runs.segmentArguments(model, [[f] for f in files], output, device, confidence=False, compress=True)
    arguments.append("--skip-existing")
    return _job(folder, None, arguments, iter(()), takeBack, outcome, onEvent, onEnd, isOfScene=False)


def askJob(arguments: Sequence[str], onEvent: OnEvent, onEnd: OnEnd) -> Job:
    """A question to the worker ("device", "info") that it answers by an event."""
    outcome = Outcome(Path(slicer.app.temporaryPath))
    return _job(
        outcome.folder, None, arguments, iter(()), lambda _done: iter(()), outcome, onEvent, onEnd, isOfScene=False
    )


def _job(
    folder: Path, stopFile: Path | None, arguments: Sequence[str], handOver: Iterator[float],
    takeBack: Callable[[dict[str, Any]], Iterator[float]], outcome: Outcome, onEvent: OnEvent, onEnd: OnEnd,
    isOfScene: bool = True, keepsWhatIsDone: bool = False,
) -> Job:
    def end(job: Job) -> None:
        outcome.error, outcome.interrupted = job.error, job.interrupted
        onEnd(outcome)

    return Job(folder, stopFile, arguments, handOver, takeBack, onEvent, end, isOfScene, keepsWhatIsDone)


def loadResult(
    result: Path, confidenceFile: Path, target: ResultTarget, outcome: Outcome
) -> Iterator[float]:
    """Make nodes of what the worker wrote; yields the fraction done. The segments are those of the file.

    Raises:
        InputError: the volume was deleted or changed meanwhile; the message says where the result is.
    """
    arrays: list[np.ndarray] = []
    files = [result, confidenceFile] if target.confidence else [result]
    for number, file in enumerate(files):
        for fraction in read_raw_nrrd(file, arrays):
            yield (number + fraction) / len(files)
    volume = slicer.mrmlScene.GetNodeByID(target.volumeId)
    if volume is None or volume.GetImageData() is None:
        raise InputError(f"The volume of '{target.name}' was deleted meanwhile; the result is kept in '{result}'.")
    if volume.GetImageData().GetDimensions()[::-1] != arrays[0].shape:
        raise InputError(f"The volume of '{target.name}' was changed meanwhile; the result is kept in '{result}'.")
    segments = segmentsInFile(result)
    node = slicer.mrmlScene.GetNodeByID(target.segmentationId) if target.segmentationId else None
    node = node or newSegmentation(target.name, volume)
    sibling = slicer.mrmlScene.GetNodeByID(target.siblingId) if target.siblingId else None
    if sibling is not None:
        placeBeside(node, sibling)
    showLabels(node, arrays[0], segments, volume)
    markDense(node)
    outcome.segmentations.append(node.GetID())
    if target.confidence:
        outcome.confidences.append(newConfidence(f"{target.name} confidence", arrays[1], volume).GetID())


def segmentsInFile(path: Path) -> list[Segment]:
    """The segments whose labels a segmentation file of the worker holds: the scene's may be others by now.

    Raises:
        InputError: it cannot be read.
    """
    header = read_header(path)
    metadata = {key: header.GetMetaData(key) for key in header.GetMetaDataKeys()}
    return [record.segment for record in records_from_metadata(metadata, path)]


def withoutBackground(segments: Sequence[Segment]) -> list[Segment]:
    """The segments that a network learns: one named "background" stands for none."""
    return [s for s in segments if s.name.strip().casefold() != "background"]
