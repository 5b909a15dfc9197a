from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_training import (
    CPU,
    NARROW,
    in_fresh_process,
    little_memory,
    paper_plan,
    tiny_annotation,
    tiny_labels,
    tiny_plan,
    tiny_recipe,
    tiny_volume,
)
from tiny_training import iou as iou_of
from torch import nn

from SparseUNet3DLib.errors import InputError, MemoryLimitError
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.tiles import Box, larger_tiles, tile_starts
from SparseUNet3DLib.voxel_boxes import normalise, read_box
from SparseUNet3DLib.workflow import RunOptions, densify, segment

GRAY = (ChannelNormalisation("gray"),)
#: The slice-wise network, whose tiles are cheap, with output tiles of 12 x 12 pixels.
FLAT = replace(
    paper_plan(), network="2d", strides=((1, 2, 2),) * 3, kernels=((1, 3, 3),) * 4, patch_size=(1, 100, 100)
)


def untrained(plan: Plan) -> nn.Module:
    """A network with the random weights of seed 0 and decided logits; batch normalisation has seen noise."""
    torch.manual_seed(0)
    network = build_network(plan)
    nn.init.normal_(network.head.weight)
    if plan.batch_norm:
        with torch.no_grad():
            network.train()(torch.randn(1, plan.in_channels, *plan.patch_size))
    return network.eval()


def predictor(plan: Plan, shape: tuple[int, int, int], **options: object) -> Predictor:
    """On a noisy volume of ``shape``; ``options`` are the settings."""
    return Predictor(
        untrained(plan), plan, GRAY, tiny_volume(shape).array, plan.spacing, CPU, settings=InferenceSettings(**options)
    )


def all_logits(p: Predictor) -> torch.Tensor:
    """Logits (classes, z, y, x) of the whole volume, block by block."""
    first, *others = (p.logits(block) for block in p._blocks())
    if not others:
        return first
    result = torch.full((p.plan.classes, *p.shape), math.nan)
    for block, logits in zip(p._blocks(), [first, *others], strict=True):
        result[(slice(None), *block.slices)] = logits
    return result


def at_one_go(network: nn.Module, plan: Plan, image: np.ndarray) -> torch.Tensor:
    """Logits (classes, z, y, x) of a "paper" or "2d" network that sees all of ``image`` (c, z, y, x) at once."""
    shape = image.shape[1:]
    size = [4 + 8 * math.ceil(max(0, n - 4) / 8) + 2 * m if m else n for n, m in zip(shape, plan.margin, strict=True)]
    box = torch.from_numpy(np.ascontiguousarray(read_box(image, [-m for m in plan.margin], size)))
    with torch.inference_mode():
        logits = network(normalise(box, [n.statistics(c) for n, c in zip(GRAY, image, strict=True)])[None])[0]
    return logits[:, : shape[0], : shape[1], : shape[2]]


