from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline
from volumes_for_tests import CPU, STILL, draw, make_case, make_plan_of, make_sampler, numbered

from SparseUNet3DLib.augmentation import (
    RandomTransforms,
    adjust_gray_values,
    draw_transforms,
    elastic_field,
    patch_coordinates,
)
from SparseUNet3DLib.loss import UNANNOTATED
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.prepared_case import keep_on_device
from SparseUNet3DLib.recipe import AugmentationRecipe
from SparseUNet3DLib.sampling import PatchSampler

#: Standard deviation of one component of the displacement, in voxels of the finest spacing.
PAPER_RMS = 4 * (151 / 315) ** 1.5
STRONG = AugmentationRecipe(rotation=40.0, scaling=0.4, elastic_sd=6.0, elastic_spacing=8.0, gray_slope=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation_about(axis: int, degrees: float) -> torch.Tensor:
    """Turns the two other axes, in (z, y, x) order, into each other."""
    first, second = (a for a in range(3) if a != axis)
    matrix = torch.eye(3)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def coordinates(transforms: RandomTransforms, recipe: AugmentationRecipe, plan: Plan) -> np.ndarray:
    """(b, z, y, x, 3) positions of the voxels of patches about the patches' centres, in mm."""
    return patch_coordinates(transforms, recipe, plan, CPU).movedim(1, -1).numpy()


def displacement(recipe: AugmentationRecipe, plan: Plan, number: int = 1) -> np.ndarray:
    """(b, z, y, x, 3) how far, in mm, random transforms move the voxels of a patch."""
    transforms = draw_transforms(recipe, plan, number, generator())
    return coordinates(transforms, recipe, plan) - in_mm(plan)


def extract_one(
    sampler: PatchSampler, voxel: tuple | np.ndarray, place: tuple, transforms: torch.Tensor | RandomTransforms
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch of the first case whose output voxel ``place`` lies on ``voxel``; ``transforms`` may be a matrix."""
    if isinstance(transforms, torch.Tensor):
        transforms = RandomTransforms(transforms[None])
    batch = sampler.extract(sampler.cases[:1], np.array([voxel]), np.array([place]), transforms)
    return batch.images[0], batch.target[0]


def in_mm(plan: Plan) -> np.ndarray:
    """(z, y, x, 3) position of each voxel of a patch about the patch's centre, in mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(plan.patch_size, plan.spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


# -- elastic deformation ---------------------------------------------------------------------------------


def test_deformation_is_as_strong_as_in_the_paper():
    """1.33 voxels RMS; over 5,184 control cells the sampling error is about 1 %."""
    assert round(PAPER_RMS, 2) == 1.33
    plan = make_plan_of((96, 96, 96))
    recipe = replace(STILL, elastic_sd=4.0, elastic_spacing=8.0)
    moved = displacement(recipe, plan)[0]
    assert np.sqrt((moved**2).mean()) == pytest.approx(PAPER_RMS, rel=0.03)
    assert np.sqrt((moved**2).mean((0, 1, 2))) == pytest.approx([PAPER_RMS] * 3, rel=0.05)


def test_deformation_at_the_papers_grid_spacing():
    """Many draws of a small patch, because 32 voxels apart there are few control points in one."""
    plan = make_plan_of((16, 16, 16))
    recipe = replace(STILL, elastic_sd=4.0, elastic_spacing=32.0)
    moved = displacement(recipe, plan, 600)
    # Half a control cell per axis: averaged over positions 0 to 15 of 32 instead of over the whole cell.
    basis = np.array([[BSpline.basis_element(np.arange(-2, 3))(np.clip(x / 32 - k, -2, 2)) for k in range(-1, 3)]
                      for x in range(16)])
    expected = 4 * (basis**2).sum(1).mean() ** 1.5
    assert expected == pytest.approx(PAPER_RMS, rel=0.01)
    assert np.sqrt((moved**2).mean()) == pytest.approx(expected, rel=0.03)


def test_deformation_is_measured_in_millimetres_of_the_finest_spacing():
    plan = make_plan_of((24, 96, 96), (2.0, 0.5, 0.5))
    recipe = replace(STILL, elastic_sd=4.0, elastic_spacing=8.0)
    moved = displacement(recipe, plan)[0]
    assert np.sqrt((moved**2).mean((0, 1, 2))) == pytest.approx([0.5 * PAPER_RMS] * 3, rel=0.05)
    # Control points are 4 mm apart on every axis: 2 slices, or 8 voxels in-plane.
    assert draw_transforms(recipe, plan, 2, generator()).displacements.shape == (2, 3, 12 + 4, 12 + 4, 12 + 4)


@pytest.mark.parametrize("size, spacing", [((9, 17, 33), (8.0, 8.0, 8.0)), ((1, 5, 40), (3.2, 2.5, 32.0))])
def test_equal_control_points_move_everything_equally(size: tuple, spacing: tuple):
    counts = [math.ceil(n / s) + 4 for n, s in zip(size, spacing, strict=True)]
    coefficients = torch.tensor([1.5, -2.0, 0.25])[:, None, None, None].expand(3, *counts)
    field = elastic_field(coefficients, size, spacing)
    torch.testing.assert_close(field, coefficients[:, :1, :1, :1].expand(3, *size))


def test_deformation_equals_scipys_cubic_b_spline():
    size, spacing = (7, 12, 20), (2.5, 6.0, 8.0)
    counts = [math.ceil(n / s) + 4 for n, s in zip(size, spacing, strict=True)]
    coefficients = torch.randn(3, *counts, generator=generator())
    spline = BSpline.basis_element(np.arange(-2, 3))
    # Control point 0 lies one spacing before the first voxel.
    bases = [
        np.array([[spline(d) if abs(d := i / s + 1 - k) < 2 else 0.0 for i in range(n)] for k in range(m)])
        for n, m, s in zip(size, counts, spacing, strict=True)
    ]
    expected = np.einsum("cijk,iz,jy,kx->czyx", coefficients.double().numpy(), *bases)
    np.testing.assert_allclose(elastic_field(coefficients, size, spacing), expected, atol=1e-5)


def test_deformation_is_smooth():
    coefficients = torch.randn(3, 6, 6, 6, generator=generator()) * 4
    field = elastic_field(coefficients, (48, 48, 48), (32.0, 32.0, 32.0))
    for axis in (1, 2, 3):
        bend = field.diff(dim=axis).diff(dim=axis)
        # A cubic B-spline's second derivative is at most 4 x the largest coefficient per squared spacing.
        assert bend.abs().max() <= 4 * coefficients.abs().max() / 32**2


# -- random matrices -------------------------------------------------------------------------------------


def matrices(recipe: AugmentationRecipe, plan: Plan, number: int = 100) -> torch.Tensor:
    return draw_transforms(recipe, plan, number, generator()).matrices


def test_rotation_and_scaling_stay_in_their_ranges_and_fill_them():
    plan = make_plan_of((16, 16, 16))
    drawn = matrices(replace(STILL, rotation=15.0, scaling=0.25), plan, 400)
    scales = torch.linalg.det(drawn) ** (1 / 3)
    assert 0.8 - 1e-4 <= scales.min() < 0.82 and 1.23 < scales.max() <= 1.25 + 1e-4
    turns = drawn / scales[:, None, None]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand_as(turns), atol=1e-5, rtol=0)
    # Entry (z, x) of the product of the three turns is the sine of the turn about y, up to the other turns.
    steepest = torch.rad2deg(torch.asin(turns[:, 0, 2].abs())).max()
    assert 10 < steepest < 20


def test_small_rotations_are_turns_about_each_axis():
    plan = make_plan_of((16, 16, 16))
    drawn = matrices(replace(STILL, rotation=1.0), plan, 300)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angles = torch.rad2deg(drawn[:, first, second])
        assert angles.min() < -0.9 and angles.max() > 0.9
        assert angles.abs().max() < 1.05
        torch.testing.assert_close(drawn[:, first, second], -drawn[:, second, first], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "patch, spacing, free",
    [
        ((16, 16, 16), (1.0, 1.0, 1.0), {0, 1, 2}),
        ((16, 32, 32), (2.0, 1.0, 1.0), {0, 1, 2}),
        ((16, 32, 32), (2.5, 1.0, 1.0), {0}),
        ((32, 32, 16), (1.0, 1.0, 5.0), {2}),
        ((16, 16, 64), (5.0, 5.0, 1.0), {2}),
        ((16, 16, 64), (9.0, 3.0, 1.0), set()),
        ((1, 32, 32), (1.0, 1.0, 1.0), {0}),
        ((5, 64, 64), (1.0, 1.0, 1.0), {0}),
        ((64, 64, 5), (1.0, 1.0, 1.0), {2}),
    ],
)
def test_axes_are_rotated_into_each_other_where_they_are_alike_in_spacing_and_extent(
    patch: tuple, spacing: tuple, free: set[int]
):
    """Thick slices are not rotated out of their plane, nor thin patches out of their volume."""
    drawn = matrices(replace(STILL, rotation=15.0), make_plan_of(patch, spacing))
    turned = {
        axis for axis in range(3)
        if drawn[:, (axis + 1) % 3, (axis + 2) % 3].abs().max() > 0.1
    }
    assert turned == free


@pytest.mark.parametrize("allowed", [(), ("x",), ("y", "z"), ("x", "y", "z")])
def test_patches_are_mirrored_along_the_allowed_axes_only(allowed: tuple[str, ...]):
    drawn = matrices(replace(STILL, mirror=allowed), make_plan_of((8, 8, 8)))
    assert not (drawn - torch.diag_embed(drawn.diagonal(dim1=1, dim2=2))).any()
    for axis, name in enumerate("zyx"):
        signs = drawn[:, axis, axis]
        assert set(signs.tolist()) == ({-1.0, 1.0} if name in allowed else {1.0})
        if name in allowed:
            assert 30 < (signs < 0).sum() < 70


def test_the_same_seed_draws_the_same_and_another_seed_something_else():
    plan, recipe = make_plan_of((8, 8, 8)), AugmentationRecipe(mirror=("x", "y", "z"))
    one, same, other = (draw_transforms(recipe, plan, 2, generator(seed)) for seed in (3, 3, 4))
    for name in ("matrices", "displacements", "slopes"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
        assert not torch.equal(*getattr(one, name))  # each patch has its own


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
