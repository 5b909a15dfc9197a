from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from SparseUNet3DLib.loss import UNANNOTATED, annotated_voxels, class_weights, sparse_loss


def as_volume(rows: list[list[float]]) -> torch.Tensor:
    """Logits (1, classes, 1, 1, voxels) from one row of logits per voxel."""
    return torch.tensor(rows, dtype=torch.float32).T.reshape(1, len(rows[0]), 1, 1, len(rows))


def labels_of(*values: int) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, len(values))


def random_problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 3, 3, 4, 5) and a target of which about a third is annotated."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 3, 4, 5, generator=generator)
    target = torch.randint(0, 3, (2, 3, 4, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.66] = UNANNOTATED
    return logits, target


def test_weighted_cross_entropy_by_hand():
    logits = as_volume([[0.0, math.log(3)], [0.0, 0.0], [5.0, -5.0]])
    target = labels_of(1, 0, UNANNOTATED)
    # p(1) = 3/4 with weight 3, p(0) = 1/2 with weight 1; the third voxel is unknown.
    expected = (3 * math.log(4 / 3) + 1 * math.log(2)) / (3 + 1)
    loss = sparse_loss(logits, target, torch.tensor([1.0, 3.0]), dice=False)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    unweighted = sparse_loss(logits, target, dice=False)
    assert unweighted.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-6)


def test_dice_by_hand():
    logits = as_volume([[0.0, math.log(3)], [0.0, 0.0], [5.0, -5.0]])
    target = labels_of(1, 0, UNANNOTATED)
    # Foreground probabilities 3/4 and 1/2, truth 1 and 0: 2 * 3/4 / (5/4 + 1).
    dice = sparse_loss(logits, target) - sparse_loss(logits, target, dice=False)
    assert dice.item() == pytest.approx(1 - 1.5 / 2.25, rel=1e-5)


def test_dice_is_the_mean_over_the_foreground_classes_that_are_there():
    logits = as_volume([[0.0, math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0, math.log(2)]])
    dice = sparse_loss(logits, labels_of(1, 3)) - sparse_loss(logits, labels_of(1, 3), dice=False)
    # Probabilities of class 1: 2/5, 1/5; of class 3: 1/5, 2/5; class 2 is nowhere and does not count.
    assert dice.item() == pytest.approx(1 - 2 * 0.4 / (0.6 + 1), rel=1e-5)


def test_dice_without_foreground_adds_nothing():
    logits = as_volume([[1.0, 2.0], [0.0, 1.0]])
    both = sparse_loss(logits, labels_of(0, 0)), sparse_loss(logits, labels_of(0, 0), dice=False)
    assert both[0] == both[1]


@pytest.mark.parametrize("dice", [False, True])
def test_unannotated_voxels_have_no_influence(dice: bool):
    logits, target = random_problem()
    weights = torch.tensor([0.5, 1.0, 4.0])
    other = logits.clone()
    unannotated = (target == UNANNOTATED)[:, None].expand_as(logits)
    other[unannotated] = torch.randn(int(unannotated.sum()), generator=torch.Generator().manual_seed(9)) * 50
    results = []
    for values in (logits, other):
        values.requires_grad_()
        loss = sparse_loss(values, target, weights, dice)
        loss.backward()
        results.append((loss.detach(), values.grad))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert not results[0][1][unannotated].any()
    assert results[0][1][~unannotated].any()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_a_dense_reference(weights: torch.Tensor | None, seed: int):
    """The reference, in float64, multiplies with masks over all voxels; its gradient is by differences."""
    logits, target = random_problem(seed)
    truth = target.numpy()
    w = np.ones(3) if weights is None else weights.numpy()

    def reference(values: np.ndarray) -> float:
        log_p = log_softmax(values, axis=1)
        entropy, total, dices = 0.0, 0.0, []
        for label in range(3):
            mask = truth == label
            entropy -= w[label] * (log_p[:, label] * mask).sum()
            total += w[label] * mask.sum()
            if label:
                p = np.exp(log_p[:, label]) * (truth != UNANNOTATED)
                dices.append(2 * (p * mask).sum() / (p.sum() + mask.sum()))
        return entropy / total + 1 - np.mean(dices)

    values = logits.double().numpy()
    logits.requires_grad_()
    loss = sparse_loss(logits, target, None if weights is None else weights.float())
    loss.backward()
    assert loss.item() == pytest.approx(reference(values), rel=1e-5)
    rng = np.random.default_rng(seed)
    for _ in range(40):
        index = tuple(rng.integers(0, n) for n in values.shape)
        step = np.zeros_like(values)
        step[index] = 1e-5
        slope = (reference(values + step) - reference(values - step)) / 2e-5
        assert logits.grad[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("dice", [False, True])
def test_picking_the_annotated_voxels_first_changes_nothing(dice: bool):
    logits, target = random_problem()
    found = []
    for annotated in (None, annotated_voxels(target)):
        values = logits.clone().requires_grad_()
        loss = sparse_loss(values, target, torch.tensor([0.5, 1.0, 4.0]), dice, annotated)
        loss.backward()
        found.append((loss.detach(), values.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("picked", [False, True])
@pytest.mark.parametrize("dice", [False, True])
def test_nothing_annotated_gives_zero_and_a_zero_gradient(dice: bool, picked: bool):
    logits, target = random_problem()
    logits.requires_grad_()
    nothing = torch.full_like(target, UNANNOTATED)
    loss = sparse_loss(logits, nothing, torch.ones(3), dice, annotated_voxels(nothing) if picked else None)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("confidence", [1.0, 20.0, 1000.0])
def test_an_absent_class_leaves_loss_and_gradient_finite(confidence: float):
    """At 1000, the absent class 2 has a probability of exactly 0 on every annotated voxel."""
    logits = as_volume([[confidence, 0.0, -confidence], [0.0, confidence, -confidence]]).requires_grad_()
    loss = sparse_loss(logits, labels_of(0, 1), class_weights([1, 1, 0], 1.0))
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_judged_in_single_precision():
    logits, target = random_problem()
    exact = sparse_loss(logits.bfloat16().float(), target)
    assert sparse_loss(logits.bfloat16(), target).dtype == torch.float32
    assert sparse_loss(logits.bfloat16(), target) == exact


def test_class_weights_by_hand():
    assert class_weights([90, 10], 0.0).tolist() == pytest.approx([1, 1])
    # Inverse frequencies 10/9 and 10, scaled so that the mean over all voxels is 1.
    assert class_weights([90, 10], 1.0).tolist() == pytest.approx([0.5 / 0.9, 0.5 / 0.1])
    between = class_weights([90, 10], 0.5)
    assert (between[1] / between[0]).item() == pytest.approx(3.0)


@pytest.mark.parametrize("balance", [0.0, 0.25, 1.0])
def test_class_weights_have_mean_1_and_leave_out_missing_classes(balance: float):
    counts = [1000, 0, 30, 1]
    weights = class_weights(counts, balance)
    assert weights.dtype == torch.float32
    assert weights[1] == 0
    assert (weights * torch.tensor(counts)).sum().item() == pytest.approx(sum(counts), rel=1e-5)
    if balance == 1.0:
        influence = weights * torch.tensor(counts)
        assert influence[[0, 2, 3]].tolist() == pytest.approx([1031 / 3] * 3, rel=1e-5)


def test_class_weights_of_no_voxels_are_zero():
    assert class_weights([0, 0], 0.5).tolist() == [0, 0]
