"""Runs that train several networks one after another, whose answers are averaged."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
import torch
from tiny_training import (
    NARROW,
    StopAfter,
    iou,
    same_weights,
    tiny_annotation,
    tiny_labels,
    tiny_plan,
    tiny_recipe,
    tiny_task,
    tiny_volume,
)
from volumes_for_tests import CPU

from SparseUNet3DLib import training
from SparseUNet3DLib.cases import Case, make_folds
from SparseUNet3DLib.checkpoint import FILE_NAME, networks_begun
from SparseUNet3DLib.errors import Interrupted
from SparseUNet3DLib.evaluation import TRUE_POSITIVE
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.model_file import load_model
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.networks.ensemble import join_weights, split_weights
from SparseUNet3DLib.recipe import PRESETS
from SparseUNet3DLib.training import run_training
from SparseUNet3DLib.training_task import TrainingFold, TrainingTask
from SparseUNet3DLib.workflow import RunOptions, densify

STEPS, NETWORKS = 4, 3
PAINTED = (2, 5, 8, 11, 14, 17, 20)


def task_of_three(folder=None, **changes: object) -> TrainingTask:
    """Twelve steps, shared by three networks, each with another slice held out."""
    volume = tiny_volume()
    folds = make_folds([Case(volume, tiny_annotation(volume))], 1, NETWORKS)
    task = tiny_task(folder, recipe=tiny_recipe(iterations=STEPS * NETWORKS), plan=tiny_plan(members=NETWORKS))
    return replace(task, **{"folds": [TrainingFold(f.training) for f in folds], **changes})


def networks_of(result: object) -> list[dict[str, torch.Tensor]]:
    return split_weights(result.weights, result.plan.members)


def test_a_budget_is_shared_by_networks_that_differ():
    reporter = CollectingReporter()
    result = run_training(task_of_three(reporter=reporter))
    assert (result.plan.members, result.iterations) == (NETWORKS, STEPS * NETWORKS)
    first, second, third = networks_of(result)
    assert first.keys() == second.keys() == third.keys()
    assert not same_weights(first, second) and not same_weights(second, third)
    last = reporter.of("step")[-1]
    assert (last["network"], last["networks"], last["fraction"]) == (3, 3, 1.0)


def test_the_first_network_is_that_of_a_run_of_its_own():
    """The same schedule, the same random numbers: the others change nothing about it."""
    first, *_ = networks_of(run_training(task_of_three()))
    volume = tiny_volume()
    (fold,) = make_folds([Case(volume, tiny_annotation(volume))], 1)
    alone = run_training(tiny_task(cases=fold.training, recipe=tiny_recipe(iterations=STEPS)))
    assert same_weights(first, alone.weights)


@pytest.mark.parametrize("steps", [1, 4, 5, 8, 11])
def test_a_run_interrupted_in_any_network_ends_with_the_same_weights(tmp_path, steps: int):
    whole = run_training(task_of_three())
    with pytest.raises(Interrupted):
        run_training(task_of_three(tmp_path, stop=StopAfter(steps)))
    resumed = run_training(task_of_three(tmp_path), resume=True)
    assert same_weights(resumed.weights, whole.weights)


def test_a_run_resumed_with_more_time_trains_further_networks(tmp_path):
    fewer = task_of_three(tmp_path, recipe=tiny_recipe(iterations=STEPS))
    run_training(replace(fewer, folds=fewer.folds[:1]))
    result = run_training(task_of_three(tmp_path), resume=True)
    assert (result.plan.members, result.iterations) == (NETWORKS, STEPS * NETWORKS)


def test_a_run_resumed_with_less_time_leaves_out_the_network_that_had_just_begun(tmp_path):
    with pytest.raises(Interrupted):
        run_training(task_of_three(tmp_path, stop=StopAfter(STEPS + 1)))
    less = task_of_three(tmp_path, recipe=tiny_recipe(iterations=STEPS))
    result = run_training(less, resume=True)
    assert (result.plan.members, result.iterations) == (1, STEPS + 1)
    assert networks_begun(tmp_path / FILE_NAME) == 2


@pytest.mark.parametrize("steps, kept", [(1, 1), (3, 1), (5, 1), (6, 2), (7, 2), (9, 2), (11, 3)])
def test_a_network_that_has_hardly_begun_is_left_out_when_the_run_is_finished_early(steps: int, kept: int):
    result = run_training(task_of_three(stop=StopAfter(steps, "finish")))
    assert (result.plan.members, result.iterations) == (kept, steps)
    build_network(result.plan).load_state_dict(result.weights)


@pytest.mark.parametrize("steps, scored", [(3, [0]), (5, [0]), (6, [0, 1])])
def test_a_network_that_is_left_out_is_not_scored(steps: int, scored: list[int]):
    calls: list[int] = []
    task = task_of_three(stop=StopAfter(steps, "finish"))
    folds = [
        replace(f, validate=lambda *_, n=n: calls.append(n) or {"bright": 0.5, "dark": 0.5})
        for n, f in enumerate(task.folds)
    ]
    run_training(replace(task, folds=folds))
    assert calls == scored


def test_a_network_that_came_to_a_plateau_early_is_kept(monkeypatch):
    """It was not cut short, however few its steps are beside the others'."""
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    monkeypatch.setattr(training, "_SIDE_TASK_SHARE", 1e9)
    better = iter(np.linspace(0.1, 0.9, 1000))
    last = chain([0.5] * 7, repeat(0.6))  # at the end it is better again
    task = task_of_three(recipe=tiny_recipe(iterations=60, patience=0.25))
    scores = [lambda *_: {"a": next(better)}, lambda *_: {"a": next(better)}, lambda *_: {"a": next(last)}]
    folds = [replace(f, validate=score) for f, score in zip(task.folds, scores, strict=True)]
    result = run_training(replace(task, folds=folds))
    assert 40 < result.iterations < 50
    assert result.plan.members == 3


