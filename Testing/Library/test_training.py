from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import (
    StopAfter,
    held_out_task,
    in_fresh_process,
    little_memory,
    make_trainer,
    same_weights,
    tiny_plan,
    tiny_recipe,
    tiny_task,
)

from SparseUNet3DLib import training
from SparseUNet3DLib.checkpoint import FILE_NAME, Checkpoint
from SparseUNet3DLib.errors import Interrupted, MemoryLimitError, OutputError
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.stopping import StopRequest
from SparseUNet3DLib.training import run_training

GRAY = (ChannelNormalisation("channel0"),)


def run(**changes):
    """Result and reporter of a tiny training."""
    reporter = CollectingReporter()
    return run_training(tiny_task(reporter=reporter, **changes)), reporter


def messages(reporter: CollectingReporter) -> list[str]:
    return [fields["message"] for fields in reporter.of("warning")]


@pytest.fixture
def eager(monkeypatch):
    """Validation and previews from the first step on, and an event for every step."""
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    monkeypatch.setattr(training, "_SIDE_TASK_SHARE", 1e9)
    monkeypatch.setattr(training, "_STEP_EVENT_SECONDS", 0.0)


# -- what a step does ----------------------------------------------------------------------------------


def test_training_lowers_the_loss(eager):
    _, reporter = run(recipe=tiny_recipe(iterations=120))
    losses = [fields["loss"] for fields in reporter.of("step")]
    assert len(losses) == 120
    assert np.mean(losses[-20:]) < 0.75 * np.mean(losses[:10])


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    weights = [run(recipe=tiny_recipe(iterations=4, seed=seed))[0].weights for seed in (0, 0, 1)]
    assert same_weights(weights[0], weights[1])
    assert not same_weights(weights[0], weights[2])


@pytest.mark.parametrize("decay", [0.99, 0.3])
def test_the_result_is_the_moving_average_of_the_weights(decay):
    task = tiny_task(recipe=tiny_recipe(iterations=6, ema_decay=decay))
    trainer = make_trainer(task)
    average = {n: t.clone() for n, t in trainer.network.state_dict().items()}
    for step in range(1, 7):
        trainer.step((step - 1) / 6)
        share = min(decay, (1 + step) / (10 + step))
        for name, tensor in trainer.network.state_dict().items():
            average[name] = share * average[name] + (1 - share) * tensor
    result = run_training(task)
    for name, tensor in result.weights.items():
        torch.testing.assert_close(tensor, average[name])
        assert not torch.equal(tensor, trainer.network.state_dict()[name])


def test_without_an_average_the_result_is_the_last_weights():
    task = tiny_task(recipe=tiny_recipe(iterations=3, ema_decay=0.0))
    trainer = make_trainer(task)
    for step in range(3):
        trainer.step(step / 3)
    assert same_weights(run_training(task).weights, trainer.network.state_dict())


def test_the_statistics_of_batch_normalisation_are_averaged_as_well():
    result, _ = run(plan=tiny_plan(batch_norm="running"), recipe=tiny_recipe(iterations=3))
    means = [t for n, t in result.weights.items() if n.endswith("running_mean")]
    assert means
    assert all(bool((m != 0).any()) for m in means)


def test_the_learning_rate_warms_up_and_falls_or_steps_down():
    trainer = make_trainer(tiny_task(recipe=tiny_recipe(learning_rate=1.0)))
    rates = [trainer.learning_rate(f) for f in (0.0, 0.05, 0.1, 0.55, 1.0)]
    np.testing.assert_allclose(rates, [0.04, 0.52, 1.0, 0.5, 0.001])
    trainer.counters.rate_factor = 0.25
    assert trainer.learning_rate(0.1) == 0.25
    stepped = make_trainer(tiny_task(recipe=tiny_recipe(learning_rate=1.0, schedule="steps")))
    for iteration, rate in ((0, 1.0), (19_999, 1.0), (20_000, 0.1), (65_000, 1e-3)):
        stepped.counters.iteration = iteration
        assert stepped.learning_rate(0.5) == pytest.approx(rate)
    stepped.counters.first_iteration = 64_000  # steps of other networks do not count
    assert stepped.learning_rate(0.5) == 1.0


