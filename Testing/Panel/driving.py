"""The panel as a user drives it: small volumes, painting, clicking, waiting."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (24, 32, 32)
SPACING = (1.0, 1.0, 1.5)
#: Axial slices that tests paint.
PAINTED = (4, 8, 12, 16, 20)
#: A budget in minutes that is enough for some steps on small volumes.
MINUTES = 0.03
NAMES = ("ball", "core")


def denseLabels(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """An ellipsoid (1) with a core (2), (z, y, x)."""
    z, y, x = (np.indices(shape)[n] / shape[n] - 0.5 for n in range(3))
    distance = np.sqrt((z / 0.42) ** 2 + (y / 0.38) ** 2 + (x / 0.35) ** 2)
    return (distance < 1).astype(np.uint8) + (distance < 0.5)


def grayValues(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """An image in which both structures can be told."""
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return np.choose(denseLabels(shape), [40, 120, 200]).astype(np.int16) + noise.astype(np.int16)


def addVolume(
    name: str = "CT", array: np.ndarray | None = None, direction: np.ndarray | None = None, nodeClass: str = ""
) -> Any:
    """A volume node; ``direction`` is 3x3 in RAS."""
    node = slicer.mrmlScene.AddNewNodeByClass(nodeClass or "vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, grayValues() if array is None else array)
    node.SetSpacing(SPACING)
    node.SetOrigin(10.0, -20.0, 30.0)
    matrix = np.eye(3) if direction is None else direction
    node.SetIJKToRASDirections(matrix.tolist())
    node.CreateDefaultDisplayNodes()
    return node


def addAnnotation(volume: Any, planes: tuple[int, ...] = PAINTED, names: tuple[str, ...] = NAMES) -> Any:
    """A segmentation node in which the structures are painted on axial slices."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "painted")
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for number, name in enumerate(names, start=1):
        identifier = node.GetSegmentation().AddEmptySegment("", name)
        paint(node, identifier, volume, number, planes)
    return node


def gridOf(annotation: Any) -> str:
    """The grid on which an annotation is painted, as Slicer writes it."""
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    return annotation.GetSegmentation().GetConversionParameter(parameter)


def paint(annotation: Any, identifier: str, volume: Any, number: int, planes: tuple[int, ...]) -> None:
    """Paint structure ``number`` on these axial slices, as an effect of the segment editor would."""
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(annotation, identifier, volume)
    mask = np.zeros(SHAPE, np.uint8) if mask is None else mask.copy()
    for plane in planes:
        mask[plane] = denseLabels()[plane] == number
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, annotation, identifier, volume)


def labelsOf(node: Any, volume: Any) -> np.ndarray:
    """(z, y, x) labels of a segmentation node on the volume, by the real export."""
    labels = np.zeros(SHAPE, np.uint8)
    for n in range(node.GetSegmentation().GetNumberOfSegments()):
        identifier = node.GetSegmentation().GetNthSegmentID(n)
        labels[slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0] = n + 1
    return labels


def iou(found: np.ndarray, truth: np.ndarray, label: int) -> float:
    """Intersection over union of one label."""
    union = np.count_nonzero((found == label) | (truth == label))
    return np.count_nonzero((found == label) & (truth == label)) / union


def makeLauncher(folder: Path, before: str = "") -> None:
    """A `PythonSlicer` in ``folder`` that starts the real Python as a child of its own, as Slicer's does."""
    script = folder / "PythonSlicer"
    # Small networks gain nothing from several threads, and busy machines lose a lot.
    script.write_text(
        f'#!/bin/sh\nexport OMP_NUM_THREADS=1\n{before}\n"{sys.executable}" "$@"\ncode=$?\n'
        "[ $code -lt 128 ] && exit $code\n"  # of one that was killed it says only this
        f'echo "error: [{sys.executable}] exit abnormally - Report the problem." >&2\nexit 1\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def isAlive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or read
        return False


def translation(x: float, y: float, z: float) -> Any:
    """A linear transform node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    for row, value in enumerate((x, y, z)):
        matrix.SetElement(row, 3, value)
    node.SetMatrixTransformToParent(matrix)
    return node


def nodeNames(kind: str) -> list[str]:
    """Names of all nodes of a class."""
    return [node.GetName() for node in slicer.util.getNodesByClass(kind)]


def pathWith(folder: Path) -> str:
    """PATH with ``folder`` first."""
    return os.pathsep.join([str(folder), os.environ.get("PATH", "")])


def table(panel: Any) -> list[tuple[str, ...]]:
    """Texts of the table of slices."""
    widget = panel.ui.sliceTable
    return [tuple(widget.item(r, c).text() for c in range(3)) for r in range(widget.rowCount)]
