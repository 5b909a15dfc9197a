from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import (
    SEGMENTS,
    StopAfter,
    make_trainer,
    paper_plan,
    same_weights,
    tiny_annotation,
    tiny_labels,
    tiny_plan,
    tiny_recipe,
    tiny_task,
    tiny_volume,
)

from SparseUNet3DLib.annotation import from_planes
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.checkpoint import FILE_NAME, Checkpoint, fingerprint
from SparseUNet3DLib.errors import InputError, Interrupted, UsageError
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DLib.tensor_file import read_tensor_file, write_tensor_file
from SparseUNet3DLib.training import run_training

GRAY = (ChannelNormalisation("channel0"),)
SGD = {
    "optimizer": "sgd", "momentum": 0.99, "weight_decay": 5e-4, "schedule": "steps", "dice": False,
    "class_balance": 1.0, "ema_decay": 0.0,
}


def interrupt(folder, steps: int, **changes):
    """Run a task for a few steps; its checkpoint is left in ``folder``."""
    with pytest.raises(Interrupted, match=f"after {steps} iterations; the checkpoint is in"):
        run_training(tiny_task(folder, stop=StopAfter(steps), **changes))


@pytest.mark.parametrize(
    "recipe, plan",
    [
        (tiny_recipe(), tiny_plan()),
        (tiny_recipe(**SGD), tiny_plan()),
        (tiny_recipe(**SGD), tiny_plan(batch_norm="batch")),
        (tiny_recipe(), tiny_plan(batch_norm="frozen", strides=((1, 2, 2), (2, 2, 2)), widths=(3, 5, 6),
                                  kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)))),
    ],
    ids=["adamw and average", "sgd", "sgd, batch normalisation", "anisotropic"],
)
def test_a_resumed_run_ends_with_the_same_weights_bit_by_bit(tmp_path, recipe, plan):
    recipe = replace(recipe, iterations=13)
    whole = run_training(tiny_task(recipe=recipe, plan=plan))
    interrupt(tmp_path, 4, recipe=recipe, plan=plan)
    interrupt_again = tiny_task(tmp_path, recipe=recipe, plan=plan, stop=StopAfter(5))
    with pytest.raises(Interrupted, match="after 9 iterations"):
        run_training(interrupt_again, resume=True)
    resumed = run_training(tiny_task(tmp_path, recipe=recipe, plan=plan), resume=True)
    assert resumed.iterations == whole.iterations == 13
    assert same_weights(resumed.weights, whole.weights)
    assert resumed.seconds > 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, SGD], ids=["adamw", "sgd"])
def test_state_and_restore_go_on_bit_by_bit_in_any_precision(precision, changes):
    task = tiny_task(recipe=tiny_recipe(**changes))
    first, second = make_trainer(task, precision), make_trainer(task, precision)
    for _ in range(3):
        first.step(0.5)
    second.restore(first.state())
    second.counters.iteration = first.counters.iteration
    losses = [[trainer.step(0.5) for _ in range(4)] for trainer in (first, second)]
    assert losses[0] == losses[1]
    assert same_weights(first.state(), second.state())


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_a_network_that_comes_down_to_a_single_voxel_goes_on(optimizer: str):
    """Its normalisation leaves that voxel as it is; all the same it has moments."""
    plan = tiny_plan(strides=((2, 2, 2),) * 4, kernels=((3, 3, 3),) * 5, widths=(4, 4, 4, 4, 4))
    task = tiny_task(plan=plan, recipe=tiny_recipe(optimizer=optimizer, learning_rate=1e-3))
    first = make_trainer(task)
    first.step(0.5)
    second = make_trainer(task)
    second.restore(first.state())
    assert second.step(0.6) == pytest.approx(first.step(0.6), rel=1e-5)


def test_a_state_may_be_restored_again_and_again():
    """What is trained after going back must not leak into the state gone back to."""
    trainer = make_trainer(tiny_task())
    for _ in range(3):
        trainer.step(0.5)
    state = trainer.state()
    kept = {n: t.clone() for n, t in state.items()}
    runs = []
    for _ in range(2):
        trainer.restore(state)
        trainer.counters.iteration = 3
        for _ in range(3):
            trainer.step(0.9)
        assert same_weights(state, kept)
        runs.append(trainer.state())
    assert same_weights(*runs)