# -- the end of a run ----------------------------------------------------------------------------------


def test_a_time_budget_ends_the_run_and_the_learning_rate_follows_it(eager):
    recipe = tiny_recipe(seconds=1.0, iterations=None)
    result, reporter = run(recipe=recipe)
    assert 1.0 <= result.seconds < 30.0
    assert result.iterations > 1
    steps = reporter.of("step")
    trainer = make_trainer(tiny_task(recipe=recipe))
    for fields in steps:
        assert fields["fraction"] == pytest.approx(min(1.0, fields["seconds"] / 1.0))
        assert fields["learning_rate"] == pytest.approx(trainer.learning_rate(fields["fraction"]))
    assert steps[-1]["fraction"] == 1.0
    assert steps[-1]["learning_rate"] < 0.01 * recipe.learning_rate


def test_whichever_limit_comes_first_ends_the_run():
    result, _ = run(recipe=tiny_recipe(seconds=1e6, iterations=3))
    assert result.iterations == 3
    result, _ = run(recipe=tiny_recipe(seconds=0.5, iterations=10**9))
    assert result.iterations < 10**6


def test_a_plateau_ends_the_run(eager):
    scores = iter([0.1, 0.5, 0.6, *[0.6] * 1000])
    result, _ = run(
        recipe=tiny_recipe(iterations=40, patience=0.25), validate=lambda *_: {"bright": next(scores), "dark": None}
    )
    # The best score is that after step 3, and a quarter of 40 steps later patience ends.
    assert result.iterations == 3 + 11
    assert result.held_out_iou == {"bright": 0.6, "dark": None}


def test_scores_that_get_better_do_not_end_the_run(eager):
    scores = iter(np.linspace(0.1, 0.9, 100))
    result, _ = run(recipe=tiny_recipe(iterations=20, patience=0.25), validate=lambda *_: {"a": next(scores)})
    assert result.iterations == 20


def test_finish_gives_the_result_so_far(tmp_path):
    result = run_training(tiny_task(tmp_path, stop=StopAfter(4, "finish"), validate=lambda *_: {"a": 0.5}))
    assert result.iterations == 4
    assert result.held_out_iou == {"a": 0.5}
    assert (tmp_path / FILE_NAME).exists()


def test_a_run_that_is_stopped_while_it_is_scored_goes_on_from_there(tmp_path):
    """The score at the end may take minutes."""
    stop = StopRequest()

    def score(network, plan, precision, progress):
        stop.request("interrupt")
        progress(0.5)
        raise AssertionError("it went on")

    task = tiny_task(tmp_path, recipe=tiny_recipe(iterations=6))
    stopped = replace(task, stop=stop, folds=[replace(task.folds[0], validate=score)])
    with pytest.raises(Interrupted, match="after 6 iterations; the checkpoint is in"):
        run_training(stopped)
    scored = replace(task, folds=[replace(task.folds[0], validate=lambda *_: {"a": 0.5})])
    again = run_training(scored, resume=True)
    assert again.held_out_iou == {"a": 0.5}
    assert same_weights(again.weights, run_training(replace(task, folder=None)).weights)


def test_a_plateau_is_still_one_when_the_run_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    recipe = tiny_recipe(iterations=20, patience=0.25)
    first = run_training(tiny_task(tmp_path, recipe=recipe, validate=lambda *_: {"a": 0.5}))
    again = run_training(tiny_task(tmp_path, recipe=recipe, validate=lambda *_: {"a": 0.5}), resume=True)
    assert first.iterations == again.iterations < 20
    longer = tiny_task(tmp_path, recipe=replace(recipe, iterations=40), validate=lambda *_: {"a": 0.5})
    assert run_training(longer, resume=True).iterations > first.iterations  # a longer run has more patience