def test_the_held_out_iou_is_the_mean_of_what_each_network_makes_of_its_own_slices():
    found = [{"bright": 0.5, "dark": None}, {"bright": 0.7, "dark": 0.2}, {"bright": 0.9, "dark": 0.4}]
    task = task_of_three()
    folds = [replace(f, validate=lambda *_, n=n: found[n]) for n, f in enumerate(task.folds)]
    result = run_training(replace(task, folds=folds))
    assert result.held_out_iou == {"bright": pytest.approx(0.7), "dark": pytest.approx(0.3)}


def test_what_validation_keeps_is_given_back_when_its_network_is_finished():
    calls: list[str] = []
    folds = [
        replace(
            f, forget=lambda n=n: calls.append(f"forget {n}"),
            validate=lambda *_, n=n: calls.append(f"validate {n}") or {"bright": 0.5, "dark": 0.5},
        )
        for n, f in enumerate(task_of_three().folds)
    ]
    run_training(task_of_three(folds=folds))
    last = [call for n, call in enumerate(calls) if call not in calls[n + 1 :]]
    assert last == ["validate 0", "forget 0", "validate 1", "forget 1", "validate 2"]


def test_each_network_starts_from_one_of_those_given_and_further_ones_from_random_weights():
    standing = tiny_recipe(iterations=3, learning_rate=1e-12)
    starts = networks_of(run_training(task_of_three()))[:2]
    found = networks_of(run_training(task_of_three(initial_weights=starts, recipe=standing)))
    random = networks_of(run_training(task_of_three(recipe=standing)))
    for network, start in zip(found, [*starts, random[2]], strict=True):
        assert all(torch.allclose(t, start[n], atol=1e-6) for n, t in network.items())


