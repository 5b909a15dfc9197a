"""One cell of a table: train a network on some slices, segment, and count on others."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.annotation_share import share_annotated
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.checkpoint import FILE_NAME
from SparseUNet3DLib.errors import InputError, Interrupted
from SparseUNet3DLib.evaluation import HELD_OUT_PLANES, ClassScore, score_segmentation
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.experiments.dataset import DataSet
from SparseUNet3DLib.experiments.protocols import NETWORKS, Run
from SparseUNet3DLib.model_file import Model
from SparseUNet3DLib.plan import format_triple
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.planner import PAPER_PATCH
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.stopping import StopRequest
from SparseUNet3DLib.workflow import RunOptions, segment, train


@dataclass(frozen=True)
class Result:
    """What came of one run.

    Attributes:
        iou: mean over the segments, counted over the test slices of all volumes together; NaN where there is nothing.
        segments: IoU of each segment by name.
        share: annotated share of the voxels that were learnt from, mean over the training volumes, 0..1.
        iterations: training steps.
        seconds: of training.
        patch: size (z, y, x) of the patches, as "116x132x132".
        device: what it was trained on, in words.
        found: the segmentation of each test volume, by name.
    """

    iou: float
    segments: dict[str, float]
    share: float
    iterations: int
    seconds: float
    patch: str
    device: str
    found: dict[str, Segmentation]


def carry_out(
    run: Run, data: DataSet, folder: Path | None, device: str, reporter: Reporter, stop: StopRequest
) -> Result:
    """Train and score the network of one cell.

    Args:
        folder: where the training's checkpoint is kept; a run that was interrupted goes on from it.

    Raises:
        Interrupted: asked to stop, or to finish early: a network that others are compared with learns to the end.
        SparseUNetError: another of its kinds, see ``workflow.train`` and ``workflow.segment``.
    """
    training = [only_planes(data.cases[name], planes) for name, planes in run.training.items()]
    model = _train(run, data, training, folder, device, reporter, stop)
    found = {
        name: segment(model, data.cases[name].volume, device, reporter=reporter, stop=stop).segmentation
        for name in run.test
    }
    iou, segments = count(run, data.cases, found)
    shares = [share_annotated(case.annotation).total for case in training]
    if torch.cuda.is_available():  # the next network needs the memory
        gc.collect()
        torch.cuda.empty_cache()
    return Result(
        iou, segments, float(np.mean(shares)), model.record["iterations"], model.record["seconds"],
        format_triple(model.plan.patch_size), model.record["device"], found,
    )


def _train(
    run: Run, data: DataSet, training: list[Case], folder: Path | None, device: str, reporter: Reporter,
    stop: StopRequest,
) -> Model:
    network, batch_norm = NETWORKS[run.network]
    recipe = replace(data.recipe, network=network, batch_norm=batch_norm, members=1)
    # Of a size that is named: left open, it would follow the memory that happens to be free.
    plan = {"batch_size": "1", "patch_size": format_triple(PAPER_PATCH), **data.plan}
    if network == "2d":  # its patch is a slice, and slices are the volume's own
        plan = {name: value for name, value in plan.items() if name not in ("patch_size", "spacing")}
    options = RunOptions(device, 0, plan, folder=folder, resume=folder is not None and (folder / FILE_NAME).exists())
    try:
        model = train(training, recipe, options, reporter, stop)
    except InputError as error:
        if not options.resume:
            raise
        reporter.emit("warning", message=f"{run.row}, {run.column} begins anew: {error}")
        model = train(training, recipe, replace(options, resume=False), reporter, stop)
    if stop.requested():
        raise Interrupted("Stopped as asked.")
    return model


def only_planes(case: Case, planes: tuple[Plane, ...]) -> Case:
    """The case with nothing annotated but ``planes``: others keep only the lines in which these cross them."""
    annotation = case.annotation
    annotated = np.zeros(annotation.annotated.shape, bool)
    for plane in planes:
        annotated[plane.voxels] = annotation.annotated[plane.voxels]
    labels = np.where(annotated, annotation.labels, np.uint16(0))
    kept = SparseAnnotation(labels, annotated, annotation.segments, annotation.geometry, planes)
    return replace(case, annotation=kept)


def scored_voxels(run: Run, name: str, case: Case) -> np.ndarray:
    """(z, y, x) bool: the voxels of the test slices that are on no slice which is learnt from."""
    counted = np.zeros(case.annotation.annotated.shape, bool)
    for plane in run.test[name]:
        counted[plane.voxels] = case.annotation.annotated[plane.voxels]
    for plane in run.unscored.get(name, ()):
        counted[plane.voxels] = False
    return counted


def painted(case: Case) -> Segmentation:
    """What the slices of ``case`` show, as a segmentation; background where nothing is annotated."""
    annotation = case.annotation
    return Segmentation(annotation.labels, annotation.segments, annotation.geometry)


def count(run: Run, cases: Mapping[str, Case], found: Mapping[str, Segmentation]) -> tuple[float, dict[str, float]]:
    """Mean IoU and IoU per segment over the test slices of all volumes together.

    A segment that no training slice shows counts as not found.
    """
    totals: dict[str, np.ndarray] = {}
    for name, segmentation in found.items():
        where = scored_voxels(run, name, cases[name])
        scores = score_segmentation(segmentation, painted(cases[name]), where, HELD_OUT_PLANES)
        for entry in scores.classes:
            totals[entry.name] = totals.get(entry.name, np.zeros(3, np.int64)) + _counts(entry)
    ious = {name: float(t[0] / t.sum()) for name, t in totals.items() if t.sum()}
    return float(np.mean(list(ious.values()))) if ious else float("nan"), ious


def _counts(entry: ClassScore) -> np.ndarray:
    return np.array([entry.true_positives, entry.false_negatives, entry.false_positives])
