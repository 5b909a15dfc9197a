from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from grids import random_direction
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import NARROW, StopAfter, same_weights, tiny_annotation, tiny_recipe, tiny_volume

from SparseUNet3DLib import training
from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import Interrupted
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.geometry import Geometry, describe_direction
from SparseUNet3DLib.orientation import Turn, is_direction
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segmentation_files import read_segmentation
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.volumes import Volume
from SparseUNet3DLib.workflow import RunOptions, densify, prepare, segment, train

SIDES = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
#: All 48 ways in which three axes can run.
WAYS = ["".join(way) for sides in product("LR", "PA", "SI") for way in permutations(sides)]
OPTIONS = RunOptions("cpu", hold_out=0, plan={**NARROW, "widths": "8,16"})
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def direction(way: str) -> tuple[float, ...]:
    """The direction of axes that run exactly towards the sides ``way``."""
    return tuple(float(v) for v in np.array([SIDES[n] for n in way]).T.flat)


def about_z(degrees: float) -> tuple[float, ...]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)


def stored_as(case: Case, way: str, name: str = "tiny") -> Case:
    """The same case as another program would store it."""
    turned = Turn.between(case.volume.geometry.direction, direction(way)).case(case)
    return Case(replace(turned.volume, name=name), turned.annotation)


def as_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    geometry.apply_to(image)
    return image


@given(st.integers(0, 2**32 - 1), st.sampled_from(WAYS), st.sampled_from(WAYS))
def test_turned_as_itk_turns_it_and_back_again(seed, own, way):
    rng = np.random.default_rng(seed)
    spacing, origin = tuple(rng.uniform(0.5, 5, 3)), tuple(rng.uniform(-99, 99, 3))
    geometry = Geometry((4, 5, 6), spacing, origin, direction(own))
    values = rng.integers(0, 255, (2, 6, 5, 4), np.uint8)
    turn = Turn.between(geometry.direction, direction(way))
    turned = turn.volume(Volume(values, geometry, ("a", "b"), "v"))
    expected = sitk.DICOMOrient(as_image(values[1], geometry), way)
    np.testing.assert_array_equal(turned.array[1], sitk.GetArrayFromImage(expected))
    assert turned.geometry.same_grid(Geometry.from_image(expected))
    assert describe_direction(turned.geometry.direction) == way
    np.testing.assert_array_equal(turn.back(turned.array[0]), values[0])
    assert turn.does_nothing == (own == way)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_oblique_axes_come_as_near_to_the_wanted_ones_as_they_can(seed, left_handed):
    rng = np.random.default_rng(seed)
    own, wanted = random_direction(rng, left_handed), random_direction(rng, False)
    turn = Turn.between(own, wanted)
    turned = turn.geometry(Geometry((4, 5, 6), direction=own))
    near = np.trace(np.reshape(wanted, (3, 3)).T @ np.reshape(turned.direction, (3, 3)))
    possible = [
        sum(sign * axis[n] for n, (sign, axis) in enumerate(zip(signs, axes, strict=True)))
        for axes in permutations((np.reshape(wanted, (3, 3)).T @ np.reshape(own, (3, 3))).T)
        for signs in product((1, -1), repeat=3)
    ]
    assert near >= max(possible) - 0.1 - 1e-6
    # No voxel moves: each keeps its place in space.
    numbers = np.arange(120, dtype=np.int32).reshape(6, 5, 4)
    there = turn.array(numbers)
    for z, y, x in ((0, 0, 0), (there.shape[0] - 1, 0, 1), (1, 2, there.shape[2] - 1)):
        k, j, i = np.unravel_index(there[z, y, x], (6, 5, 4))
        place = Geometry((4, 5, 6), direction=own).index_to_physical() @ (i, j, k, 1)
        np.testing.assert_allclose(turned.index_to_physical() @ (x, y, z, 1), place, atol=1e-9)


def test_volumes_that_lie_askew_alike_stay_as_they_are():
    for first, second in ((40, 50), (44, 46), (0, 45), (10, -34)):
        assert Turn.between(about_z(second), about_z(first)).does_nothing
    turn = Turn.between(about_z(100), about_z(10))
    assert not turn.does_nothing and turn.sources == (0, 2, 1)


@given(st.integers(0, 2**32 - 1), st.sampled_from(WAYS))
def test_an_annotation_turns_with_its_volume(seed, way):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (6, 5, 4), np.uint16)
    planes = (Plane(0, 1), Plane(0, 4), Plane(1, 2), Plane(2, 0))
    annotated = np.zeros(labels.shape, bool)
    for plane in planes:
        annotated[plane.voxels] = True
    segments = (Segment("1", "one"), Segment("2", "two"))
    annotation = SparseAnnotation(labels, annotated, segments, Geometry((4, 5, 6)), planes, planes[:2])
    turn = Turn.between(LPS, direction(way))
    turned = turn.annotation(annotation)
    assert list(turned.planes) == sorted(turned.planes) and len(turned.planes) == 4
    again, held = np.zeros(turned.annotated.shape, bool), np.zeros(turned.annotated.shape, bool)
    for plane in turned.planes:
        again[plane.voxels] = True
    for plane in turned.held_out:
        held[plane.voxels] = True
    np.testing.assert_array_equal(turned.annotated, again)
    assert turn.back(held)[[1, 4]].all() and np.count_nonzero(held) == 2 * 5 * 4
    np.testing.assert_array_equal(turn.back(turned.labels), labels)
    assert turn.annotation(replace(annotation, held_out=None)).held_out is None


