"""What was held out is learnt as well, once the network has been scored on it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import (
    CPU,
    OPTIONS,
    StopAfter,
    held_out_task,
    quick,
    same_weights,
    tiny_annotation,
    tiny_recipe,
    tiny_task,
    tiny_volume,
)

from SparseUNet3DLib import training, workflow
from SparseUNet3DLib.cases import Case, make_folds
from SparseUNet3DLib.errors import InputError, Interrupted
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.held_out_answers import held_out_answers, held_out_iou, map_of_errors
from SparseUNet3DLib.model_file import Model, load_model
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.stopping import StopRequest
from SparseUNet3DLib.training import run_training
from SparseUNet3DLib.training_task import TrainingTask
from SparseUNet3DLib.voxel_classifier import VoxelSample
from SparseUNet3DLib.voxel_features import VoxelFeatures
from SparseUNet3DLib.workflow import RunOptions, densify, prepare

PLANES = (2, 5, 8, 11, 14, 17, 20)
#: The program chooses what to hold out.
AUTOMATIC = replace(OPTIONS, hold_out=None)


def task_with_more(**changes: object) -> TrainingTask:
    """One that holds two slices out, and has them learnt later."""
    task, _ = held_out_task(**{"recipe": tiny_recipe(iterations=20), **changes})
    whole = Case(volume := tiny_volume(), tiny_annotation(volume))
    return replace(task, folds=[replace(task.folds[0], complete=[whole])])


def names_of(cases: list[Case]) -> set[str]:
    return {str(plane) for plane in cases[0].annotation.planes}


def learn_all(loop: training._Loop) -> None:
    while not loop.progress.is_time_to_learn_all(loop.trainer.counters):
        loop._guarded_step()
    loop._learn_all()


def voxels_learnt_from(loop: training._Loop) -> int:
    return int(loop.trainer.sampler.class_counts.sum())


@pytest.fixture
def densified():
    """A run in which the program held out a slice, and what it told."""
    volume = tiny_volume()
    reporter = CollectingReporter()
    prediction, model = densify(volume, tiny_annotation(volume, PLANES), quick(100), AUTOMATIC, reporter)
    return prediction, model, reporter


def test_patches_show_all_slices_from_seven_tenths_of_the_steps_on(monkeypatch):
    loop = training._Loop(task_with_more(), resume=False)
    seen = {}
    step = loop._guarded_step

    def watched() -> None:
        step()
        seen[loop.trainer.counters.iteration] = voxels_learnt_from(loop)

    monkeypatch.setattr(loop, "_guarded_step", watched)
    result = loop.run()
    plane = 32 * 32
    assert seen == {n: (3 if n <= 14 else 5) * plane for n in range(1, 21)}
    assert not same_weights(result.weights, result.scored)
    assert [e["iteration"] for e in result.history if "mean_iou" in e] == [14]


def test_the_weights_that_were_scored_are_those_of_a_run_without_these_slices():
    """Bit by bit, up to where they are learnt; the learning rate follows all of the steps."""
    with_more = run_training(task_with_more())
    task, _ = held_out_task(recipe=tiny_recipe(iterations=20), stop=StopAfter(14, "finish"))
    assert same_weights(with_more.scored, run_training(task).weights)


def test_a_run_that_is_ended_before_has_only_weights_that_have_not_learnt_them():
    result = run_training(task_with_more(stop=StopAfter(10, "finish")))
    assert result.iterations == 10
    assert result.scored is None
    assert result.held_out_iou is not None


def test_one_that_is_ended_after_keeps_both(monkeypatch):
    task = task_with_more()
    loop = training._Loop(task, resume=False)
    monkeypatch.setattr(task.stop, "requested", lambda: "finish" if loop.trainer.counters.iteration == 17 else "")
    result = loop.run()
    assert result.iterations == 17
    assert not same_weights(result.weights, result.scored)


@pytest.mark.parametrize("steps", [9, 15, 17, 30])
def test_stopped_before_or_after_it_goes_on_to_the_same_result(tmp_path: Path, steps: int):
    task = task_with_more(folder=tmp_path)
    with pytest.raises(Interrupted):
        run_training(replace(task, stop=StopAfter(steps)))
    again = run_training(task, resume=True)
    whole = run_training(replace(task, folder=None))
    assert same_weights(again.weights, whole.weights)
    assert same_weights(again.scored, whole.scored)
    assert again.held_out_iou == whole.held_out_iou


def test_after_a_plateau_they_are_learnt_for_as_long_as_if_there_had_been_none(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    monkeypatch.setattr(training, "_SIDE_TASK_SHARE", 1e9)
    scores = itertools.chain([0.1, 0.5, 0.6], itertools.repeat(0.6))
    task = task_with_more(folder=tmp_path, recipe=tiny_recipe(iterations=40, patience=0.25))
    task.folds[0].validate, task.folds[0].validation_tiles = lambda *_: {"bright": next(scores), "dark": None}, 0
    result = run_training(task)
    # Patience ends a quarter of 40 steps after the best score, that of step 3; they are seven tenths of the training.
    assert result.iterations == 14 + 6
    assert result.held_out_iou == {"bright": 0.6, "dark": None}
    # Who gives it more time gives it more patience.
    longer = run_training(replace(task, recipe=replace(task.recipe, iterations=400)), resume=True)
    assert longer.iterations == (3 + 101) / 0.7 // 1 + 1


def test_two_networks_learn_what_was_held_out_from_each():
    volume = tiny_volume()
    case = Case(volume, tiny_annotation(volume, PLANES))
    prepared = prepare([case], quick(40, members=2), AUTOMATIC, CollectingReporter())
    planes = [fold.validation[0].annotation.planes for fold in prepared.folds]
    assert planes[0] != planes[1]
    assert all(fold.complete[0].annotation is prepared.folds[0].complete[0].annotation for fold in prepared.folds)
    assert prepared.folds[0].complete[0].annotation.planes == case.annotation.planes
    model = workflow.train([case], quick(40, members=2), AUTOMATIC)
    pairs = zip(model.members(), model.as_scored().members(), strict=True)
    assert not any(same_weights(a.weights, b.weights) for a, b in pairs)


@pytest.mark.parametrize("count, named", [(2, None), (None, (Plane(0, 8),))])
def test_what_the_user_holds_out_is_never_learnt(count: int | None, named: tuple[Plane, ...] | None):
    volume = tiny_volume()
    annotation = replace(tiny_annotation(volume, PLANES), held_out=named)
    (fold,) = make_folds([Case(volume, annotation)], count)
    assert not fold.learns_more_later
    _, model = densify(volume, annotation, quick(5), replace(AUTOMATIC, hold_out=count))
    assert model.scored_weights is None


def test_only_the_volumes_whose_slices_the_program_chose_are_learnt_completely():
    volume = tiny_volume()
    free = Case(volume, tiny_annotation(volume, PLANES))
    named = replace(free, annotation=replace(free.annotation, held_out=(Plane(0, 8),)))
    (fold,) = make_folds([free, named], None)
    assert fold.learns_more_later
    assert [len(c.annotation.planes) for c in fold.training] == [6, 6]
    assert [len(c.annotation.planes) for c in fold.complete] == [7, 6]


def test_score_and_map_of_errors_are_of_the_network_that_had_not_learnt_the_slice(densified):
    prediction, model, reporter = densified
    volume = tiny_volume()
    case = Case(volume, tiny_annotation(volume, PLANES))
    prepared = prepare([case], quick(100), AUTOMATIC, CollectingReporter())
    answers = [held_out_answers(prepared, m) for m in (model, replace(model, scored_weights=None))]
    scores = [held_out_iou(a, model.mixture) for a in answers]
    assert model.record["held_out_iou"] == scores[0] == reporter.of("validation")[-1]["iou"]
    assert scores[1] != scores[0]
    maps = [map_of_errors(a, model.mixture, volume.array.shape[1:]) for a in answers]
    np.testing.assert_array_equal(prediction.confusion, maps[0])
    assert (maps[0] != maps[1]).any()


def test_the_classifier_of_single_voxels_learns_them_too(monkeypatch):
    looked: list[int] = []
    features_at = VoxelFeatures.at

    def watched(features: VoxelFeatures, voxels: np.ndarray) -> torch.Tensor:
        looked.append(len(voxels))
        return features_at(features, voxels)

    monkeypatch.setattr(VoxelFeatures, "at", watched)
    case = Case(volume := tiny_volume(), tiny_annotation(volume, PLANES))
    recipe = quick(20, voxel_classifier=True, members=2)
    _, model = densify(volume, case.annotation, recipe, AUTOMATIC)
    for number, member in enumerate(model.members()):
        seed = recipe.seed + 10_007 * number
        expected = VoxelSample([[case]], model.channels, member.plan, CPU).fit([case], seed).state_dict()
        assert all(torch.equal(member.weights[f"voxel_network.{n}"], t) for n, t in expected.items())
        assert any(not torch.equal(member.scored_weights[f"voxel_network.{n}"], t) for n, t in expected.items())
    # Filters take long on a large volume: they are computed once for both networks.
    assert looked[0] == 7 * 32 * 32
    assert len(looked) == 3  # and by the two lines above


def test_what_failed_after_it_goes_on_with_all_slices():
    loop = training._Loop(task_with_more(), resume=False)
    learn_all(loop)
    learnt = loop.trainer.weights()
    loop._guarded_step()
    loop.snapshots.roll_back(loop.trainer)
    assert same_weights(loop.trainer.weights(), learnt)
    loop._use_less_memory()
    assert voxels_learnt_from(loop) == 5 * 32 * 32


def test_patches_are_drawn_as_from_the_slices_all_along():
    loop = training._Loop(task_with_more(), resume=False)
    learn_all(loop)
    whole = Case(volume := tiny_volume(), tiny_annotation(volume))
    fresh = training._Loop(tiny_task(cases=[whole]), resume=False)
    found, wanted = (x.trainer.sampler.draw_batch(torch.Generator().manual_seed(1)) for x in (loop, fresh))
    assert torch.equal(found.images, wanted.images)
    assert torch.equal(found.target, wanted.target)


def test_a_model_goes_on_from_where_it_was_scored(densified, monkeypatch):
    """It knows the slice otherwise on which the next score is to be."""
    _, model, _ = densified
    given: list[TrainingTask] = []

    def look(task: TrainingTask, resume: bool) -> None:
        given.append(task)
        raise Interrupted("seen enough")

    monkeypatch.setattr(workflow, "run_training", look)
    volume = tiny_volume()
    with pytest.raises(Interrupted):
        densify(volume, tiny_annotation(volume, PLANES), quick(5), RunOptions("cpu", start_from=model))
    (weights,) = given[0].initial_weights
    assert all(torch.equal(weights[n], t) for n, t in model.scored_weights.items())
    (fold,) = given[0].folds
    held = names_of(fold.complete) - names_of(fold.cases)
    assert held == set(model.record["held_out_planes"]["tiny"])


def test_a_model_file_carries_both(densified, tmp_path: Path):
    _, model, _ = densified
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert same_weights(again.weights, model.weights)
    assert same_weights(again.scored_weights, model.scored_weights)
    assert json.loads(json.dumps(again.header())) == json.loads(json.dumps(model.header()))
    scored = again.as_scored()
    assert same_weights(scored.weights, model.scored_weights)
    assert scored.scored_weights is None
    assert same_weights(scored.as_scored().weights, scored.weights)


def test_a_run_that_is_prolonged_goes_back_to_where_it_was_scored(tmp_path: Path):
    """Else an hour would follow on a score after a minute, and on weights to go on from."""
    task = task_with_more(folder=tmp_path)
    short = run_training(task)
    longer = replace(task, recipe=replace(task.recipe, iterations=60), reporter=CollectingReporter())
    loop = training._Loop(longer, resume=True)
    assert same_weights(loop.trainer.weights(), short.scored)
    assert voxels_learnt_from(loop) == 3 * 32 * 32
    result = loop.run()
    assert [e["iteration"] for e in result.history if "mean_iou" in e] == [14, 42]
    assert result.iterations == 60
    assert not same_weights(result.scored, short.scored)


@pytest.mark.parametrize("iterations, scored", [(21, 14), (30, 14), (33, 24)])
def test_a_run_that_is_prolonged_a_little_goes_on_from_where_it_is(tmp_path: Path, iterations: int, scored: int):
    """Unless it is far enough from the next score to learn anything before."""
    task = task_with_more(folder=tmp_path)
    run_training(task)
    result = run_training(replace(task, recipe=replace(task.recipe, iterations=iterations)), resume=True)
    assert result.iterations == iterations
    assert [e["iteration"] for e in result.history if "mean_iou" in e][-1] == scored


def test_a_batch_that_was_drawn_ahead_shows_all_slices_as_well():
    """As on a GPU; random numbers go on as if it had not been drawn."""
    loops = [training._Loop(task_with_more(), resume=False) for _ in range(2)]
    loops[1].trainer.draws_ahead = True
    for loop in loops:
        learn_all(loop)
        loop._guarded_step()
    assert same_weights(*(loop.trainer.weights() for loop in loops))


def two_networks(**changes: object) -> Model:
    volume = tiny_volume()
    case = Case(volume, tiny_annotation(volume, PLANES))
    return workflow.train([case], quick(40, members=2), AUTOMATIC, **changes)


def test_a_model_of_which_one_network_was_ended_before_it_was_scored_can_be_saved(tmp_path: Path, monkeypatch):
    """Its weights are the same in both parts of the file."""
    monkeypatch.setattr(training, "_STEP_EVENT_SECONDS", 0.0)

    class Stop(CollectingReporter):
        def emit(self, event: str, **fields: object) -> None:
            if event == "step" and fields["iteration"] >= 32:
                stop.request("finish")

    stop = StopRequest()
    model = two_networks(reporter=Stop(), stop=stop)
    assert model.plan.members == 2
    assert 32 <= model.record["iterations"] < 34
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    (first, second), (first_scored, second_scored) = loaded.members(), loaded.as_scored().members()
    assert not same_weights(first.weights, first_scored.weights)
    assert same_weights(second.weights, second_scored.weights)


def test_finish_that_is_asked_for_while_the_network_is_scored_is_the_end():
    """Neither a further step nor another network."""
    stop = StopRequest()
    scored: list[int] = []

    def score(*_: object) -> dict[str, float]:
        scored.append(1)
        stop.request("finish")
        return {"bright": 0.5}

    task = task_with_more(stop=stop)
    fold = replace(task.folds[0], validate=score)
    result = run_training(replace(task, folds=[fold, fold]))
    assert result.iterations == 7  # seven tenths of ten steps
    assert result.plan.members == 1
    assert result.scored is None
    assert scored == [1]


def test_where_scoring_would_take_the_time_that_is_left_it_comes_after_the_training(monkeypatch):
    """A large volume's slices are many tiles; a number of iterations does not run out meanwhile."""
    for seconds, learnt in ((1e6, False), (None, True)):
        task = task_with_more(recipe=tiny_recipe(iterations=20, seconds=seconds))
        task.folds[0].validation_tiles = 1000
        result = run_training(task)
        assert result.iterations == 20
        assert (result.scored is not None) == learnt
        assert [e["iteration"] for e in result.history if "mean_iou" in e] == [14 if learnt else 20]


@pytest.mark.parametrize("changes", [{"hold_out": 1}, {"painted": True}])
def test_a_run_goes_on_only_with_what_it_was_to_learn(tmp_path: Path, changes: dict):
    """The same slice is held out, but for good; or something else is painted on it now."""
    volume = tiny_volume()
    annotation = tiny_annotation(volume, PLANES)
    options = replace(AUTOMATIC, folder=tmp_path)
    with pytest.raises(Interrupted):
        densify(volume, annotation, quick(20), options, stop=StopAfter(5))
    planes = [make_folds([Case(volume, annotation)], n)[0].validation[0].annotation.planes for n in (None, 1)]
    assert planes[0] == planes[1]
    if "painted" in changes:
        labels = annotation.labels.copy()
        labels[planes[0][0].index, :5] = 1
        annotation = replace(annotation, labels=labels)
    options = replace(options, resume=True, hold_out=changes.get("hold_out"))
    with pytest.raises(InputError, match="belongs to another volume, annotation or recipe"):
        densify(volume, annotation, quick(20), options)


def test_the_share_that_is_annotated_is_that_which_was_learnt(densified):
    (entry,) = densified[1].record["volumes"]
    assert entry["annotated"] == pytest.approx(len(PLANES) / 24)
