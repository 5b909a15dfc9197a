"""What the program tells a person: results on standard output, progress and problems on standard error."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from typing import Any

from SparseUNet3DLib.errors import OutputError
from SparseUNet3DLib.events import JsonLinesReporter, Reporter, TerminalReporter, discard_output
from SparseUNet3DLib.terminal_reporter import DEFAULT_WIDTH, printable


class ProblemsOnly:
    """Shows warnings and errors on standard error, and nothing else."""

    def __init__(self) -> None:
        self._terminal = TerminalReporter()

    def emit(self, event: str, **fields: Any) -> None:
        """Show the event if it tells of a problem."""
        if event in ("warning", "error"):
            self._terminal.emit(event, **fields)


def make_reporter(args: argparse.Namespace) -> Reporter:
    """Who is told about progress, by --progress."""
    if args.progress == "jsonl":
        return JsonLinesReporter(on_lost=_stop if args.stop_unheard else None)
    return {"terminal": TerminalReporter, "none": ProblemsOnly}[args.progress]()


def _stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def say(args: argparse.Namespace, text: str) -> None:
    """Print a result for a person, at most 80 columns wide; a program reads it from the "done" event instead.

    Raises:
        OutputError: standard output leads to a file that cannot be written.
    """
    if args.progress != "jsonl":
        print_result("\n".join(_wrapped(printable(line)) for line in text.split("\n")))


def print_result(text: str) -> None:
    """Print ``text`` as it is; characters that standard output cannot show become escapes.

    Raises:
        OutputError: standard output leads to a file that cannot be written.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # A lost listener (such as "head") is no reason to lose the training.
        discard_output(sys.stdout)
    except OSError as error:
        discard_output(sys.stdout)
        raise OutputError(f"Cannot write to standard output: {error.strerror or error}.") from error


def _wrapped(line: str) -> str:
    if len(line) <= DEFAULT_WIDTH:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line, DEFAULT_WIDTH, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False
    )
