from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import NARROW, SEGMENTS, iou, tiny_annotation, tiny_labels, tiny_plan, tiny_recipe, tiny_volume
from torch import nn
from volumes_for_tests import CPU, make_case

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.evaluation import FALSE_NEGATIVE
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.known_slices import KnownSlices
from SparseUNet3DLib.model_file import Model, adapt_weights, load_model
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.tiles import Box
from SparseUNet3DLib.volumes import Volume
from SparseUNet3DLib.workflow import Prediction, RunOptions, densify, segment

SHAPE = (9, 11, 13)
PLANES = (Plane(0, 2), Plane(0, 6), Plane(1, 5), Plane(2, 10))
SPACING = (3.0, 1.0, 1.5)


def known(planes: tuple[Plane, ...] = PLANES) -> tuple[KnownSlices, np.ndarray]:
    """The slices of a volume with two structures at random, and its labels."""
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint16)
    case = make_case(np.zeros(SHAPE, np.float32), None, labels, SPACING, planes, ("one", "other"))
    return KnownSlices(case.annotation, 3, CPU), labels


def everywhere() -> torch.Tensor:
    return torch.from_numpy(np.indices(SHAPE).astype(np.float32))


def test_each_voxel_is_told_the_share_of_the_slices_that_show_a_structure_beside_it():
    slices, labels = known()
    found = slices.channels(everywhere()).numpy()
    z, y, x = 4, 8, 3
    seen = {0: labels[2, y, x], 1: labels[6, y, x], 2: labels[z, 5, x], 3: labels[z, y, 10]}
    distances = {0: 2 * 3.0, 1: 2 * 3.0, 2: 3 * 1.0, 3: 7 * 1.5}  # in voxels of the finest spacing, 1 mm
    weights = {n: 1 / (d**2 + 0.25) for n, d in distances.items()}
    for structure in (1, 2):
        expected = sum(w for n, w in weights.items() if seen[n] == structure) / sum(weights.values())
        np.testing.assert_allclose(found[structure - 1, z, y, x], expected, rtol=1e-5)
    np.testing.assert_allclose(found[2, z, y, x], 1 / (1 + 3 / 8), rtol=1e-5)


def test_on_a_slice_its_own_labels_count_most():
    slices, labels = known((Plane(0, 2), Plane(0, 6)))
    found = slices.channels(everywhere()).numpy()
    for plane in (2, 6):
        np.testing.assert_array_equal(found[:2, plane].round(), np.stack([labels[plane] == n for n in (1, 2)]))
        assert (found[2, plane] == 1).all()
    assert found.min() >= 0 and found.max() <= 1


def test_hidden_slices_tell_nothing():
    slices, _ = known()
    without, _ = known(PLANES[1:])
    torch.testing.assert_close(slices.channels(everywhere(), PLANES[:1]), without.channels(everywhere()))
    assert (slices.channels(everywhere(), PLANES) == 0).all()


def test_positions_between_and_outside_of_the_voxels_are_answered():
    """A rotated patch asks beyond the border, where the nearest voxel of a slice answers."""
    slices, labels = known((Plane(0, 2),))
    where = torch.tensor([[2.0, 2.0, -3.0], [-4.0, 4.4, 3.0], [5.2, 40.0, 6.6]])[:, None, None]
    found = slices.channels(where).numpy()[:, 0, 0]
    for n, (y, x) in enumerate([(0, 5), (4, 12), (3, 7)]):
        np.testing.assert_allclose(found[:2, n], [labels[2, y, x] == 1, labels[2, y, x] == 2])
    np.testing.assert_allclose(found[2], [1, 1, 1 / (1 + 15 / 8)])


def test_the_voxels_of_the_slices_are_found():
    slices, _ = known()
    on = np.zeros(SHAPE, bool)
    for plane in PLANES[1:]:
        on[plane.voxels] = True
    np.testing.assert_array_equal(slices.contains(everywhere() + 0.3, PLANES[:1]).numpy(), on)
    assert not slices.contains(everywhere(), PLANES).any()


def test_an_annotation_without_complete_slices_tells_nothing():
    slices, _ = known(())
    assert (slices.channels(everywhere()) == 0).all()


# -- in a whole run --------------------------------------------------------------------------------------


def noise_volume() -> Volume:
    volume = tiny_volume()
    noise = np.random.default_rng(1).normal(size=volume.array.shape).astype(np.float32)
    return replace(volume, array=noise)


def learn(annotation: SparseAnnotation, known_slices: bool, hold_out: int = 0) -> Prediction:
    recipe = tiny_recipe(iterations=120, learning_rate=0.03, known_slices=known_slices)
    options = RunOptions("cpu", hold_out=hold_out, plan={**NARROW, "widths": "4,8"})
    return densify(noise_volume(), annotation, recipe, options, keep_annotation=False)[0]


