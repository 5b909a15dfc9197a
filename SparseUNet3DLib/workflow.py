"""The program's main calls: ``train``, ``segment``, and both in one, ``densify``.

    volume = read_volume("ct.nrrd")
    annotation = from_painted(on_grid(read_segmentation("painted.seg.nrrd"), volume.geometry))
    prediction, model = densify(volume, annotation)
    write_segmentation(prediction.segmentation, "dense.seg.nrrd")
    model.save("model.safetensors")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case, Fold
from SparseUNet3DLib.device import (
    available_memory,
    choose_device,
    choose_precision,
    memory_format,
)
from SparseUNet3DLib.errors import InputError, Interrupted
from SparseUNet3DLib.events import CollectingReporter, Reporter
from SparseUNet3DLib.held_out_answers import (
    best_mixture,
    held_out_answers,
    held_out_iou,
    make_validation,
    map_of_errors,
)
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.model_file import Model, adapt_weights
from SparseUNet3DLib.orientation import Turn
from SparseUNet3DLib.preparation import Preparation, RunOptions, prepare, require_like_spacing
from SparseUNet3DLib.preview import PreviewWriter
from SparseUNet3DLib.recipe import PRESETS, Recipe
from SparseUNet3DLib.resampling import Resample, resample_to
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.stopping import StopRequest
from SparseUNet3DLib.tiles import larger_tiles
from SparseUNet3DLib.time_estimate import seconds_after_training
from SparseUNet3DLib.training import run_training
from SparseUNet3DLib.training_record import make_record
from SparseUNet3DLib.training_task import TrainingFold, TrainingTask
from SparseUNet3DLib.volumes import Volume, require_channel_order

#: Part of the free memory that the accumulated logits may take while segmenting.
LOGITS_SHARE = 0.25
#: Least time between two events that tell the progress of segmenting.
_PROGRESS_SECONDS = 0.25
_DEFAULTS = RunOptions()


@dataclass(frozen=True)
class Prediction:
    """A segmented volume.

    Attributes:
        segmentation: label map (z, y, x) uint16 with the model's segments, on the volume's grid.
        confidence: (z, y, x) uint8 in percent, 100 (1 - normalised entropy); 100 on the user's own voxels.
        confusion: (z, y, x) uint8, where the network was right and wrong on the slices held out of training, when it
            had not learnt from them (see `evaluation.confusion`); `densify` only.
    """

    segmentation: Segmentation
    confidence: np.ndarray
    confusion: np.ndarray | None = None


def train(
    cases: Sequence[Case],
    recipe: Recipe = PRESETS["balanced"],
    options: RunOptions = _DEFAULTS,
    reporter: Reporter | None = None,
    stop: StopRequest | None = None,
) -> Model:
    """Train a model on one or several sparsely annotated volumes, to be applied to others.

    Args:
        cases: volumes with their annotations; all with the same channels. Segments are matched by name.
        recipe: how to train, and for how long: ``preset("quick")`` and the like, or one with parts replaced.
        options: what to hold out, device, memory, run folder and checkpoint, the model to start from.
        reporter: told how it goes (see ``events``); None: nobody.
        stop: asked after every step and part, to end early or to leave with a checkpoint.

    Raises:
        SparseUNetError: one of its kinds, see ``prepare`` and ``training.run_training``.
    """
    reporter, stop = reporter or CollectingReporter(), stop or StopRequest()
    recipe = replace(recipe, voxel_classifier=False)  # what single voxels look like need not hold for other volumes
    prepared = prepare(cases, recipe, options, reporter)
    return _train(prepared, recipe, options, reporter, stop)


def segment(
    model: Model,
    volume: Volume,
    device: str = "auto",
    settings: InferenceSettings | None = None,
    keep: SparseAnnotation | None = None,
    reporter: Reporter | None = None,
    stop: StopRequest | None = None,
) -> Prediction:
    """Segment ``volume`` with ``model``.

    Args:
        model: its classifier of single voxels is asked only where it was made from this volume.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        settings: overlap, mirror averaging and memory; None: half-overlapping tiles, and a quarter of the
            free main memory for logits.
        keep: annotated voxels that stay as they were painted.
        reporter: told how it goes (see ``events``); None: nobody.
        stop: asked after every part.

    Raises:
        InputError: the volume has other channels than the model expects, or in another order, or a spacing in
            another unit.
        MemoryLimitError: not even the smallest tile fits.
        Interrupted: asked to stop.
    """
    reporter, stop = reporter or CollectingReporter(), stop or StopRequest()
    prediction = _segment(model, volume, device, settings, False, resample_to, reporter, stop)
    if keep is not None:
        _keep_annotation(prediction, model, keep)
    return prediction


def _segment(
    model: Model,
    volume: Volume,
    device: str,
    settings: InferenceSettings | None,
    is_own: bool,
    resample: Resample,
    reporter: Reporter,
    stop: StopRequest,
) -> Prediction:
    """As ``segment``; ``is_own``: the caller knows that the model was made from this volume."""
    where = choose_device(device)
    if volume.array.shape[0] != len(model.channels):
        raise InputError(
            f"'{volume.name}' has {volume.array.shape[0]} channel(s), but the model expects {len(model.channels)} "
            f"({', '.join(c.name for c in model.channels)}); give the channels it was trained on, in this order."
        )
    require_channel_order(volume, [c.name for c in model.channels], "the model")
    turn = Turn.between(volume.geometry.direction, model.plan.direction)
    turned = turn.volume(volume)
    require_like_spacing(turned, model.plan)
    network = model.network(where).to(memory_format=memory_format(where))
    precision = choose_precision(where, model.recipe.precision)
    settings = settings or InferenceSettings(memory=int(LOGITS_SHARE * available_memory(torch.device("cpu"))))
    plan = larger_tiles(model.plan, turned.array.shape[1:], available_memory(where))
    if plan.voxel_spacing and not is_own and model.learnt_volume(turned) is None:
        # What single voxels of the volume learnt from look like need not hold for others.
        plan = replace(plan, voxel_spacing=())
    predictor = Predictor(
        network, plan, model.channels, turned.array, turned.geometry.array_spacing, where, precision, settings,
        lambda message: reporter.emit("warning", message=message), model.mixture, resample,
    )
    labels, confidence = (turn.back(found) for found in predictor.segment(_progress(reporter, stop, "segmenting")))
    return Prediction(Segmentation(labels, model.segments, volume.geometry), confidence)


def densify(
    volume: Volume,
    annotation: SparseAnnotation,
    recipe: Recipe = PRESETS["balanced"],
    options: RunOptions = _DEFAULTS,
    reporter: Reporter | None = None,
    stop: StopRequest | None = None,
    settings: InferenceSettings | None = None,
    keep_annotation: bool = True,
) -> tuple[Prediction, Model]:
    """Learn from the annotated slices of one volume and segment all of it.

    A time budget covers both: training ends early enough for the segmentation to fit in.

    Args:
        annotation: on the volume's grid; it is not changed.
        recipe: how to train, and for how long: ``preset("quick")`` and the like, or one with parts replaced.
        options: what to hold out, device, memory, run folder and checkpoint, the model to start from.
        reporter: told how it goes (see ``events``); None: nobody.
        stop: asked after every step and part, to end early or to leave with a checkpoint.
        settings: as for ``segment``.
        keep_annotation: annotated voxels stay as they were painted; else the network decides them as well.

    Returns:
        What was found, and the model that found it.

    Raises:
        SparseUNetError: one of its kinds, see ``train`` and ``segment``.
    """
    started = time.perf_counter()
    reporter, stop = reporter or CollectingReporter(), stop or StopRequest()
    prepared = prepare([Case(volume, annotation)], recipe, options, reporter)
    if recipe.seconds is not None:
        reserved = seconds_after_training(prepared, volume, recipe, settings) + time.perf_counter() - started
        recipe = replace(recipe, seconds=max(0.25 * recipe.seconds, recipe.seconds - reserved))
    model = _train(prepared, recipe, options, reporter, stop)
    try:
        scoring = _progress(reporter, stop, "scoring held-out slices")
        answers = held_out_answers(prepared, model, scoring, options.folder)
        if model.plan.voxel_spacing:
            model = replace(model, mixture=best_mixture(answers))
        model = replace(model, record={**model.record, "held_out_iou": held_out_iou(answers, model.mixture)})
        turn = prepared.turn(prepared.folds[0].training[0])
        errors = map_of_errors(answers, model.mixture, turn.volume(volume).array.shape[1:])
        del answers  # of large slices they take as much memory as segmenting does
        prediction = _segment(model, volume, options.device, settings, True, prepared.resample, reporter, stop)
    except Interrupted as error:
        if options.folder is None:
            raise
        raise Interrupted(f"{error} The trained network is in '{options.folder}'; go on with --resume.") from None
    prediction = replace(prediction, confusion=turn.back(errors))
    if keep_annotation:
        _keep_annotation(prediction, model, annotation)
    return prediction, model


def _training_fold(prepared: Preparation, fold: Fold) -> TrainingFold:
    training = [prepared.turn(c).case(c) for c in fold.training]
    if not fold.validation:
        return TrainingFold(training)
    validation = make_validation(prepared, fold)
    complete = [prepared.turn(c).case(c) for c in fold.complete] if fold.learns_more_later else []
    return TrainingFold(training, validation, validation.count_tiles(prepared.plan), validation.forget, complete)


def _progress(reporter: Reporter, stop: StopRequest, phase: str) -> Callable[[float], None]:
    """What is done after each part: report, but not more often than anybody reads, and stop when asked to."""
    shown_at = -float("inf")

    def progress(fraction: float) -> None:
        nonlocal shown_at
        if stop.requested() == "interrupt":
            raise Interrupted(f"Stopped as asked while {phase}.")
        now = time.monotonic()
        if fraction == 1 or now - shown_at >= _PROGRESS_SECONDS:
            shown_at = now
            reporter.emit("phase", phase=phase, fraction=fraction)

    return progress


def _train(
    prepared: Preparation, recipe: Recipe, options: RunOptions, reporter: Reporter, stop: StopRequest
) -> Model:
    segments = prepared.folds[0].training[0].annotation.segments
    start = options.start_from
    single = replace(prepared.plan, members=1)
    preview = PreviewWriter(prepared, options.preview, reporter, stop) if options.preview else None
    result = run_training(
        TrainingTask(
            [_training_fold(prepared, fold) for fold in prepared.folds],
            prepared.normalisation,
            prepared.plan,
            recipe,
            prepared.device,
            reporter,
            stop,
            preview,
            preview.tiles if preview else 1,
            options.folder,
            # As they were scored: what they had not learnt then can be held out again.
            [adapt_weights(m, single, segments) for m in start.as_scored().members()] if start else [],
            prepared.resample,
        ),
        options.resume,
    )
    record = make_record(prepared, result, start)
    return Model(
        result.plan, recipe, prepared.normalisation, segments, result.weights, record, scored_weights=result.scored
    )


def _keep_annotation(prediction: Prediction, model: Model, keep: SparseAnnotation) -> None:
    """Put the annotated voxels into the label map as they were painted."""
    labels, named = _classes_of(model, keep)
    kept = keep.annotated & named
    prediction.segmentation.labels[kept] = labels[kept]
    prediction.confidence[kept] = 100


def _classes_of(model: Model, annotation: SparseAnnotation) -> tuple[np.ndarray, np.ndarray]:
    """The annotation's labels (z, y, x) as the model's classes, matched by name; and where there is such a class."""
    values = {s.name: i + 1 for i, s in enumerate(model.segments)}
    table = np.array([0, *(values.get(s.name, 0) for s in annotation.segments)], np.uint16)
    named = np.array([True, *(s.name in values for s in annotation.segments)])
    return table[annotation.labels], named[annotation.labels]


