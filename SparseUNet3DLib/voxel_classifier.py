"""Fits the network that tells voxels' classes from their filters, on the annotated voxels of the training volumes.

It learns in seconds what gray values and their surroundings tell, as ilastik's pixel classification does, and at the
volume's own spacing, unless it is a large one. It errs in other ways than the U-Net beside which it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.networks.voxel_network import WIDTH, VoxelNetwork, compress
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.resampling import Resample, resample_to
from SparseUNet3DLib.voxel_features import FEATURES_PER_CHANNEL, VoxelFeatures

#: Annotated voxels to learn from, of all volumes; more would not change what is learnt.
_MOST_VOXELS = 200_000
#: A class of so many is not thinned out.
_FEW_VOXELS = 2000
#: The spread of a feature is at least this share of its standard deviation, and this: a background may be flat.
_LEAST_SHARE, _LEAST_SPREAD = 0.05, 1e-3
_STEPS, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 500, 2048, 0.01, 0.01


def make_voxel_features(
    image: np.ndarray,
    spacing: Sequence[float],
    normalisation: Sequence[ChannelNormalisation],
    plan: Plan,
    device: torch.device,
    resample: Resample = resample_to,
) -> VoxelFeatures | None:
    """Those of ``image`` (c, z, y, x), for the spacing that ``plan`` wants them at; None where it wants none."""
    if not plan.voxel_spacing:
        return None
    statistics = [n.statistics(channel) for n, channel in zip(normalisation, image, strict=True)]
    return VoxelFeatures(image, spacing, plan.voxel_spacing, statistics, device, resample)


def fit_voxel_network(
    cases: Sequence[Case],
    normalisation: Sequence[ChannelNormalisation],
    plan: Plan,
    device: torch.device,
    seed: int,
    resample: Resample = resample_to,
) -> VoxelNetwork:
    """The network for the annotated voxels of ``cases``, whose axes are those of ``plan``; in inference mode."""
    rng = np.random.default_rng(seed)
    cases = [case for case in cases if case.annotation.annotated.any()]
    most = _MOST_VOXELS // len(cases)
    samples = [_annotated_voxels(case, normalisation, plan, device, resample, most, rng) for case in cases]
    features, labels = (torch.cat(parts).to(device) for parts in zip(*samples, strict=True))
    centre, spread = (torch.stack(found) for found in zip(*map(_centre_and_spread, features.T), strict=True))
    layers = _fit(features, centre, spread, labels, plan.classes, seed)
    network = VoxelNetwork(plan.in_channels * FEATURES_PER_CHANNEL, plan.classes).to(device)
    network.fill(centre, spread, layers)
    return network.eval()


def _centre_and_spread(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Median of a feature's values (n,), and the median distance to it."""
    centre = values.median()
    least = _LEAST_SHARE * values.std(correction=0)
    return centre, (values - centre).abs().median().maximum(least).clamp_min(_LEAST_SPREAD)


def _annotated_voxels(
    case: Case,
    normalisation: Sequence[ChannelNormalisation],
    plan: Plan,
    device: torch.device,
    resample: Resample,
    most: int,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, features) float32 and labels (n,) int64 of up to ``most`` annotated voxels."""
    annotation, volume = case.annotation, case.volume
    spacing = volume.geometry.array_spacing
    features = make_voxel_features(volume.array, spacing, normalisation, plan, device, resample)
    voxels = np.stack(np.unravel_index(_thin_out(annotation, most, rng), annotation.annotated.shape), axis=1)
    labels = torch.from_numpy(annotation.labels[tuple(voxels.T)].astype(np.int64))
    return features.at(voxels), labels


def _thin_out(annotation: SparseAnnotation, most: int, rng: np.random.Generator) -> np.ndarray:
    """Flat indices of about ``most`` annotated voxels; a class keeps its share, and of few voxels all."""
    known = np.flatnonzero(annotation.annotated)
    labels = annotation.labels.reshape(-1)[known]
    chosen = []
    for label in np.unique(labels):
        voxels = known[labels == label]
        wanted = max(_FEW_VOXELS, round(most * len(voxels) / len(known)))
        chosen.append(voxels if wanted >= len(voxels) else rng.choice(voxels, wanted, replace=False))
    return np.concatenate(chosen)


def _fit(
    features: torch.Tensor, centre: torch.Tensor, spread: torch.Tensor, labels: torch.Tensor, classes: int, seed: int
) -> list[nn.Linear]:
    """Three layers that tell the ``labels`` (n,) from ``features`` (n, features), by cross-entropy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = [nn.Linear(features.shape[1], WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, classes)]
    norms = [nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)]
    network = nn.Sequential(linear[0], norms[0], nn.ReLU(), linear[1], norms[1], nn.ReLU(), linear[2])
    network.to(labels.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_STEPS)
    generator = torch.Generator().manual_seed(seed)
    inputs = compress(features, centre, spread)
    for _ in range(_STEPS):
        index = torch.randint(len(labels), (_BATCH,), generator=generator).to(labels.device)
        loss = F.cross_entropy(network(inputs[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    return [*(fuse_linear_bn_eval(a, n) for a, n in zip(linear, norms, strict=False)), linear[2]]
