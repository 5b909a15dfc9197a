"""Predictors of small untrained networks, and what they should come to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from tiny_training import (
    CPU,
    paper_plan,
    tiny_volume,
)
from torch import nn

from SparseUNet3DLib.inference import InferenceSettings, Predictor
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.voxel_boxes import normalise, read_box

GRAY = (ChannelNormalisation("gray"),)
#: The slice-wise network, whose tiles are cheap, with output tiles of 12 x 12 pixels.
FLAT = replace(
    paper_plan(), network="2d", strides=((1, 2, 2),) * 3, kernels=((1, 3, 3),) * 4, patch_size=(1, 100, 100)
)


def untrained(plan: Plan) -> nn.Module:
    """A network with the random weights of seed 0 and decided logits; batch normalisation has seen noise."""
    torch.manual_seed(0)
    network = build_network(plan)
    nn.init.normal_(network.head.weight)
    if plan.batch_norm:
        with torch.no_grad():
            network.train()(torch.randn(1, plan.in_channels, *plan.patch_size))
    return network.eval()


def predictor(plan: Plan, shape: tuple[int, int, int], **options: object) -> Predictor:
    """On a noisy volume of ``shape``; ``options`` are the settings."""
    return Predictor(
        untrained(plan), plan, GRAY, tiny_volume(shape).array, plan.spacing, CPU, settings=InferenceSettings(**options)
    )


def all_logits(p: Predictor) -> torch.Tensor:
    """Logits (classes, z, y, x) of the whole volume, block by block."""
    first, *others = (p.logits(block) for block in p._blocks())
    if not others:
        return first
    result = torch.full((p.plan.classes, *p.shape), math.nan)
    for block, logits in zip(p._blocks(), [first, *others], strict=True):
        result[(slice(None), *block.slices)] = logits
    return result


def at_one_go(network: nn.Module, plan: Plan, image: np.ndarray) -> torch.Tensor:
    """Logits (classes, z, y, x) of a "paper" or "2d" network that sees all of ``image`` (c, z, y, x) at once."""
    shape = image.shape[1:]
    size = [4 + 8 * math.ceil(max(0, n - 4) / 8) + 2 * m if m else n for n, m in zip(shape, plan.margin, strict=True)]
    box = torch.from_numpy(np.ascontiguousarray(read_box(image, [-m for m in plan.margin], size)))
    with torch.inference_mode():
        logits = network(normalise(box, [n.statistics(c) for n, c in zip(GRAY, image, strict=True)])[None])[0]
    return logits[:, : shape[0], : shape[1], : shape[2]]
