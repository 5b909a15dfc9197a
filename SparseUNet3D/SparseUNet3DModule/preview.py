"""The present prediction in the slice views, while training goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from SparseUNet3DLib.errors import SparseUNetError
from SparseUNet3DLib.raw_nrrd import read_raw_nrrd
from SparseUNet3DModule.results import markDense, newSegmentation, showLabels
from SparseUNet3DModule.tasks import segmentsInFile

_PAUSE_MS = 10
_OPACITY = 0.4


class Preview:
    """A segmentation node of its own, refilled with each preview and removed with the last."""

    def __init__(self) -> None:
        self._nodeId = ""
        self._steps: Iterator[float] = iter(())
        self._arrays: list[np.ndarray] = []
        self._path, self._volumeId = Path(), ""
        self._timer = qt.QTimer()
        self._timer.setInterval(_PAUSE_MS)
        self._timer.connect("timeout()", self._tick)

    def show(self, path: Path, volumeNode: slicer.vtkMRMLVolumeNode | None) -> None:
        """Read the preview in pieces, then show it on the volume."""
        if volumeNode is None:
            return
        self._arrays = []
        self._steps = read_raw_nrrd(path, self._arrays)
        self._path, self._volumeId = path, volumeNode.GetID()
        self._timer.start()

    def remove(self) -> None:
        """Take the preview out of the scene."""
        node = slicer.mrmlScene.GetNodeByID(self._nodeId) if self._nodeId else None
        self.forget()
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)

    def forget(self) -> None:
        """Show nothing more; for a scene that closes, as IDs mean other nodes in the next."""
        self._timer.stop()
        self._steps, self._nodeId = iter(()), ""

    def _tick(self) -> None:
        try:
            next(self._steps)
        except StopIteration:
            self._timer.stop()
            self._fill()
        except (SparseUNetError, OSError):
            self._timer.stop()
            logging.exception("A preview could not be read; the next one may be")

    def _fill(self) -> None:
        volume = slicer.mrmlScene.GetNodeByID(self._volumeId)
        if volume is None or volume.GetImageData() is None or not self._arrays:
            return
        try:
            segments = segmentsInFile(self._path)
        except SparseUNetError:
            logging.exception("A preview could not be read; the next one may be")
            return
        if volume.GetImageData().GetDimensions()[::-1] != self._arrays[0].shape:
            return
        node = slicer.mrmlScene.GetNodeByID(self._nodeId) if self._nodeId else None
        if node is None:
            node = newSegmentation(_("{name} preview").format(name=volume.GetName()), volume)
            node.SetSaveWithScene(False)
            node.GetDisplayNode().SetOpacity2DFill(_OPACITY)
            self._nodeId = node.GetID()
        showLabels(node, self._arrays[0], segments, volume)
        markDense(node)
