from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes_for_tests import STILL, Triple, draw, make_case, make_plan_of, make_sampler, numbered

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.loss import UNANNOTATED
from SparseUNet3DLib.normalisation import ChannelStatistics
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.prepared_case import PreparedCase, keep_on_device
from SparseUNet3DLib.recipe import AugmentationRecipe
from SparseUNet3DLib.sampling import PatchSampler
from SparseUNet3DLib.voxel_boxes import normalise, read_box

#: Rotations, scales and deformations far beyond the presets'.
STRONG = AugmentationRecipe(
    rotation=60.0, scaling=0.6, elastic_sd=10.0, elastic_spacing=6.0, gray_slope=2.0, mirror=("x", "y", "z")
)
ONE_MM = (1.0, 1.0, 1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def single_voxel(shape: Triple, voxel: Triple) -> np.ndarray:
    annotated = np.zeros(shape, bool)
    annotated[voxel] = True
    return annotated


# -- every patch shows what is annotated -----------------------------------------------------------------


@pytest.mark.parametrize("recipe", [STILL, AugmentationRecipe(), STRONG], ids=["still", "usual", "strong"])
@pytest.mark.parametrize(
    "shape, spacing, patch, patch_spacing, annotated",
    [
        ((20, 20, 20), ONE_MM, (8, 8, 8), ONE_MM, (10, 10, 10)),
        ((20, 20, 20), ONE_MM, (8, 8, 8), ONE_MM, (0, 0, 0)),
        ((20, 20, 20), ONE_MM, (8, 8, 8), ONE_MM, (19, 0, 19)),
        ((4, 5, 6), ONE_MM, (8, 8, 8), ONE_MM, (0, 4, 5)),
        ((1, 1, 1), ONE_MM, (8, 8, 8), ONE_MM, (0, 0, 0)),
        ((1, 30, 30), ONE_MM, (1, 8, 8), ONE_MM, (0, 29, 0)),
        ((10, 20, 20), (5.0, 1.0, 1.0), (4, 8, 8), (5.0, 1.0, 1.0), (9, 19, 0)),
        ((20, 20, 20), ONE_MM, (8, 8, 8), (2.0, 2.0, 2.0), (7, 12, 0)),
        ((20, 20, 20), (2.0, 2.0, 2.0), (8, 8, 8), ONE_MM, (7, 12, 0)),
        ((20, 20, 20), (0.37, 0.41, 0.9), (6, 8, 10), (1.3, 0.77, 0.9), (19, 19, 1)),
    ],
)
def test_a_single_annotated_voxel_is_in_every_patch(
    shape: Triple, spacing: tuple, patch: Triple, patch_spacing: tuple, annotated: Triple, recipe: AugmentationRecipe
):
    case = make_case(np.zeros(shape, np.float32), single_voxel(shape, annotated), spacing=spacing)
    sampler = make_sampler([case], make_plan_of(patch, patch_spacing, batch_size=2), recipe)
    random = generator()
    for _ in range(50):
        images, targets = draw(sampler, random)
        assert torch.isfinite(images).all()
        assert images.shape == (2, 1, *patch) and targets.shape == (2, *patch)
        assert (targets != UNANNOTATED).flatten(1).any(1).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_patch_of_any_volume_shows_annotated_voxels(data: st.DataObject):
    shape = data.draw(st.tuples(*[st.integers(1, 14)] * 3), "shape")
    spacing = data.draw(st.tuples(*[st.floats(0.2, 5.0)] * 3), "spacing")
    patch_spacing = data.draw(st.tuples(*[st.floats(0.2, 5.0)] * 3), "patch spacing")
    patch = data.draw(st.tuples(*[st.integers(1, 10)] * 3), "patch")
    axis = data.draw(st.integers(0, 2), "axis")
    plane = Plane(axis, data.draw(st.integers(0, shape[axis] - 1), "plane"))
    case = make_case(np.zeros(shape, np.float32), spacing=spacing, planes=(plane,))
    sampler = make_sampler([case], make_plan_of(patch, patch_spacing), STRONG)
    random = generator(data.draw(st.integers(0, 1000), "seed"))
    for _ in range(8):
        assert (draw(sampler, random)[1] != UNANNOTATED).any()


@pytest.mark.parametrize("recipe", [STILL, STRONG], ids=["still", "strong"])
@pytest.mark.parametrize("voxel", [(0, 0, 0), (3, 59, 119)])
def test_the_small_output_of_the_papers_network_shows_annotated_voxels(voxel: Triple, recipe: AugmentationRecipe):
    shape = (4, 60, 120)
    case = make_case(np.zeros(shape, np.float32), single_voxel(shape, voxel))
    sampler = make_sampler([case], make_plan_of((92, 92, 92), network="paper"), recipe)
    random = generator()
    for _ in range(4):
        images, targets = draw(sampler, random)
        assert images.shape == (1, 1, 92, 92, 92) and targets.shape == (1, 4, 4, 4)
        assert (targets != UNANNOTATED).any()


@pytest.mark.parametrize("step", [0.5, 2.0, 3.0])
def test_an_unturned_patch_shows_a_whole_plane_also_at_another_spacing(step: float):
    case = make_case(np.zeros((30, 30, 30), np.float32), planes=(Plane(1, 13),))
    sampler = make_sampler([case], make_plan_of((6, 6, 6), (step, step, step)))
    for seed in range(20):
        annotated = draw(sampler, generator(seed))[1][0] != UNANNOTATED
        rows = annotated.any(0).any(1)
        assert rows.any()
        assert annotated[1:-1, rows, 1:-1].all()  # the outermost voxels may lie on the volume's faces


# -- where patches lie -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, patch, most_out",
    [
        ((12, 13, 14), (4, 6, 8), (0, 0, 0)),
        ((12, 8, 16), (12, 6, 12), (3, 0, 0)),
        ((16, 17, 18), (16, 12, 17), (3, 0, 3)),
    ],
)
def test_patches_stick_out_a_little_along_the_axes_that_they_span_and_cover_the_volume(
    shape: Triple, patch: Triple, most_out: Triple
):
    """At most 0.35 of half a patch less the room that it has, rounded up; on one side of each axis."""
    sampler = make_sampler([make_case(numbered(shape))], make_plan_of(patch))
    seen = np.zeros(shape, bool)
    furthest = np.zeros(3, int)
    random = generator()
    for _ in range(600):
        images, targets = draw(sampler, random)
        inside = (targets[0] == 0).numpy()
        lengths = [inside.any(axis=tuple(a for a in range(3) if a != axis)).sum() for axis in range(3)]
        furthest = np.maximum(furthest, np.array(patch) - lengths)
        shown = np.round(images[0, 0].numpy()[inside]).astype(int)
        assert len(shown) == len(np.unique(shown))  # every voxel of the volume at most once
        seen.reshape(-1)[shown] = True
    assert seen.all()
    assert furthest.tolist() == pytest.approx(most_out, abs=1) and (furthest <= most_out).all()
    assert ((furthest > 0) == (np.array(most_out) > 0)).all()


