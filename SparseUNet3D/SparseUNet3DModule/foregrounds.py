"""What lies over the volume in the slice views, lent to a volume of ours and given back."""

from __future__ import annotations

import slicer


class Foregrounds:
    """Remembers what each slice view showed as its foreground."""

    def __init__(self) -> None:
        self._lentTo = ""
        self._before: dict[str, tuple[str | None, float]] = {}

    def replace(self, volumeNode: slicer.vtkMRMLScalarVolumeNode, opacity: float) -> None:
        """Show a volume over the others in all views."""
        self.restore()
        self._lentTo = volumeNode.GetID()
        self._before = {
            view.GetID(): (view.GetForegroundVolumeID(), view.GetForegroundOpacity()) for view in _views()
        }
        slicer.util.setSliceViewerLayers(foreground=volumeNode, foregroundOpacity=opacity)

    def restore(self) -> None:
        """Show what was there before, but where the user has chosen something else meanwhile."""
        if not self._lentTo:
            return
        scene = slicer.mrmlScene
        isDeleted = scene.GetNodeByID(self._lentTo) is None
        for view in _views():
            shown = view.GetForegroundVolumeID()
            if shown == self._lentTo or (isDeleted and shown is None):
                volume, opacity = self._before.get(view.GetID(), (None, 0.0))
                isThere = volume is not None and scene.GetNodeByID(volume) is not None
                view.SetForegroundVolumeID(volume if isThere else None)
                view.SetForegroundOpacity(opacity)
        self.forget()

    def forget(self) -> None:
        """Give nothing back: the scene closes, and IDs mean other nodes in the next."""
        self._lentTo, self._before = "", {}


def _views() -> list[slicer.vtkMRMLSliceCompositeNode]:
    return list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
