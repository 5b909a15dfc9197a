"""Peak memory and speed of segmenting a large volume.

    .venv/bin/python Testing/Benchmarks/inference_memory.py [SIZE [BUDGET_MIB]]

A generated uint8 volume of SIZE^3 voxels (default 512) and an untrained `auto` network with three classes, with
BUDGET_MIB (default 1024) for the accumulated logits.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from peak_memory import peak_mib

from SparseUNet3DLib.device import choose_precision, describe_device, memory_format, tune_allocator
from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.planner import make_plan
from SparseUNet3DLib.recipe import preset


def main() -> None:
    """Measure one volume."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    budget = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    tune_allocator()
    device = torch.device("cpu")
    image = np.random.default_rng(0).integers(0, 255, (1, size, size, size), np.uint8)
    plan = make_plan(preset("balanced"), [image.shape[1:]], (1.0, 1.0, 1.0), 1, 3)
    network = build_network(plan).to(memory_format=memory_format(device))
    before = peak_mib()
    start = time.perf_counter()
    predictor = Predictor(
        network, plan, (ChannelNormalisation("noise"),), image, (1.0, 1.0, 1.0), device, choose_precision(device),
        InferenceSettings(overlap=0.25, memory=budget * 2**20),
    )
    labels, confidence = predictor.segment()
    seconds = time.perf_counter() - start
    held = (image.nbytes + labels.nbytes + confidence.nbytes) / 2**20
    print(f"{describe_device(device)}, torch {torch.__version__}")
    print(f"volume {size}^3 uint8, patch {plan.patch_size}, {predictor.count_tiles()} tiles, budget {budget} MiB")
    print(f"peak memory {peak_mib():.0f} MiB, of which {held:.0f} MiB are the volume, its labels and confidence")
    print(f"before segmenting {before:.0f} MiB (interpreter, torch and the volume)")
    print(f"{seconds:.0f} s, {image.size / seconds / 1e6:.2f} million voxels per second")


if __name__ == "__main__":
    main()
