"""What the worker is given: a folder with the volumes and the annotation, and the command line."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from SparseUNet3DLib.annotated_slices import slices_to_metadata
from SparseUNet3DLib.errors import OutputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.raw_nrrd import write_raw_nrrd
from SparseUNet3DLib.segment_records import metadata_from_segments
from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DModule.volumes import geometryOf

ANNOTATION, RESULT, CONFIDENCE = "annotation.seg.nrrd", "result.seg.nrrd", "confidence.nrrd"
MODEL, PREVIEW, CONFUSION = "model.safetensors", "preview.seg.nrrd", "errors.seg.nrrd"
CHECKPOINTS, STOP_FILE = "checkpoint", "checkpoint/stop"
#: Folder of the inputs, apart from results that a channel may have the name of.
INPUT = "input"
_ROOT = "SparseUNet3D"
#: Seconds after which what an earlier session left in the temporary folder is removed; with a model in it, which may
#: not have been saved yet.
_KEPT, _MODEL_KEPT = 7 * 24 * 3600, 60 * 24 * 3600


@dataclass(frozen=True)
class TrainingChoices:
    """How to train.

    Attributes:
        preset: name of the recipe.
        minutes: wall time for training and segmenting; None takes the preset's.
        device: "auto" or a device's name.
        scribbles: only painted voxels count.
        startFrom: a model to go on from, or None.
    """

    preset: str = "balanced"
    minutes: float | None = None
    device: str = "auto"
    scribbles: bool = False
    startFrom: Path | None = None

    def arguments(self) -> list[str]:
        """As options of the command line."""
        arguments = ["--preset", self.preset, "--device", self.device]
        if self.minutes:
            arguments += ["--minutes", f"{self.minutes:g}"]
        if self.scribbles:
            arguments.append("--scribbles")
        if self.startFrom:
            arguments += ["--start-from", str(self.startFrom)]
        return arguments


@dataclass(frozen=True)
class TrainingCase:
    """A volume with its annotation, taken out of the scene.

    Attributes:
        names: of the channels; the first is the volume's.
        channels: arrays (z, y, x), views of the nodes' voxels.
        geometry: their grid.
        painted: what is painted, on this grid.
        planes: the slices to learn from, held-out ones among them.
        heldOut: slices to validate with; None leaves the choice to the worker.
    """

    names: tuple[str, ...]
    channels: tuple[np.ndarray, ...]
    geometry: Geometry
    painted: Segmentation
    planes: tuple[Plane, ...] = ()
    heldOut: tuple[Plane, ...] | None = None


def root() -> Path:
    """The folder of all runs, in Slicer's temporary folder."""
    return Path(slicer.app.temporaryPath) / _ROOT


def newRunFolder() -> Path:
    """A new folder for a run.

    Raises:
        OutputError: it cannot be made.
    """
    folder = root() / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6:06d}"
    try:
        (folder / CHECKPOINTS).mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder '{folder}': {error.strerror}; choose another temporary folder in Slicer's "
            "application settings."
        ) from error
    return folder


def removeOldRuns() -> None:
    """Remove folders of runs that nobody has touched for a week, those with a model after 60 days."""
    for folder in root().glob("*"):
        kept = _MODEL_KEPT if (folder / MODEL).exists() else _KEPT
        if folder.is_dir() and time.time() - folder.stat().st_mtime > kept:
            shutil.rmtree(folder, ignore_errors=True)


def isNotSaved(model: Path) -> bool:
    """Whether a model lies in the folder of its run still, where `removeOldRuns` will find it."""
    return model.is_relative_to(root())


def keepLonger(model: Path) -> None:
    """Count the time until a model that was not saved is removed from now on."""
    if isNotSaved(model):
        with contextlib.suppress(OSError):
            os.utime(model.parent)


