"""slicer.app.coreIOManager(): reading and writing files through the scene's own storage nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6 import QtCore

from .implementations import implements
from .own_widgets import with_properties

# File type -> class of node, in the order of preference for a file that several can read.
_NODE_CLASSES = {
    "SegmentationFile": "vtkMRMLSegmentationNode",
    "VolumeFile": "vtkMRMLScalarVolumeNode",
    "TableFile": "vtkMRMLTableNode",
    "TransformFile": "vtkMRMLLinearTransformNode",
    "ModelFile": "vtkMRMLModelNode",
    "TextFile": "vtkMRMLTextNode",
}
_ENDINGS = {
    ".seg.nrrd": "SegmentationFile", ".seg.nhdr": "SegmentationFile", ".nrrd": "VolumeFile", ".nhdr": "VolumeFile",
    ".nii": "VolumeFile", ".nii.gz": "VolumeFile", ".mha": "VolumeFile", ".mhd": "VolumeFile", ".csv": "TableFile",
    ".tsv": "TableFile", ".h5": "TransformFile", ".tfm": "TransformFile", ".vtk": "ModelFile", ".stl": "ModelFile",
    ".txt": "TextFile", ".mrml": "SceneFile", ".mrb": "SceneFile",
}  # fmt: skip


@implements
class qSlicerCoreIOManager(with_properties(QtCore.QObject, "qSlicerCoreIOManager")):
    """Volumes, segmentations, tables, transforms, models, texts and scenes."""

    def __init__(self, scene: Any) -> None:
        super().__init__()
        self._scene = scene

    def fileType(self, name: str) -> str:
        fitting = [ending for ending in _ENDINGS if name.lower().endswith(ending)]
        return _ENDINGS[max(fitting, key=len)] if fitting else "NoFile"

    def fileWriterFileType(self, node: Any, file_format: str = "") -> str:
        return next((kind for kind, cls in _NODE_CLASSES.items() if node.IsA(cls)), "NoFile")

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any = None, messages: Any = None) -> bool:
        path = Path(properties["fileName"])
        if kind == "SceneFile":
            return self.loadScene(str(path), properties.get("clear", True))
        if kind not in _NODE_CLASSES or not path.is_file():
            return False
        class_name = _NODE_CLASSES[kind]
        if kind == "VolumeFile" and properties.get("labelmap"):
            class_name = "vtkMRMLLabelMapVolumeNode"
        name = properties.get("name") or path.name.split(".")[0]
        node = self._scene.AddNewNodeByClass(class_name, self._scene.GenerateUniqueName(name))
        if not self._storage(node, str(path)).ReadData(node):
            self._scene.RemoveNode(node)
            return False
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
        if loaded is not None:
            loaded.AddItem(node)
        return True

    def loadScene(self, name: str, clear: bool = True, messages: Any = None) -> bool:
        if name.endswith(".mrb"):
            return bool(self._scene.ReadFromMRB(name, clear))
        self._scene.SetURL(name)
        return bool(self._scene.Connect() if clear else self._scene.Import())

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None, scene: Any = None) -> bool:
        name = str(properties["fileName"])
        if kind == "SceneFile":
            return bool(self._scene.WriteToMRB(name) if name.endswith(".mrb") else self._scene.Commit(name))
        node = self._scene.GetNodeByID(properties["nodeID"])
        return bool(self._storage(node, name).WriteData(node))

    def addDefaultStorageNodes(self) -> None:
        for index in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(index)
            if node.IsA("vtkMRMLStorableNode"):
                node.AddDefaultStorageNode()

    def _storage(self, node: Any, path: str) -> Any:
        node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        return storage


@implements
class qSlicerIOManager(qSlicerCoreIOManager):
    """The same in an application with windows."""
