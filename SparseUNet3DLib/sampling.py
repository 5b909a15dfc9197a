"""Patches around annotated voxels, cut out of the training volumes and augmented."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from SparseUNet3DLib.augmentation import RandomTransforms, adjust_gray_values, draw_transforms, patch_coordinates
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.known_slices import KnownSlices
from SparseUNet3DLib.loss import UNANNOTATED
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.resampling import resample_to
from SparseUNet3DLib.tiles import Box

#: Annotated voxels remembered per case and class to centre patches on.
_MOST_CENTRES = 500_000
#: A patch lies at places that differ by at least this much to either side, as a share of half its size.
_LEAST_SHIFT = 0.35
#: Share of the known slices that are hidden from a patch, apart from the one it was drawn from.
_HIDDEN = 0.5


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        images: (b, c, z, y, x) float32.
        target: (b, z', y', x') int64, ``UNANNOTATED`` where no class is known.
        known: (1, classes, n, 1, 1) float32, what those annotated slices tell that are not hidden, about the n
            annotated voxels of the target, in order; None for a network that takes no notice of them.
        hidden_target: (1, n, 1, 1), their target without the slices that ``known`` tells of; None where that is None.
    """

    images: torch.Tensor
    target: torch.Tensor
    known: torch.Tensor | None = None
    hidden_target: torch.Tensor | None = None

    @property
    def annotated(self) -> torch.Tensor:
        """(n,) flat indices of the target's annotated voxels."""
        return (self.target != UNANNOTATED).flatten().nonzero().squeeze(1)


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