# -- tiles agree with the whole ------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm, shape, tiles", [(None, (14, 13, 20), 8), ("frozen", (3, 13, 12), 2)])
def test_tiles_of_the_papers_network_agree_with_the_whole_volume(batch_norm, shape, tiles):
    plan = paper_plan(batch_norm=batch_norm)
    p = predictor(plan, shape)
    assert p.count_tiles() == tiles
    expected = at_one_go(p.network, plan, tiny_volume(shape).array)
    assert expected.std() > 0.1
    torch.testing.assert_close(all_logits(p), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_norm", [None, "running", "frozen"])
@pytest.mark.parametrize("overlap, memory", [(0.5, 2**30), (0.0, 2**30), (0.9, 5000)])
def test_tiles_of_the_slice_wise_network_agree_with_the_whole_volume(batch_norm, overlap, memory):
    plan = replace(FLAT, batch_norm=batch_norm)
    p = predictor(plan, (3, 30, 41), overlap=overlap, memory=memory)
    assert len(list(p._blocks())) == 1 if memory == 2**30 else 32
    expected = at_one_go(p.network, plan, tiny_volume((3, 30, 41)).array)
    torch.testing.assert_close(all_logits(p), expected, atol=1e-4, rtol=0)


def test_a_block_of_the_papers_network_has_the_logits_of_the_whole():
    p = predictor(paper_plan(), (9, 20, 9))
    whole = all_logits(p)
    block = Box((2, 5, 0), (3, 13, 9))
    torch.testing.assert_close(p.logits(block), whole[(slice(None), *block.slices)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(24, 32, 32), (5, 40, 33), (1, 20, 20)])
def test_logits_do_not_depend_on_the_memory_for_them(shape):
    plenty, little = predictor(tiny_plan(), shape), predictor(tiny_plan(), shape, memory=5_000)
    assert len(list(plenty._blocks())) == 1
    assert len(list(little._blocks())) > 1
    torch.testing.assert_close(all_logits(little), all_logits(plenty), atol=1e-5, rtol=0)
    for one, other in zip(plenty.segment(), little.segment(), strict=True):
        assert np.mean(one != other) < 1e-3  # where two classes are equally likely, rounding decides


# -- the tile grid -------------------------------------------------------------------------------------


@st.composite
def axes(draw: st.DrawFn) -> tuple[Plan, int, int, int, float]:
    """A plan of one of the networks, frame start and size, the volume's size, and the overlap."""
    overlap = draw(st.floats(0, 0.9))
    network = draw(st.sampled_from(["auto", "paper"]))
    if network == "paper":
        plan = paper_plan(patch_size=(92 + 8 * draw(st.integers(0, 12)),) * 3)
    else:
        levels = draw(st.integers(0, 4))
        tile = 2**levels * draw(st.integers(1, 6))
        plan = tiny_plan(
            strides=((2, 2, 2),) * levels, kernels=((3, 3, 3),) * (levels + 1), widths=(1,) * (levels + 1),
            patch_size=(tile,) * 3,
        )
    limit = draw(st.integers(1, 300))
    start = draw(st.integers(0, limit - 1))
    return plan, start, draw(st.integers(1, limit - start)), limit, overlap


@settings(max_examples=1000, deadline=None)
@given(axes())
@example((tiny_plan(), 0, 1, 1, 0.5))
@example((tiny_plan(), 23, 1, 24, 0.5))
@example((paper_plan(patch_size=(92, 92, 92)), 0, 5, 5, 0.5))
def test_tiles_cover_every_voxel_in_phase(case):
    plan, start, size, limit, overlap = case
    starts = tile_starts(start, size, limit, plan, 0, overlap)
    tile, stride = plan.output_size[0], plan.total_stride[0]
    if tile >= stride:
        assert all(s % stride == 0 for s in starts)
    covered = set(itertools.chain.from_iterable(range(s, s + tile) for s in starts))
    assert covered >= set(range(start, start + size))
    # No tile is computed for nothing, or twice.
    assert all(s < start + size and s + tile > start for s in starts)
    assert starts == sorted(set(starts))


@settings(max_examples=500, deadline=None)
@given(axes())
def test_tiles_overlap_as_much_as_asked_for_and_hardly_more(case):
    plan, start, size, limit, overlap = case
    starts = tile_starts(start, size, limit, plan, 0, overlap)
    tile, stride = plan.output_size[0], plan.total_stride[0]
    steps = np.diff(starts)
    if plan.network == "auto" and size > tile and tile > stride:
        assert max(steps) <= max(stride, tile * (1 - overlap))
        assert len(starts) <= math.ceil((size + stride) / max(stride, tile * (1 - overlap) - stride)) + 1


@pytest.mark.parametrize("network", ["auto", "2d"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 30), (3, 5, 7), (17, 16, 15), (2, 60, 1)])
def test_volumes_smaller_than_a_tile_and_thin_ones_are_segmented(network, shape):
    p = predictor(tiny_plan() if network == "auto" else FLAT, shape)
    logits = all_logits(p)
    assert logits.shape == (3, *shape)
    assert bool(logits.isfinite().all())
    labels, confidence = p.segment()
    assert labels.shape == confidence.shape == shape
    if network == "2d":
        torch.testing.assert_close(logits, at_one_go(p.network, FLAT, tiny_volume(shape).array), atol=1e-4, rtol=0)


@pytest.mark.parametrize("axis, index", [(0, 0), (0, 11), (0, 23), (1, 0), (1, 31), (2, 17), (2, 31)])
def test_a_frame_of_one_plane_is_covered_anywhere(axis, index):
    p = predictor(tiny_plan(), (24, 32, 32))
    plane = Box(*zip(*((index, 1) if a == axis else (0, n) for a, n in enumerate(p.shape)), strict=True))
    logits = p.logits(plane, frame=plane)
    assert logits.shape == (3, *plane.size)
    assert bool(logits.isfinite().all())
    # Fewer tiles than for the whole volume, and all of them inside of it.
    tiles = list(p._tiles(plane))
    assert len(tiles) < p.count_tiles()
    assert all(s >= 0 and s + n <= m for t in tiles for s, n, m in zip(t.start, t.size, p.shape, strict=True))


