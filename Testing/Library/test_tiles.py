"""Where tiles lie, and that they agree with the whole."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from predictors_for_tests import FLAT, all_logits, at_one_go, predictor
from tiny_training import (
    paper_plan,
    tiny_plan,
    tiny_volume,
)

from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.tiles import Box, larger_tiles, tile_starts

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


@pytest.mark.parametrize("shape", [(24, 32, 32), (5, 40, 33), (1, 80, 80)])
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
