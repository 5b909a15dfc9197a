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
        learnt: Sequence[Sequence[Case]],
        normalisation: Sequence[ChannelNormalisation],
        plan: Plan,
        device: torch.device,
        resample: Resample = resample_to,
    ) -> None:
        """``learnt`` are the same volumes with one annotation after the other; their axes are those of ``plan``."""
        self._plan, self._device = plan, device
        self._voxels = [
            np.unique(np.concatenate(chosen)) for chosen in zip(*map(_choose_voxels, learnt), strict=True)
        ]
        self._features = [
            _features_at(case, voxels, normalisation, plan, device, resample)
            for case, voxels in zip(learnt[0], self._voxels, strict=True)
        ]

    def fit(self, cases: Sequence[Case], seed: int) -> VoxelNetwork:
        """The network for ``cases``, which are one of those ``learnt``; in inference mode."""
        features, labels = [], []
        for case, chosen, voxels, found in zip(
            cases, _choose_voxels(cases), self._voxels, self._features, strict=True
        ):
            known = case.annotation.labels[np.unravel_index(chosen, case.annotation.labels.shape)]
            labels.append(torch.from_numpy(known.astype(np.int64)))
            features.append(found[torch.from_numpy(np.searchsorted(voxels, chosen))])
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


def _choose_voxels(cases: Sequence[Case]) -> list[np.ndarray]:
    """Flat indices of the voxels of each case to learn from; a class keeps its share, and of few voxels all."""
    most = _MOST_VOXELS // max(1, sum(bool(case.annotation.annotated.any()) for case in cases))
    return [_thin_out(case.annotation, most) for case in cases]


def _thin_out(annotation: SparseAnnotation, most: int) -> np.ndarray:
    known = np.flatnonzero(annotation.annotated)
    labels = annotation.labels[annotation.annotated]
    chosen = [known[:0]]
    for label in np.unique(labels):
        voxels = known[labels == label]
        wanted = max(_FEW_VOXELS, round(most * len(voxels) / len(known)))
        if wanted < len(voxels):
            voxels = voxels[_scattered(voxels) < np.uint64(wanted / len(voxels) * 2**64)]
        chosen.append(voxels)
    return np.concatenate(chosen)


def _scattered(voxels: np.ndarray) -> np.ndarray:
    """Numbers as if drawn at random (splitmix64), the same for a voxel whatever else is annotated.

    The voxels that are chosen from annotations which differ by a slice are nearly the same, then.
    """
    x = voxels.astype(np.uint64)
    x += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x


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
