"""Recognising that memory ran out, on any device."""

from __future__ import annotations

#: What torch and its libraries say when an allocator fails. CUDA's own exception, a RuntimeError, says
#: "out of memory" too; its name differs between releases of torch.
_MESSAGES = (
    "can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "could not create a memory object",
    "could not create a primitive", "could not execute a primitive", "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, or came of that, as ending a CUDA graph's recording fails then."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    cause = error.__context__
    return any(m in str(error).lower() for m in _MESSAGES) or (cause is not None and is_out_of_memory(cause))
