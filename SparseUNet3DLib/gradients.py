"""The gradients of a training step; on a CUDA GPU recorded once and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from SparseUNet3DLib.cuda_graph import CudaGraph
from SparseUNet3DLib.loss import sparse_loss
from SparseUNet3DLib.out_of_memory import is_out_of_memory

Features = Callable[[torch.Tensor], torch.Tensor]
#: As `GradientFinder`, of images, target and class weights.
FindGradients = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

#: Gradients longer than this are shortened; as in nnU-Net.
_LONGEST_GRADIENT = 12.0


@dataclass(frozen=True)
class GradientFinder:
    """Forward and backward pass of a training step.

    Attributes:
        network: gets the gradients.
        features: ``network.features``, or what does the same.
        precision: in which the network computes.
        dice: whether the loss has soft Dice in it.
    """

    network: nn.Module
    features: Features
    precision: torch.dtype
    dice: bool

    def __call__(
        self,
        images: torch.Tensor,
        target: torch.Tensor,
        class_weights: torch.Tensor,
        annotated: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Replace the network's gradients by those of ``sparse_loss``, shortened where they are long.

        Args:
            images: (b, c, z, y, x).
            target, class_weights, annotated: as for ``sparse_loss``.

        Returns:
            (2,) the loss, and the length that all gradients together had.
        """
        # What autocast has cast would not be cast again in a replay, when the weights have changed.
        with torch.autocast(
            images.device.type, torch.bfloat16, self.precision == torch.bfloat16, cache_enabled=False
        ):
            logits = self.network.decide(self.features(images))
        loss = sparse_loss(logits, target, class_weights, self.dice, annotated)
        learnt = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in learnt:
            parameter.grad = None
        loss.backward()
        return torch.stack([loss.detach(), shorten([p.grad for p in learnt if p.grad is not None])])


def shorten(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Scale all ``gradients`` where they are too long together; their length before."""
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    factor = (_LONGEST_GRADIENT / (length + 1e-6)).clamp_max(1.0)
    if length.device.type != "cpu" or factor != 1:  # others would have to be waited for to know
        torch._foreach_mul_(gradients, factor)
    return length


def record_gradients(
    find: GradientFinder,
    images: torch.Tensor,
    target: torch.Tensor,
    class_weights: torch.Tensor,
    search: bool,
    compiled: bool,
) -> FindGradients | None:
    """What ``find`` does with tensors of these shapes, as a CUDA graph; its loss is of all voxels of the target.

    Each parameter's ``grad`` is the same tensor then, which the next call overwrites: if anything else replaced it,
    or set it to None, the optimiser would not see what later calls find.
    Where torch.compile does not work (it needs Triton and a C compiler) the network is recorded uncompiled.
    Have room for it: what a recording in which memory ran out has taken is not given back.

    Args:
        search: let cuDNN try several algorithms for each convolution first; takes ten seconds in a new process.
        compiled: let torch.compile join what lies between the convolutions first; takes half a minute.

    Returns:
        None where nothing can be recorded.

    Raises:
        RuntimeError: out of memory.
    """
    for compile_first in (True, False) if compiled else (False,):
        try:
            return _record(find, (images, target, class_weights), search, compile_first)
        except Exception as error:  # of several compilers, with kinds of their own
            if is_out_of_memory(error):
                raise
    return None


def _record(
    find: GradientFinder, inputs: tuple[torch.Tensor, ...], search: bool, compiled: bool
) -> CudaGraph[torch.Tensor]:
    network = find.network
    if compiled:
        find = replace(find, features=torch.compile(find.features))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    # Torch tells that the recording was made in a stream of its own.
    warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
    try:
        with _fastest_algorithms() if search else nullcontext():
            return CudaGraph(find, inputs)
    except BaseException:
        network.zero_grad(set_to_none=True)
        raise
    finally:
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