def test_a_run_killed_before_its_first_step_can_be_resumed(tmp_path):
    first, killed = tmp_path / FILE_NAME, tmp_path / "killed"
    killed.mkdir()

    class CopyFirst(StopAfter):
        """Keeps the checkpoint that is there when the first step is done."""

        def requested(self) -> str:
            if not (killed / FILE_NAME).exists():
                shutil.copy(first, killed)
            return super().requested()

    recipe = tiny_recipe(iterations=3)
    whole = run_training(tiny_task(tmp_path, recipe=recipe, stop=CopyFirst(10)))
    header, state = read_tensor_file(killed / FILE_NAME, "checkpoint")
    assert header["counters"]["iteration"] == 0
    assert state.keys() >= {"generator", "network.head.bias", "average.head.bias"}
    resumed = run_training(tiny_task(killed, recipe=recipe), resume=True)
    assert resumed.iterations == 3
    assert same_weights(resumed.weights, whole.weights)


def test_a_longer_budget_goes_on_where_a_finished_run_ended(tmp_path):
    short = run_training(tiny_task(tmp_path, recipe=tiny_recipe(iterations=3)))
    reporter = tiny_task().reporter
    longer = tiny_task(tmp_path, recipe=tiny_recipe(iterations=6, seconds=1e6), reporter=reporter)
    result = run_training(longer, resume=True)
    assert (short.iterations, result.iterations) == (3, 6)
    assert result.seconds > short.seconds
    assert not reporter.of("warning")
    assert result.history[: len(short.history)] == short.history


def test_a_finished_run_that_is_resumed_gives_its_result_again(tmp_path):
    first = run_training(tiny_task(tmp_path, recipe=tiny_recipe(iterations=3)))
    again = run_training(tiny_task(tmp_path, recipe=tiny_recipe(iterations=3)), resume=True)
    assert again.iterations == 3
    assert same_weights(first.weights, again.weights)


def test_a_resumed_run_keeps_its_plan_and_says_so(tmp_path):
    interrupt(tmp_path, 2)
    reporter = tiny_task().reporter
    other = tiny_task(tmp_path, plan=tiny_plan(patch_size=(8, 8, 8), batch_size=1), reporter=reporter)
    result = run_training(other, resume=True)
    assert result.plan == tiny_plan()
    assert "2 patch(es) of 16x16x16 voxels" in reporter.of("warning")[0]["message"]


# -- refused -------------------------------------------------------------------------------------------


def with_cases(task, *cases):
    return replace(task, folds=[replace(task.folds[0], cases=list(cases))])


def another_volume(task):
    (case,) = task.folds[0].cases
    volume = replace(case.volume, array=case.volume.array + 1)
    return with_cases(task, Case(volume, tiny_annotation(volume)))


def another_spacing(task):
    volume = tiny_volume(spacing=(1.0, 1.0, 1.5))
    return with_cases(task, Case(volume, tiny_annotation(volume)))


def another_plane(task):
    volume = task.folds[0].cases[0].volume
    return with_cases(task, Case(volume, tiny_annotation(volume, (3, 7, 11, 15, 20))))


def another_label(task):
    volume = task.folds[0].cases[0].volume
    labels = tiny_labels()
    labels[3, 0, 0] = 2
    annotation = from_planes(Segmentation(labels, SEGMENTS, volume.geometry), [Plane(0, n) for n in (3, 7, 11, 15, 19)])
    return with_cases(task, Case(volume, annotation))


def another_case(task):
    (case,) = task.folds[0].cases
    return with_cases(task, case, case)


def other_normalisation(task):
    fixed = ChannelNormalisation("channel0", ChannelStatistics(0.0, 100.0, 50.0, 20.0))
    return replace(task, normalisation=(fixed,))


def another_rate(task):
    return replace(task, recipe=replace(task.recipe, learning_rate=1e-3))


def another_seed(task):
    return replace(task, recipe=replace(task.recipe, seed=1))


@pytest.mark.parametrize(
    "change",
    [
        another_volume, another_spacing, another_plane, another_label, another_case, other_normalisation, another_rate,
        another_seed,
    ],
)
def test_another_task_is_not_gone_on_with(tmp_path, change):
    interrupt(tmp_path, 1)
    with pytest.raises(InputError, match=r"belongs to another volume, annotation or recipe; .*--restart"):
        run_training(change(tiny_task(tmp_path)), resume=True)


