"""Catching what the image libraries inside SimpleITK print on their own."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk

#: How lines begin that libtiff, MetaIO and nifti_clib print.
_LIBRARY_PREFIXES = ("TIFF", "MetaImage:", "   ideal = ", "** ", "++ ")
_lock = threading.Lock()


@contextmanager
def native_messages() -> Iterator[list[str]]:
    """Collect the lines that image libraries print to standard error in the block, after it has ended.

    ITK's own warnings are switched off meanwhile. Lines of other origin, for example of another thread,
    are printed after all. Where standard error cannot be redirected the list stays empty.
    """
    messages: list[str] = []
    with _lock:
        warnings_shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            with _standard_error_lines(messages):
                yield messages
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(warnings_shown)


@contextmanager
def _standard_error_lines(messages: list[str]) -> Iterator[None]:
    try:
        original = os.dup(2)
    except OSError:  # no standard error, as in a windowed application
        yield
        return
    try:
        with tempfile.TemporaryFile() as file:
            _flush()
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                _flush()
                os.dup2(original, 2)
                file.seek(0)
                _sort_lines(file.read().decode(errors="replace"), messages)
    finally:
        os.close(original)


def _sort_lines(text: str, messages: list[str]) -> None:
    """Add the libraries' lines to ``messages`` and print the others."""
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    messages += [line.rstrip() for line in lines if line.startswith(_LIBRARY_PREFIXES)]
    os.write(2, "".join(line for line in lines if not line.startswith(_LIBRARY_PREFIXES)).encode())


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