def test_no_memory_is_taken_by_turning():
    case = Case(tiny_volume(), tiny_annotation(tiny_volume()))
    same = Turn.between(LPS, ()).case(case)
    assert same.volume is case.volume and same.annotation is case.annotation
    turned = stored_as(case, "SAR")
    assert np.shares_memory(turned.volume.array, case.volume.array)
    assert np.shares_memory(turned.annotation.labels, case.annotation.labels)


def test_what_directions_are():
    assert len(set(WAYS)) == 48 and all(is_direction(direction(way)) for way in WAYS)
    assert not any(is_direction(v) for v in ((), (1.0,) * 9, (0.0,) * 9, LPS[:8], ("1",) * 9, (float("nan"), *LPS[1:])))
    assert [describe_direction(direction(way)) for way in WAYS] == WAYS
    assert describe_direction((-0.9, 0.1, 0, 0, 0, 1, 0.1, 0.9, 0)) == "RSP"


@pytest.fixture(scope="module")
def case() -> Case:
    volume = tiny_volume()
    return Case(volume, tiny_annotation(volume, (2, 5, 8, 11, 14, 17, 20)))


@pytest.mark.parametrize("way", ["RAI", "PIR"])
def test_volumes_that_are_stored_otherwise_train_the_same_network_and_are_segmented_alike(case, way):
    recipe = tiny_recipe(iterations=6)
    other = stored_as(case, way, "other")
    same = train([case, stored_as(case, "LPS", "other")], recipe, OPTIONS)
    model = train([case, other], recipe, OPTIONS)
    assert same_weights(model.weights, same.weights)
    assert "towards LPS" in model.card()
    expected = segment(model, case.volume, "cpu")
    found = segment(model, other.volume, "cpu")
    assert found.segmentation.geometry == other.volume.geometry
    turn = Turn.between(LPS, direction(way))
    np.testing.assert_array_equal(turn.back(found.segmentation.labels), expected.segmentation.labels)
    np.testing.assert_array_equal(turn.back(found.confidence), expected.confidence)


def test_planes_are_told_as_the_volume_has_them(case):
    options = replace(OPTIONS, hold_out=1)
    prepared = prepare([case, stored_as(case, "SPR", "other")], tiny_recipe(), options, CollectingReporter())
    for fold in prepared.folds:
        (withheld,) = (c for c in fold.validation if c.volume.name == "other")
        assert {p.axis for p in withheld.annotation.planes} == {2}  # z runs along the array's x there


def test_a_model_made_with_other_axes_goes_on_and_previews(case, tmp_path, monkeypatch):
    for name, value in (("_FIRST_VALIDATION_SECONDS", 0.0), ("_FIRST_SHARE", 100.0)):
        monkeypatch.setattr(training, name, value)
    model = train([case], tiny_recipe(iterations=2), OPTIONS)
    other = stored_as(case, "SRA")
    preview = tmp_path / "preview.seg.nrrd"
    options = RunOptions("cpu", hold_out=1, plan={"patch_size": "16x16x16"}, start_from=model, preview=preview)
    reporter = CollectingReporter()
    prediction, further = densify(other.volume, other.annotation, tiny_recipe(iterations=2), options, reporter)
    assert further.plan.direction == LPS
    assert prediction.segmentation.geometry == other.volume.geometry
    where = other.annotation.annotated
    np.testing.assert_array_equal(prediction.segmentation.labels[where], other.annotation.labels[where])
    (name,) = further.record["held_out_planes"]["tiny"]
    assert name.startswith("x:")  # what lay along z
    shown = np.flatnonzero(prediction.confusion.any(axis=(0, 1)))
    assert shown.tolist() == [int(name[2:])]
    assert reporter.of("preview")
    assert read_segmentation(preview).geometry.same_grid(other.volume.geometry)


def test_slices_that_were_held_out_are_known_again_in_a_volume_stored_otherwise(case):
    options = replace(OPTIONS, hold_out=None)
    model = train([case], tiny_recipe(iterations=1), options)
    (before,) = model.record["held_out_planes"]["tiny"]
    other = stored_as(case, "SPR")  # z runs along the array's x
    further = RunOptions("cpu", plan={"patch_size": "16x16x16"}, start_from=model)
    (fold,) = prepare([other], tiny_recipe(iterations=1), further, CollectingReporter()).folds
    assert before.startswith("z:") and fold.validation[0].annotation.planes == (Plane(2, int(before[2:])),)


def test_a_checkpoint_of_an_earlier_version_goes_on_with_the_axes_of_today(case, tmp_path, monkeypatch):
    options = replace(OPTIONS, folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("SparseUNet3DLib.preparation.replace", _without_direction)
        with pytest.raises(Interrupted):
            train([case], tiny_recipe(iterations=4), options, stop=StopAfter(2))
    reporter = CollectingReporter()
    model = train([case], tiny_recipe(iterations=4), replace(options, resume=True), reporter)
    assert model.plan.direction == LPS and not reporter.of("warning")


def _without_direction(values, **changes):
    return replace(values, **{name: value for name, value in changes.items() if name != "direction"})


def test_models_of_earlier_versions_turn_nothing(case):
    model = train([case], tiny_recipe(iterations=2), OPTIONS)
    old = replace(model, plan=replace(model.plan, direction=()))
    other = stored_as(case, "RAI").volume
    stored = segment(old, replace(other, geometry=case.volume.geometry), "cpu").segmentation.labels
    np.testing.assert_array_equal(segment(old, other, "cpu").segmentation.labels, stored)
    assert not np.array_equal(segment(model, other, "cpu").segmentation.labels, stored)
    assert "towards" not in old.card()
