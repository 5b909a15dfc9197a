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


class VoxelSample:
    """Annotated voxels of the volumes with their features, which are computed once for all networks of a run."""

    def __init__(
        self,
        cases: Sequence[Case],
        normalisation: Sequence[ChannelNormalisation],
        plan: Plan,
        device: torch.device,
        seed: int,
        resample: Resample = resample_to,
    ) -> None:
        """``cases`` have all that any of the networks learns from; their axes are those of ``plan``."""
        rng = np.random.default_rng(seed)
        self._plan, self._device = plan, device
        most = _MOST_VOXELS // max(1, sum(bool(case.annotation.annotated.any()) for case in cases))
        self._voxels = [_thin_out(case.annotation, most, rng) for case in cases]
        self._features = [
            _features_at(case, voxels, normalisation, plan, device, resample)
            for case, voxels in zip(cases, self._voxels, strict=True)
        ]

    def fit(self, cases: Sequence[Case], seed: int) -> VoxelNetwork:
        """The network for those of the voxels that are annotated in ``cases``, the same volumes; in inference mode."""
        features, labels = [], []
        for case, voxels, found in zip(cases, self._voxels, self._features, strict=True):
            known = case.annotation.annotated.reshape(-1)[voxels]
            labels.append(torch.from_numpy(case.annotation.labels.reshape(-1)[voxels[known]].astype(np.int64)))
            features.append(found[torch.from_numpy(known)])
        return _fit_network(
            torch.cat(features).to(self._device), torch.cat(labels).to(self._device), self._plan, seed
        )


def _fit_network(features: torch.Tensor, labels: torch.Tensor, plan: Plan, seed: int) -> VoxelNetwork:
    """Of ``features`` (n, features) and ``labels`` (n,)."""
    centre, spread = (torch.stack(found) for found in zip(*map(_centre_and_spread, features.T), strict=True))
    layers = _fit(features, centre, spread, labels, plan.classes, seed)
    network = VoxelNetwork(plan.in_channels * FEATURES_PER_CHANNEL, plan.classes).to(features.device)
    network.fill(centre, spread, layers)
    return network.eval()


def _centre_and_spread(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Median of a feature's values (n,), and the median distance to it."""
    centre = values.median()
    least = _LEAST_SHARE * values.std(correction=0)
    return centre, (values - centre).abs().median().maximum(least).clamp_min(_LEAST_SPREAD)


def _features_at(
    case: Case,
    voxels: np.ndarray,
    normalisation: Sequence[ChannelNormalisation],
    plan: Plan,
    device: torch.device,
    resample: Resample,
) -> torch.Tensor:
    """Features (n, features) float32, in main memory, of ``voxels`` (n,), flat indices."""
    if not len(voxels):
        return torch.empty(0, plan.in_channels * FEATURES_PER_CHANNEL)
    volume = case.volume
    features = make_voxel_features(volume.array, volume.geometry.array_spacing, normalisation, plan, device, resample)
    return features.at(np.stack(np.unravel_index(voxels, volume.array.shape[1:]), axis=1))


def _thin_out(annotation: SparseAnnotation, most: int, rng: np.random.Generator) -> np.ndarray:
    """Flat indices of about ``most`` annotated voxels; a class keeps its share, and of few voxels all."""
    known = np.flatnonzero(annotation.annotated)
    labels = annotation.labels.reshape(-1)[known]
    chosen = []
    for label in np.unique(labels):
        voxels = known[labels == label]
        wanted = max(_FEW_VOXELS, round(most * len(voxels) / len(known)))
        chosen.append(voxels if wanted >= len(voxels) else rng.choice(voxels, wanted, replace=False))
    return np.concatenate([known[:0], *chosen])


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
