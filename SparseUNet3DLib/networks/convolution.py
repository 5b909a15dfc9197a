"""Convolutions as the devices want them; their weights and results are those of ``nn.Conv3d``."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from SparseUNet3DLib.networks.pooling import enlarge

#: The matrix units of a GPU take so many channels at a time.
_CHANNELS_AT_A_TIME = 8
#: Up to so many channels, before or after, two voxels at a time are faster (measured on an H100).
_FEW_CHANNELS = 32
#: The width along x of kernels that can be made kernels for pairs.
_PAIRED_WIDTH = 3
#: A tensor is large that has so many times the numbers of a convolution's weights.
_LARGE = 2
#: A single float32 image with at most so many channels times slices times rows is no work for oneDNN, torch thinks.
_LEFT_TO_TORCH = 20480


class Conv3d(nn.Conv3d):
    """A convolution that works around what is wrong or slow on a device.

    A CPU computes in float32 where an axis is shorter than the kernel: there oneDNN's bfloat16 kernels read memory
    that nobody wrote. For two slices and a 3-wide kernel the gradient of the weights is garbage, for one slice and
    one channel the output is (seen with torch 2.13). In float32 torch computes a single image by itself where it is
    small, up to nine times as slowly as oneDNN, to which it leaves two: so such an image is taken as two halves.

    A GPU's matrix units take at least eight channels at a time and are busy with 64 and more only. A kernel that is
    three voxels wide along x can be one for pairs of neighbours instead: what are two voxels with c channels in memory
    is one voxel with 2 c, and such a kernel computes two results at a time, of which each leaves one voxel of four
    alone. With 32 channels that is nearly twice as fast, for all that is multiplied by 0. One to seven channels, as
    images have them, leave the matrix units alone otherwise: there all four voxels become channels.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and any(n < k for n, k in zip(x.shape[2:], self.kernel_size, strict=True)):
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(x.float(), self.weight, self._used_bias())
        if x.device.type == "cuda" and self.gains_by_pairs(x):
            return self.two_at_a_time(x)
        return self._convolve(x, self.weight, self._used_bias())

    def _convolve(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not self.is_left_to_torch(x):
            return self._conv_forward(x, weight, bias)
        axis = max((2, 3, 4), key=lambda a: x.shape[a])
        kernel, padding = self.kernel_size[axis - 2], list(self.padding)
        results = x.shape[axis] + 2 * padding[axis - 2] - kernel + 1
        half = (results + 1) // 2
        around = padding[axis - 2], padding[axis - 2] + results % 2  # both halves are as long
        x = F.pad(x, (*(0, 0) * (4 - axis), *around)) if any(around) else x
        padding[axis - 2] = 0
        halves = torch.cat([x.narrow(axis, start, half + kernel - 1) for start in (0, half)])
        found = torch.cat(F.conv3d(halves, weight, bias, padding=tuple(padding)).split(1), dim=axis)
        return found.narrow(axis, 0, results)

    def is_left_to_torch(self, x: torch.Tensor) -> bool:
        """Whether torch would not have oneDNN compute this image (b, c, z, y, x) on a CPU, in spite of its speed."""
        single = x.device.type == "cpu" and x.dtype == torch.float32 and len(x) == 1
        small = math.prod(x.shape[1:4]) <= _LEFT_TO_TORCH
        return single and small and not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available()

    def gains_by_pairs(self, x: torch.Tensor) -> bool:
        """Whether results come in pairs along x and a GPU's matrix units have little to do, if they are used at all."""
        results = x.shape[-1] + 2 * self.padding[2] - self.kernel_size[2] + 1
        if self.kernel_size[2] != _PAIRED_WIDTH or results % 2:
            return False
        if self.in_channels < _CHANNELS_AT_A_TIME:
            return True
        if not torch.is_autocast_enabled(x.device.type):  # in float32 some GPUs have no matrix units: products count
            return False
        if self.padding[2] and not torch.is_grad_enabled():  # padding first copies; only the gradients are worth that
            return False
        return min(self.in_channels, self.out_channels) <= _FEW_CHANNELS

    def two_at_a_time(self, x: torch.Tensor) -> torch.Tensor:
        """The same convolution of (b, c, z, y, x) as one that computes two neighbours along x at a time."""
        *padding, along_x = self.padding
        x = F.pad(x, (along_x, along_x)) if along_x else x
        weight = torch.cat([F.pad(self.weight, (0, 1)), F.pad(self.weight, (1, 0))])
        if self.in_channels < _CHANNELS_AT_A_TIME:
            pairs, weight = _windows_as_channels(x, weight)
        else:
            pairs, weight = _pairs_as_voxels(x), _pairs_as_voxels(weight)
        bias = self._used_bias()
        found = F.conv3d(pairs, weight, None if bias is None else bias.repeat(2), padding=(*padding, 0))
        b, _, z, y, n = found.shape
        return found.movedim(1, -1).reshape(b, z, y, 2 * n, self.out_channels).movedim(-1, 1)

    def _used_bias(self) -> torch.Tensor | None:
        return self.bias


def _pairs_as_voxels(x: torch.Tensor) -> torch.Tensor:
    """(b, 2 c, z, y, x / 2) of (b, c, z, y, x); no copy where channels are last."""
    b, c, z, y, n = x.shape
    return x.movedim(1, -1).reshape(b, z, y, n // 2, 2 * c).movedim(-1, 1)


def _windows_as_channels(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and kernel (of width 1) with what every other window of the kernel's width sees along x as channels."""
    width = weight.shape[-1]
    missing = (0, 0, 0, 0, 0, 0, 0, -width * x.shape[1] % _CHANNELS_AT_A_TIME)
    last = x.shape[-1] - width + 1
    windows = torch.cat([x[..., i : i + last : 2] for i in range(width)], dim=1)
    kernel = torch.cat([weight[..., i : i + 1] for i in range(width)], dim=1)
    return F.pad(windows, missing), F.pad(kernel, missing)


class EnlargingConv3d(Conv3d):
    """A convolution of a tensor and of a smaller one, enlarged, taken together; without a bias.

    Each voxel of the smaller one is repeated ``stride`` times. What a kernel finds there is the same several times
    over: a transposed convolution of the smaller tensor, whose weights are sums of the kernel's, gives the same with a
    third of the products. Nothing has to be enlarged or joined for it, which would copy, and a CPU would take the
    gradients apart again.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int], stride: tuple[int, int, int]
    ) -> None:
        padding = tuple(k // 2 for k in kernel_size)
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.enlarging = stride

    def forward(self, both: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Of (b, c, z, y, x) and the smaller (b, d, z', y', x'), for c + d input channels."""
        large, small = both
        if not self._is_split(large, small):
            return super().forward(torch.cat([large, enlarge(small, self.enlarging)], dim=1))
        first, second = self.weight.split([large.shape[1], small.shape[1]], dim=1)
        kernel = transposed_kernel(second, self.enlarging)
        enlarged = F.conv_transpose3d(small, kernel, stride=self.enlarging, padding=self.padding)
        return self._convolve(large, first, None).add_(enlarged)

    def _is_split(self, large: torch.Tensor, small: torch.Tensor) -> bool:
        if large.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return False  # not measured, or known to be slow
        wide = all(n >= k + s for n, k, s in zip(small.shape[2:], self.kernel_size, self.enlarging, strict=True))
        return wide and large.numel() > _LARGE * self.weight.numel()


def transposed_kernel(kernel: torch.Tensor, stride: tuple[int, int, int]) -> torch.Tensor:
    """Kernel (in, out, z', y', x') of the transposed convolution that enlarges by ``stride`` and applies ``kernel``.

    ``kernel`` is (out, in, z, y, x), as a convolution has it. A voxel that is repeated n times meets n neighbouring
    weights along an axis, so theirs is the sum.
    """
    size = kernel.shape[2:]
    with torch.autocast("cpu", enabled=False):  # sums of rounded weights would be rounded again
        enlarged = kernel.flatten(2) @ _sums_of_neighbours(size, stride).to(kernel)
    return enlarged.unflatten(2, [k + s - 1 for k, s in zip(size, stride, strict=True)]).transpose(0, 1)


@lru_cache(maxsize=16)
def _sums_of_neighbours(size: tuple[int, int, int], stride: tuple[int, int, int]) -> torch.Tensor:
    """(z y x, z' y' x') by which a kernel of that size is multiplied, as one product instead of many small sums."""
    with torch.inference_mode(False):  # kept for trainings as well
        kernel = torch.eye(math.prod(size)).view(-1, *size).flip(1, 2, 3)
        for axis, n in enumerate(stride):
            after = (0, 0) * (2 - axis)  # F.pad begins with the last axis
            kernel = sum(F.pad(kernel, (*after, i, n - 1 - i)) for i in range(n))
        return kernel.flatten(1)


class UnbiasedConv3d(Conv3d):
    """A convolution before a normalisation, which takes any bias away again: it has one, of 0, that is not added."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int]) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.bias.requires_grad_(False)

    def _used_bias(self) -> None:
        return None
