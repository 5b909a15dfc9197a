"""What happens where CUDA graphs or torch.compile do not work; that they do is in test_gpu.py."""

from __future__ import annotations

import pytest
import torch
from tiny_training import CPU, make_trainer, tiny_plan, tiny_recipe, tiny_task

from SparseUNet3DLib import recorded_network
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.recorded_network import record_features

SHAPE = (2, 1, 16, 16, 16)


def fail_with(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> list[object]:
    """Recording raises one of these each time, or returns the way that it was given; gives the ways."""
    left, ways = list(errors), []

    def record(network, features, *others):
        ways.append(features)
        error = left.pop(0)
        if error is not None:
            raise error
        return features

    monkeypatch.setattr(recorded_network, "_record", record)
    return ways


def record(network: torch.nn.Module, compiled: bool) -> object:
    return record_features(network, SHAPE, CPU, torch.float32, search=True, compiled=compiled)


def test_without_a_compiler_the_network_is_recorded_as_it_is(monkeypatch):
    network = build_network(tiny_plan())
    ways = fail_with(monkeypatch, RuntimeError("Failed to find C compiler."), None)
    assert record(network, compiled=True) == network.features
    assert ways[0] != network.features and ways[1] == network.features


def test_where_torch_refuses_to_compile_the_network_is_recorded_as_it_is(monkeypatch):
    def refuse(features: object) -> None:
        raise RuntimeError("Dynamo is not supported on Python 3.13+")

    monkeypatch.setattr(torch, "compile", refuse)
    network = build_network(tiny_plan())
    ways = fail_with(monkeypatch, None)
    assert record(network, compiled=True) == network.features
    assert ways == [network.features]


def test_what_cannot_be_recorded_is_computed_as_it_is(monkeypatch):
    network = build_network(tiny_plan())
    ways = fail_with(monkeypatch, ImportError("triton"), RuntimeError("not permitted when stream is capturing"))
    assert record(network, compiled=True) == network.features
    assert len(ways) == 2


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
    asked = []

    def record(network, shape, device, precision, search, compiled):
        asked.append((search, compiled))
        return network.features

    monkeypatch.setattr("SparseUNet3DLib.trainer.record_features", record)
    trainer = make_trainer(tiny_task(recipe=tiny_recipe(**limits)))
    trainer._recorded = None  # as on a GPU
    trainer.step(0.5)
    trainer.step(0.5)
    assert asked == [(search, compiled)]


def test_running_out_of_memory_is_not_hidden(monkeypatch):
    end_of_recording = RuntimeError("operation failed due to a previous error during capture")
    end_of_recording.__context__ = torch.OutOfMemoryError("CUDA out of memory.")
    fail_with(monkeypatch, torch.OutOfMemoryError("CUDA out of memory."), end_of_recording)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"memory|capture"):
            record(build_network(tiny_plan()), compiled=False)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_failed_recording_leaves_the_network_as_it_was(compiled: bool):
    """Here there is no GPU, or the network is not on it."""
    network = build_network(tiny_plan(batch_norm="running"))
    before = {n: t.clone() for n, t in network.state_dict().items()}
    assert record(network, compiled) == network.features
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
