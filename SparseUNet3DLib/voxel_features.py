"""Filters of a volume at several scales: what each voxel tells of itself and of its surroundings.

The filters are those of ilastik's pixel classification (Berg et al., Nature Methods 2019): the smoothed gray value, the
gradient's magnitude, and the eigenvalues of the Hessian and of the structure tensor. Each scale is twice the one before
and has a grid half as fine (Burt and Adelson 1983), so that all of them cost little more than the finest. As in the
networks, an axis is looked along only from the scale on at which the others have come down to its spacing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from SparseUNet3DLib.gaussian_filters import FILTERS, HALO, enlarge, filters, halve
from SparseUNet3DLib.normalisation import ChannelStatistics
from SparseUNet3DLib.plan import ANISOTROPIC
from SparseUNet3DLib.resampling import Resample, interpolate_at, interpolate_back, resample_to, surrounding
from SparseUNet3DLib.tiles import Box
from SparseUNet3DLib.voxel_boxes import normalise, read_box, to_device

_LEVELS = 6
#: Features of a voxel for each channel: its gray value, and the filters of each level.
FEATURES_PER_CHANNEL = 1 + FILTERS * _LEVELS
#: Features that are held at one time.
_MOST_VALUES = 2**24
#: For each voxel of the volume's own grid, where that is finer: a few classes, and where to interpolate them.
_VALUES_OF_OWN_GRID = 16


@dataclass(frozen=True)
class _Level:
    """One scale.

    Attributes:
        image: gray values (c, z, y, x) on its grid; those of the first level are not normalised.
        step: size (z, y, x) of its voxels in those of the first level.
        wide: the axes that it looks along.
    """

    image: np.ndarray
    step: tuple[int, ...]
    wide: tuple[bool, ...]


class VoxelFeatures:
    """The filters of one volume, computed for some of its voxels at a time."""

    def __init__(
        self,
        image: np.ndarray,
        spacing: Sequence[float],
        wanted: Sequence[float],
        statistics: Sequence[ChannelStatistics],
        device: torch.device,
        resample: Resample = resample_to,
    ) -> None:
        """``image`` is (c, z, y, x) of any number type; it is brought from its ``spacing`` to the ``wanted`` one.

        Spacings are (z, y, x) in mm.
        """
        self._statistics, self._device = statistics, device
        image, self._scale = resample(image, spacing, wanted)
        self._shape = image.shape[1:]
        self._levels = [_Level(image, (1, 1, 1), _wide_axes(wanted, self._shape))]
        while len(self._levels) < _LEVELS:
            self._levels.append(self._next_level(wanted))

    def apply(
        self, compute: Callable[[torch.Tensor], torch.Tensor], block: Box
    ) -> Iterator[tuple[Box, torch.Tensor]]:
        """What ``compute`` makes of the features, for a ``block`` of the volume's own grid, part by part.

        Args:
            compute: is given (n, z, y, x) float32 on the device, ``FEATURES_PER_CHANNEL`` for each channel, and returns
                (m, z, y, x).

        Yields:
            Boxes that make up the block, each with (m, *box.size) float32 in main memory.
        """
        for part in self._parts(block):
            inner = surrounding(part, self._shape, self._scale)
            found = compute(self._of(inner)).cpu()
            yield part, interpolate_back(found, inner.start, part.start, part.size, self._scale)

    def at(self, voxels: np.ndarray) -> torch.Tensor:
        """Features (n, features) float32, in main memory, of ``voxels`` (n, 3: z, y, x) of the volume's own grid."""
        positions = torch.from_numpy(voxels * np.array(self._scale))
        count = FEATURES_PER_CHANNEL * len(self._statistics)
        edge = int((_MOST_VALUES / count) ** (1 / 3)) - 1
        boxes, of_voxel = np.unique(positions.numpy() // edge, axis=0, return_inverse=True)
        of_voxel = torch.from_numpy(of_voxel.reshape(-1))
        result = torch.empty(len(voxels), count)
        for number in range(len(boxes)):
            here = (of_voxel == number).nonzero()[:, 0]
            start = [math.floor(w) for w in positions[here].amin(0).tolist()]
            end = [min(math.ceil(w), n - 1) for w, n in zip(positions[here].amax(0).tolist(), self._shape, strict=True)]
            features = self._of(Box(tuple(start), tuple(e - s + 1 for s, e in zip(start, end, strict=True))))
            result[here] = interpolate_at(features, positions[here] - torch.tensor(start)).T.cpu()
        return result

    def _parts(self, block: Box) -> Iterator[Box]:
        """Boxes that make up ``block``, each with few enough features."""
        inner = surrounding(block, self._shape, self._scale)
        values = math.prod(inner.size) * FEATURES_PER_CHANNEL * len(self._statistics)
        if max(values, math.prod(block.size) * _VALUES_OF_OWN_GRID) <= _MOST_VALUES or max(block.size) == 1:
            yield block
            return
        axis = int(np.argmax(block.size))
        first = block.size[axis] // 2
        for start, n in ((0, first), (first, block.size[axis] - first)):
            starts, sizes = list(block.start), list(block.size)
            starts[axis] += start
            sizes[axis] = n
            yield from self._parts(Box(tuple(starts), tuple(sizes)))

    def _of(self, box: Box) -> torch.Tensor:
        """Features (n, *box.size) for a box of the first level's grid."""
        found = []
        for level in self._levels:
            start = [s // step for s, step in zip(box.start, level.step, strict=True)]
            # The voxels of this level before and after each of the box.
            end = [-(-(s + n - 1) // step) for s, n, step in zip(box.start, box.size, level.step, strict=True)]
            size = [e - s + 1 for s, e in zip(start, end, strict=True)]
            halo = [HALO if wide else 0 for wide in level.wide]
            values = self._read(
                level,
                [s - h for s, h in zip(start, halo, strict=True)],
                [n + 2 * h for n, h in zip(size, halo, strict=True)],
            )
            if level is self._levels[0]:
                inner = tuple(slice(h, h + n) for h, n in zip(halo, size, strict=True))
                found.append(values[(slice(None), *inner)])
            offset = [s - t * step for s, t, step in zip(box.start, start, level.step, strict=True)]
            found += [enlarge(filters(v, size, level.wide), offset, box.size, level.step) for v in values]
        return torch.cat(found)

    def _read(self, level: _Level, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
        values = to_device(read_box(level.image, start, size), self._device)
        return normalise(values, self._statistics) if level is self._levels[0] else values

    def _next_level(self, spacing: Sequence[float]) -> _Level:
        before = self._levels[-1]
        halved = []
        for channel, statistics in zip(before.image, self._statistics, strict=True):
            # In main memory, where the levels are kept: a GPU may be full of a training.
            values = to_device(channel[None], torch.device("cpu"))
            values = normalise(values, [statistics]) if before is self._levels[0] else values
            halved.append(halve(values[0], before.wide).numpy())
        step = tuple(s * 2 if wide else s for s, wide in zip(before.step, before.wide, strict=True))
        spacing = [mm * s for mm, s in zip(spacing, step, strict=True)]
        return _Level(np.stack(halved), step, _wide_axes(spacing, self._shape))


def _wide_axes(spacing: Sequence[float], shape: Sequence[int]) -> tuple[bool, ...]:
    """The axes (z, y, x) to look along: the finest and those of like spacing, but for one of a single voxel."""
    finest = min((mm for mm, n in zip(spacing, shape, strict=True) if n > 1), default=0.0)
    return tuple(n > 1 and mm <= ANISOTROPIC * finest for mm, n in zip(spacing, shape, strict=True))
