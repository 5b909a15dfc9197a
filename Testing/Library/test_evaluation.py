from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from SparseUNet3DLib import evaluation
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.evaluation import CONFUSION_SEGMENTS, NEVER_ANNOTATED, confusion, score, score_segmentation
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segments import Segment, Segmentation

SEGMENTS = (Segment("a", "bone"), Segment("b", "disc"), Segment("c", "cord"))

# Counted by hand. Bone: 2 agree, 1 missed, 1 too many. Disc: 1 agrees, 1 missed, 2 too many. No cord at all.
TRUTH = np.array([[[1, 1, 1, 0], [2, 2, 0, 0]]], np.uint16)
PREDICTION = np.array([[[1, 1, 2, 1], [2, 0, 2, 0]]], np.uint8)


def test_hand_computed_scores():
    bone, disc, _ = score(PREDICTION, TRUTH, SEGMENTS).classes

    assert (bone.name, bone.voxels_true, bone.voxels_predicted) == ("bone", 3, 3)
    assert (bone.true_positives, bone.false_negatives, bone.false_positives) == (2, 1, 1)
    assert (bone.iou, bone.dice) == (pytest.approx(2 / 4), pytest.approx(4 / 6))
    assert (disc.true_positives, disc.false_negatives, disc.false_positives) == (1, 1, 2)
    assert (disc.iou, disc.dice) == (pytest.approx(1 / 4), pytest.approx(2 / 5))


def test_a_segment_in_neither_is_undefined_and_left_out_of_the_mean():
    scores = score(PREDICTION, TRUTH, SEGMENTS)

    assert math.isnan(scores.classes[2].iou)
    assert math.isnan(scores.classes[2].dice)
    assert scores.mean_iou == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert scores.mean_dice == pytest.approx((4 / 6 + 2 / 5) / 2)


def test_a_segment_that_was_missed_or_invented_scores_zero():
    truth = np.array([[[1, 0]]])
    prediction = np.array([[[0, 2]]])

    missed, invented, _ = score(prediction, truth, SEGMENTS).classes

    assert (missed.iou, missed.false_negatives) == (0.0, 1)
    assert (invented.iou, invented.false_positives) == (0.0, 1)


def test_a_segment_of_the_background_is_no_structure():
    grid = Geometry((4, 2, 1))
    others = (Segment("x", "cord"), Segment("y", " Background"), Segment("z", "disc"), Segment("w", "bone"))
    with_background = Segmentation(np.array([2, 4, 3, 1], np.uint16)[TRUTH], others, grid)
    plain = Segmentation(TRUTH, SEGMENTS, grid)
    found = Segmentation(PREDICTION.astype(np.uint16), SEGMENTS, grid)
    expected = {c.name: c for c in score_segmentation(found, plain).classes}
    assert {c.name: c for c in score_segmentation(found, with_background).classes} == expected
    reverse = {c.name: c.iou for c in score_segmentation(with_background, found).classes}
    assert reverse["disc"] == expected["disc"].iou and set(reverse) == {"bone", "disc", "cord"}


def test_only_the_voxels_asked_for_are_counted():
    where = np.zeros(TRUTH.shape, bool)
    where[0, 0] = True

    scores = score(PREDICTION, TRUTH, SEGMENTS, where, NEVER_ANNOTATED)

    assert (scores.region, scores.voxels) == ("voxels never annotated", 4)
    assert scores.classes[0].iou == pytest.approx(2 / 4)
    assert (scores.classes[1].iou, scores.classes[1].voxels_true) == (0.0, 0)


def test_no_voxels_give_no_scores():
    scores = score(PREDICTION, TRUTH, SEGMENTS, np.zeros(TRUTH.shape, bool))

    assert scores.voxels == 0
    assert math.isnan(scores.mean_iou)
    assert math.isnan(scores.mean_dice)


