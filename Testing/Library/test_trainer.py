"""Single steps: their batches, their augmentation, and the optimisers' moments."""

from __future__ import annotations

import pytest
from tiny_training import make_trainer, same_weights, tiny_recipe, tiny_task


def test_augmentation_grows_with_the_steps_whatever_the_budget():
    trainer = make_trainer(tiny_task(recipe=tiny_recipe(first_augmentation=0.4, augmentation_steps=200)))
    found = []
    for iteration in (0, 100, 200, 5000):
        trainer.counters.iteration = iteration
        found.append(trainer.augmentation_strength(trainer.counters.steps))
    assert found == pytest.approx([0.4, 0.55, 1.0, 1.0])


def test_batches_drawn_ahead_are_those_that_would_be_drawn_later():
    """As for a GPU. A state taken meanwhile, and one gone back to, is that of the batch that comes next."""
    recipe = tiny_recipe(first_augmentation=0.25, augmentation_steps=4)
    task = tiny_task(recipe=recipe)
    one_by_one, ahead, resumed = (make_trainer(task) for _ in range(3))
    ahead.draws_ahead = resumed.draws_ahead = True
    losses = [one_by_one.step(0.5) for _ in range(6)]
    assert [ahead.step(0.5) for _ in range(3)] == losses[:3]
    middle = ahead.state()
    assert [ahead.step(0.5) for _ in range(3)] == losses[3:]
    assert same_weights(ahead.state(), one_by_one.state())
    resumed.step(0.5)  # has a batch drawn ahead that must not be used
    resumed.restore(middle)
    resumed.counters.iteration = 3
    assert [resumed.step(0.5) for _ in range(3)] == losses[3:]


def test_steps_are_made_with_the_present_strength():
    recipe = tiny_recipe(first_augmentation=0.25, augmentation_steps=4)
    trainer = make_trainer(tiny_task(recipe=recipe))
    seen = []
    draw = trainer.sampler.draw_batch
    trainer.sampler.draw_batch = lambda generator, strength: (seen.append(strength), draw(generator, strength))[1]
    for _ in range(6):
        trainer.step(0.5)
    assert seen == pytest.approx([0.25, 0.25 + 0.75 / 16, 0.4375, 0.25 + 0.75 * 9 / 16, 1.0, 1.0])


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_restored_moments_have_the_layout_of_their_parameters(optimizer: str):
    """Which files do not keep, and fused optimisers of a GPU need."""
    task = tiny_task(recipe=tiny_recipe(optimizer=optimizer))
    first, second = make_trainer(task), make_trainer(task)
    first.step(0.5)
    second.restore({n: t.contiguous() for n, t in first.state().items()})
    moments = [
        (p, t) for o in second.optimizers for p, values in o.state.items() for t in values.values() if t.ndim == 5
    ]
    assert moments and any(not p.is_contiguous() for p, _ in moments)
    assert all(p.stride() == t.stride() for p, t in moments)
    assert same_weights(second.state(), first.state())
