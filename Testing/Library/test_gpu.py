"""What only a CUDA GPU shows; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import (
    CPU,
    NARROW,
    StopAfter,
    iou,
    make_trainer,
    paper_plan,
    tiny_annotation,
    tiny_labels,
    tiny_plan,
    tiny_recipe,
    tiny_task,
    tiny_volume,
)

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.cuda_graph import CudaGraph
from SparseUNet3DLib.device import autocast, memory_format
from SparseUNet3DLib.errors import Interrupted
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.gradients import record_gradients
from SparseUNet3DLib.networks.convolution import Conv3d
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.recipe import preset
from SparseUNet3DLib.tiles import Box
from SparseUNet3DLib.training import run_training
from SparseUNet3DLib.voxel_classifier import VoxelSample, make_voxel_features
from SparseUNet3DLib.workflow import RunOptions, densify, segment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
GPU = torch.device("cuda")


@pytest.mark.parametrize("plan", [tiny_plan(), paper_plan()], ids=["auto", "paper"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept on the GPU", "boxes are sent"])
def test_patches_are_those_of_the_cpu(plan: Plan, kept: bool, monkeypatch: pytest.MonkeyPatch):
    if not kept:
        monkeypatch.setattr("SparseUNet3DLib.sampling.keep_on_device", lambda cases, room: None)
    trainers = [make_trainer(tiny_task(plan=plan, device=device)) for device in (CPU, GPU)]
    for _ in range(3):
        expected, found = (t.sampler.draw_batch(t.generator) for t in trainers)
        torch.testing.assert_close(found.images.cpu(), expected.images, atol=1e-3, rtol=1e-3)
        assert (found.target.cpu() == expected.target).float().mean() > 0.999


@pytest.mark.parametrize("before, after, padding", [(1, 32, 1), (3, 32, 0), (32, 64, 0), (32, 32, 1), (64, 32, 1)])
def test_a_convolution_of_few_channels_is_that_of_the_cpu(before: int, after: int, padding: int):
    layer = Conv3d(before, after, 3, padding=padding)
    image = torch.randn(2, before, 8, 10, 16)
    found = []
    for device in (CPU, GPU):
        layer.to(device, memory_format=memory_format(device)).zero_grad()
        sent = image.to(device, memory_format=memory_format(device)).requires_grad_()
        with autocast(device, torch.bfloat16 if device == GPU else torch.float32):
            result = layer(sent)
        result.float().square().sum().backward()
        found.append([t.detach().float().cpu() for t in (result, sent.grad, layer.weight.grad, layer.bias.grad)])
    for expected, computed in zip(*found, strict=True):
        assert (expected - computed).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
@pytest.mark.parametrize(
    "plan",
    [tiny_plan(), paper_plan(), paper_plan(batch_norm="running")],
    ids=["auto", "paper", "paper, batch normalisation"],
)
def test_first_steps_are_those_of_the_cpu(plan: Plan, optimizer: str):
    rate = 1e-4 if optimizer == "sgd" else 1e-3
    recipe = tiny_recipe(optimizer=optimizer, learning_rate=rate)
    losses, states = [], []
    for device in (CPU, GPU):
        trainer = make_trainer(tiny_task(plan=plan, recipe=recipe, device=device))
        losses.append([trainer.step(0.5) for _ in range(6)])
        states.append(trainer.network.state_dict())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    counted = [[int(t) for n, t in s.items() if n.endswith("num_batches_tracked")] for s in states]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("optimizer, rate", [("muon", 1e-3), ("adamw", 1e-3), ("sgd", 1e-4)])
@pytest.mark.parametrize("plan", [tiny_plan(), paper_plan(batch_norm="batch")], ids=["auto", "paper"])
def test_what_is_drawn_ahead_is_drawn_again_by_a_resumed_run(tmp_path, plan: Plan, optimizer: str, rate: float):
    """The checkpoint has the random numbers' state of the step that comes next."""
    recipe = tiny_recipe(iterations=12, optimizer=optimizer, learning_rate=rate, precision="auto")
    task = tiny_task(tmp_path, device=GPU, plan=plan, recipe=recipe)
    whole = run_training(replace(task, folder=None))
    with pytest.raises(Interrupted):
        run_training(replace(task, stop=StopAfter(5)))
    resumed = run_training(task, resume=True)
    losses = [[e["loss"] for e in r.history if "loss" in e] for r in (whole, resumed)]
    assert resumed.iterations == 12
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.05)


