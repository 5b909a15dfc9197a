"""What a CUDA GPU is told to do, recorded once and replayed, so that it need not wait for Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")
#: What is only done the first times (choosing algorithms, compiling) cannot be recorded.
_WARM_UPS = 3


class CudaGraph(Generic[Result]):
    """A function of tensors on a CUDA GPU, for tensors of the same shapes each time, as one CUDA graph.

    It must not wait for the GPU. The next call overwrites what it returns, and tensors that it has made and kept (as
    gradients are); its memory is free again once these and the graph are gone.
    """

    def __init__(self, function: Callable[..., Result], inputs: Sequence[torch.Tensor]) -> None:
        """Calls ``function`` a few times with copies of ``inputs``.

        Raises:
            RuntimeError: out of memory, or it cannot be recorded.
        """
        self._inputs = [tensor.clone() for tensor in inputs]
        with torch.cuda.device(inputs[0].device):
            aside, present = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(present)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    function(*self._inputs)
            present.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            # Torch's own stream for recordings is of the device that it first recorded on, and where recording fails
            # it may stay the current one.
            with torch.cuda.stream(present), torch.cuda.graph(self._graph, stream=aside):
                self._result = function(*self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> Result:
        """What the function does with ``inputs``, which may be laid out otherwise."""
        torch._foreach_copy_(self._inputs, inputs)
        self._graph.replay()
        return self._result