def test_annotated_slices_lie_at_many_places_in_a_patch_that_spans_the_volume():
    case = make_case(numbered((16, 16, 16)), planes=(Plane(0, 8),))
    sampler = make_sampler([case], make_plan_of((16, 16, 16)))
    random = generator()
    places = {int((draw(sampler, random)[1][0] != UNANNOTATED).any(2).any(1).nonzero()[0]) for _ in range(100)}
    assert places == {6, 7, 8, 9, 10} or places > {6, 7, 8, 9, 10}


def test_the_drawn_voxel_lies_anywhere_around_the_middle_away_from_borders():
    shape, patch = (40, 40, 40), np.array((8, 12, 16))
    sampler = make_sampler([make_case(numbered(shape), single_voxel(shape, (20, 20, 20)))], make_plan_of(tuple(patch)))
    places = []
    random = generator()
    for _ in range(300):
        targets = draw(sampler, random)[1]
        places.append((targets[0] != UNANNOTATED).nonzero()[0].tolist())
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    assert (low >= patch // 16).all() and (low <= patch // 4).all()
    assert (high < patch - patch // 16).all() and (high >= 3 * patch // 4 - 1).all()


def test_a_patch_larger_than_the_volume_shows_it_mirrored_around():
    image = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    sampler = make_sampler([make_case(image)], make_plan_of((10, 9, 8)))
    mirrored = np.pad(image, 10, "reflect")
    for seed in range(5):
        images, targets = draw(sampler, generator(seed))
        start = (targets[0] != UNANNOTATED).nonzero().amin(0).tolist()
        box = tuple(slice(10 - s, 10 - s + n) for s, n in zip(start, (10, 9, 8), strict=True))
        np.testing.assert_allclose(images[0, 0], mirrored[box], atol=1e-5)
        inside = np.zeros(mirrored.shape, bool)
        inside[10:14, 10:15, 10:16] = True
        np.testing.assert_array_equal(targets[0], np.where(inside[box], 0, UNANNOTATED))


def test_the_same_seed_gives_the_same_patches():
    rng = np.random.default_rng(0)
    case = make_case(rng.normal(size=(12, 12, 12)).astype(np.float32), planes=(Plane(0, 5), Plane(2, 3)))
    sampler = make_sampler([case], make_plan_of((6, 6, 6), batch_size=2), STRONG)
    one, same, other = (draw(sampler, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], same[0]) and torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])