def test_side_tasks_wait_until_they_are_a_small_part_of_what_was_done(monkeypatch):
    """On a large volume a preview takes as long as many steps."""
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    shown: list[int] = []
    task = tiny_task(recipe=tiny_recipe(iterations=30), validate=lambda *_: {"a": 0.5})
    task.folds[0].validation_tiles = 32  # each about as much as a third of a patch, and they may take a fifth
    task.preview, task.preview_tiles = lambda *values: shown.append(values[-1]), 16
    result = run_training(task)
    scored = [entry["iteration"] for entry in result.history if "mean_iou" in entry]
    assert shown[0] == math.ceil(16 * 0.3 / 0.2 / task.plan.batch_size)
    assert scored[0] == math.ceil(32 * 0.3 / 0.2 / task.plan.batch_size)


def test_interrupt_leaves_a_checkpoint_of_the_last_step(tmp_path):
    reporter = CollectingReporter()
    task = tiny_task(tmp_path, stop=StopAfter(4), reporter=reporter)
    with pytest.raises(Interrupted, match=r"Stopped as asked after 4 iterations; the checkpoint is in '.*--resume"):
        run_training(task)
    assert reporter.of("checkpoint")[-1] == {"path": str(tmp_path / FILE_NAME), "iteration": 4}
    trainer = make_trainer(task)
    Checkpoint(tmp_path / FILE_NAME).restore(trainer)
    assert trainer.counters.iteration == 4


def test_interrupt_without_a_folder_says_nothing_of_a_checkpoint():
    with pytest.raises(Interrupted, match=r"^Stopped as asked after 1 iterations\.$"):
        run(stop=StopAfter(1))


def test_a_folder_that_cannot_be_written_to_is_told_at_the_start(tmp_path):
    reporter = CollectingReporter()
    with pytest.raises(OutputError, match="does not exist"):
        run_training(tiny_task(tmp_path / "missing", reporter=reporter))
    assert not reporter.of("step")


# -- memory --------------------------------------------------------------------------------------------


def warm_up() -> None:
    """All threads start, and caches fill, before memory is limited."""
    run(recipe=tiny_recipe(iterations=2))


@in_fresh_process
def test_when_memory_runs_out_the_batch_then_the_patch_becomes_smaller():
    pytest.importorskip("resource")
    warm_up()

    class LiftingReporter(CollectingReporter):
        def emit(self, event: str, **fields: object) -> None:
            super().emit(event, **fields)
            if len(self.of("warning")) == 2:
                lift()

    task = tiny_task(
        plan=tiny_plan(patch_size=(128, 128, 128), batch_size=2), recipe=tiny_recipe(iterations=2),
        reporter=LiftingReporter(),
    )
    with little_memory(2**20) as lift:
        result = run_training(task)
    warnings = messages(task.reporter)
    assert warnings == [
        "Out of memory; going on with 1 patch(es) of 128x128x128 voxels per step.",
        "Out of memory; going on with 1 patch(es) of 84x128x128 voxels per step.",
    ]
    assert result.iterations == 2
    assert result.plan.batch_size == 1
    assert result.plan.patch_size < (128, 128, 128)
    build_network(result.plan).load_state_dict(result.weights)


def test_memory_that_runs_out_while_the_first_step_sets_up_its_moments_costs_a_smaller_batch(monkeypatch):
    """Some parameters have moments then, and others none."""
    step, failures = torch.optim.AdamW.step, []

    def half_a_step(self: torch.optim.AdamW, *args: object) -> None:
        if failures:
            return step(self, *args)
        failures.append(True)
        parameters = self.param_groups[0]["params"]
        self.param_groups[0]["params"] = parameters[:1]
        step(self, *args)
        self.param_groups[0]["params"] = parameters
        raise MemoryError

    monkeypatch.setattr(torch.optim.AdamW, "step", half_a_step)
    result, _ = run(recipe=tiny_recipe(iterations=2), plan=tiny_plan(batch_size=2))
    assert (result.iterations, result.plan.batch_size) == (2, 1)


