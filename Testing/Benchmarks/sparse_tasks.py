"""The tasks that recipes and tools are compared on: real volumes of which a few whole slices are annotated.

Each volume lies in a folder of its own, as ``image.nrrd`` and ``labels.nrrd``: those of `package_volumes.py` are
fetched from PyPI, the others' sources are in BENCHMARKS.md. Every voxel of an annotated slice has its true class,
background included, as in Çiçek et al. (MICCAI 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SparseUNet3DLib.annotation import from_planes
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.volumes import Volume, read_volume

COLORS = ((0.9, 0.6, 0.2), (0.3, 0.6, 0.9), (0.5, 0.8, 0.4), (0.8, 0.4, 0.7), (0.9, 0.9, 0.4), (0.4, 0.8, 0.8))
#: Number of annotated (yz, xz, xy) slices.
SETTINGS = {"sparse": (1, 1, 1), "main": (3, 3, 2), "rich": (5, 5, 3)}


@dataclass(frozen=True)
class SparseTask:
    """What is to be segmented in which volume.

    Attributes:
        folder: name of the volume's folder.
        segments: name of each segment to the label values that make it up, as ``parse_codes`` takes them;
            "instances" stands for all labels, "boundary" for the voxels between two of them.
        untouched: nothing about this program was chosen by how it does on this volume.
    """

    folder: str
    segments: dict[str, str]
    untouched: bool = False


_TUMOUR = {"core": "1,3,4", "oedema": "2"}
TASKS = {
    "spine-ct": SparseTask("spine-ct", {"vertebral body": "49,50", "posterior elements": "41-48"}),
    "spine-mr": SparseTask(
        "spine-mr",
        {"vertebral body": "49,50,62", "disc": "100", "spinal canal": "60,61", "posterior elements": "41-48"},
    ),
    "chest-ct": SparseTask("chest-ct", {"right lung": "5", "left lung": "6", "vertebrae": "2-4", "ribs": "1"}),
    "nuclei": SparseTask("nuclei-1135", {"nucleus": "instances"}),
    "neuron-boundary": SparseTask("neurons-train", {"boundary": "boundary"}),
    "tumour": SparseTask("tumour-5", _TUMOUR),
    "nuclei-small": SparseTask("nuclei-stardist", {"nucleus": "instances"}, untouched=True),
    **{f"tumour-{n}": SparseTask(f"tumour-{n}", _TUMOUR, untouched=True) for n in (1, 2, 6)},
}


def tasks_in(data: Path) -> list[str]:
    """Names of the tasks whose volume is in the folder ``data``."""
    return [name for name, task in TASKS.items() if (data / task.folder / "labels.nrrd").exists()]


def load_task(task: SparseTask, data: Path, setting: str) -> tuple[Case, Segmentation]:
    """The sparsely annotated case, and the dense truth."""
    volume = read_volume(data / task.folder / "image.nrrd")
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(data / task.folder / "labels.nrrd")))
    truth = group_labels(values, task.segments, volume)
    return Case(volume, from_planes(truth, spread_planes(truth.labels, SETTINGS[setting]))), truth


def group_labels(values: np.ndarray, segments: dict[str, str], volume: Volume) -> Segmentation:
    """Segments made of the label ``values`` (z, y, x) named for each."""
    labels = np.zeros(values.shape, np.uint16)
    for number, codes in enumerate(segments.values(), start=1):
        if codes == "instances":
            chosen = values > 0
        elif codes == "boundary":
            chosen = _boundary(values)
        else:
            chosen = np.isin(values, parse_codes(codes))
        labels[chosen] = number
    listed = tuple(
        Segment(name.replace(" ", "_"), name, COLORS[n % len(COLORS)]) for n, name in enumerate(segments)
    )
    return Segmentation(labels, listed, volume.geometry)


def parse_codes(text: str) -> list[int]:
    """Label values of "41-48" or "49,50"."""
    codes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        codes += range(int(first), int(last or first) + 1)
    return codes


def spread_planes(labels: np.ndarray, counts: tuple[int, int, int]) -> list[Plane]:
    """(yz, xz, xy) many planes, spread evenly within the bounding box of all that is labelled."""
    planes = []
    for axis, n in enumerate(reversed(counts)):
        hit = np.flatnonzero((labels > 0).any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = int(hit[0]), int(hit[-1]) + 1
        chosen = {min(high - 1, low + (i + 1) * (high - low) // (n + 1)) for i in range(n)}
        planes += [Plane(axis, index) for index in sorted(chosen)]
    return planes


def _boundary(values: np.ndarray) -> np.ndarray:
    """Voxels without label, or with a face neighbour of another label."""
    boundary = values == 0
    for axis in range(values.ndim):
        first, second = (
            tuple(part if a == axis else slice(None) for a in range(values.ndim))
            for part in (slice(None, -1), slice(1, None))
        )
        differs = values[first] != values[second]
        boundary[first] |= differs
        boundary[second] |= differs
    return boundary
