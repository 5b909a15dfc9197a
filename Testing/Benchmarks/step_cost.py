"""What share of a training step goes into drawing and augmenting its patches.

    .venv/bin/python Testing/Benchmarks/step_cost.py

Generated volumes; prints one Markdown row per case: the median over the steps of one run, sampling and whole
steps alternating, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from SparseUNet3DLib.annotation import Plane, from_planes
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.device import choose_precision, describe_device, tune_allocator
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.recipe import preset
from SparseUNet3DLib.sampling import PatchSampler
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.trainer import Trainer
from SparseUNet3DLib.volumes import Volume
from SparseUNet3DLib.workflow import RunOptions, prepare

_STEPS = 15
#: Name, shape (z, y, x), spacing (x, y, z) in mm, channels.
_CASES = (
    ("isotropic, 1 channel", (96, 96, 96), (1.0, 1.0, 1.0), 1),
    ("isotropic, 2 channels", (96, 96, 96), (1.0, 1.0, 1.0), 2),
    ("10 mm slices, 1 channel", (34, 128, 128), (3.0, 3.0, 10.0), 1),
)


def main() -> None:
    """Measure all cases."""
    tune_allocator()
    print(f"{describe_device(torch.device('cpu'))}, torch {torch.__version__}")
    print("| case | patch (z x y x x) | step, ms | sampling and augmentation, ms | share |")
    print("| --- | --- | --- | --- | --- |")
    for name, shape, spacing, channels in _CASES:
        trainer = make_trainer(shape, spacing, channels)
        steps, draws = [], []
        for repeat in range(_STEPS + 3):
            step = _seconds(lambda trainer=trainer: trainer.step(0.5))
            draw = _seconds(lambda trainer=trainer: trainer.sampler.draw_batch(trainer.generator))
            if repeat >= 3:  # the first ones warm up
                steps.append(step)
                draws.append(draw)
        step, draw = statistics.median(steps), statistics.median(draws)
        patch = "x".join(str(n) for n in trainer.plan.patch_size)
        print(
            f"| {name} | {trainer.plan.batch_size} of {patch} | {1000 * step:.0f} | {1000 * draw:.0f} "
            f"| {100 * draw / step:.0f} % |",
            flush=True,
        )


def make_trainer(shape: tuple[int, int, int], spacing: tuple[float, float, float], channels: int) -> Trainer:
    random = np.random.default_rng(0)
    geometry = Geometry(shape[::-1], spacing)
    z, y, x = np.indices(shape)
    ball = sum(((i - n / 2) / (n / 3)) ** 2 for i, n in zip((z, y, x), shape, strict=True)) < 1
    array = (100 * ball + random.normal(0, 30, (channels, *shape))).astype(np.float32)
    volume = Volume(array, geometry, tuple(f"channel {i}" for i in range(channels)), "ball")
    planes = [Plane(axis, shape[axis] * i // 4) for axis in range(3) for i in (1, 2, 3)]
    annotation = from_planes(Segmentation(ball.astype(np.uint16), (Segment("ball", "ball"),), geometry), planes)
    recipe, device = replace(preset("balanced"), members=1), torch.device("cpu")
    prepared = prepare([Case(volume, annotation)], recipe, RunOptions("cpu", hold_out=0), CollectingReporter())
    sampler = PatchSampler(prepared.folds[0].training, prepared.normalisation, prepared.plan, recipe, device)
    return Trainer(prepared.plan, recipe, sampler, device, choose_precision(device))


def _seconds(call: object) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
