"""Recognising that memory ran out, on any device."""

from __future__ import annotations

#: What torch and its libraries say when an allocator fails. CUDA's own exception, a RuntimeError, says
#: "out of memory" too; its name differs between releases of torch.
_MESSAGES = (
    "can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "could not create a memory object",
    "could not create a primitive", "could not execute a primitive", "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(m in str(error).lower() for m in _MESSAGES)
