"""Between slice views and array planes: which slice a view shows, and how to go to one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import slicer
import vtk

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DModule.volumes import ijkToWorld

#: Share of a voxel by which a view may be tilted across the volume and still count as showing one slice.
_TILT = 0.5


def sliceNodes() -> list[slicer.vtkMRMLSliceNode]:
    """The nodes of the slice views that the layout shows."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return []
    nodes = [manager.sliceWidget(name).mrmlSliceNode() for name in manager.sliceViewNames()]
    # The manager keeps those of former layouts, too; and while a scene is closed, none counts as shown.
    return [node for node in nodes if node.IsMappedInLayout()] or nodes


def viewUnderMouse() -> str:
    """Name of the slice view that the mouse is in; "" where it is in none."""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    node = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0]) if crosshair is not None else None
    return node.GetName() if node is not None else ""


class ViewFollower:
    """Tells which slice view was moved last: that is the one that the user looks at.

    Where the mouse is in another one, that one moved it along (with Shift, say).

    Args:
        onMoved: called with the view's name.
    """

    def __init__(self, onMoved: Callable[[str], None]) -> None:
        self._onMoved = onMoved
        self._observed: list[tuple[slicer.vtkMRMLSliceNode, int]] = []
        self._offsets: dict[str, float] = {}

    def start(self) -> None:
        """Watch all slice views."""
        self.stop()
        for node in sliceNodes():
            self._offsets[node.GetID()] = node.GetSliceOffset()
            self._observed.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onModified)))

    def stop(self) -> None:
        """Watch none."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    def _onModified(self, node: slicer.vtkMRMLSliceNode, _event: str) -> None:
        offset = node.GetSliceOffset()
        if self._offsets.get(node.GetID()) != offset:
            self._offsets[node.GetID()] = offset
            if viewUnderMouse() in ("", node.GetName()):
                self._onMoved(node.GetName())


def planeShown(sliceNode: slicer.vtkMRMLSliceNode, volumeNode: slicer.vtkMRMLVolumeNode) -> Plane:
    """The slice of the volume that a view shows.

    Raises:
        InputError: the view is tilted against the volume's slices, or shows none of them.
    """
    toIjk, column, isTilted = _inVolume(sliceNode, volumeNode)
    shape = volumeNode.GetImageData().GetDimensions()
    if isTilted:
        raise InputError(
            f"The {sliceNode.GetName()} view is tilted against the volume's slices; press 'Rotate to volume plane' in "
            "its controller, or choose another view."
        )
    index = round(float(toIjk[column, 3]))
    if not 0 <= index < shape[column]:
        raise InputError(f"The {sliceNode.GetName()} view shows no slice of '{volumeNode.GetName()}'; move it there.")
    return Plane(2 - column, index)


def turnTiltedViews(volumeNode: slicer.vtkMRMLVolumeNode) -> None:
    """Turn those slice views along the volume's slices that are tilted against them: there none can be painted."""
    for node in sliceNodes():
        if _inVolume(node, volumeNode)[2]:
            node.RotateToVolumePlane(volumeNode)


def _inVolume(
    sliceNode: slicer.vtkMRMLSliceNode, volumeNode: slicer.vtkMRMLVolumeNode
) -> tuple[np.ndarray, int, bool]:
    """From the view to voxels (4x4), the voxel axis most nearly across the view, and whether the view is tilted."""
    toIjk = np.linalg.inv(ijkToWorld(volumeNode)) @ slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())
    shape = volumeNode.GetImageData().GetDimensions()
    normal = np.cross(toIjk[:3, 0], toIjk[:3, 1])
    normal /= np.linalg.norm(normal)
    column = int(np.argmax(np.abs(normal)))
    others = [c for c in range(3) if c != column]
    drift = sum(abs(normal[c] / normal[column]) * shape[c] for c in others)
    return toIjk, column, drift > _TILT


def goTo(plane: Plane, volumeNode: slicer.vtkMRMLVolumeNode) -> None:
    """Move every slice view that runs along the plane to it."""
    column, shape = 2 - plane.axis, volumeNode.GetImageData().GetDimensions()
    middle = [(n - 1) / 2 for n in shape]
    middle[column] = plane.index
    matrix = ijkToWorld(volumeNode)
    target = (matrix @ [*middle, 1.0])[:3]
    others = [c for c in range(3) if c != column]
    normal = np.cross(matrix[:3, others[0]], matrix[:3, others[1]])
    normal /= np.linalg.norm(normal)
    alignments = [
        (abs(float(normal @ slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())[:3, 2])), node)
        for node in sliceNodes()
    ]
    best = max((alignment for alignment, _node in alignments), default=0.0)
    for alignment, node in alignments:
        if alignment > best - 0.01:
            node.JumpSliceByOffsetting(*target)
