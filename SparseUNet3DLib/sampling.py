"""Patches around annotated voxels, cut out of the training volumes and augmented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from SparseUNet3DLib.augmentation import RandomTransform, adjust_gray_values, draw_transform, patch_coordinates
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.loss import UNANNOTATED
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.plan import Plan, Triple
from SparseUNet3DLib.recipe import Recipe

#: Stands for "unannotated" in the stored label maps, which are unsigned to be small.
_HOLE = np.uint16(65535)
#: Annotated voxels remembered per case and class to centre patches on.
_MOST_CENTRES = 500_000
#: How far a patch may stick out of the volume, as a share of half its size.
_STICKING_OUT = 0.35


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
        self.cases = [PreparedCase(c, normalisation, plan.classes) for c in cases if c.annotation.annotated.any()]
        if not self.cases:
            raise InputError("No voxel is annotated, so there is nothing to learn from; paint some slices first.")
        self.class_counts = np.sum([c.class_counts for c in self.cases], axis=0)

    def draw_batch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch: images (b, c, z, y, x) float32, targets (b, z', y', x') int64."""
        patches = [self._draw_patch(generator) for _ in range(self.plan.batch_size)]
        return torch.stack([p[0] for p in patches]), torch.stack([p[1] for p in patches])

    def _draw_patch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        case = self.cases[_randint(len(self.cases), generator)]
        voxel = case.draw_voxel(self.recipe.foreground_share, generator)
        transform = draw_transform(self.recipe.augmentation, self.plan, generator)
        centre = self._draw_centre(voxel, case, generator)
        return self.extract(case, voxel, self._place(voxel - centre, case, transform), transform)

    def _draw_centre(self, voxel: np.ndarray, case: PreparedCase, generator: torch.Generator) -> np.ndarray:
        """Centre (z, y, x) of a patch that shows ``voxel`` somewhere in the middle half of its output.

        Patches far out of the volume would waste voxels, so they are pushed back inside. But they stick out a
        little, differently each time: where a patch spans the volume, the annotated slices would otherwise
        always lie at the same places in it, and the network would learn the places instead of the image.
        """
        half = np.array(self.plan.output_size) / 2 * np.array(self.plan.spacing) / np.array(case.spacing)
        shift, jitter = 2 * torch.rand(2, 3, generator=generator).numpy() - 1
        centre = voxel + shift * half / 2
        shape = np.array(case.target.shape)
        low, high = half - 0.5, shape - half - 0.5
        inside = np.where(low <= high, np.clip(centre, low, high), (shape - 1) / 2)
        return inside + jitter * half * _STICKING_OUT

    def _place(self, offset: np.ndarray, case: PreparedCase, transform: RandomTransform) -> Triple:
        """Output voxel (z', y', x') nearest to what lies ``offset`` voxels (z, y, x) from a patch's centre."""
        mm = np.linalg.solve(transform.matrix.double().numpy(), offset * np.array(case.spacing))
        size = np.array(self.plan.output_size)
        place = np.rint(mm / np.array(self.plan.spacing) + (size - 1) / 2)
        return tuple(int(p) for p in place.clip(0, size - 1))

    def extract(
        self, case: PreparedCase, voxel: np.ndarray, place: Triple, transform: RandomTransform
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Patch whose output voxel ``place`` lies on ``voxel``: image (c, z, y, x) and target (z', y', x')."""
        spacing = torch.tensor(case.spacing, device=self.device)
        where = patch_coordinates(transform, self.recipe.augmentation, self.plan, self.device) / spacing
        anchor = where[tuple(p + m for p, m in zip(place, self.plan.margin, strict=True))]
        where += torch.tensor(voxel, dtype=torch.float32, device=self.device) - anchor
        image = self._sample_image(case, where)
        if transform.slopes is not None:
            image = adjust_gray_values(image, transform.slopes)
        inner = tuple(slice(m, m + n) for m, n in zip(self.plan.margin, self.plan.output_size, strict=True))
        return image, self._sample_target(case, where[inner])

    def _sample_image(self, case: PreparedCase, where: torch.Tensor) -> torch.Tensor:
        start, size = _bounding_box(where)
        box = torch.from_numpy(np.ascontiguousarray(read_box(case.image, start, size)))
        box = normalise(box.to(self.device), case.statistics)
        return F.grid_sample(box[None], _grid(where, start, size), "bilinear", "border", align_corners=True)[0]

    def _sample_target(self, case: PreparedCase, where: torch.Tensor) -> torch.Tensor:
        """Nearest labels; outside of the volume nothing is annotated."""
        shape = case.target.shape
        index = where.round().long()
        inside = torch.ones(index.shape[:3], dtype=torch.bool, device=index.device)
        for axis, n in enumerate(shape):
            inside &= (index[..., axis] >= 0) & (index[..., axis] < n)
            index[..., axis].clamp_(0, n - 1)
        start = index.amin(dim=(0, 1, 2))
        size = index.amax(dim=(0, 1, 2)) - start + 1
        box = read_box(case.target, start.tolist(), size.tolist()).astype(np.int32)
        labels = torch.from_numpy(np.ascontiguousarray(box)).to(self.device).reshape(-1)
        index -= start
        flat = (index[..., 0] * size[1] + index[..., 1]) * size[2] + index[..., 2]
        target = labels[flat].long()
        return torch.where(inside & (target != int(_HOLE)), target, UNANNOTATED)


class PreparedCase:
    """A case in the form that patches are cut from."""

    def __init__(self, case: Case, normalisation: Sequence[ChannelNormalisation], classes: int) -> None:
        annotation = case.annotation
        self.image = case.volume.array
        self.spacing = case.volume.geometry.array_spacing
        self.statistics = [n.statistics(c) for n, c in zip(normalisation, self.image, strict=True)]
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


def _bounding_box(where: torch.Tensor) -> tuple[list[int], list[int]]:
    """Start and size (z, y, x) of the box of whole voxels around the positions ``where`` (..., 3)."""
    low = where.amin(dim=(0, 1, 2)).floor().long()
    high = where.amax(dim=(0, 1, 2)).ceil().long()
    return low.tolist(), (high - low + 1).tolist()


def _grid(where: torch.Tensor, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Voxel positions as ``grid_sample`` wants them: (1, z, y, x, 3), -1..1, in x, y, z order."""
    start = torch.tensor(start, dtype=torch.float32, device=where.device)
    span = torch.tensor([max(1, n - 1) for n in size], dtype=torch.float32, device=where.device)
    return ((where - start) * 2 / span - 1).flip(-1)[None]
