"""``python -m SparseUNet3DLib`` is the same as the command ``sparse-unet3d``."""

from __future__ import annotations

import sys

from SparseUNet3DLib.command_line import main

if __name__ == "__main__":
    sys.exit(main())
