"""A training volume in the form that patches are cut from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.loss import UNANNOTATED
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.out_of_memory import is_out_of_memory
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.resampling import Resample, resample_to
from SparseUNet3DLib.tiles import Box
from SparseUNet3DLib.voxel_boxes import box_around, normalise, to_device

#: Annotated voxels remembered per case and class to centre patches on.
_MOST_CENTRES = 500_000


class PreparedCase:
    """A case in the form that patches are cut from: the image on the network's grid, the target on its own.

    Attributes:
        shape: of the target (z, y, x).
        spacing: of the target (z, y, x) in mm.
        scale: network voxels per voxel of the target.
        class_counts: annotated voxels of each class.
    """

    def __init__(
        self,
        case: Case,
        normalisation: Sequence[ChannelNormalisation],
        plan: Plan,
        device: torch.device,
        resample: Resample = resample_to,
    ) -> None:
        image = case.volume.array
        self._device, self._classes = device, plan.classes
        self.spacing, self.shape = case.volume.geometry.array_spacing, image.shape[1:]
        self._image, self.scale = resample(image, self.spacing, plan.spacing)
        self._statistics = [n.statistics(c) for n, c in zip(normalisation, image, strict=True)]
        # Contiguous: a turned volume's is not, and each patch would copy it.
        self._target = np.empty(self.shape, np.int16)
        self._resident: tuple[torch.Tensor, torch.Tensor] | None = None
        self.annotate(case.annotation)

    def annotate(self, annotation: SparseAnnotation) -> None:
        """Cut patches for this ``annotation`` from now on."""
        classes = self._classes
        self._target.fill(UNANNOTATED)
        np.copyto(self._target, annotation.labels, where=annotation.annotated, casting="unsafe")
        if self._resident:
            self._resident[1].copy_(torch.from_numpy(self._target))
        flat, labels = np.flatnonzero(annotation.annotated), annotation.labels[annotation.annotated]
        self.class_counts = np.bincount(labels, minlength=classes)[:classes]
        self._centres = [_thin_out(flat[labels == c]) for c in range(classes)]
        self._present = [c for c in range(classes) if len(self._centres[c])]
        share = self.class_counts / max(1, self.class_counts.sum())
        self._cumulative = np.cumsum(share)

    @property
    def resident_bytes(self) -> int:
        """Memory that ``keep_on_device`` takes."""
        return 4 * self._image.size + 2 * self._target.size

    def keep_on_device(self) -> None:
        """Hold image and target on the device: a GPU takes longer to be given a patch's voxels than to train on them.

        Where patches lie need not be known in main memory then, which would mean to wait for the GPU.

        Raises:
            RuntimeError: out of memory.
        """
        image = torch.empty(self._image.shape, device=self._device)
        for kept, channel, statistics in zip(image, self._image, self._statistics, strict=True):
            kept.copy_(normalise(to_device(channel[None], self._device), [statistics])[0])
        self._resident = image, to_device(self._target, self._device)

    def image_around(self, where: torch.Tensor) -> tuple[torch.Tensor, Box]:
        """Normalised gray values (c, z, y, x) of a box of the network's grid with all positions (3, ...).

        Positions are of the target's grid.
        """
        if self._resident:
            return self._resident[0], _whole(self._image)
        box = box_around(where, self._image.shape[1:], self.scale)
        return normalise(to_device(self._image[(..., *box.slices)], self._device), self._statistics), box

    def target_around(self, where: torch.Tensor) -> tuple[torch.Tensor, Box]:
        """Labels (z, y, x) int16 of a box with all positions (3, ...) of the target's grid."""
        if self._resident:
            return self._resident[1], _whole(self._target)
        # On a CPU the whole volume is at hand, and costs nothing to read.
        box = _whole(self._target) if self._device.type == "cpu" else box_around(where, self.shape)
        return to_device(self._target[box.slices], self._device), box

    def draw_voxel(self, foreground_share: float, generator: torch.Generator) -> np.ndarray:
        """An annotated voxel (z, y, x)."""
        by_class, position = torch.rand(2, generator=generator).tolist()
        if by_class < foreground_share:
            chosen = self._present[int(position * len(self._present))]
        else:
            chosen = int(np.searchsorted(self._cumulative, position * self._cumulative[-1], side="right"))
            chosen = chosen if chosen in self._present else self._present[-1]
        centres = self._centres[chosen]
        return np.array(np.unravel_index(centres[randint(len(centres), generator)], self.shape))


def keep_on_device(cases: Sequence[PreparedCase], room: int) -> int:
    """Hold those of the ``cases`` on the device that take at most ``room`` bytes in all; the bytes that they take."""
    taken = 0
    for case in cases:
        if taken + case.resident_bytes > room:
            continue
        try:
            case.keep_on_device()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
        taken += case.resident_bytes
    return taken


def randint(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))


def _whole(array: np.ndarray) -> Box:
    """All voxels of ``array`` (..., z, y, x)."""
    return Box((0, 0, 0), array.shape[-3:])


def _thin_out(indices: np.ndarray) -> np.ndarray:
    return indices[:: max(1, len(indices) // _MOST_CENTRES)].copy()  # a view would keep all of them alive