# -- which voxels are drawn ------------------------------------------------------------------------------


def drawn_classes(foreground_share: float, number: int = 400) -> np.ndarray:
    """Share of each of 4 classes among patches of a single voxel; they have 900, 90, 0 and 10 voxels."""
    labels = np.zeros((10, 10, 10), int)
    labels.flat[900:990], labels.flat[990:] = 1, 3
    case = make_case(np.zeros((10, 10, 10), np.float32), labels=labels, names=("a", "b", "c"))
    plan = make_plan_of((1, 1, 1), classes=4, batch_size=number)
    sampler = make_sampler([case], plan, foreground_share=foreground_share)
    assert sampler.class_counts.tolist() == [900, 90, 0, 10]
    targets = draw(sampler, generator())[1].flatten()
    return torch.bincount(targets, minlength=4).numpy() / number


def test_classes_are_drawn_as_the_recipe_balances_them():
    """Three standard deviations of a share among 400 draws are 0.075."""
    np.testing.assert_allclose(drawn_classes(0.0), [0.9, 0.09, 0, 0.01], atol=0.075)
    np.testing.assert_allclose(drawn_classes(1.0), [1 / 3, 1 / 3, 0, 1 / 3], atol=0.075)
    np.testing.assert_allclose(drawn_classes(0.5), [0.617, 0.212, 0, 0.172], atol=0.075)


def test_all_voxels_of_a_class_can_be_drawn():
    shape = (3, 4, 5)
    sampler = make_sampler([make_case(numbered(shape))], make_plan_of((1, 1, 1), batch_size=500))
    assert draw(sampler, generator())[0].unique().numel() == 60


def test_volumes_are_drawn_alike_and_those_without_annotation_not_at_all():
    cases = [
        make_case(np.full((4, 4, 4), 1.0, np.float32)),
        make_case(np.full((9, 9, 9), 2.0, np.float32)),
        make_case(np.full((4, 4, 4), 3.0, np.float32), np.zeros((4, 4, 4), bool)),
    ]
    sampler = make_sampler(cases, make_plan_of((1, 1, 1), batch_size=400))
    values = draw(sampler, generator())[0].flatten()
    assert set(values.tolist()) == {1.0, 2.0}
    assert 0.4 < (values == 1).float().mean() < 0.6


def test_nothing_annotated_is_refused():
    case = make_case(np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), bool))
    with pytest.raises(InputError, match=r"No voxel is annotated.*paint some slices"):
        make_sampler([case], make_plan_of((4, 4, 4)))


# -- image values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
)
def test_any_number_type_comes_out_as_its_values(dtype: type):
    most = 65535 if np.dtype(dtype).itemsize == 2 and dtype == np.uint16 else 100
    image = np.linspace(0, most, 125).reshape(5, 5, 5).astype(dtype)
    sampler = make_sampler([make_case(image)], make_plan_of((5, 5, 5)))
    images, _ = draw(sampler, generator())
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images[0, 0], image.astype(np.float64), rtol=1e-4, atol=1e-2)


def test_gray_values_are_clipped_and_scaled_per_channel():
    box = torch.tensor([[-50, 10, 500], [1, 2, 3]], dtype=torch.int16).reshape(2, 1, 1, 3)
    statistics = [ChannelStatistics(0, 100, 50, 25), ChannelStatistics(-10, 10, 2, 1)]
    expected = torch.tensor([[-2.0, -1.6, 2.0], [-1.0, 0.0, 1.0]])
    torch.testing.assert_close(normalise(box, statistics).reshape(2, 3), expected)