class PatchSampler:
    """Draws training batches.

    Every patch contains annotated voxels: whatever its rotation, scale and deformation, one of its output
    voxels lies exactly on an annotated voxel, which is drawn either from a class drawn uniformly
    (``recipe.foreground_share`` of the patches) or from all annotated voxels alike.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        normalisation: Sequence[ChannelNormalisation],
        plan: Plan,
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.plan, self.recipe, self.device = plan, recipe, device
        self.cases = [PreparedCase(c, normalisation, plan, device) for c in cases if c.annotation.annotated.any()]
        if not self.cases:
            raise InputError("No voxel is annotated, so there is nothing to learn from; paint some slices first.")
        self.class_counts = np.sum([c.class_counts for c in self.cases], axis=0)

    def draw_batch(self, generator: torch.Generator, strength: float = 1.0) -> Batch:
        """One batch, augmented with ``strength`` (0..1) times the recipe's ranges."""
        number = self.plan.batch_size
        cases = [self.cases[_randint(len(self.cases), generator)] for _ in range(number)]
        voxels = np.stack([c.draw_voxel(self.recipe.foreground_share, generator) for c in cases])
        centres = np.stack([self._draw_centre(v, c, generator) for v, c in zip(voxels, cases, strict=True)])
        transforms = draw_transforms(self.recipe.augmentation.weakened(strength), self.plan, number, generator)
        places = self._places(voxels - centres, cases, transforms)
        hidden = None
        if self.plan.known_slices:
            hidden = [c.draw_hidden(v, generator) for c, v in zip(cases, voxels, strict=True)]
        return self.extract(cases, voxels, places, transforms, hidden)

    def _draw_centre(self, voxel: np.ndarray, case: PreparedCase, generator: torch.Generator) -> np.ndarray:
        """Centre (z, y, x) of a patch that shows ``voxel`` somewhere in the middle half of its output.

        Patches that stick out of the volume would waste voxels, so they are pushed back inside. But along an
        axis that they (nearly) span they stick out a little, differently each time: the annotated slices
        would otherwise always lie at the same places in them, and the network would learn the places instead
        of the image.
        """
        half = np.array(self.plan.output_size) / 2 * np.array(self.plan.spacing) / np.array(case.spacing)
        shift, jitter = 2 * torch.rand(2, 3, generator=generator).numpy() - 1
        room = np.maximum(0, np.array(case.target.shape) / 2 - half)  # to either side of the volume's middle
        middle = (np.array(case.target.shape) - 1) / 2
        inside = np.clip(voxel + shift * half / 2, middle - room, middle + room)
        return inside + jitter * np.maximum(0, _LEAST_SHIFT * half - room)

    def _places(
        self, offsets: np.ndarray, cases: Sequence[PreparedCase], transforms: RandomTransforms
    ) -> np.ndarray:
        """Output voxels (b, 3: z', y', x') nearest to what lies ``offsets`` voxels (b, 3) from the patches' centres."""
        mm = offsets * np.array([c.spacing for c in cases])
        turned = np.linalg.solve(transforms.matrices.double().numpy(), mm[..., None])[..., 0]
        size = np.array(self.plan.output_size)
        return np.rint(turned / np.array(self.plan.spacing) + (size - 1) / 2).astype(int).clip(0, size - 1)

    def extract(
        self,
        cases: Sequence[PreparedCase],
        voxels: np.ndarray,
        places: np.ndarray,
        transforms: RandomTransforms,
        hidden: Sequence[Collection[Plane]] | None = None,
    ) -> Batch:
        """Patches whose output voxels ``places`` (b, 3) lie on ``voxels`` (b, 3) of their cases.

        ``hidden`` are the planes of each case that ``Batch.known`` must not tell of; None: there is no ``known``.
        """
        where = patch_coordinates(transforms, self.recipe.augmentation, self.plan, self.device)
        where /= self._per_patch([c.spacing for c in cases])
        z, y, x = torch.as_tensor(places + np.array(self.plan.margin), device=self.device).unbind(1)
        anchors = where[torch.arange(len(cases), device=self.device), :, z, y, x]
        where += self._per_patch(voxels) - anchors[..., None, None, None]
        images = torch.stack([self._sample_image(c, w) for c, w in zip(cases, where, strict=True)])
        if transforms.slopes is not None:
            images = adjust_gray_values(images, transforms.slopes)
        inner = tuple(slice(m, m + n) for m, n in zip(self.plan.margin, self.plan.output_size, strict=True))
        where = where[(..., *inner)]
        batch = Batch(images, torch.stack([self._sample_target(c, w) for c, w in zip(cases, where, strict=True)]))
        return batch if hidden is None else self._with_known_slices(batch, cases, where, hidden)

    def _with_known_slices(
        self, batch: Batch, cases: Sequence[PreparedCase], where: torch.Tensor, hidden: Sequence[Collection[Plane]]
    ) -> Batch:
        known, labels = [], []
        for case, positions, target, planes in zip(cases, where, batch.target, hidden, strict=True):
            annotated = (target != UNANNOTATED).flatten().nonzero().squeeze(1)
            positions = positions.flatten(1).index_select(1, annotated)
            known.append(case.known.channels(positions, planes))
            seen = case.known.contains(positions, planes)
            labels.append(target.flatten()[annotated].masked_fill(seen, UNANNOTATED))
        return replace(
            batch, known=torch.cat(known, 1)[None, ..., None, None],
            hidden_target=torch.cat(labels)[None, :, None, None],
        )

    def _sample_image(self, case: PreparedCase, where: torch.Tensor) -> torch.Tensor:
        """Gray values (c, z, y, x), interpolated at positions (3, z, y, x) of the case's own grid."""
        where = where * torch.as_tensor(case.scale, dtype=torch.float32, device=self.device)[:, None, None, None]
        box = _box_around(where, case.image.shape[1:])
        image = normalise(self._read(case.image, box), case.statistics)
        # As grid_sample wants positions: -1..1 in the box, in x, y, z order, in the last axis.
        grid = torch.stack(
            [(w - s) * (2 / max(1, n - 1)) - 1 for w, s, n in zip(where, box.start, box.size, strict=True)][::-1], -1
        )
        # A CPU samples several images at a time, but each on one core: the patch is cut into so many.
        parts = math.gcd(len(grid), torch.get_num_threads()) if self.device.type == "cpu" else 1
        sampled = F.grid_sample(
            image.expand(parts, -1, -1, -1, -1), grid.unflatten(0, (parts, -1)), "bilinear", "reflection",
            align_corners=True,
        )
        return sampled.transpose(0, 1).flatten(1, 2)

    def _sample_target(self, case: PreparedCase, where: torch.Tensor) -> torch.Tensor:
        """Nearest labels (z, y, x) int64; outside of the volume nothing is annotated."""
        shape = case.target.shape
        # On a CPU the whole volume is at hand, and costs nothing to read.
        box = Box((0, 0, 0), shape) if self.device.type == "cpu" else _box_around(where, shape)
        inside = torch.ones(where.shape[1:], dtype=torch.bool, device=self.device)
        flat = torch.zeros(where.shape[1:], dtype=torch.int64, device=self.device)
        for position, start, size, n in zip(where, box.start, box.size, shape, strict=True):
            index = position.round().long()
            inside &= (index >= 0) & (index < n)
            flat.mul_(size).add_(index.sub_(start).clamp_(0, size - 1))
        labels = self._read(case.target, box).flatten().index_select(0, flat.flatten()).reshape(flat.shape).long()
        return labels.masked_fill_(~inside, UNANNOTATED)

    def _read(self, array: np.ndarray, box: Box) -> torch.Tensor:
        """A box of ``array`` on the training device."""
        return to_device(array[(..., *box.slices)], self.device)

    def _per_patch(self, values: object) -> torch.Tensor:
        """(b, 3) numbers, in the shape in which they broadcast with positions (b, 3, z, y, x)."""
        return torch.as_tensor(np.array(values), dtype=torch.float32, device=self.device)[..., None, None, None]