def test_an_ensemble_answers_with_the_mean_logits():
    plan = tiny_plan()
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(build_network(plan))
    weights = join_weights([m.state_dict() for m in members])
    ensemble = build_network(replace(plan, members=3))
    ensemble.load_state_dict(weights)
    image = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(ensemble(image), torch.stack([m(image) for m in members]).mean(0))
    for member, found in zip(members, split_weights(weights, 3), strict=True):
        assert same_weights(dict(member.state_dict()), found)


# -- in a whole run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def densified():
    volume = tiny_volume()
    recipe = tiny_recipe(iterations=200, learning_rate=0.03, members=2)
    return volume, *densify(
        volume, tiny_annotation(volume, PAINTED), recipe,
        RunOptions("cpu", plan={**NARROW, "widths": "4,8"}),
    )


def test_every_held_out_slice_is_scored_by_a_network_that_did_not_learn_it(densified):
    _, prediction, model = densified
    (planes,) = model.record["held_out_planes"].values()
    assert model.plan.members == 2 and len(planes) == 2
    indices = [int(p.split(":")[1]) for p in planes]
    marked = np.flatnonzero(prediction.confusion.any(axis=(1, 2)))
    assert set(marked) == set(indices)
    right = np.count_nonzero(prediction.confusion == TRUE_POSITIVE)
    assert right > 0.5 * np.count_nonzero(prediction.confusion)


def test_a_model_of_two_networks_comes_back_from_its_file(densified, tmp_path):
    volume, prediction, model = densified
    model.save(tmp_path / "two.safetensors")
    loaded = load_model(tmp_path / "two.safetensors")
    assert loaded.plan == model.plan and same_weights(loaded.weights, model.weights)
    assert "2 networks auto" in loaded.card()
    assert min(iou(prediction.segmentation.labels, tiny_labels())) > 0.7
    assert [m.plan.members for m in loaded.members()] == [1, 1]
    image = torch.from_numpy(volume.array[None, :, :16, :16, :16])
    answers = [m.network(CPU)(image) for m in (loaded, *loaded.members())]
    torch.testing.assert_close(answers[0], (answers[1] + answers[2]) / 2)


@pytest.mark.parametrize("members, expected", [(None, 2), (1, 1), (3, 3)])
def test_continuing_from_two_networks_gives_two_unless_told_otherwise(densified, members: int | None, expected: int):
    volume, _, model = densified
    options = RunOptions("cpu", start_from=model)
    recipe = tiny_recipe(iterations=3, learning_rate=1e-12, members=members)
    _, continued = densify(volume, tiny_annotation(volume, (*PAINTED, 22)), recipe, options)
    assert continued.plan.members == expected
    held_out = model.record["held_out_by_network"]
    assert held_out[0] != held_out[1]
    # What one network has not learnt, the one that goes on from it does not learn either.
    assert continued.record["held_out_by_network"][:2] == held_out[:expected]
    for member, start in zip(continued.members(), model.as_scored().members(), strict=False):
        assert all(torch.allclose(t, start.weights[name], atol=1e-5) for name, t in member.weights.items())


@pytest.mark.parametrize(
    "changes, classes, expected",
    [
        ({"seconds": 60.0}, 2, 1), ({"seconds": 180.0}, 2, 2), ({"seconds": 180.0}, 5, 1), ({"seconds": 600.0}, 5, 4),
        ({"seconds": 600.0}, 8, 3), ({"seconds": 1e5}, 8, 4), ({"seconds": None, "iterations": 10}, 2, 1),
        ({"seconds": 60.0, "members": 3}, 8, 3),
    ],
)
def test_longer_runs_train_more_networks_and_fewer_where_there_are_many_classes(
    changes: dict, classes: int, expected: int
):
    assert replace(PRESETS["balanced"], **changes).ensemble_size(classes) == expected


def test_the_papers_recipe_trains_a_single_network_however_long_it_takes():
    assert replace(PRESETS["paper"], seconds=1e6).ensemble_size(2) == 1
