"""Volume nodes as the engine needs them: their voxels, their grid, and whether they can be used at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.geometry import Geometry

#: RAS (Slicer) and LPS (ITK and the engine) differ in the sign of the first two axes.
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def geometryOf(volumeNode: slicer.vtkMRMLVolumeNode) -> Geometry:
    """The voxel grid of a volume, without its parent transform."""
    directions = slicer.util.arrayFromVTKMatrix(directionsOf(volumeNode))[:3, :3]
    origin = _RAS_TO_LPS @ np.array(volumeNode.GetOrigin())
    return Geometry(
        tuple(volumeNode.GetImageData().GetDimensions()),
        tuple(volumeNode.GetSpacing()),
        tuple(float(o) for o in origin),
        tuple(float(d) for d in (_RAS_TO_LPS @ directions).ravel()),
    )


def directionsOf(volumeNode: slicer.vtkMRMLVolumeNode) -> vtk.vtkMatrix4x4:
    """The directions of the voxel axes in RAS."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASDirectionMatrix(matrix)
    return matrix


def ijkToWorld(volumeNode: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """4x4 matrix from voxel (i, j, k, 1) to world (R, A, S, 1); a warping parent transform is left out."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    parent = volumeNode.GetParentTransformNode()
    if parent is not None and parent.IsTransformToWorldLinear():
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def geometryOfLabelmap(labelmap: slicer.vtkOrientedImageData) -> Geometry:
    """The voxel grid of an oriented image, from the first voxel of its extent on."""
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetDirectionMatrix(matrix)
    directions = slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
    extent, spacing = labelmap.GetExtent(), np.array(labelmap.GetSpacing())
    first = np.array(labelmap.GetOrigin()) + directions @ (spacing * np.array(extent[::2]))
    return Geometry(
        tuple(labelmap.GetDimensions()),
        tuple(float(s) for s in spacing),
        tuple(float(o) for o in _RAS_TO_LPS @ first),
        tuple(float(d) for d in (_RAS_TO_LPS @ directions).ravel()),
    )


def checkChannels(volumeNodes: Sequence[slicer.vtkMRMLVolumeNode]) -> Geometry:
    """The grid that all channels share.

    Raises:
        InputError: there is none, one has no voxels, several components or a time axis, or the grids differ.
    """
    if not volumeNodes:
        raise InputError("No volume is chosen; choose one under 'Volume'.")
    for node in volumeNodes:
        _checkChannel(node)
    first = geometryOf(volumeNodes[0])
    for node in volumeNodes[1:]:
        geometry = geometryOf(node)
        if not geometry.same_grid(first):
            raise InputError(
                f"The channels lie on different voxel grids: '{volumeNodes[0].GetName()}' has {first.describe()}, "
                f"'{node.GetName()}' has {geometry.describe()}; resample one onto the other (module Resample Image), "
                "or untick it under 'Further channels'."
            )
        if node.GetTransformNodeID() != volumeNodes[0].GetTransformNodeID():
            raise InputError(
                f"'{node.GetName()}' and '{volumeNodes[0].GetName()}' have different parent transforms, so that their "
                "voxels do not lie on each other; give them the same one, or none (module Transforms)."
            )
    return first


def _checkChannel(node: slicer.vtkMRMLVolumeNode) -> None:
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise InputError(f"The volume '{node.GetName()}' has no voxels; load it, or choose another.")
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            f"'{node.GetName()}' has {components} values per voxel (a vector or colour volume); split it into scalar "
            "volumes (module Vector to Scalar Volume) and choose those as channels."
        )
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForProxyNode(node)
    if browser is not None:
        raise InputError(
            f"'{node.GetName()}' shows one frame of the sequence '{browser.GetName()}' and changes with it; clone the "
            "volume in the Data module and choose the copy."
        )
