"""Between a volume's own grid and the spacing that a network was trained at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F

from SparseUNet3DLib.tiles import Box

#: Spacings that differ by less than this fraction count as the same; augmentation covers them.
_SAME_SPACING = 0.1

Triple = tuple[int, int, int]
Resample = Callable[
    [np.ndarray, Sequence[float], Sequence[float]], tuple[np.ndarray, tuple[float, float, float]]
]


def resample_to(
    image: np.ndarray, spacing: Sequence[float], wanted: Sequence[float]
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Bring ``image`` (c, z, y, x) from ``spacing`` to the ``wanted`` one (z, y, x, mm), linearly.

    The first voxels' centres coincide. Axes whose spacing is as wanted within 10 % stay as they are;
    axes that lose resolution are smoothed first.

    Returns:
        The resampled image (float32, or the image itself) and, per axis, network voxels per image voxel.
    """
    scale = [
        1.0 if abs(s / w - 1) <= _SAME_SPACING else s / w for s, w in zip(spacing, wanted, strict=True)
    ]
    scale = [1.0 if n == 1 else f for f, n in zip(scale, image.shape[1:], strict=True)]
    if scale == [1.0, 1.0, 1.0]:
        return image, (1.0, 1.0, 1.0)
    shape = [int(np.ceil((n - 1) * f)) + 1 for n, f in zip(image.shape[1:], scale, strict=True)]
    result = np.empty((image.shape[0], *shape), np.float32)
    blur = [0.5 * (1 / f - 1) if f < 1 else 0.0 for f in scale]
    for channel, out in zip(image, result, strict=True):
        smooth = channel.astype(np.float32)
        scipy.ndimage.gaussian_filter(smooth, blur, output=smooth)  # in place: of a large volume a copy is gigabytes
        scipy.ndimage.affine_transform(
            smooth, 1 / np.array(scale), output_shape=out.shape, output=out, order=1, mode="nearest"
        )
    return result, tuple(scale)


class Resampler:
    """Resamples each image to a spacing only once, which takes seconds for a large one.

    A run needs the same images for training, validation, previews and segmentation. What was resampled lives as long
    as this object, and must not be changed; no more do the images, which it keeps alive, too.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple, tuple[np.ndarray, np.ndarray, tuple[float, float, float]]] = {}

    def __call__(
        self, image: np.ndarray, spacing: Sequence[float], wanted: Sequence[float]
    ) -> tuple[np.ndarray, tuple[float, float, float]]:
        """What ``resample_to`` returns."""
        # A turned volume is another view of the same memory each time.
        place = image.__array_interface__["data"][0], image.shape, image.strides, image.dtype.str
        key = (*place, tuple(spacing), tuple(wanted))
        if key not in self._kept:
            self._kept[key] = image, *resample_to(image, spacing, wanted)
        return self._kept[key][1:]


def surrounding(block: Box, shape: Sequence[int], scale: Sequence[float]) -> Box:
    """The voxels of a resampled grid of ``shape`` that surround ``block`` of the image's own grid.

    ``scale`` is resampled voxels per image voxel, as ``resample_to`` returned it.
    """
    start = [math.floor(s * f) for s, f in zip(block.start, scale, strict=True)]
    end = [
        min(math.ceil((s + n - 1) * f) + 1, m)
        for s, n, f, m in zip(block.start, block.size, scale, shape, strict=True)
    ]
    return Box(tuple(start), tuple(e - s for s, e in zip(start, end, strict=True)))


def interpolate_at(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """``values`` (c, z, y, x) at ``positions`` (n, 3: z, y, x) in voxels, linearly: (c, n)."""
    last = positions.new_tensor(values.shape[1:]).sub_(1).clamp_min_(1)
    grid = (positions / last * 2 - 1).flip(1).to(values.dtype).to(values.device)
    return F.grid_sample(values[None], grid[None, None, None], "bilinear", "border", align_corners=True)[0, :, 0, 0]


def interpolate_back(
    logits: torch.Tensor, origin: Triple, start: Triple, size: Triple, scale: tuple[float, float, float]
) -> torch.Tensor:
    """Logits (classes, z', y', x') that begin at network voxel ``origin``, on image voxels start..start+size-1.

    ``scale`` is network voxels per image voxel, as ``resample_to`` returned it.
    """
    if scale == (1.0, 1.0, 1.0):
        return logits
    axes = []
    for o, s, n, f, m in zip(origin, start, size, scale, logits.shape[1:], strict=True):
        position = torch.arange(s, s + n, dtype=torch.float32) * f - o
        axes.append(position * 2 / max(1, m - 1) - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]
    return F.grid_sample(logits[None], grid, "bilinear", "border", align_corners=True)[0]
