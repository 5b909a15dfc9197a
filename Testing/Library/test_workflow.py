from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_training import (
    OPTIONS,
    PLAN,
    SEGMENTS,
    SHAPE,
    iou,
    quick,
    tiny_annotation,
    tiny_labels,
    tiny_volume,
)

from SparseUNet3DLib import training
from SparseUNet3DLib.annotation import from_planes
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError, MemoryLimitError, UsageError
from SparseUNet3DLib.evaluation import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.model_file import load_model
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.recipe import PRESETS
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.workflow import RunOptions, densify, prepare, segment, train


@pytest.fixture(scope="module")
def densified():
    """Result of a short but sufficient training, with its events."""
    volume = tiny_volume()
    annotation = tiny_annotation(volume, (2, 5, 8, 11, 14, 17, 20))
    reporter = CollectingReporter()
    options = replace(OPTIONS, hold_out=1)
    prediction, model = densify(volume, annotation, quick(250), options, reporter)
    return volume, annotation, prediction, model, reporter


def test_never_annotated_voxels_are_found(densified):
    _, annotation, prediction, _, _ = densified
    assert annotation.annotated.mean() < 0.3
    assert min(iou(prediction.segmentation.labels, tiny_labels(), ~annotation.annotated)) > 0.6
    assert prediction.segmentation.segments == SEGMENTS
    assert prediction.confidence[annotation.annotated].min() == 100
    wrong = prediction.segmentation.labels != tiny_labels()
    assert prediction.confidence[wrong].mean() < prediction.confidence[~wrong & ~annotation.annotated].mean()


def test_the_model_says_how_it_was_made_and_can_be_used_again(densified, tmp_path):
    volume, annotation, prediction, model, reporter = densified
    record = model.record
    assert record["iterations"] == 250
    assert record["volumes"] == [
        {"name": "tiny", "fingerprint": volume.fingerprint(), "shape": list(SHAPE), "spacing": [1.0, 1.0, 1.0],
         "annotated": pytest.approx(6 / 24), "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1],
         "planes": [str(p) for p in annotation.planes]}
    ]
    assert record["held_out_planes"].keys() == {"tiny"}
    assert record["held_out_iou"] == reporter.of("validation")[-1]["iou"]
    assert record["held_out_iou"]["bright"] > 0.5
    assert record["precision"] == "float32"
    model.save(tmp_path / "m.safetensors")
    again = segment(load_model(tmp_path / "m.safetensors"), volume, "cpu", keep=annotation)
    np.testing.assert_array_equal(again.segmentation.labels, prediction.segmentation.labels)
    np.testing.assert_array_equal(again.confidence, prediction.confidence)


def test_the_plan_is_told_first_and_the_progress_to_the_end(densified):
    *_, reporter = densified
    name, plan = reporter.events[0]
    assert name == "plan"
    assert plan.keys() == {"plan", "lines", "device", "memory_bytes", "held_out"}
    assert plan["plan"]["patch_size"] == (16, 16, 16)
    assert plan["held_out"].keys() == {"tiny"}
    assert reporter.events[-1] == ("phase", {"phase": "segmenting", "fraction": 1.0})
    assert reporter.of("step")[-1]["iteration"] == 250
    assert reporter.of("validation")[-1].keys() == {"iteration", "mean_iou", "iou"}


def test_errors_are_shown_on_the_held_out_slices_as_the_network_sees_them(densified):
    _, annotation, prediction, model, _ = densified
    index = int(model.record["held_out_planes"]["tiny"][0].split(":")[1])
    shown = np.flatnonzero(prediction.confusion.any(axis=(1, 2)))
    assert shown.tolist() == [index]
    painted = annotation.labels[index] > 0
    kinds = prediction.confusion[index]
    assert set(np.unique(kinds[painted])) <= {TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE}  # taken for another
    assert set(np.unique(kinds[~painted])) <= {0, FALSE_POSITIVE}
    found = np.count_nonzero(kinds == TRUE_POSITIVE)
    union = np.count_nonzero(kinds)
    assert 0.5 < found / union < 1  # the painted slice itself, which the result keeps, would give 1