def removeWhatIsDone(folder: Path) -> None:
    """Remove from the folder of a run whose result is in the scene the copies of voxels that nobody needs any more."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".nrrd" and path.name != CONFUSION:
            with contextlib.suppress(OSError):  # removed with the folder, then
                path.unlink()


def arraysOf(volumeNodes: Sequence[slicer.vtkMRMLVolumeNode]) -> tuple[np.ndarray, ...]:
    """Voxels (z, y, x) of each node, shared with it; they outlive the node."""
    arrays = []
    for node in volumeNodes:
        image = node.GetImageData()
        arrays.append(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]))
    return tuple(arrays)


def caseFiles(names: Sequence[str], folder: Path) -> list[Path]:
    """The files that `handOver` writes: channels called ``names``, and last the annotation."""
    return [*channelFiles(names, folder), folder / ANNOTATION]


def channelFiles(names: Sequence[str], folder: Path, others: Collection[Path] = ()) -> list[Path]:
    """A file for each channel of a volume. They have the channels' names, as far as file names allow.

    The first, after which a result is named, has another name than ``others``.
    """
    stems: list[str] = []
    for name in names:
        wanted = "".join(c if _isKept(c) else "_" for c in name).strip()[:60] or "volume"
        candidates = itertools.chain([wanted], (f"{wanted} {number}" for number in itertools.count(2)))
        # "T1" and "t1" are one file on macOS and Windows.
        taken = {stem.casefold() for stem in stems or [other.stem for other in others]}
        stems.append(next(stem for stem in candidates if stem.casefold() not in taken))
    return [folder / f"{stem}.nrrd" for stem in stems]


def _isKept(character: str) -> bool:
    """Whether it may be in a file's name; on Windows SimpleITK does not find files with letters beyond ASCII."""
    return character in "-_ " or (character.isalnum() and (os.name != "nt" or character.isascii()))


def handOver(case: TrainingCase, folder: Path) -> Iterator[float]:
    """Write the volume and its annotation; yields the fraction done.

    Raises:
        OutputError: they cannot be written.
    """
    *channels, annotation = caseFiles(case.names, folder)
    yield from handOverChannels(case.channels, case.geometry, channels)
    metadata = metadata_from_segments(case.painted.segments, case.geometry.size, annotation)
    if case.planes:
        metadata |= slices_to_metadata(case.planes, case.heldOut)
    yield from write_raw_nrrd(annotation, case.painted.labels, case.geometry, metadata)


def handOverChannels(
    channels: Sequence[np.ndarray], geometry: Geometry, files: Sequence[Path]
) -> Iterator[float]:
    """Write the voxels of a volume; yields the fraction done."""
    files[0].parent.mkdir(exist_ok=True)
    for number, (array, file) in enumerate(zip(channels, files, strict=True)):
        for fraction in write_raw_nrrd(file, array, geometry):
            yield (number + fraction) / len(channels)


def densifyArguments(names: Sequence[str], folder: Path, choices: TrainingChoices, resume: bool) -> list[str]:
    """Command line for one volume with channels called ``names``: learn from its slices and segment all of it."""
    *channels, annotation = caseFiles(names, folder / INPUT)
    arguments = ["densify", *map(str, channels), "--annotation", str(annotation), "--output", str(folder / RESULT)]
    arguments += ["--confidence", str(folder / CONFIDENCE), "--model", str(folder / MODEL)]
    arguments += ["--preview", str(folder / PREVIEW), "--confusion", str(folder / CONFUSION)]
    arguments += ["--run-folder", str(folder / CHECKPOINTS), "--uncompressed", "--overwrite"]
    return [*arguments, *choices.arguments(), "--resume" if resume else "--restart"]


def trainArguments(cases: Sequence[TrainingCase], folder: Path, choices: TrainingChoices) -> list[str]:
    """Command line for training on several volumes."""
    arguments = ["train", "--output", str(folder / MODEL), "--run-folder", str(folder / CHECKPOINTS), "--overwrite"]
    for number, case in enumerate(cases):
        arguments += ["--case", *map(str, caseFiles(case.names, folder / str(number)))]
    return [*arguments, *choices.arguments(), "--restart"]


def segmentArguments(
    model: Path, volumes: Sequence[Sequence[Path]], output: Path, device: str, confidence: bool, compress: bool
) -> list[str]:
    """Command line for applying a model to volumes, each a list of channel files, into the folder ``output``."""
    arguments = ["segment", str(model), "--output-folder", str(output), "--device", device]
    for files in volumes:
        arguments += ["--case", *map(str, files)]
    return arguments + ["--confidence"] * confidence + ["--uncompressed"] * (not compress)


def geometryAndArrays(volumeNodes: Sequence[slicer.vtkMRMLVolumeNode]) -> tuple[Geometry, tuple[np.ndarray, ...]]:
    """Grid and voxels of the channels of one volume."""
    return geometryOf(volumeNodes[0]), arraysOf(volumeNodes)
