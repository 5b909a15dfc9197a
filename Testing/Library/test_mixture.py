"""How much the U-Net and the classifier of single voxels count."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import NARROW, iou, tiny_annotation, tiny_labels, tiny_recipe, tiny_volume

from SparseUNet3DLib.mixture import USUAL, HeldOutLogits, Mixture, fit_mixture
from SparseUNet3DLib.model_file import load_model
from SparseUNet3DLib.workflow import RunOptions, densify, segment


def a_slice(of_network: float, of_voxels: float, seed: int = 0, voxels: int = 4000, classes: int = 3) -> HeldOutLogits:
    """Logits of two that know about the truth: labels are drawn from the softmax of their mixture by these factors."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (4 * torch.randn(classes, voxels, generator=generator) for _ in range(2))
    probability = F.softmax(of_network * first + of_voxels * second, dim=0).T
    return HeldOutLogits(first, second, torch.multinomial(probability, 1, generator=generator)[:, 0])


@pytest.mark.parametrize("factors", [(0.5, 0.2), (1.0, 0.35), (0.4, 0.5), (1.2, 0.18)])
def test_the_factors_that_the_truth_was_drawn_with_are_found(factors: tuple[float, float]):
    found = fit_mixture([a_slice(*factors, seed=n) for n in range(4)], 4)
    assert (found.network, found.voxels) == pytest.approx(factors, rel=0.1)


def test_one_slice_of_few_voxels_is_believed_less_than_several():
    alone = fit_mixture([a_slice(0.3, 0.6)], 1)
    several = fit_mixture([a_slice(0.3, 0.6, seed=n) for n in range(6)], 6)
    shares = [m.voxels / m.network for m in (USUAL, alone, several)]
    assert shares == sorted(shares)


def test_one_slice_moves_the_ratio_no_further_than_its_reach():
    """However certain the one is, and wrong the other."""
    right = a_slice(1.0, 0.0)
    certain = replace(right, voxels=20 * F.one_hot(right.labels, 3).T.float(), network=-right.network)
    for slices in (1, 4):
        found = fit_mixture([certain] * slices, slices)
        change = found.voxels / found.network / (USUAL.voxels / USUAL.network)
        assert 1.5 < change <= 2.5 ** math.sqrt(slices) * 1.001


def test_several_answers_about_one_slice_are_believed_as_little_as_one():
    four, one = (fit_mixture([a_slice(0.3, 0.6)] * n, 1) for n in (4, 1))
    assert (four.network, four.voxels) == pytest.approx((one.network, one.voxels), rel=1e-3)


def test_without_held_out_slices_both_count_as_usual():
    empty = HeldOutLogits(torch.zeros(3, 0), torch.zeros(3, 0), torch.zeros(0, dtype=torch.int64))
    assert fit_mixture([], 0) == fit_mixture([empty], 1) == USUAL


def test_a_classifier_that_is_wrong_hardly_counts_and_one_without_fault_does():
    right = a_slice(1.0, 0.0)
    assert fit_mixture([right] * 4, 4).voxels < 0.1
    certain = replace(right, voxels=20 * F.one_hot(right.labels, 3).T.float())
    assert fit_mixture([certain] * 4, 4).voxels > 0.3


@pytest.mark.parametrize("size", [1e6, 1e30])
def test_absurd_logits_give_usable_factors(size: float):
    absurd = a_slice(1.0, 0.35)
    found = fit_mixture([replace(absurd, network=size * absurd.network, voxels=size * absurd.voxels)], 1)
    assert 0 <= found.network < float("inf")
    assert 0 <= found.voxels < float("inf")


def test_logits_that_inference_made_can_be_fitted_to():
    with torch.inference_mode():
        made = a_slice(0.5, 0.2)
        held_out = HeldOutLogits(made.network.clone(), made.voxels.clone(), made.labels.clone())
    assert fit_mixture([held_out], 1) == fit_mixture([a_slice(0.5, 0.2)], 1)


def test_all_voxels_of_a_large_slice_need_not_be_looked_at():
    large = a_slice(0.5, 0.2, voxels=120_000)
    assert fit_mixture([large] * 4, 4).voxels == pytest.approx(0.2, rel=0.1)


def test_the_mixture_of_two():
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.0])
    assert Mixture(2.0, 0.5).of(first, second).tolist() == [7.0, 4.0]


def learn(planes: tuple[int, ...], **changes: object):
    recipe = tiny_recipe(**{"iterations": 3, "voxel_classifier": True, **changes})
    annotation = tiny_annotation(tiny_volume(), planes)
    return densify(
        tiny_volume(), annotation, recipe, RunOptions("cpu", plan={**NARROW, "widths": "4,8"}), keep_annotation=False
    )


@pytest.mark.parametrize("members", [1, 2])
def test_the_held_out_slices_of_a_run_decide_and_the_model_keeps_it(tmp_path, members: int):
    """After three steps the network knows nothing, and the classifier nearly all."""
    prediction, model = learn((2, 5, 8, 11, 14, 17, 20), members=members)
    assert model.mixture.voxels > 1.5 * USUAL.voxels
    assert model.mixture.voxels / model.mixture.network > USUAL.voxels
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    again = segment(loaded, tiny_volume(), "cpu")
    assert np.array_equal(again.segmentation.labels, prediction.segmentation.labels)
    assert np.array_equal(again.confidence, prediction.confidence)


def test_the_mixture_of_a_model_is_that_by_which_it_segments():
    _, model = learn((2, 5, 8, 11, 14, 17, 20))
    by = {
        voxels: segment(replace(model, mixture=Mixture(network, voxels)), tiny_volume(), "cpu").segmentation.labels
        for network, voxels in ((0.0, 1.0), (1.0, 0.0))
    }
    assert min(iou(by[1.0], tiny_labels())) > 0.9 > max(iou(by[0.0], tiny_labels()))


def test_another_volume_is_segmented_by_the_network_alone():
    _, model = learn((2, 5, 8, 11, 14, 17, 20))
    without = replace(model, mixture=Mixture(1.0, 0.0))
    found, expected = (segment(m, tiny_volume(seed=1), "cpu").segmentation.labels for m in (model, without))
    assert np.array_equal(found, expected)


def test_where_nothing_is_held_out_or_no_classifier_asked_all_is_as_usual():
    assert learn((5, 10, 15))[1].mixture == USUAL
    assert learn((2, 5, 8, 11, 14, 17, 20), voxel_classifier=False)[1].mixture == USUAL
