"""What happens where CUDA graphs or torch.compile do not work; that they do is in test_gpu.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_training import make_trainer, tiny_plan, tiny_recipe, tiny_task

from SparseUNet3DLib import gradients, trainer
from SparseUNet3DLib.gradients import GradientFinder, record_gradients
from SparseUNet3DLib.loss import annotated_voxels
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.plan import Plan


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, a target of which some slices are annotated, and class weights."""
    random = torch.Generator().manual_seed(0)
    images, target = torch.rand(2, 1, 16, 16, 16, generator=random), torch.full((2, 16, 16, 16), -1)
    target[:, 2:14:5] = torch.randint(0, 3, (2, 3, 16, 16), generator=random)
    return images, target, torch.tensor([0.5, 1.0, 2.0])


def finder(plan: Plan) -> GradientFinder:
    """Of a network that begins to train, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(plan).train()
    return GradientFinder(network, network.features, torch.float32, dice=True)


def fail_with(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> list[bool]:
    """Recording raises one of these each time, or works; gives whether each was compiled."""
    left, compiled = list(errors), []

    def graph(function, inputs):
        compiled.append(function.features.__name__ != "features")
        error = left.pop(0)
        if error is not None:
            raise error
        return function

    monkeypatch.setattr(gradients, "CudaGraph", graph)
    return compiled


def record(find: GradientFinder, compiled: bool) -> object:
    return record_gradients(find, *batch(), search=True, compiled=compiled)


def test_all_voxels_have_the_gradients_of_the_annotated_ones():
    images, target, weights = batch()
    found = []
    for annotated in (None, annotated_voxels(target)):
        find = finder(tiny_plan())
        values = find(images, target, weights, annotated)
        found.append([values, *(p.grad for p in find.network.parameters() if p.grad is not None)])
    assert found[0][0][1] > 0 and len(found[0]) > 10
    torch.testing.assert_close(found[0], found[1])


def test_the_next_gradients_are_not_added():
    find = finder(tiny_plan())
    first, second = (find(*batch()) for _ in range(2))
    assert torch.equal(first, second)


def test_without_a_compiler_the_network_is_recorded_as_it_is(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda features: lambda images: features(images))
    compiled = fail_with(monkeypatch, RuntimeError("Failed to find C compiler."), None)
    assert record(finder(tiny_plan()), compiled=True) is not None
    assert compiled == [True, False]


def test_where_torch_refuses_to_compile_the_network_is_recorded_as_it_is(monkeypatch):
    def refuse(features: object) -> None:
        raise RuntimeError("Dynamo is not supported on Python 3.13+")

    monkeypatch.setattr(torch, "compile", refuse)
    compiled = fail_with(monkeypatch, None)
    assert record(finder(tiny_plan()), compiled=True) is not None
    assert compiled == [False]


def test_what_cannot_be_recorded_is_not(monkeypatch):
    tried = fail_with(monkeypatch, ImportError("triton"), RuntimeError("not permitted when stream is capturing"))
    assert record(finder(tiny_plan()), compiled=True) is None
    assert len(tried) == 2


def test_running_out_of_memory_is_not_hidden(monkeypatch):
    end_of_recording = RuntimeError("operation failed due to a previous error during capture")
    end_of_recording.__context__ = torch.OutOfMemoryError("CUDA out of memory.")
    fail_with(monkeypatch, torch.OutOfMemoryError("CUDA out of memory."), end_of_recording)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"memory|capture"):
            record(finder(tiny_plan()), compiled=False)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_failed_recording_leaves_the_network_as_it_was(compiled: bool, monkeypatch: pytest.MonkeyPatch):
    def fail(function, inputs):
        function(*inputs)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch, "compile", lambda features: features)
    monkeypatch.setattr(gradients, "CudaGraph", fail)
    find = finder(tiny_plan(batch_norm="running"))
    before = {n: t.clone() for n, t in find.network.state_dict().items()}
    assert record(find, compiled) is None
    assert all(torch.equal(t, before[n]) for n, t in find.network.state_dict().items())
    assert all(p.grad is None for p in find.network.parameters())


def test_without_a_gpu_nothing_is_recorded():
    assert record(finder(tiny_plan()), compiled=False) is None


# -- a training that may record its steps ------------------------------------------------------------------


def recording_trainer(monkeypatch: pytest.MonkeyPatch, plan: Plan, limits: dict, free: int = 2**40) -> list[tuple]:
    """Two steps as on a GPU with so many bytes ``free``, recorded by calling them; what was asked for."""
    asked = []

    def record(find, *inputs):
        asked.append(inputs[-2:])
        return find

    monkeypatch.setattr(trainer, "record_gradients", record)
    monkeypatch.setattr(trainer, "available_memory", lambda device: free)
    found = make_trainer(tiny_task(plan=plan, recipe=tiny_recipe(**limits)), torch.bfloat16)
    plain = make_trainer(tiny_task(plan=plan, recipe=tiny_recipe(**limits)), torch.bfloat16)
    found._may_record = True
    assert [found.step(0.5) for _ in range(2)] == pytest.approx([plain.step(0.5) for _ in range(2)], rel=1e-3)
    return asked


@pytest.mark.parametrize(
    "limits, search, compiled",
    [
        ({"seconds": 60.0, "iterations": None}, False, False),
        ({"seconds": 240.0, "iterations": None}, True, False),
        ({"seconds": 600.0, "iterations": None}, True, True),
        ({"seconds": None, "iterations": 100}, False, False),
        ({"seconds": None, "iterations": 70_000}, True, True),
    ],
)
def test_what_takes_long_is_left_out_of_short_runs(limits: dict, search: bool, compiled: bool, monkeypatch):
    assert recording_trainer(monkeypatch, tiny_plan(), limits) == [(search, compiled)]


def test_without_room_for_it_steps_are_not_recorded(monkeypatch):
    assert recording_trainer(monkeypatch, tiny_plan(), {}, free=tiny_plan().training_bytes() // 2) == []


@pytest.mark.parametrize("classes, recorded", [(3, 1), (300, 0)])
def test_the_logits_of_very_many_classes_are_not_all_looked_at(classes: int, recorded: int, monkeypatch):
    """They would take more than what was announced for a step."""
    assert len(recording_trainer(monkeypatch, replace(tiny_plan(), classes=classes), {})) == recorded


def test_volumes_kept_on_the_gpu_count_as_well(monkeypatch):
    monkeypatch.setattr(trainer, "record_gradients", lambda *inputs: pytest.fail("recorded"))
    monkeypatch.setattr(trainer, "available_memory", lambda device: 2**40)
    found = make_trainer(tiny_task(), torch.bfloat16)
    found._may_record, found.sampler.resident_bytes = True, tiny_plan().training_bytes() // 3
    assert found.step(0.5) > 0


def test_in_float32_where_a_step_may_take_all_that_was_announced_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr(trainer, "record_gradients", lambda *inputs: pytest.fail("recorded"))
    found = make_trainer(tiny_task())
    found._may_record = True
    assert found.step(0.5) > 0
