"""Prepare a sparse-slice task for the command line: write the true segments, print the slices to annotate.

    .venv/bin/python Testing/Benchmarks/prepare_task.py DATA TASK OUT.seg.nrrd [sparse|main|rich]

DATA is the folder of the volumes, TASK one of those in sparse_tasks.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sparse_tasks import TASKS, load_task

from SparseUNet3DLib.geometry import AXIS_NAMES
from SparseUNet3DLib.segmentation_files import write_segmentation


def main() -> None:
    """Write the segments and print the options for ``sparse-unet3d densify``."""
    data, name, target, *setting = sys.argv[1:]
    case, truth = load_task(TASKS[name], Path(data), setting[0] if setting else "main")
    write_segmentation(truth, target)
    print(" ".join(f"--slices {AXIS_NAMES[p.axis]}:{p.index}" for p in case.annotation.planes))


if __name__ == "__main__":
    main()
