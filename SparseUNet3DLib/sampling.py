"""Patches around annotated voxels, cut out of the training volumes and augmented."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from SparseUNet3DLib.augmentation import RandomTransforms, adjust_gray_values, draw_transforms, patch_positions
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.device import choose_precision, send
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.loss import UNANNOTATED
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.prepared_case import PreparedCase, keep_on_device, randint
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.resampling import Resample, resample_to

#: A patch lies at places that differ by at least this much to either side, as a share of half its size.
_LEAST_SHIFT = 0.35
#: Share of the memory announced for a step that volumes kept on a GPU may take; in bfloat16 a step leaves more.
_RESIDENT_SHARE = 0.2
#: Positions, in voxels, are this exact: one halfway between two voxels belongs to the next, and so do its neighbours.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        images: (b, c, z, y, x) float32.
        target: (b, z', y', x') int64, ``UNANNOTATED`` where no class is known.
    """

    images: torch.Tensor
    target: torch.Tensor


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
        resample: Resample = resample_to,
    ) -> None:
        self.plan, self.recipe, self.device = plan, recipe, device
        self.cases = [PreparedCase(c, normalisation, plan, device, resample) for c in _annotated(cases)]
        if not self.cases:
            raise InputError("No voxel is annotated, so there is nothing to learn from; paint some slices first.")
        #: What volumes kept on a GPU take there.
        self.resident_bytes = 0
        if device.type == "cuda" and choose_precision(device, recipe.precision) == torch.bfloat16:
            self.resident_bytes = keep_on_device(self.cases, int(_RESIDENT_SHARE * plan.training_bytes()))
        self._count_classes()

    def learn_from(self, cases: Sequence[Case]) -> None:
        """Draw patches from another annotation of the same volumes."""
        for prepared, case in zip(self.cases, _annotated(cases), strict=True):
            prepared.annotate(case.annotation)
        self._count_classes()

    def _count_classes(self) -> None:
        self.class_counts = np.sum([c.class_counts for c in self.cases], axis=0)

    def draw_batch(self, generator: torch.Generator, strength: float = 1.0) -> Batch:
        """One batch, augmented with ``strength`` (0..1) times the recipe's ranges."""
        number = self.plan.batch_size
        cases = [self.cases[randint(len(self.cases), generator)] for _ in range(number)]
        voxels = np.stack([c.draw_voxel(self.recipe.foreground_share, generator) for c in cases])
        centres = np.stack([self._draw_centre(v, c, generator) for v, c in zip(voxels, cases, strict=True)])
        transforms = draw_transforms(self.recipe.augmentation.weakened(strength), self.plan, number, generator)
        places = self._places(voxels - centres, cases, transforms)
        return self.extract(cases, voxels, places, transforms)

    def _draw_centre(self, voxel: np.ndarray, case: PreparedCase, generator: torch.Generator) -> np.ndarray:
        """Centre (z, y, x) of a patch that shows ``voxel`` somewhere in the middle half of its output.

        Patches that stick out of the volume would waste voxels, so they are pushed back inside. But along an
        axis that they (nearly) span they stick out a little, differently each time: the annotated slices
        would otherwise always lie at the same places in them, and the network would learn the places instead
        of the image.
        """
        half = np.array(self.plan.output_size) / 2 * np.array(self.plan.spacing) / np.array(case.spacing)
        shift, jitter = 2 * torch.rand(2, 3, generator=generator).numpy() - 1
        room = np.maximum(0, np.array(case.shape) / 2 - half)  # to either side of the volume's middle
        middle = (np.array(case.shape) - 1) / 2
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
    ) -> Batch:
        """Patches whose output voxels ``places`` (b, 3) lie on ``voxels`` (b, 3) of their cases."""
        where = patch_positions(
            transforms, self.recipe.augmentation, self.plan, np.array([c.spacing for c in cases]),
            places + np.array(self.plan.margin), voxels, self.device,
        )
        images = torch.stack([self._sample_image(c, w) for c, w in zip(cases, where, strict=True)])
        if transforms.slopes is not None:
            images = adjust_gray_values(images, transforms.slopes)
        inner = tuple(slice(m, m + n) for m, n in zip(self.plan.margin, self.plan.output_size, strict=True))
        where = where[(..., *inner)]
        target = torch.stack([self._sample_target(c, w) for c, w in zip(cases, where, strict=True)])
        return Batch(images, target)

    def _sample_image(self, case: PreparedCase, where: torch.Tensor) -> torch.Tensor:
        """Gray values (c, z, y, x), interpolated at positions (3, z, y, x) of the case's own grid."""
        image, box = case.image_around(where)
        # As grid_sample wants positions: -1..1 in the box, in x, y, z order, in the last axis. What lies beyond an end
        # is reflected there; its padding mode "reflection" takes a CPU as long as all the rest of the sampling.
        steps = [2 / max(1, n - 1) for n in box.size]
        slope = _per_axis(tuple(scale * step for scale, step in zip(case.scale, steps, strict=True)), self.device)
        offset = _per_axis(tuple(-start * step for start, step in zip(box.start, steps, strict=True)), self.device)
        turned = torch.addcmul(offset, where, slope).remainder_(4).sub_(2).abs_()
        grid = torch.stack((1 - turned).unbind()[::-1], -1)
        # A CPU samples several images at a time, but each on one core: the patch is cut into so many.
        parts = math.gcd(len(grid), torch.get_num_threads()) if self.device.type == "cpu" else 1
        sampled = F.grid_sample(
            image.expand(parts, -1, -1, -1, -1), grid.unflatten(0, (parts, -1)), "bilinear", "border",
            align_corners=True,
        )
        return sampled.transpose(0, 1).flatten(1, 2)

    def _sample_target(self, case: PreparedCase, where: torch.Tensor) -> torch.Tensor:
        """Nearest labels (z, y, x) int64; outside of the volume nothing is annotated."""
        target, box = case.target_around(where)
        index = (where + _ROUNDING).round()
        ends = _per_axis(tuple(n - 1.0 for n in case.shape), self.device)
        nearest = index.clamp(_per_axis((0.0,) * 3, self.device), ends)
        inside = (nearest == index).all(0)
        strides = box.size[1] * box.size[2], box.size[2], 1
        flat = nearest.long().mul_(_per_axis(strides, self.device, torch.int64)).sum(0)
        if any(box.start):
            flat -= sum(start * stride for start, stride in zip(box.start, strides, strict=True))
        labels = target.flatten().index_select(0, flat.flatten()).reshape(flat.shape).long()
        return labels.masked_fill_(~inside, UNANNOTATED)


@lru_cache(maxsize=256)
def _per_axis(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(3, 1, 1, 1) numbers, in the shape in which they broadcast with positions (3, z, y, x)."""
    return send(torch.tensor(values, dtype=dtype)[:, None, None, None], device)


def _annotated(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.annotation.annotated.any()]