class SaysWhatItIsTold(nn.Module):
    """Its corrected logits are the channels of the known slices."""

    def forward(self, x: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert known.shape == (1, 3, *x.shape[2:])
        return torch.zeros_like(known), known.clone()


@pytest.mark.parametrize("mirror", [(), ("z", "x")])
@pytest.mark.parametrize("coarser", [1.0, 2.0])
def test_each_tile_is_told_of_the_slices_at_its_own_place(coarser: float, mirror: tuple[str, ...]):
    volume = tiny_volume()
    slices = KnownSlices(tiny_annotation(volume), 3, CPU)
    plan = tiny_plan(known_slices=True, spacing=(coarser,) * 3)
    predictor = Predictor(
        SaysWhatItIsTold(), plan, (ChannelNormalisation("gray"),), volume.array, (1.0, 1.0, 1.0), CPU,
        settings=InferenceSettings(mirror=mirror), known=slices,
    )
    found = predictor.logits(Box((0, 0, 0), volume.array.shape[1:])).numpy()
    where = torch.from_numpy(np.indices(volume.array.shape[1:]).astype(np.float32))
    expected = slices.channels(where).numpy()
    # Between the voxels of a coarser grid, shares are interpolated.
    at = (slice(None), *[slice(None, None, int(coarser))] * 3)
    np.testing.assert_allclose(found[at], expected[at], atol=1e-5)


def test_where_the_image_shows_nothing_the_slices_tell():
    annotation = tiny_annotation(noise_volume(), (3, 7, 11, 15, 19))
    told, not_told = (learn(annotation, known).segmentation.labels for known in (True, False))
    truth = tiny_labels()
    assert np.mean(iou(told, truth)) > 0.4
    assert np.mean(iou(told, truth)) > np.mean(iou(not_told, truth)) + 0.2


@pytest.mark.parametrize("planes, held_out, taught", [
    ((8,), None, False), ((8, 16), None, True), ((8, 16), (Plane(0, 16),), False), ((4, 8, 16), (Plane(0, 16),), True),
])
def test_what_slices_tell_is_only_used_where_it_can_be_learnt(planes, held_out, taught: bool):
    """By one slice a network cannot learn what it tells about others, and weights at random would count it."""
    annotation = replace(tiny_annotation(tiny_volume(), planes), held_out=held_out)
    options = RunOptions("cpu", plan={**NARROW, "widths": "4,8"})
    _, model = densify(tiny_volume(), annotation, tiny_recipe(iterations=1), options)
    assert model.plan.known_slices == taught
    _, further = densify(
        tiny_volume(), tiny_annotation(tiny_volume(), (8, 12, 16)), tiny_recipe(iterations=1),
        replace(options, start_from=model),
    )
    assert further.plan.known_slices


def test_errors_on_held_out_slices_are_those_of_a_network_that_does_not_know_them():
    """A structure that only the held-out slice shows cannot be found there, although the result knows the slice."""
    annotation = tiny_annotation(noise_volume(), (2, 6, 10, 14, 18))
    labels = annotation.labels.copy()
    labels[10, :6, :6] = 1
    prediction = learn(replace(annotation, labels=labels, held_out=(Plane(0, 10),)), True, None)
    assert (prediction.confusion[10, :6, :6] == FALSE_NEGATIVE).mean() > 0.9
    assert not prediction.confusion[[9, 11]].any()


def test_a_model_made_by_densify_segments_other_volumes_without_any_slices():
    volume = tiny_volume()
    options = RunOptions("cpu", hold_out=0, plan={**NARROW, "widths": "8,16"})
    recipe = tiny_recipe(iterations=150, learning_rate=0.03)
    _, model = densify(volume, tiny_annotation(volume), recipe, options)
    assert model.plan.known_slices
    other = tiny_volume(seed=5)
    assert min(iou(segment(model, other, "cpu").segmentation.labels, tiny_labels())) > 0.6


def test_slices_of_a_segment_that_the_model_does_not_know_tell_of_background():
    volume = tiny_volume()
    _, model = densify(
        volume, tiny_annotation(volume), tiny_recipe(), RunOptions("cpu", hold_out=0, plan={**NARROW, "widths": "4,8"})
    )
    annotation = tiny_annotation(volume)
    renamed = (replace(annotation.segments[0], name="unknown"), annotation.segments[1])
    free = replace(annotation, labels=np.where(annotation.labels == 2, np.uint16(2), np.uint16(0)))
    both = (replace(annotation, segments=renamed), free)
    with_unknown, without = (segment(model, volume, "cpu", known=a).segmentation.labels for a in both)
    np.testing.assert_array_equal(with_unknown, without)


def test_a_model_with_a_correction_is_a_file_like_any_other(tmp_path: Path):
    plan = tiny_plan(known_slices=True)
    model = Model(plan, Recipe(), (ChannelNormalisation("gray"),), SEGMENTS, build_network(plan).state_dict(), {})
    model.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").plan.known_slices


@pytest.mark.parametrize("had, wanted", [(False, True), (True, False), (True, True)])
def test_a_warm_start_gets_or_loses_the_correction(had: bool, wanted: bool):
    plan = tiny_plan(known_slices=had)
    weights = build_network(plan).state_dict()
    model = Model(plan, Recipe(), (ChannelNormalisation("gray"),), SEGMENTS, weights, {})
    target = replace(plan, known_slices=wanted)
    adapted = adapt_weights(model, target, SEGMENTS)
    build_network(target).load_state_dict(adapted)
    assert all(torch.equal(t, weights[n]) for n, t in adapted.items() if n in weights)


def test_the_correction_is_learnt_anew_for_other_segments():
    plan = tiny_plan(known_slices=True)
    model = Model(plan, Recipe(), (ChannelNormalisation("gray"),), SEGMENTS, build_network(plan).state_dict(), {})
    adapted = adapt_weights(model, replace(plan, classes=2), SEGMENTS[:1])
    build_network(replace(plan, classes=2)).load_state_dict(adapted)