@pytest.mark.parametrize("dice", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "plan", [tiny_plan(), paper_plan(batch_norm="running", widths=(8, 8, 8, 8))], ids=["auto", "paper"]
)
def test_recorded_gradients_are_those_of_the_network(
    plan: Plan, compiled: bool, dice: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # other algorithms round otherwise
    trainer = make_trainer(tiny_task(plan=plan, device=GPU))
    network = trainer.network.train()
    find = replace(trainer._find_plainly, dice=dice)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    batches = [trainer.sampler.draw_batch(trainer.generator) for _ in range(3)]
    inputs = [
        (b.images.to(memory_format=memory_format(GPU)), b.target, torch.tensor([0.5, 1.0, n], device=GPU))
        for n, b in enumerate(batches)
    ]
    recorded = record_gradients(find, *inputs[0], search=True, compiled=compiled)
    assert isinstance(recorded, CudaGraph)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    # What is found without a recording takes its gradients' place, so that comes last.
    found = [
        [[way(*i).clone(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)] for i in inputs[1:]]
        for way in (recorded, find)
    ]
    for first, second in zip(*found, strict=True):
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            # Which of two nearly equal voxels is the largest of its window, and gets the gradient, rounding decides.
            tolerance = 0.1 if number else 5e-3
            assert (one - other).norm() <= tolerance * other.norm() + 1e-6


@pytest.mark.parametrize("optimizer, rate", [("muon", 1e-3), ("adamw", 1e-3), ("sgd", 1e-4)])
@pytest.mark.parametrize("plan", [tiny_plan(), paper_plan(batch_norm="running")], ids=["auto", "paper"])
def test_recorded_steps_are_those_that_are_not(plan: Plan, optimizer: str, rate: float):
    recipe = tiny_recipe(optimizer=optimizer, learning_rate=rate)
    trainers = [make_trainer(tiny_task(plan=plan, recipe=recipe, device=GPU), torch.bfloat16) for _ in range(2)]
    trainers[0]._may_record = False
    start = {n: t.clone() for n, t in trainers[0].network.state_dict().items()}
    plain, recorded = ([t.step(0.5) for _ in range(8)] for t in trainers)
    assert trainers[0]._recorded is None and isinstance(trainers[1]._recorded, CudaGraph)
    assert recorded == pytest.approx(plain, rel=0.02)
    states = [t.network.state_dict() for t in trainers]
    learnt = {n for n, p in trainers[0].network.named_parameters() if p.requires_grad}
    way = sum((states[0][n] - start[n]).square().sum() for n in learnt).sqrt()
    apart = sum((states[0][n] - states[1][n]).square().sum() for n in learnt).sqrt()
    # The other two make steps of the same length where there is hardly a gradient, too, which rounding turns around.
    assert way > 0 and apart < (0.1 if optimizer == "sgd" else 0.5) * way
    for name in states[0].keys() - learnt:  # statistics of batch normalisation
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0.05, atol=0.02)


def test_a_recorded_training_goes_back_from_where_numbers_are_not_finite():
    trainer, plain = (make_trainer(tiny_task(device=GPU), torch.bfloat16) for _ in range(2))
    expected = [plain.step(0.5) for _ in range(3)]
    before = trainer.state()
    assert trainer.step(0.5) == pytest.approx(expected[0], rel=0.02)
    with torch.no_grad():
        trainer.network.head.weight.fill_(float("nan"))
    assert not np.isfinite(trainer.step(0.5))
    trainer.restore(before)
    trainer.counters.iteration = 0
    assert [trainer.step(0.5) for _ in range(3)] == pytest.approx(expected, rel=0.02)


