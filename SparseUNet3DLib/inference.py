"""Whole-volume segmentation by overlapping tiles, in bounded memory."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from SparseUNet3DLib.device import autocast, memory_format, zeros_apart
from SparseUNet3DLib.errors import MemoryLimitError
from SparseUNet3DLib.mixture import USUAL, Mixture
from SparseUNet3DLib.networks.batch_norm import recompute_statistics
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.out_of_memory import is_out_of_memory
from SparseUNet3DLib.plan import Plan, Triple, format_triple
from SparseUNet3DLib.resampling import Resample, interpolate_back, resample_to, surrounding
from SparseUNet3DLib.tiles import Box, importance, intersection, tile_starts, within
from SparseUNet3DLib.voxel_boxes import normalise, read_box, to_device
from SparseUNet3DLib.voxel_classifier import make_voxel_features

#: Tiles from which statistics are recomputed for frozen batch normalisation.
_STATISTICS_TILES = 32
#: Of the time that segmenting takes, where single voxels are classified as well; for the progress shown only.
_NETWORK_SHARE = 0.7
_AXES = ("z", "y", "x")
_T = TypeVar("_T")


@dataclass(frozen=True)
class InferenceSettings:
    """How tiles are laid and combined.

    Attributes:
        overlap: share of a tile that it shares with its neighbour along each axis, 0..0.9.
        mirror: axes ("x", "y", "z") over whose mirrorings the logits are averaged.
        memory: bytes that the accumulated logits may take at one time.
    """

    overlap: float = 0.5
    mirror: tuple[str, ...] = ()
    memory: int = 2**30


class Predictor:
    """Applies a network to one volume.

    Tiles lie on one fixed grid whose positions are multiples of the network's total stride, so that
    every tile pools the same voxels together. A voxel's logits are the average over the tiles that
    show it, weighted by a Gaussian around each tile's centre; with the paper's valid convolutions
    all tiles agree, and the average is exact.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        channels: Sequence[ChannelNormalisation],
        image: np.ndarray,
        spacing: tuple[float, float, float],
        device: torch.device,
        precision: torch.dtype = torch.float32,
        settings: InferenceSettings = InferenceSettings(),
        warn: Callable[[str], None] = lambda message: None,
        mixture: Mixture = USUAL,
        resample: Resample = resample_to,
    ) -> None:
        """``image`` is (c, z, y, x) of any number type, ``spacing`` (z, y, x) in mm.

        ``mixture`` is for a network with a classifier of single voxels; ``resample`` may know the image already.
        """
        self.network, self.plan, self.device, self.precision = network, plan, device, precision
        self.settings, self._warn = settings, warn
        self._mixture = mixture
        self.shape: Triple = image.shape[1:]
        self._statistics = [n.statistics(c) for n, c in zip(channels, image, strict=True)]
        self._image, self._scale = resample(image, spacing, plan.spacing)
        self._frame = Box((0, 0, 0), self._image.shape[1:])
        self._features = make_voxel_features(image, spacing, channels, plan, device, resample)
        network.eval()
        if plan.batch_norm == "frozen":
            self._guarded(self._recompute_statistics)

    def segment(self, progress: Callable[[float], None] = lambda fraction: None) -> tuple[np.ndarray, np.ndarray]:
        """Labels (z, y, x) uint16 and confidence (z, y, x) uint8 in percent.

        The confidence is 100 (1 - entropy / log(classes)) of a voxel's class probabilities. ``progress`` is
        told after each part how much is done (0..1); what it raises ends the segmentation.

        Raises:
            MemoryLimitError: not even the smallest tile fits.
        """
        labels = np.empty(self.shape, np.uint16)
        confidence = np.empty(self.shape, np.uint8)
        network, share, done = None, 0.0, 0
        if self._fits_at_once():
            # The own grid is the larger one: cut into blocks only there, no tile is computed twice.
            share = _NETWORK_SHARE
            network = self._guarded(lambda: self._accumulate(self._frame, self._frame, lambda f: progress(share * f)))
        for block in self._blocks(network is not None):
            voxels = math.prod(block.size)

            def told(fraction: float, before: int = done, voxels: int = voxels) -> None:
                progress(share + (1 - share) * (before + fraction * voxels) / labels.size)

            if network is None:
                logits = self.logits(block, progress=told)
            else:
                logits = self._guarded(lambda b=block, t=told: self._on_own_grid(network, self._frame, b, t))
                told(1.0)
            # Slice by slice, so that temporaries are small.
            for z in range(block.size[0]):
                labels[block.slices][z] = _labels(logits[:, z]).numpy()
                confidence[block.slices][z] = _confidence(logits[:, z]).numpy()
            del logits  # or they would be there beside those of the next block
            done += voxels
        return labels, confidence

    def logits(
        self, block: Box, frame: Box | None = None, progress: Callable[[float], None] = lambda fraction: None
    ) -> torch.Tensor:
        """Logits (classes, *block.size) float32 in main memory for a ``block`` of the volume's own grid.

        ``frame`` is what the tile grid is laid over, by default the whole volume; a frame of one plane
        needs fewer tiles. ``progress`` is told after each part how much of the block is done.
        """
        inner, outer = self._grids(block, frame)
        first = 1.0 if self._features is None else _NETWORK_SHARE

        def compute() -> torch.Tensor:
            logits = self._accumulate(inner, outer, lambda fraction: progress(first * fraction))
            return self._on_own_grid(logits, inner, block, lambda fraction: progress(first + (1 - first) * fraction))

        return self._guarded(compute)

    def separate_logits(self, block: Box, frame: Box | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``logits``, but those of the network and those of its classifier of single voxels by themselves.

        Where it has no classifier those are 0.
        """
        inner, outer = self._grids(block, frame)

        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            logits = self._accumulate(inner, outer, lambda fraction: None)
            network = interpolate_back(logits, inner.start, block.start, block.size, self._scale)
            voxels = torch.zeros_like(network)
            return network, voxels if self._features is None else self._add_voxel_logits(voxels, block, 1.0)

        return self._guarded(compute)

    def _grids(self, block: Box, frame: Box | None) -> tuple[Box, Box]:
        """The voxels of the network's grid around ``block``, and those that tiles are laid over."""
        return self._to_network_grid(block), self._frame if frame is None else self._to_network_grid(frame)

    def count_tiles(self) -> int:
        """Tiles that segmenting the whole volume takes, mirrored ones included."""
        return len(list(self._tiles(self._frame))) * 2 ** len(self.settings.mirror)

    def seconds_per_tile(self) -> float:
        """Measured time of one tile, unmirrored; the first one, which also warms up, does not count."""
        return self._guarded(self._time_tile) / 2 ** len(self.settings.mirror)

    def seconds_to_segment(self) -> float:
        """Estimated time of ``segment``, from one tile and from what follows for the voxels of one."""
        return self.seconds_per_tile() * self.count_tiles() + self._guarded(self._time_voxels)

    def _guarded(self, compute: Callable[[], _T]) -> _T:
        """What ``compute`` returns, with smaller and smaller tiles until it fits into memory."""
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._use_smaller_tiles()

    @torch.inference_mode()
    def _time_tile(self) -> float:
        tile = next(self._tiles(self._frame))
        for _ in range(2):
            start = time.perf_counter()
            self._run(tile).cpu()
        return time.perf_counter() - start

    @torch.inference_mode()
    def _time_voxels(self) -> float:
        """Seconds for labels and confidence of all voxels, once the logits are there on the network's grid."""
        block = Box((0, 0, 0), tuple(min(n, 64) for n in self.shape))
        inner = self._to_network_grid(block)
        logits = torch.zeros(self.plan.classes, *inner.size)
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            own = self._on_own_grid(logits, inner, block)
            for z in range(block.size[0]):
                _labels(own[:, z])
                _confidence(own[:, z])
        return (time.perf_counter() - start) * math.prod(self.shape) / math.prod(block.size)

    def _recompute_statistics(self) -> None:
        tiles = list(self._tiles(self._frame))
        chosen = tiles[:: max(1, len(tiles) // _STATISTICS_TILES)]
        recompute_statistics(self.network, (self._read(tile) for tile in chosen))

    @torch.inference_mode()
    def _accumulate(self, inner: Box, outer: Box, progress: Callable[[float], None]) -> torch.Tensor:
        total, weight = zeros_apart(self.plan.classes, *inner.size), zeros_apart(*inner.size)
        weights = importance(self.plan).to(self.device)
        parts = [(tile, part) for tile in self._tiles(outer) if (part := intersection(tile, inner)) is not None]
        for count, (tile, part) in enumerate(parts, start=1):
            here, there = within(part, inner), within(part, tile)
            share = weights[there]
            total[(slice(None), *here)] += (self._run(tile)[(0, slice(None), *there)] * share).cpu()
            weight[here] += share.cpu()
            progress(count / len(parts))
        return total.div_(weight)

    def _run(self, tile: Box) -> torch.Tensor:
        """Logits (1, classes, z, y, x) of one tile, averaged over its mirrorings."""
        image = self._read(tile)
        axes = [_AXES.index(a) + 2 for a in self.settings.mirror]
        subsets = [s for n in range(len(axes) + 1) for s in itertools.combinations(axes, n)]
        logits: torch.Tensor | None = None
        for flipped in subsets:
            with autocast(self.device, self.precision):
                out = self.network(image.flip(flipped) if flipped else image)
            out = out.float().flip(flipped) if flipped else out.float()
            logits = out if logits is None else logits.add_(out)
        return logits / len(subsets)

    def _read(self, tile: Box) -> torch.Tensor:
        """The image (1, c, z, y, x) that the network needs to see for the output ``tile``."""
        start = [s - m for s, m in zip(tile.start, self.plan.margin, strict=True)]
        box = to_device(read_box(self._image, start, self.plan.patch_size), self.device)
        batch = normalise(box, self._statistics)[None]
        return batch.to(memory_format=memory_format(self.device))

    def _tiles(self, frame: Box) -> Iterator[Box]:
        """Output tiles that cover ``frame``."""
        starts = [
            tile_starts(frame.start[a], frame.size[a], self._image.shape[1 + a], self.plan, a, self.settings.overlap)
            for a in range(3)
        ]
        for start in itertools.product(*starts):
            yield Box(start, self.plan.output_size)

    def _fits_at_once(self) -> bool:
        """Whether the logits fit into half of the memory on the network's grid, but not on the volume's own as well."""
        on_network_grid = 4.0 * (self.plan.classes + 1) * math.prod(self._frame.size)
        return on_network_grid <= self.settings.memory / 2 and self._logits_bytes(self.shape) > self.settings.memory

    def _blocks(self, network_is_done: bool = False) -> Iterator[Box]:
        """Boxes that make up the volume, each small enough for the logits' share of the memory, or as large as a tile.

        ``network_is_done``: half of it is taken by what the network says of the whole volume.
        """
        size, room = list(self.shape), self.settings.memory / (2 if network_is_done else 1)
        # A tile's logits are there in any case, and smaller blocks would compute each tile that they share anew.
        tile = [max(1, round(n / f)) for n, f in zip(self.plan.output_size, self._scale, strict=True)]
        room = max(room, self._logits_bytes(tile))
        while self._logits_bytes(size) > room and max(size) > 1:
            # Thin slabs along z waste the least: whole tiles cross few borders.
            axis = 0 if size[0] > self.plan.output_size[0] else int(np.argmax(size))
            size[axis] = (size[axis] + 1) // 2
        for start in itertools.product(*(range(0, n, s) for n, s in zip(self.shape, size, strict=True))):
            yield Box(start, tuple(min(s, n - a) for a, s, n in zip(start, size, self.shape, strict=True)))

    def _logits_bytes(self, size: Sequence[int]) -> float:
        """Memory for a block of ``size``: logits and weights on the network's grid; on the volume's own grid
        the interpolated logits and the positions they are interpolated at, all in float32.
        """
        classes = self.plan.classes
        network_voxels = math.prod(
            n if f == 1 else math.ceil((n - 1) * f) + 2 for n, f in zip(size, self._scale, strict=True)
        )
        own = 0 if self._scale == (1.0, 1.0, 1.0) else (classes + 6) * math.prod(size)
        return 4.0 * ((classes + 1) * network_voxels + own)

    def _to_network_grid(self, block: Box) -> Box:
        """The voxels of the network's grid that surround ``block``."""
        return surrounding(block, self._image.shape[1:], self._scale)

    @torch.inference_mode()
    def _on_own_grid(
        self, logits: torch.Tensor, inner: Box, block: Box, progress: Callable[[float], None] = lambda fraction: None
    ) -> torch.Tensor:
        """Logits of the network's grid interpolated to ``block``, with what single voxels' filters tell added."""
        own = interpolate_back(logits, inner.start, block.start, block.size, self._scale)
        if self._features is None:
            return own
        return self._add_voxel_logits(own.mul_(self._mixture.network), block, self._mixture.voxels, progress)

    @torch.inference_mode()
    def _add_voxel_logits(
        self, logits: torch.Tensor, block: Box, factor: float, progress: Callable[[float], None] = lambda fraction: None
    ) -> torch.Tensor:
        done = 0
        for part, found in self._features.apply(self.network.voxel_logits, block):
            logits[(slice(None), *within(part, block))].add_(found, alpha=factor)
            done += math.prod(part.size)
            progress(done / math.prod(block.size))
        return logits

    def _use_smaller_tiles(self) -> None:
        try:
            self.plan = replace(self.plan, batch_size=1).smaller()
        except MemoryLimitError:
            raise MemoryLimitError(
                "Segmenting does not fit into memory even with the smallest tile; close other programs or use "
                "a machine with more memory."
            ) from None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        size = format_triple(self.plan.patch_size)
        self._warn(f"Out of memory while segmenting; going on with tiles of {size} voxels.")


def _labels(logits: torch.Tensor) -> torch.Tensor:
    """The most likely class of each voxel. ``argmax`` finds the same, but ten times slower along the first axis."""
    return logits.max(0).indices


def _confidence(logits: torch.Tensor) -> torch.Tensor:
    """Percent uint8: 100 where one class is certain, 0 where all are equally likely."""
    entropy = torch.special.entr(F.softmax(logits, dim=0)).sum(0)
    return (100 * (1 - entropy / math.log(logits.shape[0]))).clamp(0, 100).round().to(torch.uint8)
