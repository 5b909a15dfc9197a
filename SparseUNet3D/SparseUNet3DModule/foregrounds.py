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
        for view in _views():
            if self._lentTo and view.GetForegroundVolumeID() in (self._lentTo, None):
                volume, opacity = self._before.get(view.GetID(), (None, 0.0))
                view.SetForegroundVolumeID(volume)
                view.SetForegroundOpacity(opacity)
        self.forget()

    def forget(self) -> None:
        """Give nothing back: the scene closes, and IDs mean other nodes in the next."""
        self._lentTo, self._before = "", {}


def _views() -> list[slicer.vtkMRMLSliceCompositeNode]:
    return list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
