"""What is made of the networks' answers about held-out slices: mixture, IoU, map of errors."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import NARROW, tiny_annotation, tiny_recipe, tiny_volume

from SparseUNet3DLib import held_out_answers, workflow
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import Interrupted
from SparseUNet3DLib.evaluation import FALSE_POSITIVE, TRUE_POSITIVE
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.held_out_answers import Answer, best_mixture, held_out_iou, map_of_errors
from SparseUNet3DLib.mixture import USUAL, HeldOutLogits, Mixture
from SparseUNet3DLib.model_file import Model
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.volumes import Volume
from SparseUNet3DLib.workflow import RunOptions, densify, prepare

PLANES = (2, 5, 8, 11, 14, 17, 20)
SHAPE = tiny_volume().array.shape[1:]


def an_answer(network: int, voxels: int, truth: int = 1, index: int = 5, **changes: object) -> Answer:
    """About a whole slice: network and classifier are each sure of one class, and all of it is of another."""
    volume = tiny_volume()
    count = SHAPE[1] * SHAPE[2]
    says = [F.one_hot(torch.full((count,), n), 3).T.half() for n in (network, voxels)]
    annotation = tiny_annotation(volume, (index,))
    logits = HeldOutLogits(*says, torch.full((count,), truth))
    annotation = replace(annotation, labels=np.full_like(annotation.labels, truth))
    return replace(Answer(Case(volume, annotation), Plane(0, index), logits), **changes)


@pytest.mark.parametrize(("mixture", "expected"), [
    (Mixture(1.0, 0.5), TRUE_POSITIVE), (Mixture(1.0, 2.0), FALSE_POSITIVE),
])
def test_the_map_of_errors_shows_what_the_mixture_says(mixture: Mixture, expected: int):
    found = map_of_errors([an_answer(1, 2)], mixture, SHAPE)
    assert (found[5] == expected).all()
    assert not np.delete(found, 5, axis=0).any()


def test_where_several_networks_tell_of_a_slice_the_mean_of_their_logits_decides():
    right, wrong = an_answer(1, 1), an_answer(2, 2)
    assert (map_of_errors([wrong, right, right], USUAL, SHAPE)[5] == TRUE_POSITIVE).all()
    assert (map_of_errors([right, wrong, wrong], USUAL, SHAPE)[5] == FALSE_POSITIVE).all()


def test_where_only_one_of_several_networks_was_not_taught_a_voxel_it_decides_alone():
    """Where a slice crosses another one that is learnt, its voxels are not held out."""
    right, wrong = an_answer(1, 1), an_answer(2, 2)
    annotation, logits = wrong.case.annotation, wrong.logits
    annotated = annotation.annotated.copy()
    annotated[5, :, 4] = False
    counted = torch.from_numpy(annotated[5]).flatten()
    narrower = replace(
        wrong,
        case=Case(wrong.case.volume, replace(annotation, annotated=annotated)),
        logits=HeldOutLogits(logits.network[:, counted], logits.voxels[:, counted], logits.labels[counted]),
    )
    found = map_of_errors([right, narrower, narrower], USUAL, SHAPE)
    assert (found[5, :, 4] == TRUE_POSITIVE).all()
    assert (np.delete(found[5], 4, axis=1) == FALSE_POSITIVE).all()


def test_the_iou_is_that_of_the_mixture_and_the_mean_over_the_networks():
    answers = [an_answer(1, 2, member=0), an_answer(2, 1, member=1), an_answer(1, 1, member=1, index=8)]
    assert held_out_iou(answers, Mixture(1.0, 0.5)) == {"bright": (1 + 0.5) / 2, "dark": 0.0}
    assert held_out_iou(answers, Mixture(0.5, 1.0)) == {"bright": (0 + 1) / 2, "dark": 0.0}
    assert held_out_iou([an_answer(1, 1)], USUAL) == {"bright": 1.0, "dark": None}
    assert held_out_iou([], USUAL) is None


def test_what_a_network_has_learnt_before_is_no_test_for_the_mixture():
    classifier_is_right = an_answer(2, 1)
    assert best_mixture([classifier_is_right]).voxels > USUAL.voxels
    assert best_mixture([replace(classifier_is_right, learnt=True)]) == USUAL
    network_is_right = replace(an_answer(1, 2, index=8), learnt=True)
    assert best_mixture([classifier_is_right, network_is_right]) == best_mixture([classifier_is_right])
    turned = replace(classifier_is_right, case=replace(classifier_is_right.case), member=1)  # the same slice again
    both, one = best_mixture([classifier_is_right, turned]), best_mixture([classifier_is_right])
    assert (both.network, both.voxels) == pytest.approx((one.network, one.voxels), rel=1e-3)


def learn(reporter: CollectingReporter, stop: object = None, **options: object):
    recipe = tiny_recipe(iterations=3, voxel_classifier=True)
    plan = {**NARROW, "widths": "4,8"}
    return densify(
        tiny_volume(), tiny_annotation(tiny_volume(), PLANES), recipe, RunOptions("cpu", plan=plan, **options),
        reporter, stop,
    )[1]


def test_the_iou_told_in_the_end_is_that_of_the_segmentation_that_the_user_gets(monkeypatch):
    """After three steps the network knows nothing, and the classifier nearly all."""
    reporter = CollectingReporter()
    assert min(learn(reporter).record["held_out_iou"].values()) > 0.9
    monkeypatch.setattr(workflow, "best_mixture", lambda answers: Mixture(1.0, 0.0))
    assert max(v or 0.0 for v in learn(reporter).record["held_out_iou"].values()) < 0.6
    phases = [e["phase"] for e in reporter.of("phase")]
    assert phases[0] == "scoring held-out slices"


def test_answers_for_which_memory_is_too_small_are_kept_in_files(monkeypatch, tmp_path):
    """Slices of 4096x4096 voxels have gigabytes of them, and a run that ends for that would have trained in vain."""
    expected = learn(CollectingReporter())
    files, make = [], tempfile.TemporaryFile
    monkeypatch.setattr(held_out_answers, "available_memory", lambda device: 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **at: files.append(at["dir"]) or make(**at))
    found = learn(CollectingReporter(), folder=tmp_path)
    assert files == [tmp_path] * 2
    assert (found.mixture, found.record["held_out_iou"]) == (expected.mixture, expected.record["held_out_iou"])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["checkpoint.safetensors"]


def test_the_mixture_of_a_network_that_goes_on_is_not_fitted_to_what_it_had_learnt():
    """Nor in the run after the next, which holds the same slice out again."""
    model = learn(CollectingReporter(), hold_out=0)
    for _ in range(2):
        model = learn(CollectingReporter(), hold_out=1, start_from=model)
        assert model.record["held_out_iou"] is not None
        assert model.mixture == USUAL


def test_a_network_that_goes_on_knows_its_volumes_by_their_voxels():
    """A name is no patient's alone; files of earlier versions tell nothing else."""
    model = learn(CollectingReporter(), hold_out=0)
    volume = tiny_volume()

    def learnt(volume: Volume, model: Model = model) -> tuple[Plane, ...]:
        options = RunOptions("cpu", hold_out=1, start_from=model)
        case = Case(volume, tiny_annotation(volume, PLANES))
        (fold,) = prepare([case], tiny_recipe(iterations=1), options, CollectingReporter()).folds
        return fold.learnt[volume.name]

    planes = tuple(Plane(0, n) for n in PLANES)
    assert learnt(volume) == learnt(replace(volume, name="copy")) == planes
    other = replace(tiny_volume(seed=3), name=volume.name)
    assert learnt(other) == ()
    (entry,) = model.record["volumes"]
    before = replace(model, record={**model.record, "volumes": [{**entry, "fingerprint": "?"}]})
    assert learnt(volume, before) == ()
    del before.record["volumes"][0]["fingerprint"]
    assert learnt(other, before) == planes
    assert learnt(replace(other, name="copy"), before) == ()


def test_stopping_is_noticed_between_held_out_slices():
    class WhenScoring:
        """Asks to stop as soon as held-out slices are scored."""

        def __init__(self, reporter: CollectingReporter) -> None:
            self.reporter = reporter

        def requested(self) -> str:
            return "interrupt" if self.reporter.of("validation") else ""  # training ends with the only one

    reporter = CollectingReporter()
    with pytest.raises(Interrupted, match="Stopped as asked while scoring held-out slices"):
        learn(reporter, WhenScoring(reporter))
