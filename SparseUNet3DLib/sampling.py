"""Patches around annotated voxels, cut out of the training volumes and augmented."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

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

#: Stands for "unannotated" in the stored label maps, which are unsigned to be small.
_HOLE = np.uint16(65535)
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
        known: (b, classes, z', y', x') float32, what those annotated slices tell that are not hidden; None
            for a network that takes no notice of them.
        hidden_target: the target without the slices that ``known`` tells of; None where that is None.
    """

    images: torch.Tensor
    target: torch.Tensor
    known: torch.Tensor | None = None
    hidden_target: torch.Tensor | None = None


def read_box(array: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Copy a box out of the last three axes of ``array``; beyond the border the volume is mirrored."""
    shape = array.shape[-3:]
    if all(s >= 0 and s + n <= m for s, n, m in zip(start, size, shape, strict=True)):
        z, y, x = (slice(s, s + n) for s, n in zip(start, size, strict=True))
        return array[..., z, y, x]
    z, y, x = (_mirrored(s, n, m) for s, n, m in zip(start, size, shape, strict=True))
    return array[..., z, :, :][..., y, :][..., x]


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
        images = self._sample_images(cases, where)
        if transforms.slopes is not None:
            images = adjust_gray_values(images, transforms.slopes)
        inner = tuple(slice(m, m + n) for m, n in zip(self.plan.margin, self.plan.output_size, strict=True))
        where = where[(..., *inner)]
        target = self._sample_targets(cases, where)
        if hidden is None:
            return Batch(images, target)
        known = torch.stack([c.known.channels(w, h) for c, w, h in zip(cases, where, hidden, strict=True)])
        seen = torch.stack([c.known.contains(w, h) for c, w, h in zip(cases, where, hidden, strict=True)])
        return Batch(images, target, known, target.masked_fill(seen, UNANNOTATED))

    def _sample_images(self, cases: Sequence[PreparedCase], where: torch.Tensor) -> torch.Tensor:
        where = where * self._per_patch([c.scale for c in cases])
        starts, size = _bounding_boxes(where)
        where -= self._per_patch(starts)  # now in the boxes
        boxes = torch.stack([
            normalise(self._read(c.image, start, size), c.statistics) for c, start in zip(cases, starts, strict=True)
        ])
        # As grid_sample wants positions: -1..1 in the boxes, in x, y, z order, in the last axis.
        span = self._per_patch([[max(1, n - 1) for n in size]])
        grid = (where * (2 / span) - 1).flip(1).movedim(1, -1)
        return F.grid_sample(boxes, grid, "bilinear", "border", align_corners=True)

    def _sample_targets(self, cases: Sequence[PreparedCase], where: torch.Tensor) -> torch.Tensor:
        """Nearest labels; outside of the volume nothing is annotated."""
        starts, size = _bounding_boxes(where)
        index = (where - self._per_patch(starts)).round().long()
        low = -self._per_patch(starts).long()
        high = self._per_patch([c.target.shape for c in cases]).long() + low
        inside = ((index >= low) & (index < high)).all(1)
        boxes = torch.stack([self._read(c.target, start, size) for c, start in zip(cases, starts, strict=True)])
        flat = (index[:, 0] * size[1] + index[:, 1]) * size[2] + index[:, 2]
        target = boxes.flatten(1).gather(1, flat.flatten(1)).reshape(flat.shape).long()
        return torch.where(inside & (target != int(_HOLE)), target, UNANNOTATED)

    def _read(self, array: np.ndarray, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
        """A box of ``array`` on the training device."""
        box = np.ascontiguousarray(read_box(array, start, size))
        # torch can hardly do anything with uint16; int32 holds the same numbers.
        box = box.astype(np.int32) if box.dtype == np.uint16 else box
        return torch.from_numpy(box).to(self.device)

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
        self.known = KnownSlices(annotation, classes, device)
        self.target = np.where(annotation.annotated, annotation.labels, _HOLE)
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
    return indices[:: max(1, len(indices) // _MOST_CENTRES)]


def _randint(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))


def _mirrored(start: int, n: int, size: int) -> np.ndarray:
    """Indices start..start+n-1 folded back into 0..size-1 (d c b | a b c d | c b a)."""
    if size == 1:
        return np.zeros(n, int)
    period = 2 * (size - 1)
    folded = np.abs(np.arange(start, start + n)) % period
    return np.minimum(folded, period - folded)


def _bounding_boxes(where: torch.Tensor) -> tuple[list[list[int]], list[int]]:
    """Starts (z, y, x) of boxes of whole voxels around positions (b, 3, z, y, x), and the size that they share."""
    low = where.flatten(2).amin(2).floor().long()
    high = where.flatten(2).amax(2).ceil().long()
    return low.tolist(), (high - low + 1).amax(0).tolist()