def test_slices_may_be_held_out_by_name():
    volume = tiny_volume()
    annotation = replace(tiny_annotation(volume, (2, 8, 14, 20)), held_out=(Plane(0, 8),))
    prepared = prepare([Case(volume, annotation)], quick(), replace(OPTIONS, hold_out=None), CollectingReporter())
    (fold,) = prepared.folds
    assert fold.validation[0].annotation.planes == (Plane(0, 8),)
    assert fold.training[0].annotation.planes == (Plane(0, 2), Plane(0, 14), Plane(0, 20))
    none = replace(annotation, held_out=())
    prepared = prepare([Case(volume, none)], quick(), replace(OPTIONS, hold_out=None), CollectingReporter())
    assert not prepared.folds[0].validation


def test_repainting_may_change_annotated_voxels(densified):
    volume = densified[0]
    labels = np.zeros(SHAPE, np.uint16)
    labels[:, :4, :4] = 1  # wrong on purpose; one iteration does not learn it
    labels[:, 10, 10] = 2
    odd = from_planes(Segmentation(labels, SEGMENTS, volume.geometry), [Plane(0, 5), Plane(0, 9)])
    kept, _ = densify(volume, odd, quick(1), OPTIONS)
    np.testing.assert_array_equal(kept.segmentation.labels[odd.annotated], labels[odd.annotated])
    free, _ = densify(volume, odd, quick(1), OPTIONS, keep_annotation=False)
    assert (free.segmentation.labels[odd.annotated] != labels[odd.annotated]).any()


def test_held_out_voxels_are_kept_as_painted_too(densified):
    _, annotation, prediction, model, _ = densified
    held_out = model.record["held_out_planes"]["tiny"]
    assert len(held_out) == 1
    index = int(held_out[0].split(":")[1])
    np.testing.assert_array_equal(prediction.segmentation.labels[index], annotation.labels[index])


# -- other data and networks ---------------------------------------------------------------------------


def test_two_channels_of_different_kinds():
    volume = tiny_volume(channels=2)
    # The first channel shows the bright body only, the second the dark one only.
    labels = tiny_labels()
    volume.array[0][labels == 2] = 60
    volume.array[1][labels == 1] = 60
    annotation = tiny_annotation(volume)
    prediction, model = densify(volume, annotation, quick(250), OPTIONS)
    assert [c.name for c in model.channels] == ["channel0", "channel1"]
    assert min(iou(prediction.segmentation.labels, labels, ~annotation.annotated)) > 0.7


def test_thick_slices():
    volume = tiny_volume((12, 32, 32), spacing=(1.0, 1.0, 5.0))
    annotation = tiny_annotation(volume, (1, 3, 5, 7, 9))
    planned = prepare([Case(volume, annotation)], quick(), RunOptions("cpu"), CollectingReporter()).plan
    assert (planned.strides[0], planned.kernels[0]) == ((1, 2, 2), (1, 3, 3))
    options = RunOptions("cpu", hold_out=0, plan={**PLAN, "strides": "1x2x2", "patch_size": "6x16x16"})
    prediction, model = densify(volume, annotation, quick(250), options)
    assert model.plan.spacing == (5.0, 1.0, 1.0)
    assert min(iou(prediction.segmentation.labels, tiny_labels((12, 32, 32)), ~annotation.annotated)) > 0.6


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_every_type_of_voxel_can_be_trained_on(dtype):
    volume = tiny_volume(dtype=dtype)
    prediction, model = densify(volume, tiny_annotation(volume), quick(2), OPTIONS)
    assert prediction.segmentation.labels.shape == SHAPE
    assert model.record["iterations"] == 2


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 9, 7), (5, 5, 5)])
def test_tiny_and_flat_volumes_run_to_the_end(shape):
    volume = tiny_volume(shape)
    labels = np.zeros(shape, np.uint16)
    labels[:, 2:4, 2:4], labels[:, 0, 0] = 1, 2
    annotation = from_planes(Segmentation(labels, SEGMENTS, volume.geometry), [Plane(0, 0)])
    prediction, _ = densify(volume, annotation, quick(2), RunOptions("cpu"))
    assert prediction.segmentation.labels.shape == shape


def test_the_slice_wise_network():
    volume = tiny_volume((4, 8, 8))
    annotation = tiny_annotation(volume, (1, 2))
    recipe = replace(PRESETS["paper"], network="2d", iterations=2, precision="float32")
    options = RunOptions("cpu", hold_out=0, plan={"patch_size": "1x92x92", "batch_size": "1"}, memory=2**40)
    prediction, model = densify(volume, annotation, recipe, options)
    assert model.plan.output_size == (1, 4, 4)
    assert prediction.segmentation.labels.shape == (4, 8, 8)