class PreparedCase:
    """A case in the form that patches are cut from: the image on the network's grid, the target on its own."""

    def __init__(
        self, case: Case, normalisation: Sequence[ChannelNormalisation], plan: Plan, device: torch.device
    ) -> None:
        annotation, classes, image = case.annotation, plan.classes, case.volume.array
        self.spacing = case.volume.geometry.array_spacing
        self.image, self.scale = resample_to(image, self.spacing, plan.spacing)
        self.statistics = [n.statistics(c) for n, c in zip(normalisation, image, strict=True)]
        self.known = KnownSlices.for_plan(annotation, plan, device)
        target = np.where(annotation.annotated, annotation.labels.astype(np.int16), np.int16(UNANNOTATED))
        self.target = np.ascontiguousarray(target)  # a turned volume's is not, and each patch would copy it
        self.class_counts = np.bincount(annotation.labels[annotation.annotated], minlength=classes)[:classes]
        flat = np.flatnonzero(annotation.annotated)
        labels = annotation.labels.reshape(-1)[flat]
        self._centres = [_thin_out(flat[labels == c]) for c in range(classes)]
        self._present = [c for c in range(classes) if len(self._centres[c])]
        share = self.class_counts / max(1, self.class_counts.sum())
        self._cumulative = np.cumsum(share)

    def draw_voxel(self, foreground_share: float, generator: torch.Generator) -> np.ndarray:
        """An annotated voxel (z, y, x)."""
        by_class, position = torch.rand(2, generator=generator).tolist()
        if by_class < foreground_share:
            chosen = self._present[int(position * len(self._present))]
        else:
            chosen = int(np.searchsorted(self._cumulative, position * self._cumulative[-1], side="right"))
            chosen = chosen if chosen in self._present else self._present[-1]
        centres = self._centres[chosen]
        return np.array(np.unravel_index(centres[_randint(len(centres), generator)], self.target.shape))

    def draw_hidden(self, voxel: np.ndarray, generator: torch.Generator) -> list[Plane]:
        """The known slices to hide from a patch drawn from ``voxel`` (z, y, x): its own, and half of the others."""
        chances = torch.rand(len(self.known.planes), generator=generator).tolist()
        return [
            p for p, c in zip(self.known.planes, chances, strict=True) if c < _HIDDEN or voxel[p.axis] == p.index
        ]


def _thin_out(indices: np.ndarray) -> np.ndarray:
    return indices[:: max(1, len(indices) // _MOST_CENTRES)].copy()  # a view would keep all of them alive


def _randint(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))


def _mirrored(start: int, n: int, size: int) -> np.ndarray:
    """Indices start..start+n-1 folded back into 0..size-1 (d c b | a b c d | c b a)."""
    if size == 1:
        return np.zeros(n, int)
    period = 2 * (size - 1)
    folded = np.abs(np.arange(start, start + n)) % period
    return np.minimum(folded, period - folded)


def _box_around(where: torch.Tensor, shape: Sequence[int]) -> Box:
    """The voxels of a volume of ``shape`` that are asked for at positions (3, z, y, x).

    Beyond its border the volume is mirrored, so what lies as far inside belongs to the box, and the box ends at the
    border there.
    """
    start, size = [], []
    lows, highs = where.flatten(1).amin(1).floor().long().tolist(), where.flatten(1).amax(1).ceil().long().tolist()
    for low, high, n in zip(lows, highs, shape, strict=True):
        first = max(0, min(low, 2 * (n - 1) - high))
        last = min(n - 1, max(high, -low))
        start.append(min(first, n - 1))
        size.append(max(last, 0) - start[-1] + 1)
    return Box(tuple(start), tuple(size))
