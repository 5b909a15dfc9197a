"""The modules slicer.i18n, sitkUtils and SampleData, as far as extensions use them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import slicer
import vtk


def i18n() -> ModuleType:
    """Texts stay as they are."""
    module = ModuleType("slicer.i18n")
    module.tr = lambda text: text
    module.translate = lambda context, text: text
    module.getContext = lambda sourceFile: ""
    return module


def sitk_utils() -> ModuleType:
    """Volumes of the scene from and to SimpleITK, whose coordinates are LPS where Slicer's are RAS."""
    import SimpleITK as sitk

    module = ModuleType("sitkUtils")
    ras_and_lps = np.diag([-1.0, -1.0, 1.0, 1.0])

    def pull(nodeObjectOrName: Any) -> Any:
        node = slicer.util.getNode(nodeObjectOrName) if isinstance(nodeObjectOrName, str) else nodeObjectOrName
        several = node.GetImageData().GetNumberOfScalarComponents() > 1
        image = sitk.GetImageFromArray(slicer.util.arrayFromVolume(node), isVector=several)
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        lps = ras_and_lps @ slicer.util.arrayFromVTKMatrix(matrix)
        image.SetSpacing(node.GetSpacing())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / node.GetSpacing()).ravel().tolist())
        return image

    def push(
        sitkimage: Any, targetNode: Any = None, name: str | None = None, className: str = "vtkMRMLScalarVolumeNode"
    ) -> Any:
        node = targetNode or slicer.mrmlScene.AddNewNodeByClass(className, name or "Volume")
        lps = np.eye(4)
        lps[:3, :3] = np.reshape(sitkimage.GetDirection(), (3, 3)) * sitkimage.GetSpacing()
        lps[:3, 3] = sitkimage.GetOrigin()
        slicer.util.updateVolumeFromArray(node, sitk.GetArrayFromImage(sitkimage))
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ras_and_lps @ lps))
        return node

    module.PullVolumeFromSlicer, module.PushVolumeToSlicer = pull, push
    return module


@dataclass
class SampleDataSource:
    """What a module says of a data set when it registers it."""

    sampleName: str | None = None
    sampleDescription: str | None = None
    uris: Any = None
    fileNames: Any = None
    nodeNames: Any = None
    customDownloader: Any = None
    thumbnailFileName: str | None = None
    loadFileTypes: Any = None
    loadFiles: Any = None
    loadFileProperties: dict[str, Any] = field(default_factory=dict)
    checksums: Any = None

    def download(self) -> Any:
        """Run the module's own downloader."""
        return self.customDownloader(self)


class SampleDataLogic:
    """Notes what is registered; nothing is downloaded but by a source's own downloader."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: dict[str, Any] | None = None,
        checksums: Any = None,
        loadFileType: Any = None,
    ) -> None:
        len(uris), len(fileNames)  # as in Slicer, None fails here
        source = SampleDataSource(
            sampleName, "", uris, fileNames, nodeNames, customDownloader, thumbnailFileName,
            loadFileTypes or loadFileType, loadFiles, loadFileProperties or {}, checksums,
        )  # fmt: skip
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        sources[:] = [other for other in sources if other.sampleName != sampleName] + [source]

    @staticmethod
    def sourceForSampleName(name: str) -> SampleDataSource | None:
        sources = [source for found in slicer.modules.sampleDataSources.values() for source in found]
        return next((source for source in sources if source.sampleName == name), None)

    def downloadSamples(self, name: str) -> Any:
        return self.sourceForSampleName(name).download()

    def logMessage(self, message: str, logLevel: int = 20) -> None:
        print(re.sub("<[^>]+>", "", message))


def sample_data() -> ModuleType:
    module = ModuleType("SampleData")
    module.SampleDataLogic, module.SampleDataSource = SampleDataLogic, SampleDataSource
    return module
