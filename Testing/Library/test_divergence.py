"""A training whose numbers grow beyond all bounds goes back, and on more slowly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import (
    StopAfter,
    make_trainer,
    paper_plan,
    same_weights,
    tiny_annotation,
    tiny_recipe,
    tiny_task,
    tiny_volume,
)

from SparseUNet3DLib import training
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.checkpoint import FILE_NAME, Checkpoint
from SparseUNet3DLib.errors import DivergenceError, Interrupted
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.gradients import shorten
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.training import run_training

#: The slice-wise network without normalisation layers: with a high enough rate its weights explode.
UNSTABLE = replace(
    paper_plan(), network="2d", strides=((1, 2, 2),) * 3, kernels=((1, 3, 3),) * 4, patch_size=(1, 100, 100)
)


def messages(reporter: CollectingReporter) -> list[str]:
    return [fields["message"] for fields in reporter.of("warning")]


def unstable(rate: float, **changes):
    recipe = tiny_recipe(
        optimizer="sgd", schedule="steps", learning_rate=rate, iterations=12, ema_decay=changes.pop("decay", 0.9)
    )
    return tiny_task(plan=UNSTABLE, recipe=recipe, reporter=CollectingReporter(), **changes)


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_a_run_that_diverges_goes_back_and_on_with_half_the_rate(decay):
    task = unstable(300.0, decay=decay)
    result = run_training(task)
    warnings = messages(task.reporter)
    assert len(warnings) >= 2
    for halvings, message in enumerate(warnings, start=1):
        assert message.startswith("Training diverged at iteration ")
        assert f"going on from iteration 0 with {0.5**halvings:g} of the learning rate" in message
    assert result.iterations == 12
    assert all(bool(w.isfinite().all()) for w in result.weights.values())
    assert task.reporter.of("step")[-1]["learning_rate"] == 300.0 * 0.5 ** len(warnings)


def test_a_run_that_diverges_whatever_the_rate_ends_in_a_sentence():
    task = unstable(1e6)
    with pytest.raises(DivergenceError, match=r"diverged 7 times .*halved each time; look for extreme"):
        run_training(task)
    assert len(messages(task.reporter)) == 6


def test_gray_values_beyond_all_numbers_end_in_a_sentence():
    absurd = ChannelNormalisation("channel0", ChannelStatistics(-1e38, 1e38, 0.0, 1e-10))
    volume = tiny_volume()
    volume = replace(volume, array=volume.array * np.float32(1e36))
    task = tiny_task(cases=[Case(volume, tiny_annotation(volume))], normalisation=(absurd,))
    with pytest.raises(DivergenceError):
        run_training(task)


def test_the_halved_rate_outlives_an_interruption(tmp_path):
    with pytest.raises(Interrupted):
        run_training(unstable(300.0, folder=tmp_path, stop=StopAfter(10)))
    header = Checkpoint(tmp_path / FILE_NAME)
    trainer = make_trainer(unstable(300.0))
    header.restore(trainer)
    assert trainer.counters.rate_factor < 1.0


def test_a_gradient_that_is_not_finite_is_told_and_can_be_taken_back():
    """The weights have been changed by then: on a GPU the next step would have to wait for the answer otherwise."""
    trainer = make_trainer(tiny_task())
    trainer.step(0.5)
    before = trainer.state()
    hooks = [p.register_hook(lambda gradient: gradient * math.inf) for p in trainer.network.parameters()]
    assert not math.isfinite(trainer.step(0.5))
    assert trainer.counters.iteration == 1
    for hook in hooks:
        hook.remove()
    trainer.restore(before)
    assert same_weights(trainer.state(), before)
    again = make_trainer(tiny_task())
    assert [again.step(0.5) for _ in range(3)][1:] == [trainer.step(0.5) for _ in range(2)]


def test_twice_in_a_row_the_run_goes_back_to_the_state_before(tmp_path, monkeypatch):
    """The latest state may be on the brink of divergence already."""
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    task = tiny_task(tmp_path, recipe=tiny_recipe(iterations=30), reporter=CollectingReporter())
    loop = training._Loop(task, resume=False)
    for _ in range(5):
        loop._guarded_step()
        loop._side_tasks()
    for expected in (5, 4, 4):
        loop.snapshots.roll_back(loop.trainer)
        assert loop.trainer.counters.iteration == expected
    assert loop.trainer.counters.rate_factor == 0.125


@pytest.mark.parametrize("length, expected", [(3.0, 3.0), (48.0, 12.0)])
def test_only_a_long_gradient_is_shortened(length: float, expected: float):
    gradients = [torch.ones(4, 5), torch.ones(80)]  # 10 long together
    torch._foreach_mul_(gradients, length / 10)
    assert float(shorten(gradients)) == pytest.approx(length, rel=1e-4)
    assert math.sqrt(sum(float(g.square().sum()) for g in gradients)) == pytest.approx(expected, rel=1e-4)