def test_the_papers_own_network_and_training():
    volume = tiny_volume((4, 4, 4))
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[:, 1:3, 1:3], labels[:, 3, 3] = 1, 2
    annotation = from_planes(Segmentation(labels, SEGMENTS, volume.geometry), [Plane(0, 1)])
    recipe = replace(PRESETS["paper"], iterations=1, precision="float32")
    options = RunOptions("cpu", hold_out=0, plan={"patch_size": "92x92x92"}, memory=2**40)
    prediction, model = densify(volume, annotation, recipe, options)
    assert model.plan.batch_norm == "batch"
    assert sum(w.numel() for n, w in model.weights.items() if n.endswith("head.weight")) == 3 * 64
    np.testing.assert_array_equal(prediction.segmentation.labels[1], labels[1])


def test_several_volumes_with_different_segments():
    first, second = tiny_volume(seed=1), tiny_volume(seed=2)
    one = from_planes(
        Segmentation(np.minimum(tiny_labels(), 1), SEGMENTS[:1], first.geometry), [Plane(0, 8), Plane(0, 12)]
    )
    reporter = CollectingReporter()
    model = train([Case(first, one), Case(second, tiny_annotation(second))], quick(2), OPTIONS, reporter)
    assert model.segments == SEGMENTS
    assert len(model.record["volumes"]) == 2
    assert any("has no segment 'dark'" in w["message"] for w in reporter.of("warning"))


def test_a_volume_whose_spacing_is_in_another_unit_is_refused(densified):
    volume, _, _, model, _ = densified
    for factor, spacing in ((1e-3, "0.001x0.001x0.001"), (1e3, "1000x1000x1000")):
        other = replace(volume, geometry=replace(volume.geometry, spacing=(factor,) * 3))
        with pytest.raises(InputError, match=f"has a spacing of {spacing} mm, but the model works at 1x1x1 mm"):
            segment(model, other, "cpu")
    thick = replace(volume, geometry=replace(volume.geometry, spacing=(1.0, 1.0, 30.0)))
    assert segment(model, thick, "cpu").segmentation.labels.shape == SHAPE


# -- warm start ----------------------------------------------------------------------------------------


def test_a_warm_start_begins_where_the_model_is(densified, monkeypatch):
    monkeypatch.setattr(training, "_STEP_EVENT_SECONDS", 0.0)
    volume, annotation, _, model, _ = densified
    standing = quick(20, learning_rate=1e-9, ema_decay=0.0)
    cold, warm = CollectingReporter(), CollectingReporter()
    train([Case(volume, annotation)], standing, OPTIONS, cold)
    started = train([Case(volume, annotation)], standing, RunOptions("cpu", hold_out=0, start_from=model), warm)
    losses = [np.mean([e["loss"] for e in reporter.of("step")]) for reporter in (cold, warm)]
    assert losses[1] < 0.5 * losses[0]
    for name, weight in started.weights.items():
        np.testing.assert_allclose(weight, model.weights[name], atol=1e-4)
    assert started.plan == model.plan
    assert started.record["started_from"] == model.record["date"]


def test_with_fewer_than_eight_slices_a_volume_that_is_not_large_is_seen_whole():
    volume = tiny_volume((67, 52, 68))
    patches = [
        prepare(
            [Case(volume, tiny_annotation(volume, planes))], quick(), RunOptions("cpu"), CollectingReporter()
        ).plan.patch_size
        for planes in (range(5, 60, 8), range(4, 60, 7))
    ]
    assert patches == [(80, 56, 80), (48, 48, 48)]


def test_the_spacing_that_the_network_works_at_can_be_set(densified):
    volume, annotation, _, model, _ = densified
    cases, reporter = [Case(volume, annotation)], CollectingReporter()
    for recipe in (quick(), quick(network="paper")):
        options = RunOptions("cpu", plan={"spacing": "2x1.5X3"})
        assert prepare(cases, recipe, options, reporter).plan.spacing == (2.0, 1.5, 3.0)
    trained, _ = densify(volume, annotation, quick(250), replace(OPTIONS, plan={**PLAN, "spacing": "1.5x1.5x1.5"}))
    assert min(iou(trained.segmentation.labels, tiny_labels(), ~annotation.annotated)) > 0.6
    for text in ("2", "2x1", "2x1x0", "2x1x-1", "axbxc", "nanx1x1"):
        with pytest.raises(UsageError, match=f"'{text}' is no value for spacing; write three lengths in mm"):
            prepare(cases, quick(), RunOptions("cpu", plan={"spacing": text}), reporter)
    with pytest.raises(UsageError, match="goes on at the spacing that it was trained at; leave out spacing"):
        prepare(cases, quick(), RunOptions("cpu", start_from=model, plan={"spacing": "1x1x1"}), reporter)