def test_counting_in_slabs_changes_nothing(monkeypatch):
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 4, (2, 7, 5, 6), np.uint8)
    where = random.random(truth.shape) < 0.6
    whole_score, whole_map = score(prediction, truth, SEGMENTS, where), confusion(prediction, truth, where)

    monkeypatch.setattr(evaluation, "_SLAB_VOXELS", 65)  # two planes of 30 voxels; the last slab has one

    assert score(prediction, truth, SEGMENTS, where) == whole_score
    assert np.array_equal(confusion(prediction, truth, where), whole_map)
    assert whole_score.voxels == np.count_nonzero(where)


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, (2, 3, 4, 5), elements=st.integers(0, 3)))
def test_scores_agree_with_sets_of_voxels(pair):
    truth, prediction = pair
    for label, result in enumerate(score(prediction, truth, SEGMENTS).classes, start=1):
        true, found = (set(np.flatnonzero(a == label).tolist()) for a in (truth, prediction))
        if true | found:
            assert result.iou == pytest.approx(len(true & found) / len(true | found))
            assert result.dice == pytest.approx(2 * result.iou / (1 + result.iou))
        else:
            assert math.isnan(result.iou)


def test_dictionary_is_strict_json_with_null_for_undefined():
    scores = score(PREDICTION, TRUTH, SEGMENTS)

    read = json.loads(json.dumps(scores.to_dict(), allow_nan=False))

    assert read["region"] == "whole volume"
    assert read["voxels"] == 8
    assert read["mean_iou"] == pytest.approx(0.375)
    assert read["segments"][0]["true_positives"] == 2
    assert read["segments"][2]["iou"] is None


def test_table_fits_80_columns_and_shows_the_scores():
    long = Segment("l", "a structure with a name that is longer than any column")
    many = np.full((4, 4, 4), 1)
    table = score(many, many, (long, *SEGMENTS)).as_table()

    assert max(len(line) for line in table.splitlines()) <= 80
    assert "whole volume (64 voxels)" in table
    name, *numbers = table.splitlines()[2].split("...")
    assert long.name.startswith(name)
    assert numbers[0].split() == ["1.000", "1.000", "64", "0", "0"]
    assert "n/a" in table


def test_table_has_room_for_the_counts_of_a_big_volume():
    big = evaluation.ClassScore("x" * 32, 0.5, 0.5, 10**9, 10**9, 10**9, 10**9, 10**9)

    row = evaluation.Scores("whole volume", 1, (big,)).as_table().splitlines()[2]

    assert len(row) <= 80
    assert row.split()[-3:] == ["1000000000"] * 3


def test_confusion_map_of_every_combination():
    # A wrong class counts as a false positive.
    truth = np.array([[[0, 1, 1, 0, 1]]])
    prediction = np.array([[[0, 1, 0, 2, 2]]])

    assert confusion(prediction, truth).tolist() == [[[0, 1, 2, 3, 3]]]
    assert confusion(prediction, truth).dtype == np.uint8
    assert [s.name for s in CONFUSION_SEGMENTS] == ["true positives", "false negatives", "false positives"]


def test_confusion_map_is_empty_where_nothing_is_judged():
    truth = np.array([[[1, 1, 0]]])
    where = np.array([[[True, False, False]]])

    assert confusion(np.array([[[1, 1, 1]]]), truth, where).tolist() == [[[1, 0, 0]]]


@pytest.mark.parametrize("function", [lambda *a: score(a[0], a[1], SEGMENTS, *a[2:]), confusion])
def test_arrays_on_different_grids_are_refused(function):
    with pytest.raises(InputError, match=r"segmentation has shape \(1, 2, 3\).*truth has \(1, 2, 4\)"):
        function(PREDICTION[..., :3], TRUTH)
    with pytest.raises(InputError, match=r"mask .* has shape \(2, 2, 4\)"):
        function(PREDICTION, TRUTH, np.ones((2, 2, 4), bool))


def test_values_that_are_no_labels_are_refused():
    with pytest.raises(InputError, match=r"truth has labels from 0 to 2, but there are 1 segments"):
        score(PREDICTION, TRUTH, SEGMENTS[:1])
    with pytest.raises(InputError, match=r"segmentation has labels from -1 to"):
        score(PREDICTION.astype(int) - 1, TRUTH, SEGMENTS)
    with pytest.raises(InputError, match="truth must hold whole-number labels"):
        score(PREDICTION, TRUTH.astype(float), SEGMENTS)
    with pytest.raises(InputError, match="type bool"):
        score(PREDICTION, TRUTH, SEGMENTS, np.ones(TRUTH.shape, int))