def test_a_plane_of_the_papers_network_has_the_logits_of_the_whole_volume():
    p = predictor(FLAT, (4, 30, 41))
    plane = Box((2, 0, 0), (1, 30, 41))
    torch.testing.assert_close(p.logits(plane, frame=plane), all_logits(p)[:, 2:3], atol=1e-5, rtol=0)
    column = Box((0, 0, 40), (4, 30, 1))
    torch.testing.assert_close(p.logits(column, frame=column), all_logits(p)[..., 40:], atol=1e-4, rtol=0)


def test_larger_tiles_are_for_networks_whose_tiles_agree_and_keep_to_the_memory():
    plan = paper_plan(patch_size=(116, 132, 132))
    larger = larger_tiles(plan, (300, 300, 60), 2**40)
    assert larger.patch_size == (268, 284, 148)
    bounded = larger_tiles(plan, (300, 300, 300), int(1.5 * plan.training_bytes() / 3))
    assert plan.patch_size < bounded.patch_size < larger.patch_size
    assert bounded.training_bytes() / 3 <= 1.5 * plan.training_bytes() / 3
    assert larger_tiles(FLAT, (9, 30, 41), 2**40).patch_size == (1, 124, 132)
    for unchanged in (tiny_plan(), paper_plan(batch_norm="batch")):
        assert larger_tiles(unchanged, (300, 300, 300), 2**40) is unchanged


# -- averaging, confidence, types ----------------------------------------------------------------------


def test_mirrored_logits_are_the_mean_over_all_mirrorings():
    plan = tiny_plan()
    image = tiny_volume((16, 16, 16)).array
    mirrored = predictor(plan, (16, 16, 16), mirror=("x", "z"))
    normalised = normalise(torch.from_numpy(image), [GRAY[0].statistics(image[0])])[None]
    with torch.inference_mode():
        turns = [mirrored.network(normalised.flip(axes)).flip(axes) for axes in ((), (2,), (4,), (2, 4))]
    assert (turns[0] - turns[3]).abs().max() > 0.01
    torch.testing.assert_close(all_logits(mirrored), torch.stack(turns).mean(0)[0], atol=1e-5, rtol=0)
    assert mirrored.count_tiles() == 4
    assert predictor(plan, (16, 16, 16)).count_tiles() == 1


