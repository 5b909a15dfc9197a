"""Patches under transforms, and their gray values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from transforms_for_tests import (
    STRONG,
    coordinates,
    extract_one,
    generator,
    in_mm,
    rotation_about,
)
from volumes_for_tests import STILL, draw, make_case, make_plan_of, make_sampler, numbered

from SparseUNet3DLib.augmentation import (
    RandomTransforms,
    adjust_gray_values,
    draw_transforms,
)
from SparseUNet3DLib.loss import UNANNOTATED
from SparseUNet3DLib.prepared_case import keep_on_device
from SparseUNet3DLib.recipe import AugmentationRecipe

# -- patches under a known transform ---------------------------------------------------------------------


def test_no_transform_is_the_patch_itself():
    plan = make_plan_of((4, 6, 5), (2.0, 0.5, 1.0))
    np.testing.assert_allclose(
        coordinates(RandomTransforms(torch.eye(3)[None]), STILL, plan)[0], in_mm(plan), atol=1e-6
    )
    still = draw_transforms(STILL, plan, 1, generator())
    assert torch.equal(still.matrices, torch.eye(3)[None])
    assert still.displacements is None
    assert torch.equal(still.slopes, torch.ones(1, 1, 5))


def test_no_transform_cuts_out_exactly_the_voxels():
    image, labels = numbered((9, 10, 11)), np.arange(990).reshape(9, 10, 11) % 2
    annotated = np.arange(990).reshape(9, 10, 11) % 3 != 0
    plan = make_plan_of((4, 6, 5))
    sampler = make_sampler([make_case(image, annotated, labels)], plan)
    patch, target = extract_one(sampler, (3, 4, 5), (1, 0, 2), torch.eye(3))
    box = np.s_[2:6, 4:10, 3:8]
    np.testing.assert_allclose(patch[0], image[box], rtol=1e-6)
    np.testing.assert_array_equal(target, np.where(annotated, labels, UNANNOTATED)[box])


def test_a_rotated_patch_equals_scipys():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(30, 30, 30)).astype(np.float32)
    plan = make_plan_of((11, 11, 11))
    sampler = make_sampler([make_case(image)], plan)
    matrix = rotation_about(0, 20) @ rotation_about(1, -35) @ rotation_about(2, 50) * 0.9
    patch, _ = extract_one(sampler, (14, 15, 16), (5, 5, 5), matrix)
    m = matrix.double().numpy()
    expected = ndimage.affine_transform(
        image.astype(float), m, np.array([14, 15, 16]) - m @ np.array([5, 5, 5]), (11, 11, 11), order=1
    )
    np.testing.assert_allclose(patch[0], expected, atol=1e-4)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_rotation_is_in_millimetres_on_anisotropic_voxels(axis: int, scale: float):
    """An ellipsoid turned by 40 degrees keeps the lengths in mm of its axes, though slices are 3 mm apart."""
    spacing = (3.0, 1.0, 1.0)
    half_axes = np.array([9.0, 14.0, 6.0])

    def gray(position: np.ndarray) -> np.ndarray:
        return np.exp(-((position / half_axes) ** 2).sum(-1) / 2)

    volume_plan = make_plan_of((25, 61, 61), spacing)
    image = gray(in_mm(volume_plan))
    case = make_case(image.astype(np.float32), labels=image > 0.5, spacing=spacing)
    plan = make_plan_of((17, 43, 43), spacing)
    sampler = make_sampler([case], plan)
    matrix = rotation_about(axis, 40) * scale
    patch, target = extract_one(sampler, (12, 30, 30), (8, 21, 21), matrix)
    expected = gray(in_mm(plan) @ matrix.double().numpy().T)
    inside = (target != UNANNOTATED).numpy()
    assert inside.mean() > 0.7
    # Linear interpolation over 1 to 3 mm is off by up to 0.015 + 0.002 + 0.004 where the image bends most.
    np.testing.assert_allclose(patch[0].numpy()[inside], expected[inside], atol=0.025)
    overlap = ((target == 1).numpy() & (expected > 0.5)).sum()
    assert 2 * overlap / ((target == 1).sum() + (expected > 0.5).sum()) > 0.9


def test_a_sphere_stays_a_sphere():
    spacing = (2.5, 1.0, 1.0)
    ball = np.linalg.norm(in_mm(make_plan_of((25, 61, 61), spacing)), axis=-1) <= 15
    sampler = make_sampler([make_case(ball.astype(np.float32), labels=ball, spacing=spacing)],
                           plan := make_plan_of((15, 37, 37), spacing))
    matrix = rotation_about(2, 30) @ rotation_about(1, 60)
    _, target = extract_one(sampler, (12, 30, 30), (7, 18, 18), matrix)
    expected = np.linalg.norm(in_mm(plan), axis=-1) <= 15
    assert 2 * (target.numpy() & expected).sum() / (target.sum() + expected.sum()) > 0.95
    for axis in range(3):
        reach = np.abs(in_mm(plan)[target.numpy() == 1][:, axis]).max()
        assert reach == pytest.approx(15, abs=spacing[axis] / 2 + 0.5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 2.0)])
@pytest.mark.parametrize("seed", range(3))
def test_everything_is_one_interpolation_of_the_image_and_no_mixture_of_labels(spacing: tuple, seed: int):
    """Channels hold the voxels' own coordinates, so that a patch tells where each of its voxels came from."""
    shape = (60, 60, 60)
    labels = np.random.default_rng(seed).integers(0, 6, shape) * 7
    annotated = np.random.default_rng(seed + 9).random(shape) < 0.5
    plan = make_plan_of((7, 8, 9), (1.0, 1.0, 1.0), in_channels=3, classes=36)
    case = make_case(
        np.indices(shape).astype(np.float32), annotated, labels, spacing, names=tuple(str(n) for n in range(35))
    )
    sampler = make_sampler([case], plan)
    recipe = replace(STRONG, mirror=("x", "y", "z"))
    transforms = replace(draw_transforms(recipe, plan, 1, generator(seed)), slopes=None)
    sampler.recipe = replace(sampler.recipe, augmentation=recipe)
    voxel, place = np.argwhere(annotated[25:35, 25:35, 25:35])[0] + 25, (3, 4, 4)
    patch, target = extract_one(sampler, voxel, place, transforms)
    where = coordinates(transforms, recipe, plan)[0] / np.array(spacing)
    where += voxel - where[place]
    assert np.ptp(where, axis=(0, 1, 2)).min() > 2
    np.testing.assert_allclose(patch.movedim(0, -1), where, atol=1e-3)
    nearest = tuple(np.rint(where).astype(int).transpose(3, 0, 1, 2))
    certain = (np.abs(where - np.floor(where) - 0.5) > 1e-3).all(-1)
    expected = np.where(annotated, labels, UNANNOTATED)[nearest]
    np.testing.assert_array_equal(target.numpy()[certain], expected[certain])
    assert certain.mean() > 0.95
    assert set(target.unique().tolist()) <= {UNANNOTATED, 0, 7, 14, 21, 28, 35}


