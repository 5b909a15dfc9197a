"""Settings for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# One thread each, in worker processes too: the tests' networks are too small to gain from more, and several
# threads that wait for a busy core slow them down tenfold.
os.environ["OMP_NUM_THREADS"] = "1"

# Tests that run in the background ignore Ctrl-C, and so would the programs that they start and send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no verdict that depends on how busy the machine is.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
