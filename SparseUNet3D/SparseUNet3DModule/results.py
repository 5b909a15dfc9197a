"""Arrays that the worker made, as nodes that lie exactly on the volume: segmentations and confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from SparseUNet3DLib.segments import Segment
from SparseUNet3DModule.volumes import directionsOf

#: Attribute of a segmentation that was filled by a result: what is on its slices was not painted one by one.
_IS_DENSE = "SparseUNet3D.IsDense"
CONFIDENCE_COLORS = "vtkMRMLColorTableNodeFileViridis.txt"


def showLabels(
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    labels: np.ndarray,
    segments: Sequence[Segment],
    volumeNode: slicer.vtkMRMLVolumeNode,
) -> None:
    """Fill the node with ``labels`` (z, y, x); value n becomes ``segments[n - 1]``. What it held is replaced.

    All segments share one label map, as Slicer itself stores segments that do not overlap: however many there
    are, no voxel is copied.
    """
    labelmap = slicer.vtkOrientedImageData()
    _putOnGrid(labelmap, labels, volumeNode)
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation = segmentationNode.GetSegmentation()
    with slicer.util.NodeModify(segmentationNode):
        segmentation.RemoveAllSegments()
        segmentation.SetSourceRepresentationName(representation)
        for number, description in enumerate(segments, start=1):
            segment = slicer.vtkSegment()
            segment.SetName(description.name)
            segment.SetColor(*description.color)
            for key, value in description.tags.items():
                segment.SetTag(key, value)
            segment.SetLabelValue(number)
            segment.AddRepresentation(representation, labelmap)
            segmentation.AddSegment(segment, description.id)
        layOn(volumeNode, segmentationNode)


def markDense(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Remember that the segmentation was filled by a result."""
    segmentationNode.SetAttribute(_IS_DENSE, "1")


def isDense(segmentationNode: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the segmentation was filled by a result once."""
    return segmentationNode.GetAttribute(_IS_DENSE) is not None


def newSegmentation(name: str, volumeNode: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """An empty segmentation node on the volume's grid, beside it in the subject hierarchy."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    node.CreateDefaultDisplayNodes()
    layOn(volumeNode, node)
    placeBeside(node, volumeNode)
    return node


def layOn(volumeNode: slicer.vtkMRMLVolumeNode, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Give a segmentation the volume's transform and its grid."""
    # The grid last: it is the volume's as seen from where the segmentation lies.
    segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)


def volumeOf(segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> slicer.vtkMRMLVolumeNode | None:
    """The volume that a segmentation made by `newSegmentation` lies on; None where it is gone or has no voxels."""
    if segmentationNode is None:
        return None
    volume = segmentationNode.GetNodeReference(segmentationNode.GetReferenceImageGeometryReferenceRole())
    return volume if volume is not None and volume.GetImageData() is not None else None


def newConfidence(
    name: str, confidence: np.ndarray, volumeNode: slicer.vtkMRMLVolumeNode
) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume node of ``confidence`` (z, y, x) in percent."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    image = vtk.vtkImageData()
    _fill(image, confidence)
    node.SetAndObserveImageData(image)
    node.SetSpacing(volumeNode.GetSpacing())
    node.SetOrigin(volumeNode.GetOrigin())
    node.SetIJKToRASDirectionMatrix(directionsOf(volumeNode))
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(CONFIDENCE_COLORS)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0, 100)
    placeBeside(node, volumeNode)
    return node


def placeBeside(node: slicer.vtkMRMLNode, sibling: slicer.vtkMRMLNode) -> None:
    """Put ``node`` where ``sibling`` is in the subject hierarchy (the same patient's study, or folder)."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    if hierarchy is None:
        return
    parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(sibling))
    if parent:
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), parent)


def _putOnGrid(
    labelmap: slicer.vtkOrientedImageData, array: np.ndarray, volumeNode: slicer.vtkMRMLVolumeNode
) -> None:
    _fill(labelmap, array)
    # One by one: taking a matrix apart again would round.
    labelmap.SetSpacing(volumeNode.GetSpacing())
    labelmap.SetOrigin(volumeNode.GetOrigin())
    labelmap.SetDirectionMatrix(directionsOf(volumeNode))


def _fill(image: vtk.vtkImageData, array: np.ndarray) -> None:
    """Give ``image`` the voxels of ``array`` (z, y, x) without copying them; VTK keeps the array alive."""
    scalars = numpy_to_vtk(np.ascontiguousarray(array).reshape(-1), deep=False)
    scalars.SetName("ImageScalars")
    image.SetDimensions(*reversed(array.shape))
    image.GetPointData().SetScalars(scalars)
