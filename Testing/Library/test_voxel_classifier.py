"""The classifier of single voxels: what it learns, and what it does in a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import (
    NARROW,
    SEGMENTS,
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

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError, Interrupted
from SparseUNet3DLib.inference import Predictor
from SparseUNet3DLib.model_file import Model, adapt_weights, load_model
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.orientation import Turn
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.training import run_training
from SparseUNet3DLib.voxel_classifier import VoxelSample
from SparseUNet3DLib.voxel_features import VoxelFeatures
from SparseUNet3DLib.workflow import RunOptions, densify, segment, train

CHANNELS = (ChannelNormalisation("channel0"),)
PLAN = tiny_plan(voxel_spacing=(1.0, 1.0, 1.0))


def fitted_to(cases, channels, plan, device, seed):
    return VoxelSample([cases], channels, plan, device).fit(cases, seed)


def tiny_case(**changes: object) -> Case:
    volume = tiny_volume(**changes)
    return Case(volume, tiny_annotation(volume))


def classify(case: Case, plan=PLAN, seed: int = 0, cases=None) -> np.ndarray:
    """Labels (z, y, x) by single voxels alone, fitted to ``cases``."""
    network = build_network(plan)
    fitted = fitted_to(cases or [case], CHANNELS * plan.in_channels, plan, CPU, seed)
    network.voxel_network.load_state_dict(fitted.state_dict())
    for part in (network.head.weight, network.head.bias):
        part.data.zero_()
    volume = case.volume
    predictor = Predictor(
        network, plan, CHANNELS * plan.in_channels, volume.array, volume.geometry.array_spacing, CPU
    )
    return predictor.segment()[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"dtype": np.uint16}, {"channels": 2}, {"spacing": (1.0, 1.0, 4.0)}, {"spacing": (0.5, 0.5, 0.5)}],
    ids=["plain", "uint16", "two channels", "thick slices", "finer than the plan"],
)
def test_single_voxels_tell_structures_by_their_gray_values(changes):
    case = tiny_case(**changes)
    plan = replace(PLAN, in_channels=changes.get("channels", 1))
    if changes.get("spacing") == (1.0, 1.0, 4.0):
        plan = replace(plan, voxel_spacing=(4.0, 1.0, 1.0))
    assert min(iou(classify(case, plan), tiny_labels())) > 0.9


def test_only_annotated_voxels_are_learnt_from():
    case = tiny_case()
    labels = case.annotation.labels.copy()
    labels[~case.annotation.annotated] = 1
    other = Case(case.volume, replace(case.annotation, labels=labels))
    first, second = (fitted_to([c], CHANNELS, PLAN, CPU, 0).state_dict() for c in (case, other))
    assert same_weights(first, second)


def test_several_volumes_are_learnt_from_together():
    """One shows the bright structure only, the other the dark one."""
    case = tiny_case()
    parts = [
        replace(case.annotation, annotated=case.annotation.annotated & (case.annotation.labels != n)) for n in (1, 2)
    ]
    nothing = replace(case.annotation, annotated=np.zeros_like(case.annotation.annotated))
    found = classify(case, cases=[Case(case.volume, a) for a in (*parts, nothing)])
    assert min(iou(found, tiny_labels())) > 0.9


def test_of_many_annotated_voxels_some_are_learnt_from_but_of_few_all(monkeypatch):
    monkeypatch.setattr("SparseUNet3DLib.voxel_classifier._MOST_VOXELS", 400)
    monkeypatch.setattr("SparseUNet3DLib.voxel_classifier._FEW_VOXELS", 100)
    case = tiny_case()
    annotated = case.annotation.annotated & ((case.annotation.labels != 2) | (np.arange(32) == 24))
    assert (case.annotation.labels[annotated] == 2).sum() < 100
    found = classify(case, cases=[Case(case.volume, replace(case.annotation, annotated=annotated))])
    assert min(iou(found, tiny_labels())) > 0.8


def test_of_annotations_that_differ_by_a_slice_nearly_the_same_voxels_are_chosen(monkeypatch):
    """Filters are computed for all of them, and take long."""
    monkeypatch.setattr("SparseUNet3DLib.voxel_classifier._MOST_VOXELS", 1000)
    monkeypatch.setattr("SparseUNet3DLib.voxel_classifier._FEW_VOXELS", 100)
    looked: list[np.ndarray] = []
    at = VoxelFeatures.at
    monkeypatch.setattr(VoxelFeatures, "at", lambda self, voxels: looked.append(voxels) or at(self, voxels))
    volume = tiny_volume()
    learnt = [[Case(volume, tiny_annotation(volume, planes))] for planes in ((3, 7, 11, 15), (3, 7, 11, 15, 19))]
    sample = VoxelSample(learnt, CHANNELS, PLAN, CPU)
    (voxels,) = looked
    assert 900 < len(voxels) < 1400
    # Spread over the slices, and over each of them.
    assert np.bincount(voxels[:, 0])[[3, 7, 11, 15, 19]].min() > 100
    assert np.bincount(voxels[:, 1], minlength=32).min() > 10
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr("SparseUNet3DLib.voxel_classifier._fit_network", lambda *parts: given.append(parts[:2]))
    for cases in learnt:
        sample.fit(cases, 0)
        fitted_to(cases, CHANNELS, PLAN, CPU, 0)
        (features, labels), (alone, labels_alone) = given[-2:]
        torch.testing.assert_close(features, alone, rtol=1e-4, atol=1e-4)
        assert torch.equal(labels, labels_alone)


def test_a_flat_background_does_not_drown_the_rest():
    case = tiny_case()
    image = case.volume.array * (tiny_labels() > 0)  # 0 around the structures, in most of the voxels
    flat = Case(replace(case.volume, array=image), case.annotation)
    assert min(iou(classify(flat), tiny_labels())) > 0.95


def test_a_single_annotated_voxel_is_enough_to_go_on():
    case = tiny_case()
    annotated = np.zeros_like(case.annotation.annotated)
    annotated[12, 12, 12] = True
    case = Case(case.volume, replace(case.annotation, annotated=annotated))
    fitted = fitted_to([case], CHANNELS, PLAN, CPU, 0)
    assert all(t.isfinite().all() for t in fitted.state_dict().values())


# -- in a training -----------------------------------------------------------------------------------------


def test_it_stays_as_it_was_fitted_while_the_network_is_trained():
    task = tiny_task(plan=PLAN, recipe=tiny_recipe(iterations=5))
    fitted = fitted_to(task.folds[0].cases, CHANNELS, PLAN, CPU, task.recipe.seed).state_dict()
    weights = run_training(task).weights
    assert all(torch.equal(weights[f"voxel_network.{name}"], tensor) for name, tensor in fitted.items())


def test_a_stopped_run_goes_on_with_it(tmp_path: Path):
    recipe = tiny_recipe(iterations=8)
    unbroken = run_training(tiny_task(plan=PLAN, recipe=recipe)).weights
    with pytest.raises(Interrupted):
        run_training(tiny_task(tmp_path, plan=PLAN, recipe=recipe, stop=StopAfter(3)))
    assert same_weights(run_training(tiny_task(tmp_path, plan=PLAN, recipe=recipe), resume=True).weights, unbroken)


def voxel_weights(model: Model) -> dict[str, torch.Tensor]:
    """Of the classifier of single voxels."""
    prefix = "voxel_network."
    return {n.removeprefix(prefix): t for n, t in model.weights.items() if n.startswith(prefix)}


def test_a_volume_stored_otherwise_is_classified_as_the_one_learnt_from():
    """Slices across x instead of z: the features follow the axes of the plan."""
    volume = tiny_volume(spacing=(1.0, 1.0, 3.0))
    options = RunOptions("cpu", plan={**NARROW, "widths": "4,8"})
    recipe = tiny_recipe(iterations=1, voxel_classifier=True)
    annotation = tiny_annotation(volume)
    _, model = densify(volume, annotation, recipe, options)
    turn = Turn((2, 1, 0), (1,))
    turned = turn.volume(volume)
    found = segment(model, turned, "cpu").segmentation.labels
    expected = segment(model, volume, "cpu").segmentation.labels
    assert (turn.back(found) == expected).mean() > 0.999


def learn(annotation: SparseAnnotation, **changes: object):
    options = RunOptions("cpu", plan={**NARROW, "widths": "4,8"})
    recipe = tiny_recipe(**{"iterations": 2, "voxel_classifier": True, **changes})
    return densify(tiny_volume(), annotation, recipe, options, keep_annotation=False)


def test_a_volume_is_segmented_by_it_from_the_first_step_on():
    annotation = tiny_annotation(tiny_volume())
    with_it, without = (learn(annotation, voxel_classifier=b)[0].segmentation.labels for b in (True, False))
    assert min(iou(with_it, tiny_labels())) > 0.9 > max(iou(without, tiny_labels()))


def test_held_out_slices_are_not_learnt_from():
    """Whatever they show, what is fitted is the same."""
    annotation = replace(tiny_annotation(tiny_volume(), (2, 6, 10, 14, 18)), held_out=(Plane(0, 10),))
    labels = annotation.labels.copy()
    labels[10] = 2 - labels[10]
    fitted = [voxel_weights(learn(a)[1]) for a in (annotation, replace(annotation, labels=labels))]
    assert same_weights(*fitted)


def test_several_networks_each_have_their_own(tmp_path: Path):
    """Each is fitted without the slices that its network does not learn from."""
    volume, planes = tiny_volume(), (2, 5, 8, 11, 14, 17, 20)
    _, model = learn(tiny_annotation(volume, planes), members=2)
    scored, hidden_from = model.as_scored().members(), model.record["held_out_by_network"]
    for number, (member, held_out) in enumerate(zip(scored, hidden_from, strict=True)):
        (hidden,) = held_out["tiny"]
        kept = tiny_annotation(volume, [n for n in planes if n != int(hidden.split(":")[1])])
        seed = model.recipe.seed + 10_007 * number
        expected = fitted_to([Case(volume, kept)], model.channels, member.plan, CPU, seed).state_dict()
        assert same_weights(voxel_weights(member), expected)
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    labels = [segment(m, tiny_volume(), "cpu").segmentation.labels for m in (model, again)]
    np.testing.assert_array_equal(*labels)
    assert min(iou(labels[0], tiny_labels())) > 0.9


def test_the_volume_that_was_learnt_from_is_known_again(tmp_path: Path):
    """However it is stored, it is segmented as it was when the model was made."""
    prediction, model = learn(tiny_annotation(tiny_volume()))
    model.save(tmp_path / "m.safetensors")
    loaded, volume, turn = load_model(tmp_path / "m.safetensors"), tiny_volume(), Turn((0, 1, 2), (1, 2))
    again = segment(loaded, replace(volume, array=volume.array.astype(np.float64)), "cpu")
    np.testing.assert_array_equal(again.segmentation.labels, prediction.segmentation.labels)
    turned = turn.back(segment(loaded, turn.volume(volume), "cpu").segmentation.labels)
    assert (turned == prediction.segmentation.labels).mean() > 0.999
    assert loaded.learnt_volume(volume)["name"] == "tiny"
    # Where the spacing is another one, filters see something else.
    for spacing, known in ((1.0001, True), (2.0, False)):
        stored = replace(volume, geometry=replace(volume.geometry, spacing=(1.0, 1.0, spacing)))
        assert (loaded.learnt_volume(stored) is not None) == known


def test_how_zero_is_stored_does_not_count():
    volume = tiny_volume()
    negative, positive = (replace(volume, array=np.full_like(volume.array, zero)) for zero in (-0.0, 0.0))
    assert negative.fingerprint() == positive.fingerprint() != volume.fingerprint()


def test_other_volumes_are_left_to_the_network():
    _, model = learn(tiny_annotation(tiny_volume()))
    alone = replace(
        model, plan=replace(model.plan, voxel_spacing=()),
        weights={n: t for n, t in model.weights.items() if "voxel_network." not in n},
    )
    other = tiny_volume(seed=3)
    for keep in (None, tiny_annotation(other, (5,))):
        found = [segment(m, other, "cpu", keep=keep).segmentation.labels for m in (model, alone)]
        np.testing.assert_array_equal(*found)
    options = RunOptions("cpu", hold_out=0, plan={**NARROW, "widths": "4,8"})
    recipe = tiny_recipe(iterations=1, voxel_classifier=True)
    assert not train([tiny_case()], recipe, options).plan.voxel_spacing


def test_going_on_with_more_slices_fits_it_to_them():
    annotation = tiny_annotation(tiny_volume(), (3, 19))
    _, model = learn(annotation)
    changes = {"patch_size": "16x16x16", "batch_size": "2"}
    options = RunOptions("cpu", start_from=model, plan=changes, hold_out=0)
    more = tiny_annotation(tiny_volume())
    recipe = tiny_recipe(iterations=2, voxel_classifier=True)
    _, further = densify(tiny_volume(), more, recipe, options)
    expected = fitted_to([Case(tiny_volume(), more)], further.channels, further.plan, CPU, 0).state_dict()
    assert same_weights(voxel_weights(further), expected)


@pytest.mark.parametrize("had, wanted", [((), (1.0,) * 3), ((1.0,) * 3, ()), ((1.0,) * 3, (2.0, 1.0, 1.0))])
def test_a_warm_start_gets_or_loses_it(had, wanted):
    plan = tiny_plan(voxel_spacing=had)
    model = Model(plan, Recipe(), CHANNELS, SEGMENTS, build_network(plan).state_dict(), {})
    target = replace(plan, voxel_spacing=wanted)
    build_network(target).load_state_dict(adapt_weights(model, target, SEGMENTS))


@pytest.mark.parametrize("spacing", [[1.0, 1.0], [1.0, 0.0, 1.0], [1.0, float("nan"), 1.0]])
def test_a_file_with_an_impossible_spacing_is_refused(tmp_path: Path, spacing):
    model = Model(PLAN, Recipe(), CHANNELS, SEGMENTS, build_network(PLAN).state_dict(), {})
    damaged = replace(model, plan=replace(PLAN, voxel_spacing=tuple(spacing)))
    damaged.save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="impossible spacing"):
        load_model(tmp_path / "m.safetensors")
