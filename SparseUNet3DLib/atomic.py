"""Writing files so that a crash or a full disk never leaves a damaged one in place of a good one."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SparseUNet3DLib.errors import OutputError

_KEPT_OF_NAME = 40


def folded(name: str) -> str:
    """The same text for two names of one file: "T1" and "t1" are one on macOS and Windows."""
    return name.lower() if sys.platform in ("darwin", "win32") else name


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``target``; rename it to ``target`` when the block ends well.

    The temporary name ends in the target's full suffix, because writers choose the format by it. It has plain letters
    only, see `simpleitk_names`.

    Raises:
        OutputError: the folder does not exist, may not be written, or the disk is full.
    """
    target = Path(target)
    # Its end only: the whole of a long name would be longer than the system allows.
    plain = "".join(c if c.isascii() else "_" for c in target.name[-_KEPT_OF_NAME:])
    temporary = target.with_name(f".{uuid.uuid4().hex[:8]}.partial.{plain}")
    try:
        if not target.parent.is_dir():
            raise OutputError(f"Cannot write '{target}': the folder '{target.parent}' does not exist; create it first.")
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _make_readable(temporary)
            os.replace(temporary, target)
        except OSError as error:
            raise OutputError(f"Cannot write '{target}': {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _make_readable(path: Path) -> None:
    """Give the file the permissions of any other new file; some writers make it readable by its owner only."""
    umask = os.umask(0)
    os.umask(umask)
    with suppress(OSError):  # some shares have permissions of their own, and refuse
        path.chmod(0o666 & ~umask)
