"""The IoU on slices that were held out from training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import CPU, held_out_task, tiny_annotation, tiny_plan, tiny_recipe, tiny_volume

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import Interrupted
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.tiles import Box
from SparseUNet3DLib.training import run_training
from SparseUNet3DLib.validation import HeldOutValidation

GRAY = (ChannelNormalisation("channel0"),)


@pytest.mark.parametrize("batch_norm", [None, "frozen"])
def test_the_score_on_held_out_planes_is_the_iou_of_the_prediction_there(batch_norm):
    task, cases = held_out_task(recipe=tiny_recipe(iterations=40), plan=tiny_plan(batch_norm=batch_norm))
    result = run_training(task)
    network = build_network(result.plan)
    network.load_state_dict(result.weights)
    volume, annotation = cases[0].volume, cases[0].annotation
    p = Predictor(
        network, result.plan, GRAY, volume.array, (1.0, 1.0, 1.0), CPU, settings=InferenceSettings(overlap=0.25)
    )
    assert len(annotation.planes) == 2
    found = np.zeros(annotation.labels.shape, int)
    for plane in annotation.planes:
        box = Box((plane.index, 0, 0), (1, *volume.array.shape[2:]))
        found[plane.index] = p.logits(box, frame=box).argmax(0)[0]
    known = annotation.annotated
    for label, name in ((1, "bright"), (2, "dark")):
        hits = (known & (found == label) & (annotation.labels == label)).sum()
        either = (known & ((found == label) | (annotation.labels == label))).sum()
        assert result.held_out_iou[name] == pytest.approx(hits / either)
    last = task.reporter.of("validation")[-1]
    assert last["iteration"] == 40
    assert last["iou"] == result.held_out_iou
    assert last["mean_iou"] == pytest.approx(np.mean(list(result.held_out_iou.values())))


def test_scoring_tells_of_each_part_and_can_be_left_meanwhile():
    """Slices of a large volume take minutes."""
    _, cases = held_out_task()
    plan = tiny_plan(patch_size=(8, 8, 8))
    validation, told = HeldOutValidation(cases, GRAY, CPU), []
    validation(build_network(plan), plan, torch.float32, told.append)
    assert len(told) > 4 and max(told) == 1.0

    def leave(fraction: float) -> None:
        raise Interrupted(f"left at {fraction}")

    with pytest.raises(Interrupted, match="left at 0"):
        validation(build_network(plan), plan, torch.float32, leave)


def test_a_segment_that_is_nowhere_has_no_score():
    volume = tiny_volume()
    annotation = tiny_annotation(volume)
    labels = np.where(annotation.labels == 2, 0, annotation.labels).astype(np.uint16)
    case = Case(volume, replace(annotation, labels=labels))
    network = build_network(tiny_plan())
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.0, 1.0, -1.0])  # says "bright" everywhere
    scores = HeldOutValidation([case], GRAY, CPU)(network, tiny_plan(), torch.float32)
    assert scores["dark"] is None
    assert scores["bright"] == pytest.approx((labels[annotation.annotated] == 1).mean())


def test_many_segments_are_counted_without_overflow():
    volume = tiny_volume((4, 16, 16))
    annotation = tiny_annotation(volume, (1, 2))
    many = tuple(replace(annotation.segments[0], id=f"{n}", name=f"{n}") for n in range(300))
    labels = np.where(annotation.annotated, 299, 0).astype(np.uint16)
    case = Case(volume, replace(annotation, labels=labels, segments=many))
    plan = tiny_plan(classes=301)
    network = build_network(plan)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data[299] = 1.0
    scores = HeldOutValidation([case], GRAY, CPU)(network, plan, torch.float32)
    assert scores["298"] == 1.0
    assert all(score is None for name, score in scores.items() if name != "298")
