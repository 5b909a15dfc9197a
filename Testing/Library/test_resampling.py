from __future__ import annotations

import numpy as np
import pytest
import torch

from SparseUNet3DLib import resampling
from SparseUNet3DLib.resampling import Resampler, interpolate_back, resample_to

SHAPE = (9, 12, 7)


def ramp(shape, step=(1.0, 1.0, 1.0)) -> np.ndarray:
    """2 z - 3 y + 0.5 x + 1 at positions that lie ``step`` apart, as (1, z, y, x)."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, step, strict=True)), indexing="ij")
    return (2 * z - 3 * y + 0.5 * x + 1)[None]


def test_the_same_spacing_gives_the_image_itself():
    image = ramp(SHAPE).astype(np.int16)
    same, scale = resample_to(image, (2.0, 1.0, 1.0), (2.15, 0.95, 1.0))
    assert same is image
    assert scale == (1.0, 1.0, 1.0)


def test_a_run_resamples_an_image_once_for_each_spacing(monkeypatch):
    calls = []
    monkeypatch.setattr(resampling, "resample_to", lambda *a: calls.append(a) or resample_to(*a))
    image, resample = ramp(SHAPE).astype(np.float32), Resampler()
    expected = resample_to(image, (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))[0]
    for _ in range(3):
        found, scale = resample(image[:], (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
        np.testing.assert_array_equal(found, expected)
        assert scale == (0.5, 0.5, 0.5)
    assert len(calls) == 1
    turned = image[:, ::-1]  # the same memory, read backwards
    np.testing.assert_array_equal(
        resample(turned, (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))[0], resample_to(turned, (1.0,) * 3, (2.0,) * 3)[0]
    )
    resample(image, (1.0, 1.0, 1.0), (2.0, 2.0, 1.0))
    resample(image, (2.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    resample(image.copy(), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    assert len(calls) == 5


def test_a_single_plane_is_not_resampled_across():
    image = ramp((1, 12, 7)).astype(np.float32)
    resampled, scale = resample_to(image, (5.0, 1.0, 1.0), (1.0, 0.5, 1.0))
    assert scale == (1.0, 2.0, 1.0)
    assert resampled.shape == (1, 1, 23, 7)


@pytest.mark.parametrize("scale", [(2.0, 2.0, 2.0), (1.5, 3.0, 1.0), (1.0, 1.25, 2.7)])
def test_a_ramp_stays_the_same_ramp_on_a_finer_grid(scale):
    wanted = tuple(1 / s for s in scale)
    resampled, found = resample_to(ramp(SHAPE), (1.0, 1.0, 1.0), wanted)
    np.testing.assert_allclose(found, scale)
    assert resampled.dtype == np.float32
    expected = ramp(resampled.shape[1:], wanted)
    # Every voxel of the old grid lies within the new one; where that reaches beyond it, the border is continued.
    assert all((m - 1) / s >= n - 1 for n, m, s in zip(SHAPE, resampled.shape[1:], scale, strict=True))
    inside = tuple(slice(0, int((n - 1) * s) + 1) for n, s in zip(SHAPE, scale, strict=True))
    np.testing.assert_allclose(resampled[0][inside], expected[0][inside], atol=1e-4)


def test_a_ramp_stays_the_same_ramp_on_a_coarser_grid_away_from_the_border():
    image = ramp((40, 41, 42))
    resampled, scale = resample_to(image, (1.0, 1.0, 1.0), (2.0, 4.0, 1.0))
    assert scale == (0.5, 0.25, 1.0)
    expected = ramp(resampled.shape[1:], (2.0, 4.0, 1.0))
    np.testing.assert_allclose(resampled[0, 3:-3, 3:-3], expected[0, 3:-3, 3:-3], atol=1e-3)


def test_detail_finer_than_the_coarse_grid_is_smoothed_not_aliased():
    stripes = np.zeros((1, 1, 1, 64), np.float32)
    stripes[..., ::4] = 1  # every other coarse voxel falls on a stripe if nothing is smoothed
    resampled, _ = resample_to(stripes, (1.0, 1.0, 1.0), (1.0, 1.0, 4.0))
    assert np.ptp(resampled[..., 2:-2]) < 0.05
    assert 0.2 < resampled.mean() < 0.6


@pytest.mark.parametrize("scale", [(2.0, 2.0, 2.0), (0.5, 0.5, 0.5), (1.5, 0.3, 1.0)])
@pytest.mark.parametrize("start, size", [((0, 0, 0), (9, 12, 7)), ((3, 4, 2), (4, 5, 3)), ((5, 11, 6), (1, 1, 1))])
def test_interpolating_back_a_linear_function_is_exact_from_any_offset(scale, start, size):
    origin = tuple(int(np.floor(s * f)) for s, f in zip(start, scale, strict=True))
    end = [int(np.ceil((s + n - 1) * f)) + 1 for s, n, f in zip(start, size, scale, strict=True)]
    step = tuple(1 / f for f in scale)
    whole = ramp(end, step)  # the function of position, sampled on the network's grid
    logits = torch.from_numpy(whole[:, origin[0] :, origin[1] :, origin[2] :]).float()
    back = interpolate_back(logits, origin, start, size, scale)
    box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
    expected = ramp(tuple(s + n for s, n in zip(start, size, strict=True)))[0][box]
    assert back.shape == (1, *size)
    np.testing.assert_allclose(back[0].numpy(), expected, atol=1e-3)


def test_interpolating_back_without_a_change_of_scale_gives_the_logits_themselves():
    logits = torch.zeros(2, 3, 3, 3)
    assert interpolate_back(logits, (0, 0, 0), (0, 0, 0), (3, 3, 3), (1.0, 1.0, 1.0)) is logits
