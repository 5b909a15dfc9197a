"""The Slicer side of SparseUNet3D: everything between the panel and the worker process.

`SparseUNet3DLib` does the learning and knows nothing of Slicer; this package knows nothing of learning.
"""

import importlib.util
import sys
from pathlib import Path

# Installed, the library lies beside the module; in a source checkout it lies at the top level, where Slicer
# does not look.
if importlib.util.find_spec("SparseUNet3DLib") is None:
    sys.path.append(str(Path(__file__).resolve().parent.parent.parent))