def test_channels_stay_together():
    image = np.stack([numbered((8, 8, 8)), -2 * numbered((8, 8, 8))])
    plan = make_plan_of((4, 4, 4), in_channels=2)
    images, _ = draw(make_sampler([make_case(image)], plan, replace(STRONG, gray_slope=1.0)), generator())
    torch.testing.assert_close(images[:, 1], -2 * images[:, 0], rtol=1e-4, atol=1e-2)


# -- reading boxes ---------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    start=st.tuples(*[st.integers(-14, 14)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
    channels=st.sampled_from([None, 2]),
)
def test_a_box_beyond_the_border_is_mirrored_as_numpy_pads(shape: Triple, start: Triple, size: Triple, channels):
    array = numbered(shape if channels is None else (channels, *shape))
    before = [max(0, -s) for s in start]
    after = [max(0, s + n - m) for s, n, m in zip(start, size, shape, strict=True)]
    widths = list(zip(before, after, strict=True))
    padded = np.pad(array, widths if channels is None else [(0, 0), *widths], "reflect")
    box = tuple(slice(s + b, s + b + n) for s, b, n in zip(start, before, size, strict=True))
    np.testing.assert_array_equal(read_box(array, start, size), padded[(..., *box)])


# -- whole batches ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    patch=st.tuples(*[st.integers(1, 8)] * 3),
    start=st.tuples(*[st.integers(-20, 20)] * 3),
)
def test_a_patch_anywhere_is_the_mirrored_volume_with_labels_only_inside(shape: Triple, patch: Triple, start: Triple):
    image, labels = numbered(shape), np.arange(math.prod(shape)).reshape(shape) % 5
    sampler = make_sampler([make_case(image, labels=labels)], make_plan_of(patch, classes=5))
    case = sampler.cases[0]
    where = torch.from_numpy(np.indices(patch).astype(np.float32)) + torch.tensor(start)[:, None, None, None]
    sampled = sampler._sample_image(case, where)
    np.testing.assert_allclose(sampled[0], read_box(image, start, patch), rtol=1e-4, atol=1e-3)
    inside = np.ones(patch, bool)
    for axis, n in enumerate(shape):
        inside &= (where[axis].numpy() >= 0) & (where[axis].numpy() < n)
    expected = np.where(inside, read_box(labels, start, patch), UNANNOTATED)
    np.testing.assert_array_equal(sampler._sample_target(case, where), expected)


def test_an_image_is_sampled_from_the_networks_own_grid():
    """Fine noise is averaged away by the way to a coarser spacing, as it is when segmenting."""
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    images, _ = draw(make_sampler([make_case(noise)], make_plan_of((8, 8, 8), (4.0, 4.0, 4.0))), generator())
    assert images.std() < 0.3


# -- volumes kept on the device --------------------------------------------------------------------------


def kept_voxels(sampler: PatchSampler) -> list[int]:
    """Voxels of the volumes that are kept on the device."""
    whole = torch.zeros(3, 1, 1, 1)
    return [c.image_around(whole)[0].numel() for c in sampler.cases if c.image_around(whole)[0].numel() > 1]


def test_volumes_that_fit_are_kept_on_the_device():
    sizes = ((10, 10, 10), (30, 30, 30), (11, 11, 11), (12, 12, 12))
    sampler = make_sampler([make_case(np.zeros(s, np.uint16)) for s in sizes], make_plan_of((8, 8, 8)))
    assert kept_voxels(sampler) == []
    keep_on_device(sampler.cases, 6 * (10**3 + 11**3) + 6)
    assert kept_voxels(sampler) == [10**3, 11**3]


def test_a_device_without_room_keeps_no_volume(monkeypatch: pytest.MonkeyPatch):
    def fail(self: PreparedCase) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(PreparedCase, "keep_on_device", fail)
    sampler = make_sampler([make_case(np.zeros((10, 10, 10), np.float32))], make_plan_of((8, 8, 8)))
    keep_on_device(sampler.cases, 10**6)
    assert kept_voxels(sampler) == []
