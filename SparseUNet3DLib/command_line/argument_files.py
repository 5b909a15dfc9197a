"""Arguments in a file instead of on the command line, which Windows limits to 32,767 characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from SparseUNet3DLib.errors import UsageError


def expand_argument_files(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with the lines of FILE (UTF-8) in place of each "@FILE"; empty lines do not count.

    Here and not by argparse, which reads such files in the system's encoding.

    Raises:
        UsageError: a file cannot be read, or is not text.
    """
    return [a for argument in arguments for a in (_lines(argument[1:]) if argument.startswith("@") else [argument])]


def _lines(name: str) -> list[str]:
    advice = f"A volume whose name begins with '@' is given as './@{name}'."
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"The file '{name}' with arguments cannot be read ({error.strerror}). {advice}") from error
    except ValueError as error:  # also a name that no file may have
        raise UsageError(
            f"'{name}' is not text in UTF-8; a file given with '@' holds arguments, one per line. {advice}"
        ) from error
    # Reading has made "\n" of all that ends a line; other control characters may be part of a name.
    return [line for line in text.split("\n") if line]
