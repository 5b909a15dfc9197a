"""What the user chose: kept in the scene, so that it is saved and closed with it."""

from __future__ import annotations

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class SparseUNet3DParameters:
    """The module's parameter node.

    Attributes:
        volume: the volume to segment, and the first channel.
        furtherChannels: more channels on the same grid.
        annotation: what the user paints.
        completeSlices: slices ("z:10") declared complete, besides those that are found.
        sliceUse: slice to "train", "held out" or "ignore", where the user chose.
        scribbles: only painted voxels count, not whole slices.
        preset: name of the recipe.
        minutes: time budget; 0 takes the preset's.
        device: "auto", or a device's name.
        result: the latest dense segmentation.
        confidence: its confidence in percent.
        modelPath: the latest model's file.
        runFolder: folder of the latest run.
        resultFolder: folder of the run that brought the result.
        heldOutIou: segment to IoU on the held-out slices of the latest run.
    """

    volume: vtkMRMLScalarVolumeNode
    furtherChannels: list[vtkMRMLScalarVolumeNode]
    annotation: vtkMRMLSegmentationNode
    completeSlices: list[str]
    sliceUse: dict[str, str]
    scribbles: bool = False
    preset: str = "balanced"
    minutes: float = 0.0
    device: str = "auto"
    result: vtkMRMLSegmentationNode
    confidence: vtkMRMLScalarVolumeNode
    modelPath: str = ""
    runFolder: str = ""
    resultFolder: str = ""
    heldOutIou: dict[str, float]