@in_fresh_process
def test_the_smallest_patch_not_fitting_is_said_in_a_sentence():
    pytest.importorskip("resource")
    warm_up()
    plan = tiny_plan(patch_size=(128, 64, 64), strides=((32, 32, 32),), widths=(64, 4), batch_size=1)
    task = tiny_task(plan=plan, reporter=CollectingReporter())
    with (
        little_memory(24 * 2**20),
        pytest.raises(MemoryLimitError, match=r"even with one patch of 64x64x64 voxels; close other programs"),
    ):
        run_training(task)
    assert messages(task.reporter) == ["Out of memory; going on with 1 patch(es) of 64x64x64 voxels per step."]


# -- validation, previews, events ----------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [None, "frozen"])
def test_validation_changes_nothing_in_the_training(eager, batch_norm):
    task, _ = held_out_task(recipe=tiny_recipe(iterations=5), plan=tiny_plan(batch_norm=batch_norm))
    validated = run_training(task)
    assert len(task.reporter.of("validation")) == 5
    plain = run_training(replace(task, folds=[replace(task.folds[0], validate=None)]))
    assert same_weights(validated.weights, plain.weights)
    assert plain.held_out_iou is None


def test_previews_show_the_averaged_network(eager):
    seen = []

    def preview(network, plan, precision, iteration):
        assert not network.training
        seen.append((iteration, {n: t.clone() for n, t in network.state_dict().items()}))

    result, _ = run(recipe=tiny_recipe(iterations=3), preview=preview)
    assert [iteration for iteration, _ in seen] == [1, 2, 3]
    assert same_weights(seen[-1][1], result.weights)


def test_events_have_the_fields_that_are_documented(eager, tmp_path):
    task, _ = held_out_task(recipe=tiny_recipe(iterations=3), folder=tmp_path)
    run_training(task)
    step = task.reporter.of("step")[-1]
    assert step.keys() == {
        "iteration", "iterations", "seconds", "seconds_total", "fraction", "loss", "learning_rate", "eta_seconds",
        "network", "networks",
    }
    assert (step["network"], step["networks"]) == (1, 1)
    assert (step["iteration"], step["iterations"], step["seconds_total"]) == (3, 3, None)
    assert (step["fraction"], step["eta_seconds"]) == (1.0, 0.0)
    validation = task.reporter.of("validation")[-1]
    assert validation.keys() == {"iteration", "mean_iou", "iou"}
    assert validation["iou"].keys() == {"bright", "dark"}
    checkpoint = task.reporter.of("checkpoint")[-1]
    assert checkpoint == {"path": str(tmp_path / FILE_NAME), "iteration": 3}
    assert {name for name, _ in task.reporter.events} == {"step", "validation", "checkpoint"}


def test_the_history_keeps_losses_and_scores(eager):
    task, _ = held_out_task(recipe=tiny_recipe(iterations=4))
    history = run_training(task).history
    losses = [e for e in history if "loss" in e]
    scores = [e for e in history if "mean_iou" in e]
    assert [e["iteration"] for e in losses] == [1, 2, 3, 4]
    assert [e["iteration"] for e in scores] == [1, 2, 3, 4]
    assert all(e.keys() == {"iteration", "seconds", "loss"} for e in losses)


def test_starting_from_weights_means_from_exactly_these():
    first, _ = run(recipe=tiny_recipe(iterations=30))
    task = tiny_task(initial_weights=[first.weights], recipe=tiny_recipe(iterations=30))
    loop = training._Loop(task, resume=False)
    assert same_weights(loop.trainer.weights(), first.weights)
    assert same_weights(loop.trainer.network.state_dict(), first.weights)
