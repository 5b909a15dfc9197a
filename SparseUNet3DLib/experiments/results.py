"""What an experiment leaves behind besides its table: the segmentations, and the poster's picture of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.evaluation import CONFUSION_SEGMENTS, confusion, match_segments
from SparseUNet3DLib.experiments.cells import painted, scored_voxels
from SparseUNet3DLib.experiments.dataset import name_in_files
from SparseUNet3DLib.experiments.protocols import Run
from SparseUNet3DLib.pictures import Column, write_panels
from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segmentation


def segmentation_path(folder: Path, protocol: str, run: Run, volume: str) -> Path:
    """Where the segmentation of a test volume is kept."""
    parts = dict.fromkeys([protocol, run.row, run.column, volume])
    return folder / (name_in_files("-".join(parts).replace("w/o", "without")) + ".seg.nrrd")


def write_found(folder: Path, protocol: str, run: Run, found: dict[str, Segmentation]) -> None:
    """Write the segmentation of each test volume, by name; a picture of a former one is removed.

    Raises:
        OutputError: one cannot be written.
    """
    for name, segmentation in found.items():
        path = segmentation_path(folder, protocol, run, name)
        _picture(path).unlink(missing_ok=True)
        write_segmentation(segmentation, path)


def copy_found(folder: Path, protocol: str, made: Run, same: Run) -> None:
    """Write what ``made`` has found under the name of ``same``, which learns from the same slices.

    Raises:
        InputError: a segmentation of ``made`` has been damaged.
        OutputError: one cannot be written.
    """
    for name in same.test:
        source, target = (segmentation_path(folder, protocol, run, name) for run in (made, same))
        if source.exists():
            write_found(folder, protocol, same, {name: read_segmentation(source)})
        else:  # it was removed: what is there under the other name is of other settings
            target.unlink(missing_ok=True)
            _picture(target).unlink(missing_ok=True)


def draw_missing(folder: Path, protocol: str, run: Run, cases: dict[str, Case]) -> None:
    """The poster's picture of each test volume whose segmentation is there and has none yet.

    Image, segmentation, and what is right and wrong of it on the test slices.

    Raises:
        OutputError: a picture cannot be written.
    """
    for name in run.test:
        path = segmentation_path(folder, protocol, run, name)
        if path.exists() and not _picture(path).exists():
            _draw(_picture(path), run, name, cases[name], read_segmentation(path))


def _picture(segmentation: Path) -> Path:
    return segmentation.with_name(segmentation.name.removesuffix(".seg.nrrd") + ".png")


def _draw(path: Path, run: Run, name: str, case: Case, found: Segmentation) -> None:
    where = scored_voxels(run, name, case)
    labels, true_labels, _ = match_segments(found, painted(case))
    verdict = confusion(labels, true_labels, where)
    planes = []
    for axis, n in enumerate(where.shape):
        tested = [p for p in run.test[name] if p.axis == axis]
        fullest = max(tested, key=lambda p: np.count_nonzero(true_labels[p.voxels]), default=None)
        planes.append(n // 2 if fullest is None else fullest.index)
    write_panels(
        path, case.volume.array, case.volume.geometry,
        [Column("image"), Column("segmentation", found.labels, found.segments),
         Column("right and wrong", verdict, CONFUSION_SEGMENTS)],
        planes,
    )
