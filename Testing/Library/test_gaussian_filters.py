from __future__ import annotations

import numpy as np
import pytest
import torch

from SparseUNet3DLib.gaussian_filters import FILTERS, HALO, enlarge, filters, halve

ALL = (True, True, True)
SIZE = (6, 7, 8)


def sampled(function, wide=ALL) -> torch.Tensor:
    """``function`` of z, y, x at the voxels of a box of ``SIZE`` around 0, with its halo along the ``wide`` axes."""
    axes = [
        torch.arange(n + 2 * HALO * w, dtype=torch.float32) - HALO * w - n // 2 for n, w in zip(SIZE, wide, strict=True)
    ]
    return function(*torch.meshgrid(*axes, indexing="ij"))


def test_on_a_ramp_the_gradient_is_its_slope_and_nothing_is_curved():
    found = filters(sampled(lambda z, y, x: 2 * z - 3 * y + 6 * x + 1), SIZE, ALL)
    assert found.shape == (FILTERS, *SIZE)
    torch.testing.assert_close(found[0], sampled(lambda z, y, x: 2 * z - 3 * y + 6 * x + 1)[(slice(HALO, -HALO),) * 3])
    torch.testing.assert_close(found[1], torch.full(SIZE, 7.0))
    torch.testing.assert_close(found[2:5], torch.zeros(3, *SIZE), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[5], torch.full(SIZE, 7.0))  # of the structure tensor, all along the slope
    # Roots of what rounding leaves of 0 beside 49.
    torch.testing.assert_close(found[6:], torch.zeros(2, *SIZE), atol=0.2, rtol=0)


def test_on_a_paraboloid_the_hessian_has_its_curvatures_highest_first():
    found = filters(sampled(lambda z, y, x: (3 * z**2 - 2 * y**2 + 0.5 * x**2) / 2), SIZE, ALL)
    expected = torch.tensor([3.0, 0.5, -2.0])[:, None, None, None].expand(3, *SIZE)
    torch.testing.assert_close(found[2:5], expected, atol=1e-3, rtol=0)


def test_curvatures_do_not_depend_on_the_axes():
    """z y has the curvatures 1, 0 and -1, along the diagonals."""
    found = filters(sampled(lambda z, y, x: z * y), SIZE, ALL)
    expected = torch.tensor([1.0, 0.0, -1.0])[:, None, None, None].expand(3, *SIZE)
    torch.testing.assert_close(found[2:5], expected, atol=1e-3, rtol=0)


def test_a_structure_tensor_tells_a_texture_from_an_edge():
    rng = np.random.default_rng(0)
    grown = [n + 2 * HALO for n in SIZE]
    texture = filters(torch.from_numpy(rng.normal(size=grown).astype(np.float32)), SIZE, ALL)
    edge = filters(sampled(lambda z, y, x: torch.tanh(x)), SIZE, ALL)
    assert (texture[7] > 0.3 * texture[5]).float().mean() > 0.9
    assert (edge[7] < 0.05 * edge[5]).all()


def test_thick_slices_are_not_looked_across():
    wide = (False, True, True)
    slices = torch.linspace(-300, 200, SIZE[0])[:, None, None]
    found = filters(sampled(lambda z, y, x: 3 * y + 4 * x, wide) + slices, SIZE, wide)
    torch.testing.assert_close(found[1], torch.full(SIZE, 5.0), atol=1e-3, rtol=0)
    from_first = found[0, :, 0, 0] - found[0, 0, 0, 0]
    torch.testing.assert_close(from_first, (slices - slices[0])[:, 0, 0], atol=1e-3, rtol=1e-4)
    alone = filters(sampled(lambda z, y, x: 3 * y + 4 * x, wide), SIZE, wide)
    torch.testing.assert_close(found[1:], alone[1:], atol=0.2, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_eigenvalues_of_any_hessian_are_those_of_numpy(seed):
    matrix = np.random.default_rng(seed).normal(size=(3, 3))
    matrix = matrix + matrix.T

    def quadric(*zyx):
        return sum(float(matrix[a, b]) * zyx[a] * zyx[b] / 2 for a in range(3) for b in range(3))

    found = filters(sampled(quadric), SIZE, ALL)[2:5]
    expected = torch.from_numpy(np.linalg.eigvalsh(matrix)[::-1].astype(np.float32).copy())
    torch.testing.assert_close(found, expected[:, None, None, None].expand(3, *SIZE), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(9, 10, 1), (1, 1, 1), (2, 5, 64)])
def test_halving_keeps_every_second_voxel_and_a_constant(shape):
    halved = halve(torch.full(shape, 5.0), (True, False, True))
    assert halved.shape == (shape[0] // 2 + 1, shape[1], shape[2] // 2 + 1)  # the last voxel lies between two
    torch.testing.assert_close(halved, torch.full_like(halved, 5.0))


def test_halving_smooths_what_the_coarser_grid_cannot_show():
    stripes = (torch.arange(64) % 2).float().expand(3, 3, 64)
    torch.testing.assert_close(halve(stripes, (False, False, True)), torch.full((3, 3, 33), 0.5))
    ramp = torch.arange(64).float().expand(3, 3, 64)
    torch.testing.assert_close(halve(ramp, (False, False, True))[..., 1:31], ramp[..., 2:62:2])


@pytest.mark.parametrize("offset", [(0, 0, 0), (1, 0, 3)])
def test_enlarging_interpolates_linearly(offset):
    step, size = (2, 1, 4), (7, 3, 9)
    coarse = torch.stack(torch.meshgrid(*(torch.arange(6.0) * s for s in step), indexing="ij"))[..., :3, :]
    found = enlarge(coarse, offset, size, step)
    axes = [o + torch.arange(float(n)) for o, n in zip(offset, size, strict=True)]
    torch.testing.assert_close(found, torch.stack(torch.meshgrid(*axes, indexing="ij")))
