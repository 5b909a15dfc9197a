"""The section "Data": volume, further channels, annotation, sample."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SparseUNet3DLib.errors import SparseUNetError
from SparseUNet3DModule import declared_slices
from SparseUNet3DModule.navigation import turnTiltedViews
from SparseUNet3DModule.results import layOn
from SparseUNet3DModule.sample_data import loadSample
from SparseUNet3DModule.volumes import checkChannels

#: Attribute of an annotation that got its name and its grid here.
_IS_SET_UP = "SparseUNet3D.IsSetUp"


class DataSection:
    """Chooses what to work on, and says at once when it does not fit together."""

    def __init__(self, panel: Any) -> None:
        self._panel, self._ui = panel, panel.ui
        self._updating, self._isRemoving = False, False
        ui = self._ui
        ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onVolume)
        ui.channelSelector.connect("checkedNodesChanged()", self._onChannels)
        ui.annotationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onAnnotation)
        # In Qt 6 nodes of the same name are exchanged without a change of the current one.
        ui.volumeSelector.connect("nodeActivated(vtkMRMLNode*)", self._onVolume)
        ui.annotationSelector.connect("nodeActivated(vtkMRMLNode*)", self._onAnnotation)
        for selector in (ui.volumeSelector, ui.annotationSelector):
            selector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", self._onAboutToBeRemoved)
        ui.annotationSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._onAnnotationAdded)
        ui.sampleButton.connect("clicked()", self._onSample)

    def enter(self) -> None:
        """Take the volume that the user looks at, if none is chosen."""
        parameters = self._panel.parameters
        if parameters is None or parameters.volume is not None or self._panel.isBusy:
            return
        node = _shownVolume()
        if node is not None:
            parameters.volume = node
            declared_slices.recall(parameters)
            if node.GetImageData() is not None:
                turnTiltedViews(node)

    def update(self) -> None:
        """Show the parameters."""
        parameters, ui = self._panel.parameters, self._ui
        for widget in (ui.volumeSelector, ui.channelSelector, ui.annotationSelector, ui.sampleButton):
            widget.enabled = parameters is not None and not self._panel.isBusy
        if parameters is None:
            return
        self._updating = True
        ui.volumeSelector.setCurrentNode(parameters.volume)
        ui.annotationSelector.setCurrentNode(parameters.annotation)
        checked = {node.GetID() for node in parameters.furtherChannels if node is not None}
        for n in range(ui.channelSelector.nodeCount()):
            node = ui.channelSelector.nodeFromIndex(n)
            isMain = node is parameters.volume
            (ui.channelSelector.check if node.GetID() in checked and not isMain else ui.channelSelector.uncheck)(node)
        self._updating = False
        ui.dataMessage.text = self.problem()
        ui.dataMessage.visible = bool(ui.dataMessage.text)

    def problem(self) -> str:
        """What keeps the chosen volumes from being used, in one sentence; "" if nothing does."""
        channels = self._panel.channels()
        if not channels:
            return ""
        try:
            checkChannels(channels)
        except SparseUNetError as error:
            return str(error)
        return ""

    def _isIgnored(self) -> bool:
        """Whether a selector changes by itself, and not because the user wants it."""
        return self._updating or self._isRemoving or self._panel.isImporting or self._panel.parameters is None

    def _onAboutToBeRemoved(self, node: slicer.vtkMRMLNode) -> None:
        """A selector leaves a node that is removed for another one; what was chosen shall be nothing instead."""
        parameters = self._panel.parameters
        if parameters is not None and node in (parameters.volume, parameters.annotation):
            declared_slices.keep(parameters)
            self._isRemoving = True
            qt.QTimer.singleShot(0, self._onRemoved)

    def _onRemoved(self) -> None:
        self._isRemoving = False
        self._panel.update()

    def _onVolume(self, node: slicer.vtkMRMLNode | None) -> None:
        if self._isIgnored():
            return
        parameters = self._panel.parameters
        isOther = node is not parameters.volume
        declared_slices.keep(parameters)
        if parameters.volume is not None and node not in self._panel.channels():
            parameters.furtherChannels = []  # those of the former volume, of another patient perhaps
        parameters.volume = node
        declared_slices.recall(parameters)
        if node is not None and node.GetImageData() is not None:
            slicer.util.setSliceViewerLayers(background=node)
            if isOther:
                turnTiltedViews(node)

    def _onChannels(self) -> None:
        if self._isIgnored():
            return
        parameters = self._panel.parameters
        checked = [n for n in self._ui.channelSelector.checkedNodes() if n is not parameters.volume]
        # In the order in which they were checked, which a model may want; the selector has the scene's.
        kept = [n for n in parameters.furtherChannels if n in checked]
        parameters.furtherChannels = [*kept, *(n for n in checked if n not in kept)]

    def _onAnnotation(self, node: slicer.vtkMRMLNode | None) -> None:
        if self._isIgnored():
            return
        parameters = self._panel.parameters
        declared_slices.keep(parameters)
        parameters.annotation = node
        declared_slices.recall(parameters)

    def _onAnnotationAdded(self, node: slicer.vtkMRMLNode) -> None:
        """A new annotation lies on the volume's grid.

        Slicer before 5.11 tells twice of a new node; the user's own name for it comes in between. The segment editor
        shows the node by then, and may have taken a grid for it, before it moves with the volume.
        """
        if node.GetAttribute(_IS_SET_UP):
            return
        volume = self._panel.parameters.volume if self._panel.parameters is not None else None
        if volume is None or volume.GetImageData() is None:
            return
        node.SetName(slicer.mrmlScene.GenerateUniqueName(_("{name} annotation").format(name=volume.GetName())))
        node.SetAttribute(_IS_SET_UP, "1")
        node.CreateDefaultDisplayNodes()
        layOn(volume, node)

    def _onSample(self) -> None:
        self._ui.sampleButton.enabled = False
        *channels, annotation = loadSample()
        parameters = self._panel.parameters
        if parameters is None:
            return
        declared_slices.keep(parameters)
        parameters.volume = channels[0]
        parameters.furtherChannels = channels[1:]
        parameters.annotation = annotation
        declared_slices.recall(parameters)
        slicer.util.setSliceViewerLayers(background=channels[0], fit=True)
        self._panel.update()


def _shownVolume() -> Any:
    """The volume in the slice views' background, if it is one of gray values; or else the only one that there is."""
    kind = "vtkMRMLScalarVolumeNode"  # of which label maps and colour images are a kind, too
    volumes = {n.GetID(): n for n in slicer.util.getNodesByClass(kind) if n.GetClassName() == kind}
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetBackgroundVolumeID() in volumes:
            return volumes[composite.GetBackgroundVolumeID()]
    return next(iter(volumes.values())) if len(volumes) == 1 else None
