"""Recognising that memory ran out, on any device."""

from __future__ import annotations

import torch

#: What torch says when the CPU's or Apple's allocator fails; CUDA has an exception of its own.
_MESSAGES = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a memory object")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(m in str(error).lower() for m in _MESSAGES)
