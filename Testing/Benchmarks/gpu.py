"""Speed of training on a GPU, and what `auto` and nnU-Net reach there in how many seconds.

    .venv/bin/python Testing/Benchmarks/gpu.py [--data DATA] [--task tumour-1] [--seconds 15,30,60]

Needs no network connection. First the paper's network (Çiçek et al. 2016): a step is one patch of 132x132x116 voxels
with three channels in bfloat16, forward, loss, backward, gradients shortened and SGD; its operations are counted by
torch, and the ways of running it take turns. Then the program's own training steps, which draw and augment their
patches as well, beside the memory that was announced. With --data also the IoU against wall seconds, of `auto` and,
where the extra `benchmark-nnunet` is installed, of nnU-Net v2. --device cpu --patch 92 tries the same code without a
GPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from nnunet_peer import nnunet
from sparse_tasks import TASKS, load_task
from torch.utils.flop_counter import FlopCounterMode

from SparseUNet3DLib.annotation import from_planes
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.device import autocast, choose_device, choose_precision, describe_device
from SparseUNet3DLib.evaluation import NEVER_ANNOTATED, score_segmentation
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.gradients import GradientFinder, record_gradients
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.networks.convolution import Conv3d
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.planner import PAPER_PATCH, make_plan
from SparseUNet3DLib.preparation import prepare
from SparseUNet3DLib.recipe import Recipe, preset
from SparseUNet3DLib.sampling import PatchSampler
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.trainer import Trainer
from SparseUNet3DLib.volumes import Volume
from SparseUNet3DLib.workflow import RunOptions, densify

#: Dense bfloat16 operations per second that the makers state, in 10^12, by a part of the name.
_PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40": 181, "RTX 4090": 165, "RTX 3090": 71}
_PAPERS_ITERATIONS = 70_000


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--patch", type=int, help="edge of a cube instead of 132x132x116")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--task", default="tumour-1", choices=TASKS)
    parser.add_argument("--seconds", default="15,30,60")
    args = parser.parse_args()
    device = choose_device(args.device)
    print(f"{describe_device(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    step_table(device, (args.patch,) * 3 if args.patch else PAPER_PATCH, args.steps)
    pairs_table(device, args.patch or 128, args.steps)
    own_steps(device, args.steps)
    if args.data:
        iou_table(args.data, args.task, [float(s) for s in args.seconds.split(",")], device)


def step_table(device: torch.device, patch: tuple[int, int, int], steps: int) -> None:
    """Milliseconds, TFLOP/s and share of the peak of each way of running a training step."""
    ways = {
        "contiguous": make_step(device, patch, torch.contiguous_format),
        "channels last": make_step(device, patch, torch.channels_last_3d),
        "channels last, torch.compile": make_step(device, patch, torch.channels_last_3d, compiled=True),
    }
    if device.type == "cuda":
        ways["channels last, CUDA graph"] = make_step(device, patch, torch.channels_last_3d, recorded=True)
        ways["channels last, torch.compile, CUDA graph"] = make_step(
            device, patch, torch.channels_last_3d, recorded=True, compiled=True
        )
    tera = count_operations(patch) / 1e12
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(steps + 3):
        for way, step in ways.items():
            seconds = timed(step, device)
            if turn >= 3:  # the first ones warm up
                times[way].append(seconds)
    peak = next((p for name, p in _PEAKS.items() if name in describe_device(device)), None)
    print(f"The paper's network, a patch of {'x'.join(map(str, patch))}x3, {tera:.2f} TFLOP per step\n")
    print("| way | step, ms | TFLOP/s | share of the dense peak | the paper's 70,000 iterations, minutes |")
    print("| --- | --- | --- | --- | --- |")
    for way, found in times.items():
        seconds = statistics.median(found)
        share = f"{100 * tera / seconds / peak:.0f} %" if peak else "peak unknown"
        whole = _PAPERS_ITERATIONS * seconds / 60
        print(f"| {way} | {1000 * seconds:.1f} | {tera / seconds:.1f} | {share} | {whole:.0f} |", flush=True)


def count_operations(patch: tuple[int, int, int]) -> int:
    """Multiplications and additions of one training step, by torch's count."""
    network = build_network(papers_plan(patch)).to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *patch, device="meta")).sum().backward()
    return counter.get_total_flops()


def papers_plan(patch: tuple[int, int, int]) -> Plan:
    """The paper's network for three channels and four classes."""
    return replace(make_plan(preset("paper"), [patch], (1.0, 1.0, 1.0), 3, 4), patch_size=patch)


