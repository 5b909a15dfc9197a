"""What a network does in a training step, recorded once and replayed, so that a GPU need not wait for Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from SparseUNet3DLib.device import memory_format
from SparseUNet3DLib.out_of_memory import is_out_of_memory

Features = Callable[[torch.Tensor], torch.Tensor]


def record_features(
    network: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    precision: torch.dtype,
    search: bool,
    compiled: bool,
) -> Features:
    """``network.features`` for training with images of ``shape`` (b, c, z, y, x), as CUDA graphs.

    The function returned gives the same features and gradients, in ``precision``; the next call overwrites them.
    Where that cannot be had (torch.compile needs Triton and a C compiler) it is recorded uncompiled, or not at all.
    What is recorded refers to itself: its memory is free again once it has been collected (`gc.collect`).
    Have room for it: what a recording in which memory ran out has taken is not given back.

    Args:
        search: let cuDNN try several algorithms for each convolution first; takes ten seconds in a new process.
        compiled: let torch.compile join what lies between the convolutions first; takes half a minute.

    Raises:
        RuntimeError: out of memory.
    """
    for compile_first in (True, False) if compiled else (False,):
        try:
            features = torch.compile(network.features) if compile_first else network.features
            return _record(network, features, shape, device, precision, search)
        except Exception as error:  # of several compilers, with kinds of their own
            # Ending a recording in which memory ran out fails, too.
            if is_out_of_memory(error) or (error.__context__ and is_out_of_memory(error.__context__)):
                raise
    return network.features


def _record(
    network: nn.Module,
    features: Features,
    shape: tuple[int, ...],
    device: torch.device,
    precision: torch.dtype,
    search: bool,
) -> Features:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    # Not drawn on the GPU: after a recording that failed torch refuses to draw there.
    images = torch.randn(shape).to(device, memory_format=memory_format(device))
    # Torch tells that the recording was made in a stream of its own.
    warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
    try:
        with (
            torch.cuda.device(device),
            # Where recording fails, torch may leave its own stream behind.
            torch.cuda.stream(torch.cuda.current_stream(device)),
            # What autocast has cast would not be cast again in a replay, when the weights have changed.
            torch.autocast(device.type, torch.bfloat16, precision == torch.bfloat16, cache_enabled=False),
            _fastest_algorithms() if search else nullcontext(),
        ):
            # The last layers, which are not recorded, have no gradient here.
            return torch.cuda.make_graphed_callables(_Shell(network, features), (images,), allow_unused_input=True)
    finally:
        network.zero_grad(set_to_none=True)
        network.load_state_dict(before)  # warming up changes the statistics of batch normalisation


@contextmanager
def _fastest_algorithms() -> Iterator[None]:
    """Lets cuDNN try several algorithms for each convolution, once."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Shell(nn.Module):
    """Has its ``forward`` replaced by torch instead of the network, which goes on to be what it was."""

    def __init__(self, network: nn.Module, features: Features) -> None:
        super().__init__()
        self.network, self._features = network, features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._features(images)
