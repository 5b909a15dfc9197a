"""Speed of training the paper's network on a GPU, and what `auto` and nnU-Net reach there in how many seconds.

    .venv/bin/python Testing/Benchmarks/gpu.py [--data DATA] [--task tumour-1] [--seconds 15,30,60,120]

Needs no network connection. A step is one patch of 132x132x116 voxels with three channels through the paper's
network (Çiçek et al. 2016) in bfloat16, forward, backward and optimiser; its operations are counted by torch. The
ways of running it take turns. With --data also the IoU against wall seconds, of `auto` and, where the extra
`benchmark-nnunet` is installed, of nnU-Net v2. --device cpu --patch 92 tries the same code without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from nnunet_peer import nnunet
from sparse_tasks import TASKS, load_task
from torch.utils.flop_counter import FlopCounterMode

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.device import autocast, choose_device, choose_precision, describe_device
from SparseUNet3DLib.evaluation import NEVER_ANNOTATED, score_segmentation
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.loss import sparse_loss
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.plan import PAPER_PATCH, Plan, make_plan
from SparseUNet3DLib.recipe import preset
from SparseUNet3DLib.recorded_network import record_network
from SparseUNet3DLib.workflow import RunOptions, densify

#: Dense bfloat16 operations per second that the makers state, in 10^12, by a part of the name.
_PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40": 181, "RTX 4090": 165, "RTX 3090": 71}
_PAPERS_ITERATIONS = 70_000


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--patch", type=int, help="edge of a cube instead of 132x132x116")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--task", default="tumour-1", choices=TASKS)
    parser.add_argument("--seconds", default="15,30,60,120")
    args = parser.parse_args()
    device = choose_device(args.device)
    print(f"{describe_device(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    step_table(device, (args.patch,) * 3 if args.patch else PAPER_PATCH, args.steps)
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
    precision = choose_precision(device)
    if recorded:
        forward = record_network(network, tuple(images.shape), device, precision, compiled)
    else:
        forward = torch.compile(network) if compiled else network

    def step() -> None:
        with autocast(device, precision):
            logits = forward(images)
        optimizer.zero_grad(set_to_none=True)
        sparse_loss(logits, target, dice=False).backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of ``step``, with all that the GPU still has to do."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


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
