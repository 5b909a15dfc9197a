"""The sample: three channels of generated kidney tubules with a few slices annotated."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from SparseUNet3DLib.segments import Segmentation
from SparseUNet3DModule.background import Background
from SparseUNet3DModule.results import newSegmentation, showLabels

CATEGORY, SAMPLE = "Sparse U-Net 3D", "Kidney tubules, a few slices annotated"


def registerSampleData() -> None:
    """Add the sample to the Sample Data module; called when Slicer has started."""
    try:
        import SampleData
    except ModuleNotFoundError:  # the user has switched it off
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY, sampleName=SAMPLE, uris=[], fileNames=[], customDownloader=lambda _source: loadSample()
    )


def loadSample() -> list[slicer.vtkMRMLNode]:
    """Make the sample: three channel volumes and the annotation, in the scene; takes a few seconds."""
    background = Background()
    background.start(_makeSample)
    volume, annotation = background.wait()
    nodes = []
    for array, name in zip(volume.array, volume.channel_names, strict=True):
        node = slicer.util.addVolumeFromArray(array, name=slicer.mrmlScene.GenerateUniqueName(name))
        node.SetSpacing(volume.geometry.spacing)
        node.SetOrigin(volume.geometry.origin)
        nodes.append(node)
    painted = newSegmentation(_("Tubules, a few slices"), nodes[0])
    showLabels(painted, annotation.labels, annotation.segments, nodes[0])
    return [*nodes, painted]


def _makeSample() -> tuple[object, Segmentation]:
    # Here, because what it needs of SciPy takes half a second, which Slicer's start would take longer.
    from SparseUNet3DLib.phantom import make_phantom, sample_planes

    volume, truth = make_phantom()
    kept = np.zeros(truth.labels.shape, bool)
    for plane in sample_planes(truth):
        kept[plane.voxels] = True
    return volume, Segmentation(np.where(kept, truth.labels, 0).astype(np.uint8), truth.segments, truth.geometry)
