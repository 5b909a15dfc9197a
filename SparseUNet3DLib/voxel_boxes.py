"""Boxes of a volume's voxels, in the form in which a network is given them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from SparseUNet3DLib.normalisation import ChannelStatistics
from SparseUNet3DLib.tiles import Box


def read_box(array: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """A box of the last three axes of ``array`` (a view, inside); beyond the border the volume is mirrored."""
    shape = array.shape[-3:]
    if all(s >= 0 and s + n <= m for s, n, m in zip(start, size, shape, strict=True)):
        z, y, x = (slice(s, s + n) for s, n in zip(start, size, strict=True))
        return array[..., z, y, x]
    z, y, x = (_mirrored(s, n, m) for s, n, m in zip(start, size, shape, strict=True))
    return array[..., z, :, :][..., y, :][..., x]


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """``values`` on ``device``, in a type of number that it has."""
    # torch can hardly do anything with uint16, for which int32 has room; Apple's GPUs have no float64.
    other = {np.dtype(np.uint16): np.int32, np.dtype(np.float64): np.float32}.get(values.dtype, values.dtype)
    return torch.from_numpy(np.ascontiguousarray(values, other)).to(device)


def normalise(box: torch.Tensor, statistics: Sequence[ChannelStatistics]) -> torch.Tensor:
    """Gray values (c, z, y, x) to float32 numbers around 0."""
    channels = [(b.float().clamp(s.low, s.high) - s.mean) / s.sd for b, s in zip(box, statistics, strict=True)]
    return torch.stack(channels)


def box_around(where: torch.Tensor, shape: Sequence[int], scale: Sequence[float] = (1.0, 1.0, 1.0)) -> Box:
    """The voxels of a volume of ``shape`` that are asked for at ``scale`` times the positions (3, z, y, x).

    Beyond its border the volume is mirrored, so what lies as far inside belongs to the box, and the box ends at the
    border there.
    """
    start, size = [], []
    flat = where.flatten(1)  # a CPU takes longer for aminmax than for both
    for lowest, highest, factor, n in zip(flat.amin(1).tolist(), flat.amax(1).tolist(), scale, shape, strict=True):
        low, high = math.floor(lowest * factor), math.ceil(highest * factor)
        first = max(0, min(low, 2 * (n - 1) - high))
        last = min(n - 1, max(high, -low))
        start.append(min(first, n - 1))
        size.append(max(last, 0) - start[-1] + 1)
    return Box(tuple(start), tuple(size))


def _mirrored(start: int, n: int, size: int) -> np.ndarray:
    """Indices start..start+n-1 folded back into 0..size-1 (d c b | a b c d | c b a)."""
    if size == 1:
        return np.zeros(n, int)
    period = 2 * (size - 1)
    folded = np.abs(np.arange(start, start + n)) % period
    return np.minimum(folded, period - folded)