def test_a_warm_start_with_a_further_segment_keeps_what_was_learnt():
    volume = tiny_volume()
    both = tiny_annotation(volume)
    bright = Segmentation(np.where(tiny_labels() == 1, 1, 0).astype(np.uint16), SEGMENTS[:1], volume.geometry)
    first = train([Case(volume, from_planes(bright, both.planes))], quick(150, seed=2), OPTIONS)
    scores = {}
    for name, start in (("cold", None), ("warm", first)):
        model = train([Case(volume, both)], quick(160, seed=2), replace(OPTIONS, start_from=start))
        assert model.segments == SEGMENTS
        scores[name] = iou(segment(model, volume, "cpu").segmentation.labels, tiny_labels())
    assert scores["warm"][0] > scores["cold"][0] - 0.02, scores
    assert scores["warm"][1] > 0.5, scores


def test_a_warm_start_takes_overrides_and_refuses_another_network(densified):
    volume, annotation, _, model, _ = densified
    cases = [Case(volume, annotation)]
    options = RunOptions("cpu", hold_out=0, start_from=model, plan={"patch_size": "8x16x16"})
    assert train(cases, quick(1), options).plan == replace(model.plan, patch_size=(8, 16, 16))
    with pytest.raises(InputError, match=r"another network than is wanted: widths \(8, 16\), not \(4, 16\)"):
        train(cases, quick(1), replace(options, plan={"widths": "4,16"}))
    reporter = CollectingReporter()
    train(cases, quick(1, network="2d"), replace(options, plan={}), reporter)
    assert any("'auto' network" in w["message"] for w in reporter.of("warning"))


def test_a_warm_start_keeps_to_the_memory(densified):
    volume, annotation, _, model, _ = densified
    cases = [Case(volume, annotation)]
    needed = model.plan.training_bytes()
    options = RunOptions("cpu", hold_out=0, start_from=model, memory=needed // 2)
    plan = prepare(cases, quick(), options, CollectingReporter()).plan
    assert plan.training_bytes() <= needed // 2
    with pytest.raises(MemoryLimitError):
        prepare(cases, quick(), replace(options, memory=1), CollectingReporter())


def test_a_warm_start_needs_the_same_channels(densified):
    model = densified[3]
    volume = tiny_volume(channels=2)
    options = RunOptions("cpu", hold_out=0, start_from=model)
    with pytest.raises(InputError, match=r"has 1 channel\(s\), the volumes 2"):
        train([Case(volume, tiny_annotation(volume))], quick(1), options)


# -- refused before any work ---------------------------------------------------------------------------


def test_a_constant_volume_is_refused_and_a_constant_channel_reported():
    volume = tiny_volume()
    flat = replace(volume, array=np.full_like(volume.array, 7))
    with pytest.raises(InputError, match=r"Channel 'channel0' is constant \(every voxel is 7\)"):
        train([Case(flat, tiny_annotation(flat))], quick(1), OPTIONS)
    both = replace(volume, array=np.concatenate([volume.array, flat.array]), channel_names=("gray", "empty"))
    reporter = CollectingReporter()
    model = train([Case(both, tiny_annotation(both))], quick(1), OPTIONS, reporter)
    assert "Channel 'empty' is constant" in reporter.of("warning")[0]["message"]
    assert all(bool(w.isfinite().all()) for w in model.weights.values())


def test_more_segments_than_a_model_can_have_are_refused():
    """A label map of single cells, say: what comes of it could be trained, but its model not be read again."""
    volume = tiny_volume()
    annotation = tiny_annotation(volume)
    segments = tuple(Segment(f"s{n}", f"cell {n}", (1.0, 0.0, 0.0)) for n in range(4096))
    with pytest.raises(InputError, match="has 4096 segments, but a network tells at most 4095 apart"):
        prepare([Case(volume, replace(annotation, segments=segments))], quick(), OPTIONS, CollectingReporter())


def test_too_little_memory_is_told_before_training():
    volume = tiny_volume()
    with pytest.raises(MemoryLimitError, match="does not fit into memory"):
        train([Case(volume, tiny_annotation(volume))], quick(1), RunOptions("cpu", memory=1000))
