"""A network's training step recorded once and replayed, so that a GPU need not wait for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from SparseUNet3DLib.device import memory_format


def record_network(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, precision: torch.dtype, compiled: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """``network`` for training with images of ``shape`` (b, c, z, y, x) on a CUDA ``device``, as a CUDA graph.

    The function returned gives the same logits and gradients, in ``precision``. Its logits are overwritten by the
    next call.

    Args:
        compiled: let torch.compile join what lies between the convolutions first; takes half a minute.

    Raises:
        RuntimeError: no memory is left for it, or something cannot be recorded or compiled here.
    """
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(shape, device=device).to(memory_format=memory_format(device))
    shell = _Shell(torch.compile(network) if compiled else network)
    # What autocast has cast would not be cast again in a replay, when the weights have changed.
    with torch.autocast(device.type, torch.bfloat16, precision == torch.bfloat16, cache_enabled=False):
        recorded = torch.cuda.make_graphed_callables(shell, (images,))
    network.zero_grad(set_to_none=True)
    network.load_state_dict(before)  # warming up changes the statistics of batch normalisation
    return recorded


class _Shell(nn.Module):
    """Has its ``forward`` replaced by torch instead of the network, which goes on to be what it was."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)