def test_outside_of_the_volume_nothing_is_annotated_and_the_image_is_mirrored():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(6, 7, 8)).astype(np.float32)
    plan = make_plan_of((15, 15, 15))
    sampler = make_sampler([make_case(image)], plan)
    matrix = rotation_about(0, 30) @ rotation_about(2, -20)
    patch, target = extract_one(sampler, (3, 3, 3), (7, 7, 7), matrix)
    where = (in_mm(plan) @ matrix.double().numpy().T) + 3
    expected = ndimage.map_coordinates(image.astype(float), where.transpose(3, 0, 1, 2), order=1, mode="mirror")
    np.testing.assert_allclose(patch[0], expected, atol=1e-4)
    inside = ((np.rint(where) >= 0) & (np.rint(where) < image.shape)).all(-1)
    certain = (np.abs(where - np.floor(where) - 0.5) > 1e-3).all(-1)
    np.testing.assert_array_equal((target.numpy() == 0)[certain], inside[certain])
    assert 0.05 < inside.mean() < 0.5
    assert set(target.unique().tolist()) == {UNANNOTATED, 0}


@pytest.mark.parametrize("kept", [False, True], ids=["boxes are read", "kept on the device"])
def test_a_batch_from_unlike_volumes_is_what_each_patch_is_alone(kept: bool):
    """Of different sizes, spacings, number types and places, one of them at a border."""
    rng = np.random.default_rng(0)
    cases = [
        make_case(rng.integers(0, 900, (9, 30, 40)).astype(np.uint16), labels=rng.integers(0, 2, (9, 30, 40)),
                  spacing=(3.0, 1.0, 0.7)),
        make_case(rng.normal(size=(40, 24, 12)).astype(np.float32), labels=rng.integers(0, 2, (40, 24, 12))),
    ]
    plan = make_plan_of((8, 10, 12))
    sampler = make_sampler(cases, plan, STRONG)
    transforms = draw_transforms(STRONG, plan, 3, generator())
    voxels, places = np.array([(4, 15, 20), (0, 23, 11), (8, 0, 3)]), np.array([(4, 5, 6), (0, 9, 11), (3, 2, 1)])
    of = [sampler.cases[i] for i in (0, 1, 0)]
    labels = [cases[i].annotation.labels for i in (0, 1, 0)]
    alone_of = list(of)
    if kept:
        keep_on_device(sampler.cases, sum(c.resident_bytes for c in sampler.cases))
        alone_of = [make_sampler(cases, plan, STRONG).cases[i] for i in (0, 1, 0)]
    batch = sampler.extract(of, voxels, places, transforms)
    for i in range(3):
        one = RandomTransforms(transforms.matrices[i : i + 1], transforms.displacements[i : i + 1],
                               transforms.slopes[i : i + 1])
        alone = sampler.extract(alone_of[i : i + 1], voxels[i : i + 1], places[i : i + 1], one)
        # Positions within boxes of other sizes are rounded differently: a millionth of a gray value's slope.
        torch.testing.assert_close(batch.images[i], alone.images[0], rtol=1e-4, atol=0.02)
        assert (batch.target[i] == alone.target[0]).float().mean() > 0.999
        assert alone.target[(0, *places[i])] == labels[i][tuple(voxels[i])]


