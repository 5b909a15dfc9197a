"""Names by which SimpleITK finds files on Windows, where it does not know letters beyond the system's code page.

It hands names over as UTF-8, and the image libraries take them for text in the code page: in the home of "Müller" they
find nothing. From within a folder a file's plain name is enough. (Slicer itself runs in the UTF-8 code page; the
Python that it starts for others does not.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UTF8 = 65001
_lock = threading.RLock()


@contextmanager
def name_for_simpleitk(path: Path) -> Iterator[str]:
    """What to call ``path`` while the block lasts; its folder may be the working directory of the process then.

    A name with such letters itself is not helped.
    """
    if str(path).isascii() or knows_all_letters():
        yield str(path)
        return
    with _lock:
        before = os.getcwd()
        os.chdir(path.parent)
        try:
            yield path.name
        finally:
            os.chdir(before)


def is_text(path: Path) -> bool:
    """Whether SimpleITK can be told of ``path``: on Linux names may be bytes that are no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def knows_all_letters() -> bool:
    """Whether names need no care on this system."""
    if os.name != "nt":
        return True
    import ctypes

    return ctypes.windll.kernel32.GetACP() == _UTF8
