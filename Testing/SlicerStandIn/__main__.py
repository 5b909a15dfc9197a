"""Run a script as `Slicer --testing --python-script` does: python -m SlicerStandIn script.py [arguments]"""

from __future__ import annotations

import runpy
import sys

import SlicerStandIn

SlicerStandIn.start(testing=True)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
