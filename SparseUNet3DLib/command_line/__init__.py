"""The command line, ``sparse-unet3d`` or ``python -m SparseUNet3DLib``.

Exit codes: 0 done; 1 unexpected error; 2 usage; 3 input; 4 missing package; 5 memory; 6 divergence;
7 output; 130 interrupted (densify, train and experiment keep a checkpoint).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from SparseUNet3DLib.command_line.argument_files import expand_argument_files
from SparseUNet3DLib.dependencies import missing_package
from SparseUNet3DLib.errors import Interrupted, MemoryLimitError, OutputError, SparseUNetError
from SparseUNet3DLib.events import Reporter, TerminalReporter
from SparseUNet3DLib.out_of_memory import is_out_of_memory
from SparseUNet3DLib.stopping import sigterm_as_ctrl_c


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    # Read when torch is loaded: threads that wait for a core which another program uses give way soon, instead
    # of spinning. Costs nothing on an idle machine; on a busy one a step took 0.6 s instead of 1.5 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    reporter: Reporter = TerminalReporter()
    try:
        try:
            from SparseUNet3DLib.command_line.console import make_reporter
            from SparseUNet3DLib.command_line.parser import parse
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
        args = parse(expand_argument_files(sys.argv[1:] if arguments is None else arguments))
        reporter = make_reporter(args)
        reporter.emit("started", pid=os.getpid())
        _run(args, reporter)
    except SparseUNetError as error:
        reporter.emit("error", message=str(error), exit_code=error.exit_code, kind=type(error).__name__)
        return error.exit_code
    return 0


def _run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Run the command; what can go wrong anywhere is told in a sentence, too."""
    try:
        with sigterm_as_ctrl_c():
            args.run(args, reporter)
    except KeyboardInterrupt:
        raise Interrupted("Stopped at once by Ctrl-C or SIGTERM; what was not saved yet is lost.") from None
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError("Memory ran out; close other programs, or use smaller volumes.") from error
    except OSError as error:
        name = f" '{error.filename}'" if error.filename else ""
        raise OutputError(f"The system cannot read or write{name}: {error.strerror or error}.") from error