class Constant(nn.Module):
    """Says the same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits).reshape(1, -1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(1, -1, *x.shape[2:])


@pytest.mark.parametrize(
    "logits, label, percent",
    [
        ((0.0, 60.0, 0.0), 1, 100),
        ((-50.0, -50.0, 50.0), 2, 100),
        ((3.0, 3.0, 3.0), 0, 0),
        # Two of three classes equally likely: 1 - log 2 / log 3.
        ((0.0, 0.0, -80.0), 0, 37),
    ],
)
def test_confidence_is_100_for_certainty_and_0_for_all_classes_alike(logits, label, percent):
    p = Predictor(Constant(*logits), tiny_plan(), GRAY, tiny_volume((9, 20, 8)).array, (1.0, 1.0, 1.0), CPU)
    labels, confidence = p.segment()
    assert labels.dtype == np.uint16
    assert confidence.dtype == np.uint8
    assert np.unique(labels).tolist() == [label]
    assert np.unique(confidence).tolist() == [percent]


def test_progress_runs_up_to_one():
    fractions = []
    p = predictor(tiny_plan(), (24, 32, 32), memory=100_000)
    p.segment(fractions.append)
    assert len(fractions) > len(list(p._blocks())) > 2
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_type_of_voxel_gives_the_same_segmentation(dtype):
    image = np.round(np.clip(tiny_volume((10, 20, 20)).array, 0, 127))
    plan = tiny_plan()
    expected = all_logits(Predictor(untrained(plan), plan, GRAY, image, (1.0, 1.0, 1.0), CPU))
    found = all_logits(Predictor(untrained(plan), plan, GRAY, image.astype(dtype), (1.0, 1.0, 1.0), CPU))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


# -- memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.0, 0.4, 3.0)])
@pytest.mark.parametrize("memory", [50_000, 1_000_000, 10_000_000])
def test_blocks_keep_to_the_memory_and_make_up_the_volume(spacing, memory):
    shape = (40, 50, 60)
    p = Predictor(
        untrained(tiny_plan()), tiny_plan(), GRAY, tiny_volume(shape).array, spacing, CPU,
        settings=InferenceSettings(memory=memory),
    )
    seen = np.zeros(shape, int)
    largest = 0
    for block in p._blocks():
        seen[block.slices] += 1
        network_voxels = math.prod(p._to_network_grid(block).size)
        # Three classes and a weight on the network's grid; if the volume has another, classes and positions on that.
        own = 0 if spacing == (1.0, 1.0, 1.0) else 6 * math.prod(block.size)
        largest = max(largest, 4 * (4 * network_voxels + own))
    assert seen.min() == seen.max() == 1
    assert largest <= memory
    assert largest > memory / 8 or len(list(p._blocks())) == 1  # and the memory is made use of


def test_one_voxel_at_a_time_when_there_is_hardly_any_memory():
    p = predictor(tiny_plan(), (2, 3, 2), memory=1)
    assert [b.size for b in p._blocks()] == [(1, 1, 1)] * 12
    torch.testing.assert_close(all_logits(p), all_logits(predictor(tiny_plan(), (2, 3, 2))), atol=1e-5, rtol=0)


@in_fresh_process
def test_tiles_become_smaller_when_memory_runs_out():
    pytest.importorskip("resource")
    plan = tiny_plan(patch_size=(160, 160, 160), batch_size=4)
    warnings, lift = [], []

    def warn(message: str) -> None:
        warnings.append(message)
        lift[0]()

    image = tiny_volume((20, 90, 90)).array
    p = Predictor(untrained(plan), plan, GRAY, image, (1.0, 1.0, 1.0), CPU, warn=warn)
    untrained(tiny_plan())(torch.zeros(1, 1, 16, 16, 16)).sum().backward()  # all threads have started
    with little_memory(2**20) as end:
        lift.append(end)
        labels, _ = p.segment()
    assert len(warnings) == 1
    assert warnings[0] == "Out of memory while segmenting; going on with tiles of 106x160x160 voxels."
    assert math.prod(p.plan.patch_size) < 160**3
    again = Predictor(untrained(plan), p.plan, GRAY, image, (1.0, 1.0, 1.0), CPU)
    assert np.mean(labels != again.segment()[0]) < 1e-3


@in_fresh_process
def test_the_smallest_tile_not_fitting_is_said_in_a_sentence():
    pytest.importorskip("resource")
    plan = tiny_plan(patch_size=(64, 64, 64), widths=(64, 8), strides=((32, 32, 32),))
    p = predictor(plan, (20, 90, 90))
    with little_memory(2**20), pytest.raises(MemoryLimitError, match="even with the smallest tile; close other"):
        p.segment()


@pytest.mark.parametrize("batch_norm", [None, "frozen"])
@in_fresh_process
def test_the_time_of_a_tile_is_measured_with_smaller_tiles_when_memory_runs_out(batch_norm):
    pytest.importorskip("resource")
    plan = tiny_plan(patch_size=(160, 160, 160), batch_norm=batch_norm)
    network, image = untrained(replace(plan, patch_size=(16, 16, 16))), tiny_volume((20, 90, 90)).array
    with little_memory(2**20) as lift:
        p = Predictor(network, plan, GRAY, image, (1.0, 1.0, 1.0), CPU, warn=lambda message: lift())
        assert p.seconds_per_tile() > 0
    assert p.plan.patch_size != (160, 160, 160)


# -- a trained network ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A narrow "auto" network after a short training on a volume that is larger than its tiles."""
    volume = tiny_volume((32, 48, 48))
    annotation = tiny_annotation(volume, (4, 10, 16, 22, 28))
    recipe = tiny_recipe(iterations=150)
    plan = {**NARROW, "patch_size": "24x32x32"}
    prediction, model = densify(volume, annotation, recipe, RunOptions("cpu", hold_out=0, plan=plan))
    return volume, annotation, prediction, model


def test_tiles_of_the_planned_network_agree_closely_with_the_whole_volume(trained):
    volume, _, _, model = trained
    tiled = Predictor(model.network(CPU), model.plan, model.channels, volume.array, (1.0, 1.0, 1.0), CPU)
    whole_plan = replace(model.plan, patch_size=volume.array.shape[1:])
    whole = Predictor(model.network(CPU), whole_plan, model.channels, volume.array, (1.0, 1.0, 1.0), CPU)
    assert whole.count_tiles() == 1
    first, second = all_logits(tiled).softmax(0), all_logits(whole).softmax(0)
    # Instance normalisation sees a tile, not the volume: the two cannot be equal.
    assert (first - second).abs().mean() < 0.08
    assert (first.argmax(0) != second.argmax(0)).float().mean() < 0.05


