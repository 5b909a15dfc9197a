"""How near training and segmenting come to what the convolutions alone cost, and MONAI's tiling beside ours.

    .venv/bin/python Testing/Benchmarks/speed.py

Prints Markdown tables. A training step is compared with the time that its convolutions take by themselves, forward
and backward, with the same shapes and the faster of float32 and bfloat16, contiguous and channels last; the parts of
both take turns, so that whatever else the machine does hits all alike. Segmenting 256x256x128 voxels is compared with
MONAI's sliding_window_inference around the same network, with the same tiles, each in a process of its own so that
its peak memory can be told.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from peak_memory import peak_mib
from step_cost import make_trainer
from torch import nn

from SparseUNet3DLib.device import autocast, choose_precision, describe_device, memory_format, tune_allocator
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.planner import make_plan
from SparseUNet3DLib.recipe import preset

_CPU = torch.device("cpu")
_ROUNDS = 9
_VOLUME = (128, 256, 256)
#: Ours are at multiples of the network's strides only; with a third MONAI's lie at the same places.
_OVERLAP = 1 / 3
#: Ways of segmenting.
_NETWORK, _MONAI = "SparseUNet3D", "MONAI"
_WITH_VOXELS = "SparseUNet3D, single voxels classified as well"
_USUAL = "SparseUNet3D, overlap of a half, as it is unless told otherwise"
_PRECISIONS = (torch.float32, torch.bfloat16)
_LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)
#: Name, shape (z, y, x), spacing (x, y, z) in mm, channels.
_CASES = (("isotropic", (96, 96, 96), (1.0, 1.0, 1.0), 1), ("10 mm slices", (34, 128, 128), (3.0, 3.0, 10.0), 1))


def main() -> None:
    """Both tables; or, as a process of its own, one way of segmenting."""
    tune_allocator()
    if len(sys.argv) > 1:
        print(json.dumps(segment(sys.argv[1])))
        return
    print(f"{describe_device(_CPU)}, torch {torch.__version__}\n")
    print("| training step | patch | step, ms | its convolutions alone, ms | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for name, shape, spacing, channels in _CASES:
        print(f"| {name} | {' | '.join(step_and_convolutions(shape, spacing, channels))} |", flush=True)
    print("\n| segmenting 256x256x128 | s | million voxels per s | peak memory, MiB | convolutions alone, share |")
    print("| --- | --- | --- | --- | --- |")
    for way in (_NETWORK, _MONAI, _WITH_VOXELS, _USUAL):
        done = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        speed = np.prod(_VOLUME) / found["seconds"] / 1e6
        share = 100 * found["convolutions"] / found["seconds"]
        print(f"| {way} | {found['seconds']:.1f} | {speed:.2f} | {found['peak']:.0f} | {share:.0f} % |", flush=True)


def step_and_convolutions(shape: tuple, spacing: tuple, channels: int) -> list[str]:
    """Patch, milliseconds of a step and of its convolutions, and their ratio: medians over the rounds."""
    trainer = make_trainer(shape, spacing, channels)
    plan = trainer.plan
    layers = convolutions(trainer.network, lambda: trainer.step(0.5))
    steps, alone = [], []
    for turn in range(_ROUNDS + 2):
        step = _seconds(lambda: trainer.step(0.5))
        convolving = sum(_fastest(layer, size, backward=True) for layer, size in layers)
        if turn >= 2:  # the first ones warm up
            steps.append(step)
            alone.append(convolving)
    ratio = statistics.median(s / a for s, a in zip(steps, alone, strict=True))
    patch = f"{plan.batch_size} of {'x'.join(str(n) for n in plan.patch_size)}"
    return [patch, f"{1000 * statistics.median(steps):.0f}", f"{1000 * statistics.median(alone):.0f}", f"{ratio:.2f}"]


def convolutions(network: nn.Module, run: Callable[[], object]) -> list[tuple[nn.Conv3d, torch.Size]]:
    """Each convolution that ``run`` has the network compute, with the shape of its input."""
    found: list[tuple[nn.Conv3d, torch.Size]] = []
    hooks = [
        m.register_forward_hook(lambda layer, inputs, _: found.append((layer, _size(layer, inputs[0]))))
        for m in network.modules() if isinstance(m, nn.Conv3d)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return found


def _size(layer: nn.Conv3d, image: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Size:
    """Of a convolution's input; of two tensors that it takes together the first has the size of both."""
    size = (image if isinstance(image, torch.Tensor) else image[0]).shape
    return torch.Size((size[0], layer.in_channels, *size[2:]))


def _fastest(layer: nn.Conv3d, size: torch.Size, backward: bool) -> float:
    """Seconds of one convolution, in the fastest of the layouts and precisions that could be chosen."""
    best = float("inf")
    for kind, layout in itertools.product(_PRECISIONS, _LAYOUTS):
        if (layer.in_channels, kind) == (1, torch.bfloat16) and min(size[2:]) < 3:
            continue  # computed wrongly, see networks/convolution.py
        weight = layer.weight.detach().to(kind, memory_format=layout).requires_grad_(backward)
        image = torch.zeros(size, dtype=kind).to(memory_format=layout)
        image.requires_grad_(backward and layer.in_channels > 1)

        def convolve(weight: torch.Tensor = weight, image: torch.Tensor = image) -> None:
            out = nn.functional.conv3d(image, weight, stride=layer.stride, padding=layer.padding)
            if backward:
                out.backward(out)

        best = min(best, _seconds(convolve))
    return best


def segment(way: str) -> dict[str, float]:
    """Seconds, peak memory and the convolutions' share of one way of segmenting the same volume with the same tiles."""
    plan = make_plan(preset("balanced"), [_VOLUME], (1.0, 1.0, 1.0), 1, 3)
    if way == _WITH_VOXELS:
        plan = replace(plan, voxel_spacing=plan.spacing)
    network = build_network(plan).to(memory_format=memory_format(_CPU)).eval()
    image = np.random.default_rng(0).normal(size=(1, *_VOLUME)).astype(np.float32)
    precision = choose_precision(_CPU)
    predictor = Predictor(
        network, plan, (ChannelNormalisation("noise"),), image, (1.0, 1.0, 1.0), _CPU, precision,
        InferenceSettings() if way == _USUAL else InferenceSettings(overlap=_OVERLAP),
    )
    tiles = predictor.count_tiles()
    run = predictor.segment if way != _MONAI else lambda: _monai(network, plan, image, precision)
    seconds = _seconds(run)
    peak = peak_mib()
    with torch.inference_mode():
        tile = torch.zeros(plan.batch_size, plan.in_channels, *plan.patch_size)
        layers = convolutions(network, lambda: network(tile))
        alone = min(sum(_fastest(layer, size, backward=False) for layer, size in layers) for _ in range(3))
    return {"seconds": seconds, "peak": peak, "convolutions": alone * tiles}


def _monai(network: nn.Module, plan: Plan, image: np.ndarray, precision: torch.dtype) -> torch.Tensor:
    from monai.inferers import sliding_window_inference

    def predict(patch: torch.Tensor) -> torch.Tensor:
        with autocast(_CPU, precision):
            return network(patch.to(memory_format=memory_format(_CPU))).float()

    volume = torch.from_numpy((image - image.mean()) / image.std())[None]
    with torch.inference_mode():
        logits = sliding_window_inference(volume, plan.patch_size, 1, predict, overlap=_OVERLAP, mode="gaussian")
        return logits.argmax(1)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
