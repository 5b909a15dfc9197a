"""What the annotated slices tell about the voxels between them, as channels for the head that corrects the logits.

Tools that interpolate between slices know where the structures are, and nothing of the image; a plain
network sees the image, and not where it is. With these channels the head has both. In training the slices
that a patch is scored on are hidden from it, so that it learns how far the others can be trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.plane_detection import Plane

#: Distance, in voxels of the finest spacing, at which a slice counts half.
_HALF_DISTANCE = 8.0


class KnownSlices:
    """The completely annotated slices of a volume.

    Attributes:
        planes: which they are.
    """

    def __init__(self, annotation: SparseAnnotation, classes: int, device: torch.device) -> None:
        self.planes: Sequence[Plane] = annotation.planes
        self._shape = annotation.labels.shape
        self._spacing = annotation.geometry.array_spacing
        # As small as can be: there may be many large slices, and they lie on the device.
        kind = np.uint8 if classes <= 256 else np.int16
        self._one_hot = torch.eye(classes, device=device)[:, 1:].contiguous()
        self._slices = [
            torch.from_numpy(annotation.labels[p.voxels].astype(kind).reshape(-1)).to(device) for p in self.planes
        ]

    @classmethod
    def for_plan(cls, annotation: SparseAnnotation, plan: Plan, device: torch.device) -> KnownSlices | None:
        """Those of ``annotation``; None for a network that takes no notice of them."""
        return cls(annotation, plan.classes, device) if plan.known_slices else None

    def channels(self, where: torch.Tensor, hidden: Collection[Plane] = ()) -> torch.Tensor:
        """What the slices that are not ``hidden`` tell about positions ``where``: (3, ...), (z, y, x) in voxels.

        Returns:
            (classes, ...) float32 in 0..1: for each foreground class the share of the slices that
            show it where a position is projected onto them, weighted by the inverse square of their
            distance; last, how near the nearest slice is (1 on it). All 0 where no slice is known.
        """
        size = where.shape[1:]
        where = where.reshape(3, -1)
        index = [w.round().long().clamp_(0, n - 1) for w, n in zip(where, self._shape, strict=True)]
        finest = min(self._spacing)
        total = where.new_zeros(where.shape[1], self._one_hot.shape[1])
        weights = where.new_zeros(where.shape[1])
        nearest = torch.full_like(weights, float("inf"))
        for plane, labels in zip(self.planes, self._slices, strict=True):
            if plane in hidden:
                continue
            distance = (where[plane.axis] - plane.index).abs_().mul_(self._spacing[plane.axis] / finest)
            weight = 1 / (distance * distance + 0.25)
            first, second = (a for a in range(3) if a != plane.axis)
            row = index[first] * self._shape[second] + index[second]
            shown = labels.index_select(0, row).int()
            total.addcmul_(self._one_hot.index_select(0, shown), weight[:, None])
            weights += weight
            torch.minimum(nearest, distance, out=nearest)
        total /= weights.clamp_min(1e-12)[:, None]
        near = 1 / (1 + nearest / _HALF_DISTANCE)
        return torch.cat([total.T, near[None]]).reshape(-1, *size)

    def contains(self, where: torch.Tensor, hidden: Collection[Plane] = ()) -> torch.Tensor:
        """(...) bool: positions ``where`` (3, ...) whose nearest voxel is on a slice that is not ``hidden``."""
        found = torch.zeros(where.shape[1:], dtype=torch.bool, device=where.device)
        for plane in self.planes:
            if plane not in hidden:
                found |= where[plane.axis].round() == plane.index
        return found
