"""The command line, ``sparse-unet3d`` or ``python -m SparseUNet3DLib``.

Exit codes: 0 done; 1 unexpected error; 2 usage; 3 input; 4 missing package; 5 memory; 6 divergence;
7 output; 130 interrupted (a checkpoint is kept).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from SparseUNet3DLib.command_line.options import make_reporter
from SparseUNet3DLib.command_line.parser import make_parser
from SparseUNet3DLib.dependencies import missing_package
from SparseUNet3DLib.errors import Interrupted, MemoryLimitError, SparseUNetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    args = make_parser().parse_args(arguments)
    reporter = make_reporter(args)
    try:
        try:
            args.run(args, reporter)
        except KeyboardInterrupt:
            raise Interrupted("Stopped by a second Ctrl-C; nothing more was saved.") from None
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
        except MemoryError:
            raise MemoryLimitError("Memory ran out; close other programs, or use smaller volumes.") from None
    except SparseUNetError as error:
        reporter.emit("error", message=str(error), exit_code=error.exit_code, kind=type(error).__name__)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone; what was to be written to files has been.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
