"""Convolutions as the devices want them; their weights and results are those of ``nn.Conv3d``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

#: The matrix units of a GPU take so many channels at a time.
_CHANNELS_AT_A_TIME = 8
#: A tensor is large that has so many times the numbers of a convolution's weights.
_LARGE = 8


class Conv3d(nn.Conv3d):
    """A convolution that works around what is wrong or slow on a device.

    A CPU computes in float32 where an axis is shorter than the kernel: there oneDNN's bfloat16 kernels read memory
    that nobody wrote. For two slices and a 3-wide kernel the gradient of the weights is garbage, for one slice and
    one channel the output is (seen with torch 2.13). So few voxels cost next to nothing in float32.

    A GPU is given a multiple of eight channels: with one to three, as images have them, cuDNN leaves the matrix units
    alone. An image's neighbours along x become channels first, so that few of the eight are zero.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and any(n < k for n, k in zip(x.shape[2:], self.kernel_size, strict=True)):
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(x.float(), self.weight, self._used_bias())
        if x.device.type == "cuda" and self.in_channels < _CHANNELS_AT_A_TIME:
            return self.with_neighbours_as_channels(x)
        return self._conv_forward(x, self.weight, self._used_bias())

    def with_neighbours_as_channels(self, x: torch.Tensor) -> torch.Tensor:
        """The same convolution as one whose kernel is one voxel wide along x, of so many times the channels."""
        width, (*padding, along_x) = self.kernel_size[2], self.padding
        x = F.pad(x, (along_x, along_x))
        size = x.shape[-1] - width + 1
        x = torch.cat([x[..., i : i + size] for i in range(width)], dim=1)
        weight = torch.cat([self.weight[..., i : i + 1] for i in range(width)], dim=1)
        missing = (0, 0, 0, 0, 0, 0, 0, -x.shape[1] % _CHANNELS_AT_A_TIME)
        return F.conv3d(F.pad(x, missing), F.pad(weight, missing), self._used_bias(), padding=(*padding, 0))

    def _used_bias(self) -> torch.Tensor | None:
        return self.bias


class JoiningConv3d(Conv3d):
    """A convolution of two tensors' channels taken together, without a bias.

    In bfloat16 a CPU convolves two large tensors each for itself and adds up. To join them first would copy both, and
    their gradients would come as every other part of a tensor, which takes several times as long to go through. (In
    float32 two convolutions of half the channels take longer than one; small tensors cost less than large weights.)
    """

    def forward(self, both: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Of (b, c, z, y, x) and (b, d, z, y, x), for c + d input channels."""
        first, second = both
        large = first.numel() > _LARGE * self.weight.numel()
        if not large or (first.device.type, first.dtype) != ("cpu", torch.bfloat16):
            return super().forward(torch.cat(both, dim=1))
        weights = self.weight.split([first.shape[1], second.shape[1]], dim=1)
        return self._conv_forward(first, weights[0], None).add_(self._conv_forward(second, weights[1], None))


class UnbiasedConv3d(Conv3d):
    """A convolution before a normalisation, which takes any bias away again: it has one, of 0, that is not added."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int]) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.bias.requires_grad_(False)

    def _used_bias(self) -> None:
        return None