def test_the_same_task_has_the_same_fingerprint():
    one, other = tiny_task(), tiny_task()
    first, second = (task.folds[0].cases for task in (one, other))
    assert fingerprint(first, GRAY) == fingerprint(second, GRAY)
    renamed = [replace(c, volume=replace(c.volume, name="moved")) for c in first]
    assert fingerprint(renamed, GRAY) == fingerprint(first, GRAY)


def test_resuming_needs_a_folder_with_a_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="name the folder"):
        run_training(tiny_task(), resume=True)
    with pytest.raises(InputError, match=f"There is no checkpoint file .*{FILE_NAME}"):
        run_training(tiny_task(tmp_path), resume=True)


def change_header(key, value):
    def change(header, state):
        header[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda h, s: h.pop("plan"),
        lambda h, s: h.pop("counters"),
        change_header("plan", [1]),
        change_header("recipe", None),
        change_header("precision", "float8"),
        change_header("counters", {"iteration": 1, "unknown": 2}),
        lambda h, s: h["recipe"].update(network="other"),
        lambda h, s: s.pop("generator"),
        lambda h, s: s.pop("average.head.bias"),
        lambda h, s: s.pop("network.head.bias"),
        lambda h, s: s.update({"network.head.bias": torch.zeros(7)}),
        lambda h, s: s.update({"average.head.bias": torch.zeros(7)}),
        lambda h, s: s.update({"generator": torch.zeros(3, dtype=torch.uint8)}),
        lambda h, s: s.update({"optimizer1.x.exp_avg": torch.zeros(3)}),
        lambda h, s: s.update({"optimizer1.0.exp_avg": torch.zeros(3)}),
        lambda h, s: s.update({"optimizer0.0.momentum_buffer": torch.zeros(3)}),
        lambda h, s: s.pop("optimizer1.0.exp_avg_sq"),
        lambda h, s: s.pop("optimizer0.0.momentum_buffer"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path, change):
    interrupt(tmp_path, 2)
    path = tmp_path / FILE_NAME
    header, state = read_tensor_file(path, "checkpoint")
    change(header, state)
    write_tensor_file(path, "checkpoint", header, state)
    with pytest.raises(InputError, match=r"The checkpoint '.*' is damaged; give --restart to begin anew"):
        run_training(tiny_task(tmp_path), resume=True)


@pytest.mark.parametrize("length", [0, 20, 1000, -100])
def test_a_truncated_checkpoint_is_refused_in_a_sentence(tmp_path, length):
    interrupt(tmp_path, 1)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="cannot be read as a SparseUNet3D checkpoint"):
        run_training(tiny_task(tmp_path), resume=True)


def test_a_checkpoint_holds_the_plan_the_recipe_and_the_precision(tmp_path):
    recipe = tiny_recipe(augmentation=replace(tiny_recipe().augmentation, mirror=("x",)))
    interrupt(tmp_path, 1, recipe=recipe)
    checkpoint = Checkpoint(tmp_path / FILE_NAME)
    assert checkpoint.plan == tiny_plan()
    assert checkpoint.recipe == recipe
    assert checkpoint.precision == torch.float32
    trainer = make_trainer(tiny_task(recipe=recipe))
    checkpoint.restore(trainer)
    assert trainer.counters.iteration == 1


def test_a_checkpoint_of_another_network_does_not_fit(tmp_path):
    interrupt(tmp_path, 1)
    other = make_trainer(tiny_task(plan=tiny_plan(widths=(4, 6))))
    with pytest.raises(InputError, match="is damaged"):
        Checkpoint(tmp_path / FILE_NAME).restore(other)


def test_the_papers_network_resumes_bit_by_bit():
    """Its patches are large, so one step to each side of the snapshot must do."""
    plan = paper_plan(patch_size=(92, 92, 92), widths=(1, 1, 1, 1), batch_norm="batch")
    task = tiny_task(plan=plan, recipe=tiny_recipe(**SGD))
    first, second = make_trainer(task), make_trainer(task)
    first.step(0.0)
    second.restore(first.state())
    second.counters.iteration = 1
    assert first.step(0.0) == second.step(0.0)
    assert same_weights(first.state(), second.state())
    assert np.isfinite(first.step(0.0))
