"""Whole runs: their time, stops in all phases, and previews."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
from tiny_training import (
    NARROW,
    OPTIONS,
    PLAN,
    SHAPE,
    StopAfter,
    quick,
    same_weights,
    tiny_annotation,
    tiny_volume,
)

from SparseUNet3DLib import training
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import Interrupted
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.preparation import prepare
from SparseUNet3DLib.segmentation_files import read_segmentation
from SparseUNet3DLib.time_estimate import seconds_after_training
from SparseUNet3DLib.workflow import RunOptions, densify, segment


def test_a_time_budget_covers_training_and_segmentation():
    volume = tiny_volume((32, 48, 48))
    annotation = tiny_annotation(volume, (8, 16, 24))
    reporter = CollectingReporter()
    options = RunOptions("cpu", hold_out=0, plan=NARROW)
    started = time.perf_counter()
    _, model = densify(volume, annotation, quick(iterations=None, seconds=4.0), options, reporter)
    took = time.perf_counter() - started
    budget = reporter.of("step")[-1]["seconds_total"]
    assert 1.0 <= budget < 4.0  # the rest is reserved for segmenting, but never more than three quarters
    assert budget - 0.1 <= model.record["seconds"] < took


def test_a_run_resamples_its_volume_once_for_each_of_its_grids(monkeypatch, tmp_path):
    """A large volume takes seconds for that, and training, validation, previews and segmentation need the same."""
    resampled, affine_transform = [], scipy.ndimage.affine_transform

    def counted(*arguments, **options):
        resampled.append(options["output_shape"])
        return affine_transform(*arguments, **options)

    monkeypatch.setattr(scipy.ndimage, "affine_transform", counted)
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    monkeypatch.setattr(training, "_FIRST_SHARE", 1000.0)
    volume, reporter = tiny_volume(spacing=(1.0, 1.0, 2.0)), CollectingReporter()
    recipe = quick(6, seconds=30.0, members=2, voxel_classifier=True)
    options = replace(OPTIONS, hold_out=1, plan={**PLAN, "spacing": "2x2x2"}, preview=tmp_path / "p.seg.nrrd")
    _, model = densify(volume, tiny_annotation(volume, (2, 5, 8, 11, 14, 17, 20)), recipe, options, reporter)
    assert model.plan.members == 2 and reporter.of("preview") and len(reporter.of("validation")) > 2
    own = volume.geometry.array_spacing
    assert len(resampled) == len({model.plan.spacing, model.plan.voxel_spacing} - {own})


def test_what_scoring_takes_is_reserved_for_thin_wide_stacks(monkeypatch):
    """A held-out slice goes through all tiles of such a stack."""
    monkeypatch.setattr(Predictor, "seconds_per_tile", lambda self: 1000.0)
    monkeypatch.setattr(Predictor, "seconds_to_segment", lambda self: 0.0)
    volume = tiny_volume((8, 96, 96))
    options = RunOptions("cpu", hold_out=2, plan={**PLAN, "patch_size": "8x32x32"})
    case = Case(volume, tiny_annotation(volume, (1, 3, 5, 7)))
    for networks in (1, 2):
        prepared = prepare([case], quick(members=networks), options, CollectingReporter())
        reserved = seconds_after_training(prepared, volume, quick(), None)
        tiles_of_a_slice = 4 * 4  # that overlap by a quarter
        assert reserved == pytest.approx(1000 * 2 * tiles_of_a_slice * (1 + 1 / networks), rel=0.01)


def test_a_budget_too_short_to_segment_in_still_trains_for_a_quarter_of_it():
    volume = tiny_volume((32, 48, 48))
    reporter = CollectingReporter()
    options = RunOptions("cpu", hold_out=0, plan=NARROW)
    densify(
        volume, tiny_annotation(volume, (8, 16, 24)), quick(iterations=None, seconds=0.04), options, reporter,
        settings=InferenceSettings(overlap=0.5),
    )
    assert reporter.of("step")[-1]["seconds_total"] == pytest.approx(0.01)


def test_finishing_early_still_segments():
    volume = tiny_volume()
    prediction, model = densify(volume, tiny_annotation(volume), quick(50), OPTIONS, stop=StopAfter(3, "finish"))
    assert model.record["iterations"] == 3
    assert prediction.segmentation.labels.shape == SHAPE


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path):
    volume = tiny_volume()
    annotation = tiny_annotation(volume)
    whole, model = densify(volume, annotation, quick(8), OPTIONS)
    options = replace(OPTIONS, folder=tmp_path)
    with pytest.raises(Interrupted, match="after 3 iterations"):
        densify(volume, annotation, quick(8), options, stop=StopAfter(3))
    resumed, again = densify(volume, annotation, quick(8), replace(options, resume=True))
    assert same_weights(again.weights, model.weights)
    np.testing.assert_array_equal(resumed.segmentation.labels, whole.segmentation.labels)


def test_interrupting_the_segmentation_ends_it():
    volume = tiny_volume()
    _, model = densify(volume, tiny_annotation(volume), quick(1), OPTIONS)
    with pytest.raises(Interrupted):
        segment(model, volume, "cpu", stop=StopAfter(1))


def test_the_preview_is_a_segmentation_that_can_be_read_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    monkeypatch.setattr(training, "_FIRST_SHARE", 100.0)
    path = tmp_path / "preview.seg.nrrd"
    volume, reporter = tiny_volume(), CollectingReporter()
    densify(volume, tiny_annotation(volume), quick(3), replace(OPTIONS, preview=path), reporter)
    assert reporter.of("preview")[0] == {"path": str(path), "iteration": 1}
    preview = read_segmentation(path)
    assert preview.labels.shape == SHAPE
    assert [s.name for s in preview.segments] == ["bright", "dark"]
    assert preview.geometry.same_grid(volume.geometry)


def test_a_preview_is_no_longer_made_when_the_user_waits_for_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_FIRST_VALIDATION_SECONDS", 0.0)
    monkeypatch.setattr(training, "_FIRST_SHARE", 100.0)
    volume, reporter = tiny_volume(), CollectingReporter()
    options = replace(OPTIONS, preview=tmp_path / "preview.seg.nrrd")
    densify(volume, tiny_annotation(volume), quick(50), options, reporter, StopAfter(0, "finish"))
    assert not reporter.of("preview") and not options.preview.exists()
