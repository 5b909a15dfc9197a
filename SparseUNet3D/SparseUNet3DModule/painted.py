"""What is painted in a segmentation node, as one label map on the volume's grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DModule.volumes import geometryOf, geometryOfLabelmap

_MOST_SEGMENTS = 65_534
TERMINOLOGY_TAG = "TerminologyEntry"


def segmentsOf(segmentationNode: slicer.vtkMRMLSegmentationNode) -> tuple[Segment, ...]:
    """The segments of a node, in their order, with names, colours and terminology.

    Raises:
        InputError: two of them have the same name, or there are too many.
    """
    segmentation = segmentationNode.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    segments = tuple(_segmentOf(identifier, segmentation.GetSegment(identifier)) for identifier in ids)
    for name, count in Counter(segment.name for segment in segments).items():
        if count > 1:
            raise InputError(f"{count} segments are named '{name}'; give each a name of its own.")
    if len(segments) > _MOST_SEGMENTS:
        raise InputError(f"There are {len(segments)} segments, more than the {_MOST_SEGMENTS} that are possible.")
    return segments


def _segmentOf(identifier: str, segment: slicer.vtkSegment) -> Segment:
    terminology = vtk.reference("")
    tags = {TERMINOLOGY_TAG: str(terminology)} if segment.GetTag(TERMINOLOGY_TAG, terminology) else {}
    return Segment(identifier, segment.GetName(), tuple(segment.GetColor()), tags)


def paintedOn(
    segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLVolumeNode
) -> Segmentation:
    """The painted labels (z, y, x) uint16 on the volume's grid; value n is the node's n-th segment.

    A copy: painting may go on. What was painted on another grid, or under another parent transform, is
    resampled to the nearest voxel as Slicer does it.

    Raises:
        InputError: segments overlap, or are no label maps, or see `segmentsOf`.
    """
    segments, geometry = segmentsOf(segmentationNode), geometryOf(volumeNode)
    labels = np.zeros(geometry.array_shape, np.uint16)
    for box, values, layer in _layers(segmentationNode, volumeNode, geometry):
        # By a table, as comparing with each value in turn takes seconds for many segments.
        table = np.zeros(int(max(layer.max(initial=0), *values)) + 1, np.uint16)
        for value, number in values.items():
            table[value] = number
        found, part = table[layer], labels[box]
        taken = (part > 0) & (found > 0) if part.any() else None
        if taken is not None and taken.any():
            _refuseOverlap(part[taken], segments[int(found[taken][0]) - 1], segments)
        np.maximum(part, found, out=part)
    return Segmentation(labels, segments, geometry)


def _layers(
    segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLVolumeNode, geometry: Geometry
) -> Iterator[tuple[tuple[slice, ...], dict[int, int], np.ndarray]]:
    """Label maps of the node: box (z, y, x) in the volume, {value: number of the segment}, voxels in the box.

    Segments that do not overlap share a label map; each is visited once.
    """
    segmentation = segmentationNode.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    sameSpace = segmentationNode.GetTransformNodeID() == volumeNode.GetTransformNodeID()
    shared: dict[vtk.vtkObject, dict[int, int]] = {}
    for n in range(segmentation.GetNumberOfSegments()):
        identifier = segmentation.GetNthSegmentID(n)
        segment = segmentation.GetSegment(identifier)
        labelmap = segment.GetRepresentation(representation)
        if labelmap is None:
            _refuseOtherForms(segmentationNode, segment)
        if labelmap is None or labelmap.IsEmpty():
            continue
        if sameSpace and geometryOfLabelmap(labelmap).offset_to(geometry) is not None:
            shared.setdefault(labelmap, {})[segment.GetLabelValue()] = n + 1
        else:
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, identifier, volumeNode)
            yield (slice(None),) * 3, {1: n + 1}, mask
    for labelmap, values in shared.items():
        inVolume, inLayer = _overlap(geometryOfLabelmap(labelmap), geometry)
        array = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(labelmap.GetDimensions()[::-1])
        yield inVolume, values, array[inLayer]


def requireLabelmap(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Make sure that voxels can be written into the segmentation.

    Raises:
        InputError: it is kept as something else, of which a label map is at most a copy.
    """
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    source = segmentationNode.GetSegmentation().GetSourceRepresentationName()
    if source != representation:
        raise InputError(_notPainted(f"'{segmentationNode.GetName()}' is", source))


def _refuseOtherForms(segmentationNode: slicer.vtkMRMLSegmentationNode, segment: slicer.vtkSegment) -> None:
    """A segment without label map is empty, unless it is a surface, say."""
    source = segmentationNode.GetSegmentation().GetSourceRepresentationName()
    if segment.GetRepresentation(source) is not None:
        raise InputError(_notPainted(f"The segment '{segment.GetName()}' is", source))


def _notPainted(what: str, form: str) -> str:
    return (
        f"{what} kept as '{form}', not as painted voxels; open it in the Segmentations module and, under "
        "'Representations', create 'Binary labelmap' and make it the source."
    )


def _overlap(part: Geometry, whole: Geometry) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices (z, y, x) of the voxels that both have, in ``whole`` and in ``part``."""
    offset = part.offset_to(whole)
    starts = [max(0, o) for o in offset]
    stops = [max(a, min(w, o + p)) for a, w, o, p in zip(starts, whole.size, offset, part.size, strict=True)]
    inWhole = [slice(a, b) for a, b in zip(starts, stops, strict=True)]
    inPart = [slice(a - o, b - o) for a, b, o in zip(starts, stops, offset, strict=True)]
    return tuple(reversed(inWhole)), tuple(reversed(inPart))


def _refuseOverlap(taken: np.ndarray, segment: Segment, segments: tuple[Segment, ...]) -> None:
    counts = np.bincount(taken)
    counts[0] = 0
    other = segments[int(np.argmax(counts)) - 1]
    raise InputError(
        f"The segments '{other.name}' and '{segment.name}' overlap in {counts.max()} voxels, but a voxel can belong to "
        "only one; subtract one from the other (Segment Editor, Logical operators), and paint with 'Modify other "
        "segments: Overwrite all'."
    )
