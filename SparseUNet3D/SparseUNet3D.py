"""Segment a whole volume from a few painted slices with a 3D U-Net, in 3D Slicer."""

from __future__ import annotations

import logging
import sys
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from SparseUNet3DModule import declared_slices
from SparseUNet3DModule.installation import missingPackages
from SparseUNet3DModule.logic import SparseUNet3DLogic
from SparseUNet3DModule.painted import paintedOn
from SparseUNet3DModule.panel import Panel
from SparseUNet3DModule.sample_data import loadSample, registerSampleData


class SparseUNet3D(ScriptedLoadableModule):
    """The module's entry in Slicer."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sparse U-Net 3D")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Sequences", "SubjectHierarchy", "Volumes"]
        self.parent.contributors = ["SparseUNet3D contributors"]
        self.parent.helpText = _(
            "Paint a few slices of a volume; a 3D U-Net learns from them and segments the whole volume. "
            "See the <a href=\"https://github.com/SparseUNet3D/SlicerSparseUNet3D\">documentation</a>."
        )
        self.parent.acknowledgementText = _(
            "After Çiçek et al., 3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation, MICCAI 2016."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


class SparseUNet3DWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel's life: made, shown, hidden, and told of scenes that open and close. The rest is in `Panel`."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SparseUNet3DLogic | None = None
        self.panel: Panel | None = None

    def setup(self) -> None:
        """Make the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SparseUNet3D.ui"))
        self.layout.addWidget(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SparseUNet3DLogic()
        self.panel = Panel(uiWidget, slicer.util.childWidgetVariables(uiWidget), self.logic)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndBatchProcessEvent, self.onSceneEndBatch)
        slicer.app.connect("aboutToQuit()", self.onQuit)
        self.panel.setParameters(self.logic.getParameters())

    def enter(self) -> None:
        """The user opens the module."""
        self.panel.setParameters(self.logic.getParameters())
        self.panel.enter()

    def exit(self) -> None:
        """The user goes to another module; a training goes on."""
        self.panel.exit()

    def onSceneStartClose(self, _caller: Any, _event: Any) -> None:
        """Nothing of the scene may be touched from now on."""
        self.panel.setParameters(None)
        self.logic.abandonAll()

    def onSceneEndClose(self, _caller: Any, _event: Any) -> None:
        """A new scene is there; nodes of ours come into it when the user opens the module."""
        if self.panel.isEntered:
            self.panel.setParameters(self.logic.getParameters())

    def onSceneStartImport(self, _caller: Any, _event: Any) -> None:
        """Nodes come in one by one, and selectors change with them; parameters of another scene replace these."""
        if self.panel.parameters is not None and not self.panel.isImporting:
            declared_slices.keep(self.panel.parameters)
        self.panel.isImporting = True

    def onSceneEndImport(self, _caller: Any, _event: Any) -> None:
        """All nodes are there, perhaps with another parameter node."""
        self.panel.isImporting = False
        if self.panel.isEntered or self.panel.parameters is not None:
            self.panel.setParameters(self.logic.getParameters())

    def onSceneEndBatch(self, _caller: Any, _event: Any) -> None:
        """While nodes come and go in a batch, widgets of Slicer's take none."""
        if self.panel.isEntered and not self.panel.isImporting:
            self.panel.update()

    def onQuit(self) -> None:
        """Slicer closes: leave no process behind."""
        self.logic.endAll()

    def cleanup(self) -> None:
        """The module is unloaded or reloaded."""
        if self.panel is None:  # the panel could not be made
            self.removeObservers()
            return
        slicer.app.disconnect("aboutToQuit()", self.onQuit)
        self.logic.endAll()
        self.panel.cleanup()
        self.removeObservers()

    def onReload(self) -> None:
        """Reload the packages, too: Slicer itself reloads this file only."""
        for name in [n for n in sys.modules if n.split(".")[0] in ("SparseUNet3DLib", "SparseUNet3DModule")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
        # The user is in the module still; entering twice does no harm.
        slicer.modules.SparseUNet3DWidget.enter()


class SparseUNet3DTest(ScriptedLoadableModuleTest):
    """The whole way on the sample, inside Slicer: load, densify, and find the tubules again.

    Attributes:
        minutes: time for training and segmenting, enough for any CPU of today.
        leastIou: what every segment must reach on the held-out slice.
    """

    minutes = 1.0
    leastIou = 0.4

    def runTest(self) -> None:
        """Run the test; without PyTorch only what needs none."""
        slicer.mrmlScene.Clear()
        self.test_sampleIsDensified()

    def test_sampleIsDensified(self) -> None:
        """The tubules are found on a slice that the network has not seen."""
        self.delayDisplay("Making the sample")
        *channels, annotation = loadSample()
        logic = SparseUNet3DLogic()
        if missingPackages():
            self.delayDisplay("PyTorch is not installed: only the sample and the slices were tested")
            assert not logic.annotatedSlices(channels[0], annotation).problem
            return
        self.delayDisplay("Training")
        outcome = logic.densify(channels[0], annotation, channels[1:], minutes=self.minutes)
        segmented = slicer.mrmlScene.GetNodeByID(outcome.segmentations[0])
        result = paintedOn(segmented, channels[0])
        logging.info("IoU on held-out slices: %s", outcome.heldOutIou)
        assert {s.name for s in result.segments} == {"tubule", "lumen"}
        assert len(outcome.heldOutIou) == 2 and min(outcome.heldOutIou.values()) >= self.leastIou
        self.delayDisplay("Test passed")
