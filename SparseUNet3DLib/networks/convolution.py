"""Convolutions as the devices want them; their weights and results are those of ``nn.Conv3d``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

#: The matrix units of a GPU take so many channels at a time.
_CHANNELS_AT_A_TIME = 8


class Conv3d(nn.Conv3d):
    """A convolution that works around what is wrong or slow on a device.

    A CPU computes in float32 where an axis is shorter than the kernel: there oneDNN's bfloat16 kernels read memory
    that nobody wrote. For two slices and a 3-wide kernel the gradient of the weights is garbage, for one slice and
    one channel the output is (seen with torch 2.13). So few voxels cost next to nothing in float32.

    A GPU is given eight channels at least, those that are missing being zero: with one to three, as images have them,
    cuDNN leaves the matrix units alone (0.8 instead of 0.6 ms for the paper's first layer on an H200).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and any(n < k for n, k in zip(x.shape[2:], self.kernel_size, strict=True)):
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(x.float(), self.weight, self._used_bias())
        missing = -self.in_channels % _CHANNELS_AT_A_TIME
        if x.device.type == "cuda" and missing:
            padding = (0, 0, 0, 0, 0, 0, 0, missing)
            return self._conv_forward(F.pad(x, padding), F.pad(self.weight, padding), self._used_bias())
        return self._conv_forward(x, self.weight, self._used_bias())

    def _used_bias(self) -> torch.Tensor | None:
        return self.bias


class UnbiasedConv3d(Conv3d):
    """A convolution before a normalisation, which takes any bias away again: it has one, of 0, that is not added."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int]) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.bias.requires_grad_(False)

    def _used_bias(self) -> None:
        return None