def test_single_voxels_are_classified_as_by_the_cpu():
    volume = tiny_volume(channels=2)
    plan = tiny_plan(in_channels=2, voxel_spacing=(1.0, 1.0, 1.0))
    channels = (ChannelNormalisation("one"), ChannelNormalisation("other"))
    case = Case(volume, tiny_annotation(volume))
    block = Box((2, 3, 4), (20, 25, 26))
    found = []
    for device in (CPU, GPU):
        features = make_voxel_features(volume.array, (1.0,) * 3, channels, plan, device)
        network = VoxelSample([[case]], channels, plan, CPU).fit([case], 0).to(device)
        found.append(torch.cat([v.flatten(1) for _, v in features.apply(network, block)], dim=1))
        fitted = VoxelSample([[case]], channels, plan, device).fit([case], 0)
        own = torch.cat([v.flatten(1) for _, v in features.apply(fitted, block)], dim=1)
        assert (own.argmax(0) == found[0].argmax(0)).float().mean() > 0.98
    assert (found[0].argmax(0) == found[1].argmax(0)).float().mean() > 0.999


def test_a_finished_training_leaves_the_memory_free():
    volume = tiny_volume((96, 96, 96))
    case = Case(volume, tiny_annotation(volume, (20, 40, 60, 80)))
    plan = tiny_plan(widths=(16, 32), patch_size=(96, 96, 96))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    run_training(tiny_task(cases=[case], plan=plan, device=GPU, recipe=tiny_recipe(iterations=2, precision="auto")))
    # Matrix products keep 32 MiB for each stream that they were asked for in.
    assert torch.cuda.memory_reserved() <= before + 2**28 < torch.cuda.max_memory_reserved()


@pytest.mark.parametrize("name", ["auto", "paper"])
def test_a_step_stays_within_the_memory_that_was_announced(name: str):
    volume = tiny_volume((140, 160, 160), channels=3)
    recipe = replace(preset("balanced" if name == "auto" else "paper"), seconds=None, iterations=3, members=1)
    reporter = CollectingReporter()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    densify(volume, tiny_annotation(volume, (40, 70, 100)), recipe, RunOptions("cuda", hold_out=0), reporter)
    (plan,) = reporter.of("plan")
    assert torch.cuda.max_memory_reserved() - before <= plan["memory_bytes"]


def test_when_memory_runs_out_patches_become_smaller():
    volume = tiny_volume((96, 128, 128))
    reporter = CollectingReporter()
    torch.cuda.empty_cache()
    taken = torch.empty(torch.cuda.mem_get_info()[0] - 2**30, dtype=torch.uint8, device=GPU)
    case = Case(volume, tiny_annotation(volume, (20, 40, 60, 80)))
    plan = tiny_plan(widths=(32, 64), patch_size=(96, 128, 128), batch_size=2)
    result = run_training(
        tiny_task(
            cases=[case], plan=plan, device=GPU, recipe=tiny_recipe(iterations=3, precision="auto"), reporter=reporter
        )
    )
    del taken
    assert np.prod(result.plan.patch_size) * result.plan.batch_size < np.prod(plan.patch_size) * 2
    assert any("Out of memory" in e["message"] for e in reporter.of("warning"))


def test_a_volume_is_learnt_and_both_devices_segment_it_alike():
    volume = tiny_volume()
    recipe = replace(preset("quick"), seconds=None, iterations=150)
    options = RunOptions("cuda", plan=NARROW)
    annotation = tiny_annotation(volume)
    prediction, model = densify(volume, annotation, recipe, options, keep_annotation=False)
    assert min(iou(prediction.segmentation.labels, tiny_labels())) > 0.8
    again = segment(model, volume, "cpu")
    assert (again.segmentation.labels == prediction.segmentation.labels).mean() > 0.99


def test_what_cannot_be_recorded_is_computed_as_it_is():
    """The last test: torch keeps the memory of a recording that failed."""
    trainer = make_trainer(tiny_task(device=GPU), torch.bfloat16)
    features = trainer.network.features

    def waits_for_the_gpu(images: torch.Tensor) -> torch.Tensor:
        return features(images) * (1.0 if images.sum().item() < 1e9 else 0.0)

    trainer._find_plainly = replace(trainer._find_plainly, features=waits_for_the_gpu)
    losses = [trainer.step(0.5) for _ in range(3)]
    assert trainer._recorded is None
    expected = make_trainer(tiny_task(device=GPU), torch.bfloat16)
    assert losses == pytest.approx([expected.step(0.5) for _ in range(3)], rel=0.02)
