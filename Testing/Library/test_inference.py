"""What is made of the tiles' logits: averages, confidence, bounded memory."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from predictors_for_tests import GRAY, all_logits, predictor, untrained
from tiny_training import (
    CPU,
    NARROW,
    in_fresh_process,
    little_memory,
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
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.tiles import tile_starts
from SparseUNet3DLib.voxel_boxes import normalise
from SparseUNet3DLib.workflow import RunOptions, densify, segment

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
@pytest.mark.parametrize("memory", [700_000, 1_400_000, 10_000_000])
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


def test_no_tile_is_computed_twice_where_only_the_volumes_own_grid_is_large(monkeypatch: pytest.MonkeyPatch):
    shape, spacing = (60, 70, 80), (0.4, 0.4, 0.4)  # the network's voxels are of 1 mm
    found, computed, fractions = [], [], []
    for memory in (2**30, 1_000_000):
        p = Predictor(
            untrained(tiny_plan()), tiny_plan(), GRAY, tiny_volume(shape).array, spacing, CPU,
            settings=InferenceSettings(memory=memory),
        )
        run, tiles = p._run, []
        monkeypatch.setattr(p, "_run", lambda tile, r=run, t=tiles: t.append(tile) or r(tile))
        fractions.append([])
        found.append(p.segment(fractions[-1].append))
        computed.append((len(tiles), p.count_tiles(), len(list(p._blocks(True)))))
    (few, tiles, _), (again, _, blocks) = computed
    assert few == again == tiles > 1 and blocks > 4
    assert fractions[1] == sorted(fractions[1]) and fractions[1][-1] == 1.0
    for one, other in zip(*found, strict=True):
        assert np.mean(one != other) < 1e-3  # where two classes are equally likely, rounding decides


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.4, 0.4, 0.4)])
def test_the_logits_of_one_block_are_gone_before_those_of_the_next(spacing, monkeypatch: pytest.MonkeyPatch):
    p = Predictor(
        untrained(tiny_plan()), tiny_plan(), GRAY, tiny_volume((60, 70, 80)).array, spacing, CPU,
        settings=InferenceSettings(memory=1_000_000),
    )
    accumulate, on_own_grid = p._accumulate, p._on_own_grid
    made = []

    def accumulate_alone(*arguments):
        assert all(logits() is None for logits in made)
        return accumulate(*arguments)

    def keep_an_eye_on(*arguments):
        assert all(logits() is None for logits in made)
        made.append(weakref.ref(found := on_own_grid(*arguments)))
        return found

    monkeypatch.setattr(p, "_accumulate", accumulate_alone)
    monkeypatch.setattr(p, "_on_own_grid", keep_an_eye_on)
    p.segment()
    assert len(made) > 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (2.0, 2.0, 2.0)])
def test_blocks_do_not_become_smaller_than_a_tile_when_there_is_hardly_any_memory(spacing):
    """Each voxel by itself would compute its tiles anew: endless, and it would save nothing."""
    shape, plan = (40, 30, 33), tiny_plan()
    little, plenty = (
        Predictor(
            untrained(plan), plan, GRAY, tiny_volume(shape).array, spacing, CPU,
            settings=InferenceSettings(memory=memory),
        )
        for memory in (0, 2**30)
    )
    sizes = [math.prod(b.size) for b in little._blocks()]
    tile = math.prod(plan.patch_size) / math.prod(spacing)
    assert sum(sizes) == math.prod(shape)
    assert min(tile, sum(sizes)) / 2 < max(sizes) <= 1.5 * tile
    torch.testing.assert_close(all_logits(little), all_logits(plenty), atol=1e-4, rtol=0)


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
    free = segment(model, volume, "cpu")
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
