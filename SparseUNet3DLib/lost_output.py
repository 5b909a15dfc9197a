"""What to do with a stream that can no longer be written to: its reader has gone, or the disk is full."""

from __future__ import annotations

import os
from typing import IO


def discard_output(stream: IO) -> None:
    """Point a broken stream at the null device, so that flushing what it still holds at exit does not fail."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)
    except (OSError, ValueError):
        pass  # Closed, or not a file of the operating system: nothing is left to be flushed.
