"""The phantom is what it says: tubules with lumina that no threshold finds, and planes to learn them from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.phantom import LUMEN, TUBULE, best_threshold_iou, make_phantom, sample_planes
from SparseUNet3DLib.plane_detection import detect_planes
from SparseUNet3DLib.segments import BACKGROUND_NAME, Segment, Segmentation
from SparseUNet3DLib.volumes import Volume

SHAPE, SPACING = (64, 96, 96), (1.0, 0.5, 0.5)
#: Half as long in each direction: still several tubules, but quickly made.
SMALL = (32, 48, 48)


@pytest.fixture(scope="module")
def phantom():
    """The default phantom; not to be changed."""
    return make_phantom()


@pytest.fixture(scope="module", params=range(4))
def small_phantom(request):
    """Small phantoms of several seeds; not to be changed."""
    return make_phantom(request.param, SMALL)


def test_it_is_a_volume_of_three_channels_and_its_truth_on_one_grid(phantom):
    volume, truth = phantom
    assert volume.array.shape == (3, *SHAPE)
    assert volume.array.dtype == np.uint8
    assert volume.channel_names == ("Tomato-Lectin", "DAPI", "beta-Catenin")
    assert truth.labels.dtype == np.uint16
    assert volume.geometry == truth.geometry == Geometry(SHAPE[::-1], SPACING[::-1])


def test_the_segments_are_told_apart_by_name_id_and_colour(phantom):
    _, truth = phantom
    assert [segment.name for segment in truth.segments] == ["tubule", "lumen"]
    assert truth.segments[TUBULE - 1].name == "tubule" and truth.segments[LUMEN - 1].name == "lumen"
    assert len({segment.id for segment in truth.segments}) == len({segment.color for segment in truth.segments}) == 2
    assert BACKGROUND_NAME not in {segment.name for segment in truth.segments}


def test_the_grid_is_as_asked_for():
    volume, truth = make_phantom(shape=(10, 30, 20), spacing=(2, 1, 0.5))
    assert volume.array.shape == (3, 10, 30, 20)
    assert volume.geometry == truth.geometry
    assert truth.geometry.array_shape == (10, 30, 20)
    assert truth.geometry.array_spacing == (2.0, 1.0, 0.5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (4, 4, 40)])
def test_a_volume_may_be_tiny_and_is_within_a_tubule_then(shape):
    volume, truth = make_phantom(shape=shape)
    assert volume.array.shape == (3, *shape)
    assert (truth.labels > 0).any()


def test_structures_keep_their_size_in_micrometres():
    """Twice as fine a grid has tubules of as many micrometres, not voxels."""
    thickness = []
    for shape, spacing in (((24, 24, 24), (1, 1, 1)), ((48, 48, 48), (0.5, 0.5, 0.5))):
        _, truth = make_phantom(3, shape, spacing)
        thickness.append(ndimage.distance_transform_edt(truth.labels > 0, sampling=spacing).max())
    assert thickness[0] == pytest.approx(thickness[1], abs=1.0)
    assert 4 < thickness[0] < 9


def test_a_lumen_lies_within_the_wall_wherever_it_does_not_leave_the_volume(small_phantom):
    _, truth = small_phantom
    around = ndimage.binary_dilation(truth.labels == LUMEN, np.ones((3, 3, 3)))
    assert (truth.labels == LUMEN).any()
    assert (truth.labels[around] > 0).all()


def test_the_shares_of_the_segments_leave_most_to_the_background(phantom):
    labels = phantom[1].labels
    assert 0.15 < np.mean(labels == TUBULE) < 0.35
    assert 0.04 < np.mean(labels == LUMEN) < 0.12


def test_several_tubules_are_seen(phantom):
    _, count = ndimage.label(phantom[1].labels == LUMEN)
    assert 4 <= count <= 25


def test_the_same_seed_gives_the_same_volume():
    (volume, truth), (again, truth_again) = make_phantom(5, SMALL), make_phantom(5, SMALL)
    np.testing.assert_array_equal(volume.array, again.array)
    np.testing.assert_array_equal(truth.labels, truth_again.labels)


def test_another_seed_gives_another_volume_of_the_same_kind():
    (volume, truth), (other, other_truth) = make_phantom(0, SMALL), make_phantom(1, SMALL)
    assert np.mean(truth.labels != other_truth.labels) > 0.2
    for channel, other_channel in zip(volume.array, other.array, strict=True):
        assert abs(np.corrcoef(channel.ravel(), other_channel.ravel())[0, 1]) < 0.3
        assert other_channel.mean() == pytest.approx(channel.mean(), rel=0.3)


def test_with_less_light_the_same_tubules_are_darker_and_noisier():
    (volume, truth), (dark, dark_truth) = make_phantom(0, SMALL), make_phantom(0, SMALL, light=0.4)
    np.testing.assert_array_equal(truth.labels, dark_truth.labels)
    for channel, dark_channel in zip(volume.array.astype(float), dark.array.astype(float), strict=True):
        assert dark_channel.mean() - 8 < 0.6 * (channel.mean() - 8)  # the camera gives 8 without any light
        # Noise is what neighbours do not share; it is told beside the spread of the whole channel.
        noise, dark_noise = (np.diff(c, axis=2).std() / c.std() for c in (channel, dark_channel))
        assert dark_noise > 1.1 * noise


def test_the_gray_values_use_their_range_and_are_not_clipped(phantom):
    for channel in phantom[0].array:
        assert channel.max() > 120
        assert np.mean((channel == 0) | (channel == 255)) < 0.01


def test_it_fades_with_depth(phantom):
    depth = SHAPE[0] // 4
    for channel in phantom[0].array:
        assert channel[-depth:].mean() < 0.8 * channel[:depth].mean()


def test_a_stain_shows_its_structure_and_something_like_it_elsewhere(phantom):
    """Channels tell something, each about the part that it stains, so that the volume can be annotated."""
    volume, truth = phantom
    lectin, nuclei, catenin = volume.array.astype(float)
    wall, lumen, stroma = (truth.labels == value for value in (TUBULE, LUMEN, 0))
    surface = ndimage.binary_dilation(~stroma) & stroma
    assert lectin[surface].mean() > 1.5 * lectin[stroma & ~surface].mean()
    assert catenin[wall].mean() > 1.3 * catenin[stroma].mean()
    assert catenin[lumen].mean() < 0.8 * catenin[wall].mean()
    assert nuclei[stroma].max() > 0.7 * nuclei[wall].max()


def test_no_threshold_on_a_channel_finds_a_segment(phantom, small_phantom):
    for example in (phantom, small_phantom):
        found = best_threshold_iou(*example)
        assert set(found) == {"tubule", "lumen", "union"}
        assert max(found.values()) < 0.55


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_segment_that_a_threshold_finds_is_noticed(dtype, sign):
    labels = np.array([[[0, 0, 1, 1, 1, 2, 2, 0]]], np.uint16)
    grays = np.array([[[5, 4, 7, 8, 6, 9, 9, 7]]])
    geometry = Geometry((8, 1, 1))
    flat = np.zeros_like(labels)
    volume = Volume(np.stack([flat, 100 + sign * grays]).astype(dtype), geometry, ("flat", "gray"), "example")
    truth = Segmentation(labels, (Segment("a", "a"), Segment("b", "b")), geometry)
    # All from 6 on has 3 of 6 right for a, the two of 9 are b, and 5 of 6 belong to either.
    assert best_threshold_iou(volume, truth) == pytest.approx({"a": 1 / 2, "b": 1.0, "union": 5 / 6})


def test_the_sample_has_two_planes_per_orientation_and_less_than_a_tenth_of_the_voxels(phantom):
    truth = phantom[1]
    planes = sample_planes(truth)
    assert [plane.axis for plane in planes] == [0, 0, 1, 1, 2, 2]
    assert planes == sorted(set(planes))
    assert covered(planes, SHAPE).mean() < 0.1


def test_the_sample_of_a_small_volume_has_fewer_planes(small_phantom):
    planes = sample_planes(small_phantom[1])
    assert {plane.axis for plane in planes} == {0, 1, 2}
    assert covered(planes, SMALL).mean() < 0.1


def test_each_plane_of_the_sample_shows_both_segments(phantom, small_phantom):
    for _, truth in (phantom, small_phantom):
        for plane in sample_planes(truth):
            assert {TUBULE, LUMEN} <= set(np.unique(truth.labels[plane.voxels]))


def test_the_planes_of_the_sample_are_found_when_only_the_segments_are_painted_on_them(phantom):
    truth = phantom[1]
    planes = sample_planes(truth)
    found = detect_planes((truth.labels > 0) & covered(planes, SHAPE))
    assert list(found.planes) == planes
    assert not found.loose.any()


def test_a_volume_without_both_segments_has_no_sample_planes():
    geometry = Geometry((20, 20, 20))
    truth = Segmentation(np.full((20, 20, 20), TUBULE, np.uint16), (Segment("a", "a"), Segment("b", "b")), geometry)
    assert sample_planes(truth) == []


def covered(planes, shape) -> np.ndarray:
    """Which voxels (z, y, x) lie on one of the planes."""
    mask = np.zeros(shape, bool)
    for plane in planes:
        mask[plane.voxels] = True
    return mask
