"""Filters around each voxel: what they see, at which spacing, and part by part."""

from __future__ import annotations

import numpy as np
import pytest
from volumes_for_tests import CPU

from SparseUNet3DLib import voxel_features as module
from SparseUNet3DLib.normalisation import ChannelStatistics
from SparseUNet3DLib.tiles import Box
from SparseUNet3DLib.voxel_features import FEATURES_PER_CHANNEL, VoxelFeatures

RAW = ChannelStatistics(-1e6, 1e6, 0.0, 1.0)


def features_of(image: np.ndarray, spacing=(1.0, 1.0, 1.0), wanted=None) -> VoxelFeatures:
    return VoxelFeatures(image, spacing, wanted or spacing, [RAW] * len(image), CPU)


def whole(features: VoxelFeatures, block: Box) -> np.ndarray:
    """Features (n, *block.size), put together from their parts."""
    parts = list(features.apply(lambda x: x, block))
    result = np.full((len(parts[0][1]), *block.size), np.nan, np.float32)
    for part, values in parts:
        here = tuple(slice(s - t, s - t + n) for s, t, n in zip(part.start, block.start, part.size, strict=True))
        result[(slice(None), *here)] = values.numpy()
    return result


def noise(shape=(20, 33, 18), channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)


# -- features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.5)])
def test_a_box_has_the_features_that_it_has_in_the_whole_volume(spacing):
    image = noise(channels=2)
    features = features_of(image, spacing)
    everything = whole(features, Box((0, 0, 0), image.shape[1:]))
    assert everything.shape == (2 * FEATURES_PER_CHANNEL, *image.shape[1:])
    for box in (Box((3, 5, 7), (4, 9, 6)), Box((19, 0, 17), (1, 33, 1)), Box((7, 0, 0), (1, 33, 18))):
        np.testing.assert_allclose(whole(features, box), everything[(slice(None), *box.slices)], atol=2e-3)


def test_little_memory_gives_the_same_features(monkeypatch):
    image = noise()
    block = Box((1, 2, 3), (15, 30, 14))
    at_once = whole(features_of(image), block)
    monkeypatch.setattr(module, "_MOST_VALUES", FEATURES_PER_CHANNEL * 500)
    parts = list(features_of(image).apply(lambda x: x, block))
    assert len(parts) > 10 and all(values[0].numel() <= 500 for _, values in parts)
    np.testing.assert_allclose(whole(features_of(image), block), at_once, atol=2e-3)


@pytest.mark.parametrize("wanted", [(1.0, 1.0, 1.0), (1.7, 2.0, 1.0)])
def test_chosen_voxels_have_the_features_that_their_box_has(wanted, monkeypatch):
    image = noise(channels=2)
    features = features_of(image, (1.0, 1.0, 1.0), wanted)
    everything = whole(features, Box((0, 0, 0), image.shape[1:]))
    voxels = np.argwhere(np.random.default_rng(1).random(image.shape[1:]) < 0.02)
    for most in (2**24, 2 * FEATURES_PER_CHANNEL * 700):
        monkeypatch.setattr(module, "_MOST_VALUES", most)
        np.testing.assert_allclose(features.at(voxels), everything[(slice(None), *voxels.T)].T, atol=2e-3)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_mirrored_image_has_mirrored_features(axis):
    shape = [20, 20, 20]
    shape[axis - 1] = 65  # the grids of all scales end with the image
    image = noise(tuple(shape))
    block = Box((0, 0, 0), tuple(shape))
    found = whole(features_of(np.flip(image, axis)), block)
    np.testing.assert_allclose(np.flip(found, axis), whole(features_of(image), block), atol=5e-3)


def test_the_widest_features_follow_the_image_to_both_ends():
    z = np.arange(64, dtype=np.float32)
    image = np.broadcast_to(z[:, None, None], (64, 64, 64))[None]
    found = whole(features_of(image), Box((0, 30, 30), (64, 1, 1)))[:, :, 0, 0]
    for level in range(1, len(found), 8):
        assert (np.diff(found[level]) >= -1e-3).all()
        np.testing.assert_allclose(found[level] - 31.5, -(found[level] - 31.5)[::-1], atol=4)


def test_the_first_feature_is_the_gray_value_and_wider_ones_see_further():
    image = np.zeros((1, 64, 64, 64), np.float32)
    image[0, 32, 32, 32] = 1000
    found = whole(features_of(image), Box((0, 0, 0), image.shape[1:]))
    np.testing.assert_array_equal(found[0], image[0])
    reach = [np.abs(np.argwhere(found[n] > 0.01 * found[n].max()) - 32).max() for n in range(1, len(found), 8)]
    assert reach == sorted(reach) and reach[0] <= 3 and reach[3] >= 12
    for n in range(1, 4 * 8, 8):  # a single voxel is found where it is
        assert np.unravel_index(found[n].argmax(), image.shape[1:]) == (32, 32, 32)


def test_gray_values_are_normalised_before_anything_is_made_of_them():
    image = np.random.default_rng(0).integers(0, 60_000, (1, 12, 14, 16)).astype(np.uint16)
    statistics = ChannelStatistics(1000, 50_000, 20_000, 5000)
    found = VoxelFeatures(image, (1,) * 3, (1,) * 3, [statistics], CPU)
    expected = features_of((image.astype(np.float32).clip(1000, 50_000) - 20_000) / 5000)
    block = Box((0, 0, 0), image.shape[1:])
    np.testing.assert_allclose(whole(found, block), whole(expected, block), atol=2e-3)


def test_a_finer_volume_is_looked_at_in_millimetres():
    """A smooth image has the same features on a grid twice as fine, brought to the coarse one's spacing."""
    z, y, x = np.meshgrid(*(np.arange(n) / 2 for n in (48, 48, 48)), indexing="ij")
    fine = (np.sin(z / 3) + np.cos(y / 4) * x)[None].astype(np.float32)
    coarse = fine[:, ::2, ::2, ::2]
    found = whole(features_of(fine, (0.5,) * 3, (1.0,) * 3), Box((16, 16, 16), (16, 16, 16)))
    expected = whole(features_of(coarse), Box((8, 8, 8), (8, 8, 8)))
    np.testing.assert_allclose(found[1:9, ::2, ::2, ::2], expected[1:9], atol=0.05)


@pytest.mark.parametrize("shape", [(1, 30, 40), (2, 2, 2), (1, 1, 1)])
def test_single_planes_and_voxels_have_features(shape):
    found = whole(features_of(noise(shape)), Box((0, 0, 0), shape))
    assert np.isfinite(found).all()
