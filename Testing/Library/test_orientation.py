from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from grids import random_direction
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import NARROW, same_weights, tiny_annotation, tiny_recipe, tiny_volume

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.orientation import (
    is_orientation,
    orientation_of,
    turn_annotation,
    turn_back,
    turn_case,
    turn_volume,
)
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segmentation_files import read_segmentation
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.volumes import Volume
from SparseUNet3DLib.workflow import RunOptions, densify, prepare, segment, train

#: All 48 ways in which three axes can run.
WAYS = ["".join(way) for sides in product("LR", "PA", "SI") for way in permutations(sides)]
OPTIONS = RunOptions("cpu", hold_out=0, plan={**NARROW, "widths": "8,16"})


def grid(rng: np.random.Generator, left_handed: bool) -> Geometry:
    return Geometry(
        (4, 5, 6), tuple(rng.uniform(0.5, 5, 3)), tuple(rng.uniform(-99, 99, 3)), random_direction(rng, left_handed)
    )


def as_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    geometry.apply_to(image)
    return image


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(WAYS))
def test_turned_as_itk_turns_it_and_back_again(seed, left_handed, way):
    rng = np.random.default_rng(seed)
    geometry = grid(rng, left_handed)
    values = rng.integers(0, 255, (2, 6, 5, 4), np.uint8)
    turned = turn_volume(Volume(values, geometry, ("a", "b"), "v"), way)
    expected = sitk.DICOMOrient(as_image(values[1], geometry), way)
    np.testing.assert_array_equal(turned.array[1], sitk.GetArrayFromImage(expected))
    assert turned.geometry.same_grid(Geometry.from_image(expected))
    assert orientation_of(turned.geometry) == way
    np.testing.assert_array_equal(turn_back(turned.array[0], geometry, way), values[0])


@given(st.integers(0, 2**32 - 1), st.sampled_from(WAYS))
def test_an_annotation_turns_with_its_volume(seed, way):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (6, 5, 4), np.uint16)
    planes = (Plane(0, 1), Plane(0, 4), Plane(1, 2), Plane(2, 0))
    annotated = np.zeros(labels.shape, bool)
    for plane in planes:
        annotated[plane.voxels] = True
    segments = (Segment("1", "one"), Segment("2", "two"))
    annotation = SparseAnnotation(labels, annotated, segments, grid(rng, True), planes, planes[:2])
    turned = turn_annotation(annotation, way)
    assert list(turned.planes) == sorted(turned.planes) and len(turned.planes) == 4
    again = np.zeros(turned.annotated.shape, bool)
    for plane in turned.planes:
        again[plane.voxels] = True
    np.testing.assert_array_equal(turned.annotated, again)
    held = np.zeros(turned.annotated.shape, bool)
    for plane in turned.held_out:
        held[plane.voxels] = True
    assert turn_back(held, annotation.geometry, way)[[1, 4]].all() and np.count_nonzero(held) == 2 * 5 * 4
    np.testing.assert_array_equal(turn_back(turned.labels, annotation.geometry, way), labels)
    assert turn_annotation(replace(annotation, held_out=None), way).held_out is None


def test_nothing_is_copied_where_nothing_is_to_be_turned():
    case = Case(tiny_volume(), tiny_annotation(tiny_volume()))
    for way in ("", "LPS"):
        assert turn_volume(case.volume, way) is case.volume
        assert turn_annotation(case.annotation, way) is case.annotation
        assert turn_back(case.annotation.labels, case.volume.geometry, way) is case.annotation.labels


def test_what_orientations_are():
    assert len(set(WAYS)) == 48 and all(is_orientation(way) for way in WAYS)
    assert not any(is_orientation(text) for text in ("", "LP", "LRS", "lps", "LPSL", "LPX"))
    assert orientation_of(Geometry((2, 2, 2))) == "LPS"
    assert orientation_of(Geometry((2, 2, 2), direction=(-0.9, 0.1, 0, 0, 0, 1, 0.1, 0.9, 0))) == "RSP"


@pytest.fixture(scope="module")
def case() -> Case:
    volume = tiny_volume()
    return Case(volume, tiny_annotation(volume, (2, 5, 8, 11, 14, 17, 20)))


@pytest.mark.parametrize("way", ["RAI", "PIR"])
def test_volumes_that_are_stored_otherwise_train_the_same_network_and_are_segmented_alike(case, way):
    other = turn_case(replace(case, volume=replace(case.volume, name="other")), way)
    recipe = tiny_recipe(iterations=6)
    same = train([case, replace(case, volume=replace(case.volume, name="other"))], recipe, OPTIONS)
    model = train([case, other], recipe, OPTIONS)
    assert same_weights(model.weights, same.weights)
    assert model.plan.orientation == "LPS"
    expected = segment(model, case.volume, "cpu")
    found = segment(model, other.volume, "cpu", keep=None)
    assert found.segmentation.geometry == other.volume.geometry
    for there, here in (
        (found.segmentation.labels, expected.segmentation.labels), (found.confidence, expected.confidence)
    ):
        there = turn_volume(Volume(there[None], other.volume.geometry, ("",), ""), "LPS").array[0]
        np.testing.assert_array_equal(there, here)


def test_planes_are_told_as_the_volume_has_them(case):
    other = turn_case(replace(case, volume=replace(case.volume, name="other")), "SPR")
    options = replace(OPTIONS, hold_out=1)
    prepared = prepare([case, other], tiny_recipe(), options, CollectingReporter())
    for fold in prepared.folds:
        (withheld,) = (c for c in fold.validation if c.volume.name == "other")
        assert {p.axis for p in withheld.annotation.planes} == {2}  # z runs along the array's x there


def test_a_model_made_with_other_axes_goes_on_with_known_slices_and_previews(case, tmp_path):
    model = train([case], tiny_recipe(iterations=2), OPTIONS)
    other = turn_case(case, "SRA")
    recipe = tiny_recipe(iterations=2, known_slices=True)
    preview = tmp_path / "preview.seg.nrrd"
    plan = {"patch_size": "16x16x16"}
    options = RunOptions("cpu", hold_out=1, plan=plan, start_from=model, preview=preview)
    reporter = CollectingReporter()
    prediction, further = densify(other.volume, other.annotation, recipe, options, reporter)
    assert further.plan.orientation == "LPS" and further.plan.known_slices
    assert prediction.segmentation.geometry == other.volume.geometry
    where = other.annotation.annotated
    np.testing.assert_array_equal(prediction.segmentation.labels[where], other.annotation.labels[where])
    (name,) = further.record["held_out_planes"]["tiny"]
    assert name.startswith("x:")
    shown = np.flatnonzero(prediction.confusion.any(axis=(0, 1)))
    assert shown.tolist() in ([int(name[2:])], [])
    if reporter.of("preview"):
        assert read_segmentation(preview).geometry.same_grid(other.volume.geometry)


def test_models_of_earlier_versions_turn_nothing(case):
    model = train([case], tiny_recipe(iterations=2), OPTIONS)
    old = replace(model, plan=replace(model.plan, orientation=""))
    other = turn_volume(case.volume, "RAI")
    stored = segment(old, replace(other, geometry=case.volume.geometry), "cpu").segmentation.labels
    np.testing.assert_array_equal(segment(old, other, "cpu").segmentation.labels, stored)
    assert not np.array_equal(segment(model, other, "cpu").segmentation.labels, stored)
