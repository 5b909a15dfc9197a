"""Prepare a sparse-slice task from a dense label map: write the true segments, print the slices to annotate.

    .venv/bin/python Testing/Benchmarks/prepare_task.py LABELS OUT.seg.nrrd PLANES "NAME=CODES" ["NAME=CODES" ...]

PLANES is the number of (yz,xz,xy) planes, for example 3,3,2; they lie evenly within the structures' bounding box.
CODES are the label values that make up a segment, for example 41-48 or 49,50.
"""

from __future__ import annotations

import sys

import numpy as np

from SparseUNet3DLib.geometry import AXIS_NAMES
from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation

_COLORS = ((0.9, 0.6, 0.2), (0.3, 0.6, 0.9), (0.5, 0.8, 0.4), (0.8, 0.4, 0.7), (0.9, 0.9, 0.4), (0.4, 0.8, 0.8))


def main() -> None:
    """Write the segments and print the options for ``sparse-unet3d densify``."""
    source, target, planes, *definitions = sys.argv[1:]
    dense = read_segmentation(source)
    # A label map's segments are named after the values they have in the file.
    values = np.array([0, *(int(s.name.split()[-1]) for s in dense.segments)])[dense.labels]
    labels = np.zeros(values.shape, np.uint16)
    segments = []
    for number, definition in enumerate(definitions, start=1):
        name, _, codes = definition.partition("=")
        labels[np.isin(values, _parse_codes(codes))] = number
        segments.append(Segment(name.replace(" ", "_"), name, _COLORS[(number - 1) % len(_COLORS)]))
    write_segmentation(Segmentation(labels, tuple(segments), dense.geometry), target)
    counts = [int(n) for n in planes.split(",")][::-1]
    print(" ".join(_slices(labels, axis, n) for axis, n in enumerate(counts) if n))


def _parse_codes(text: str) -> list[int]:
    codes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        codes += range(int(first), int(last or first) + 1)
    return codes


def _slices(labels: np.ndarray, axis: int, n: int) -> str:
    hit = np.flatnonzero((labels > 0).any(axis=tuple(a for a in range(3) if a != axis)))
    low, high = int(hit[0]), int(hit[-1]) + 1
    chosen = sorted({min(high - 1, low + (i + 1) * (high - low) // (n + 1)) for i in range(n)})
    return f"--slices {AXIS_NAMES[axis]}:{','.join(str(c) for c in chosen)}"


if __name__ == "__main__":
    main()