def make_step(
    device: torch.device,
    patch: tuple[int, int, int],
    layout: torch.memory_format,
    recorded: bool = False,
    compiled: bool = False,
) -> Callable[[], None]:
    """A function that makes one training step of the paper's network on the same patch."""
    plan = papers_plan(patch)
    network = build_network(plan).to(device, memory_format=layout).train()
    learnt = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=1e-4, momentum=0.99, fused=device.type == "cuda")
    images = torch.randn(1, 3, *patch, device=device).to(memory_format=layout)
    target = torch.randint(0, 4, (1, *plan.output_size), device=device)
    weights = torch.ones(plan.classes, device=device)
    features = torch.compile(network.features) if compiled and not recorded else network.features
    find = GradientFinder(network, features, choose_precision(device), dice=False)
    if recorded:
        find = record_gradients(find, images, target, weights, search=True, compiled=compiled)
        if find is None:
            raise SystemExit("No CUDA graph can be recorded here.")

    def step() -> None:
        find(images, target, weights)
        optimizer.step()

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of ``step``, with all that the GPU still has to do."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def pairs_table(device: torch.device, edge: int, steps: int) -> None:
    """Milliseconds of convolutions of few channels with their gradients, plain and of two voxels at a time."""
    print("\nConvolutions of 3x3x3 with their gradients, channels last, two patches of an edge of", edge, "voxels\n")
    print("| channels | plain, ms | two at a time, ms |\n| --- | --- | --- |")
    for before, after, padding in ((32, 64, 0), (32, 32, 1), (64, 32, 1)):
        layer = Conv3d(before, after, 3, padding=padding, bias=False).to(device, memory_format=torch.channels_last_3d)
        images = torch.randn(2, before, edge, edge, edge, device=device)
        images = images.to(torch.bfloat16, memory_format=torch.channels_last_3d).requires_grad_()
        cells = []
        for convolve in (lambda x: F.conv3d(x, layer.weight, padding=layer.padding), layer.two_at_a_time):  # noqa: B023

            def step(convolve: Callable[[torch.Tensor], torch.Tensor] = convolve) -> None:
                with autocast(device, torch.bfloat16):
                    result = convolve(images)  # noqa: B023
                result.backward(result.detach())

            cells.append(1000 * statistics.median([timed(step, device) for _ in range(steps + 3)][3:]))
        print(f"| {before} to {after} | {cells[0]:.2f} | {cells[1]:.2f} |", flush=True)


def own_steps(device: torch.device, steps: int) -> None:
    """Milliseconds and memory of the program's training steps, drawing and augmenting included."""
    print("\nThe program's own steps on a generated volume of 160x160x160x3\n")
    print("| preset | patches of a step | step, ms | peak memory, GiB | announced, GiB |")
    print("| --- | --- | --- | --- | --- |")
    for name in ("paper", "balanced", "thorough"):
        trainer = generated_trainer(preset(name), device)
        if device.type == "cuda":
            gc.collect()  # a compiled network is referred to in circles
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        seconds = [timed(lambda: trainer.step(0.5), device) for _ in range(steps + 5)][5:]  # noqa: B023
        plan = trainer.plan
        peak = torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else float("nan")
        patches = f"{plan.batch_size} of {'x'.join(map(str, plan.patch_size))}"
        step, announced = 1000 * statistics.median(seconds), plan.training_bytes() / 2**30
        print(f"| `{name}` | {patches} | {step:.1f} | {peak:.1f} | {announced:.1f} |", flush=True)


def generated_trainer(recipe: Recipe, device: torch.device) -> Trainer:
    """A training on a noisy ball of which three slices along each axis are annotated."""
    shape = (160, 160, 160)
    geometry = Geometry(shape, (1.0, 1.0, 1.0))
    ball = sum(((i - 80) / 50) ** 2 for i in np.indices(shape)) < 1
    array = (100 * ball + np.random.default_rng(0).normal(0, 30, (3, *shape))).astype(np.float32)
    segmentation = Segmentation(ball.astype(np.uint16), (Segment("ball", "ball"),), geometry)
    planes = [Plane(axis, n) for axis in range(3) for n in (50, 80, 110)]
    case = Case(Volume(array, geometry, ("a", "b", "c"), "ball"), from_planes(segmentation, planes))
    prepared = prepare([case], recipe, RunOptions(device.type, hold_out=0), CollectingReporter())
    sampler = PatchSampler(prepared.folds[0].training, prepared.normalisation, prepared.plan, recipe, device)
    plan = replace(prepared.plan, members=1)
    return Trainer(plan, recipe, sampler, device, choose_precision(device))


def iou_table(data: Path, task: str, budgets: list[float], device: torch.device) -> None:
    """IoU on never-annotated voxels after each budget of wall seconds, training and segmenting."""
    case, truth = load_task(TASKS[task], data, "main")
    methods = {"`auto`": auto}
    if importlib.util.find_spec("nnunetv2"):
        methods["nnU-Net v2"] = nnunet
    print(f"\n{task}, setting `main`: IoU (wall seconds)\n")
    print("| budget, s | " + " | ".join(methods) + " |\n| --- |" + " --- |" * len(methods))
    for seconds in budgets:
        cells = []
        for method in methods.values():
            start = time.perf_counter()
            labels = method(case, 0, seconds / 60, device.type)
            wall = time.perf_counter() - start
            found = replace(truth, labels=labels.astype(np.uint16))
            scores = score_segmentation(found, truth, ~case.annotation.annotated, NEVER_ANNOTATED)
            cells.append(f"{scores.mean_iou:.3f} ({wall:.0f})")
        print(f"| {seconds:g} | " + " | ".join(cells) + " |", flush=True)


def auto(case: Case, seed: int, minutes: float, device: str) -> np.ndarray:
    """This program, with its defaults and a time budget for training and segmenting."""
    recipe = replace(preset("balanced"), seconds=60 * minutes, seed=seed)
    prediction, _model = densify(case.volume, case.annotation, recipe, RunOptions(device), CollectingReporter())
    return prediction.segmentation.labels


if __name__ == "__main__":
    main()