@pytest.mark.parametrize("rotation, scaling", [(45.0, 0.5), (10.0, 0.0)])
def test_flat_patches_stay_on_their_slice(rotation: float, scaling: float):
    """A completely annotated slice gives completely annotated flat patches, whatever is done in-plane."""
    annotated = np.zeros((5, 60, 60), bool)
    annotated[2] = True
    image = np.indices((5, 60, 60))[0].astype(np.float32)
    plan = make_plan_of((1, 12, 12), (2.0, 1.0, 1.0))
    recipe = AugmentationRecipe(rotation, scaling, 4.0, 8.0, 1.0, ("x", "y", "z"))
    sampler = make_sampler([make_case(image, annotated, spacing=(2.0, 1.0, 1.0))], plan, recipe)
    complete = 0
    for seed in range(40):
        images, target = draw(sampler, generator(seed))
        torch.testing.assert_close(images, torch.full_like(images, 2.0))
        complete += bool((target == 0).all())
    # Some patches reach beyond the slice's edge, where nothing is annotated.
    assert complete > 20


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("slices, least", [(1, 0.95), (2, 0.9), (4, 0.8)])
def test_a_thin_volumes_annotation_stays_in_its_patches(axis: int, slices: int, least: float):
    """The deformation is as strong as in others, but not across the few slices: there it would carry most out."""
    shape, patch = [60, 60, 60], [32, 32, 32]
    shape[axis] = patch[axis] = slices
    plan = make_plan_of(tuple(patch))
    recipe = AugmentationRecipe(rotation=0.0, scaling=0.0, gray_slope=1.0)
    sampler = make_sampler([make_case(np.zeros(shape, np.float32))], plan, recipe)
    known = [float((draw(sampler, generator(seed))[1] != UNANNOTATED).float().mean()) for seed in range(20)]
    assert np.mean(known) > least
    displacements = draw_transforms(recipe, plan, 20, generator()).displacements
    along = displacements.std(dim=(0, 2, 3, 4))
    assert along[axis] == pytest.approx((slices - 1) / 3, rel=0.1)
    assert along[[a for a in range(3) if a != axis]].tolist() == pytest.approx([8.0] * 2, rel=0.1)


def test_the_papers_2d_peer_stays_on_its_slice():
    annotated = np.zeros((3, 130, 130), bool)
    annotated[1] = True
    plan = make_plan_of((1, 92, 92), network="2d")
    sampler = make_sampler([make_case(np.indices((3, 130, 130))[0].astype(np.float32), annotated)], plan,
                           AugmentationRecipe(gray_slope=1.0))
    images, target = draw(sampler, generator())
    assert target.shape == (1, 1, 4, 4)
    assert (target == 0).all()
    torch.testing.assert_close(images, torch.ones_like(images))


# -- gray values -----------------------------------------------------------------------------------------


def test_gray_curves_rise_everywhere_and_leave_zero_in_place():
    plan = make_plan_of((4, 4, 4))
    drawn = draw_transforms(replace(STILL, gray_slope=1.5), plan, 20, generator()).slopes
    assert drawn.shape == (20, 1, 5)
    assert drawn.min() >= 1 / 1.5 - 1e-5 and drawn.max() <= 1.5 + 1e-5
    curves = adjust_gray_values(torch.linspace(-6, 6, 2401).expand(20, 1, 1, 1, 2401), drawn)
    for curve, slopes in zip(curves[:, 0, 0, 0], drawn[:, 0], strict=True):
        steps = curve.diff() / 0.005
        assert steps.min() > 1 / 1.5 - 0.01 and steps.max() < 1.5 + 0.01
        assert curve[1200].abs() < 1e-5
        # Slopes change at -1.5, -0.5, 0.5 and 1.5 only.
        for segment, middle in enumerate((-3.0, -1.0, 0.0, 1.0, 3.0)):
            index = round((middle + 6) / 0.005)
            assert steps[index - 50 : index + 50].tolist() == pytest.approx([slopes[segment].item()] * 100, rel=1e-2)


def test_slopes_of_1_change_nothing():
    images = torch.randn(3, 2, 3, 4, 5, generator=generator()) * 3
    torch.testing.assert_close(adjust_gray_values(images, torch.ones(3, 2, 5)), images, rtol=1e-6, atol=1e-6)


def test_patches_and_channels_have_curves_of_their_own():
    images = torch.full((2, 2, 1, 1, 1), 0.25)
    slopes = torch.ones(2, 2, 5)
    slopes[0, 1, 2], slopes[1, 0, 2] = 2.0, 3.0
    assert adjust_gray_values(images, slopes).flatten().tolist() == pytest.approx([0.25, 0.5, 0.75, 0.25])
    drawn = draw_transforms(AugmentationRecipe(), make_plan_of((4, 4, 4), in_channels=2), 3, generator()).slopes
    assert drawn.shape == (3, 2, 5)
    assert drawn.unique().numel() == 30
