"""The errors a user can cause or meet, each with the exit code that the command line ends with.

Every message is one sentence or two: what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class SparseUNetError(Exception):
    """Base of all errors that are explained to the user instead of shown as a traceback."""

    exit_code = 1


class UsageError(SparseUNetError):
    """A command, an option or a parameter makes no sense (exit code 2)."""

    exit_code = 2


class InputError(SparseUNetError):
    """A file, volume, annotation or model cannot be used (exit code 3)."""

    exit_code = 3


class MissingDependencyError(SparseUNetError):
    """A Python package that this task needs is not installed (exit code 4)."""

    exit_code = 4


class MemoryLimitError(SparseUNetError):
    """The task does not fit into memory, even at its smallest settings (exit code 5)."""

    exit_code = 5


class DivergenceError(SparseUNetError):
    """Training produced NaN or infinite losses again and again (exit code 6)."""

    exit_code = 6


class OutputError(SparseUNetError):
    """A result could not be written, for example because the disk is full (exit code 7)."""

    exit_code = 7


class Interrupted(SparseUNetError):
    """Stopped on request (Ctrl-C, SIGTERM or stop file); what was reached is kept (exit code 130)."""

    exit_code = 130
