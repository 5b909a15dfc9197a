"""Random transforms: how strong they are, along which axes, and that seeds decide them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from transforms_for_tests import (
    PAPER_RMS,
    displacement,
    generator,
)
from volumes_for_tests import STILL, make_plan_of

from SparseUNet3DLib.augmentation import (
    draw_transforms,
    elastic_field,
)
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.recipe import AugmentationRecipe

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