def test_there_are_no_seams_where_tiles_meet(trained):
    volume, _, _, model = trained
    p = Predictor(model.network(CPU), model.plan, model.channels, volume.array, (1.0, 1.0, 1.0), CPU)
    probability = all_logits(p).softmax(0).numpy()
    truth = np.eye(3)[tiny_labels(volume.array.shape[1:])].transpose(3, 0, 1, 2)
    for axis in range(3):
        tile = p.plan.output_size[axis]
        starts = tile_starts(0, p.shape[axis], p.shape[axis], p.plan, axis, 0.5)
        borders = {s for s in starts if s} | {s + tile for s in starts if s + tile < p.shape[axis]}
        # Steps between neighbouring voxels beyond what the truth itself has, at tile borders and elsewhere.
        step = np.abs(np.diff(probability, axis=axis + 1))
        step[np.abs(np.diff(truth, axis=axis + 1)).any(0, keepdims=True).repeat(3, 0)] = np.nan
        profile = np.nanmean(np.moveaxis(step, axis + 1, 0).reshape(p.shape[axis] - 1, -1), axis=1)
        at_border = [b - 1 for b in borders]
        # Compared with the planes nearby: the structures' uncertain edges lie in the middle of the volume.
        nearby = {b + d for b in at_border for d in (-3, -2, -1, 1, 2, 3)} - set(at_border)
        elsewhere = sorted(n for n in nearby if 0 <= n < len(profile))
        assert profile[at_border].mean() <= 1.25 * profile[elsewhere].mean() + 1e-3


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_model_segments_volumes_of_other_spacing_on_their_own_grid(trained, factor):
    volume, _, _, model = trained
    shape = tuple(int(n / factor) for n in volume.array.shape[1:])
    other = tiny_volume(shape, spacing=(factor,) * 3, seed=3)
    prediction = segment(model, other, "cpu")
    assert prediction.segmentation.labels.shape == shape
    assert prediction.segmentation.geometry == other.geometry
    assert min(iou_of(prediction.segmentation.labels, tiny_labels(shape))) > 0.7


def test_annotated_voxels_stay_as_they_were_painted(trained):
    volume, annotation, prediction, model = trained
    annotated = annotation.annotated
    np.testing.assert_array_equal(prediction.segmentation.labels[annotated], annotation.labels[annotated])
    assert (prediction.confidence[annotated] == 100).all()
    free = segment(model, volume, "cpu", known=annotation)
    assert (free.segmentation.labels[annotated] != annotation.labels[annotated]).any()
    np.testing.assert_array_equal(free.segmentation.labels[~annotated], prediction.segmentation.labels[~annotated])


def test_segmenting_is_repeatable_and_reports_its_progress(trained):
    volume, annotation, prediction, model = trained
    reporter = CollectingReporter()
    again = segment(model, volume, "cpu", keep=annotation, reporter=reporter)
    np.testing.assert_array_equal(again.segmentation.labels, prediction.segmentation.labels)
    assert again.segmentation.segments == model.segments
    assert reporter.of("phase")[-1] == {"phase": "segmenting", "fraction": 1.0}


def test_another_number_of_channels_is_refused(trained):
    with pytest.raises(InputError, match=r"'tiny' has 2 channel\(s\), but the model expects 1 \(channel0\)"):
        segment(trained[3], tiny_volume((8, 8, 8), channels=2), "cpu")


def test_fixed_normalisation_is_the_models_not_the_volumes(trained):
    volume, _, _, model = trained
    statistics = ChannelStatistics(0.0, 110.0, 60.0, 20.0)
    fixed = replace(model, channels=(ChannelNormalisation("ct", statistics),))
    brighter = replace(volume, array=volume.array + 60)  # all but the dark body lies beyond the range
    own = [segment(model, v, "cpu").segmentation.labels for v in (volume, brighter)]
    np.testing.assert_array_equal(*own)
    by_model = [segment(fixed, v, "cpu").segmentation.labels for v in (volume, brighter)]
    assert np.mean(by_model[0] != by_model[1]) > 0.1
