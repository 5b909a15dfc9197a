"""The row below the table of slices: the slice in view is complete, previous and next one; and their shortcuts."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SparseUNet3DLib.errors import SparseUNetError
from SparseUNet3DModule.navigation import ViewFollower, goTo, planeShown, sliceNodes, viewUnderMouse


class ViewRow:
    """Follows the slice views: what is declared complete is the slice in the one that was used last."""

    def __init__(self, panel: Any, section: Any) -> None:
        """``section`` has the ``overview`` of annotated slices."""
        self._panel, self._ui, self._section = panel, panel.ui, section
        self._shortcuts: list[Any] = []
        self._follower = ViewFollower(self._onViewMoved)
        ui = self._ui
        ui.sliceTable.connect("cellClicked(int,int)", self._onCell)
        ui.viewSelector.connect("currentIndexChanged(int)", self._onView)
        ui.completeButton.connect("clicked()", self.declareComplete)
        ui.previousButton.connect("clicked()", self.goToPrevious)
        ui.nextButton.connect("clicked()", self.goToNext)
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().connect("layoutChanged(int)", self._onLayout)

    def enter(self) -> None:
        """The module is opened: shortcuts come alive."""
        window = slicer.util.mainWindow()
        if window is not None and not self._shortcuts:
            for keys, action in (
                ("Ctrl+Return", self.declareComplete), ("Ctrl+PgUp", self.goToPrevious), ("Ctrl+PgDown", self.goToNext)
            ):
                shortcut = qt.QShortcut(qt.QKeySequence(keys), window)
                shortcut.connect("activated()", action)
                self._shortcuts.append(shortcut)
        self._followViews()

    def exit(self) -> None:
        """The module is left: nothing may react to keys or views any more."""
        self._follower.stop()
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def cleanup(self) -> None:
        """The panel is gone for ever."""
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().disconnect("layoutChanged(int)", self._onLayout)

    def update(self, isReady: bool) -> None:
        """Show the parameters; ``isReady``: there are a volume and an annotation."""
        ui = self._ui
        for widget in (ui.completeButton, ui.previousButton, ui.nextButton, ui.viewSelector):
            widget.enabled = isReady
        self._showComplete()

    def declareComplete(self) -> None:
        """The slice shown in the chosen view is annotated completely; pressed again on it, it is not.

        By the shortcut the view is the one that the mouse is in.
        """
        self.chooseViewUnderMouse()
        try:
            plane = self._planeInView()
        except SparseUNetError as error:
            self._ui.sliceMessage.text = str(error)
            return
        if plane is not None:
            parameters = self._panel.parameters
            declared = list(parameters.completeSlices)
            parameters.completeSlices = [p for p in declared if p != plane] if plane in declared else [*declared, plane]

    def chooseViewUnderMouse(self) -> None:
        """The user paints, or presses a key, in that view."""
        self._onViewMoved(viewUnderMouse())

    def goToPrevious(self) -> None:
        """Go to the previous annotated slice."""
        self._goToNeighbour(-1)

    def goToNext(self) -> None:
        """Go to the next annotated slice."""
        self._goToNeighbour(1)

    def _goToNeighbour(self, step: int) -> None:
        count = len(self._section.overview.rows)
        if not count:
            return
        row = self._ui.sliceTable.currentRow()
        row = (row + step) % count if row >= 0 else (0 if step > 0 else count - 1)
        self._ui.sliceTable.setCurrentCell(row, 0)
        self._onCell(row, 0)

    def _onCell(self, row: int, _column: int) -> None:
        rows = self._section.overview.rows
        if self._panel.channels() and not self._panel.data.problem() and row < len(rows):
            goTo(rows[row].plane, self._panel.parameters.volume)

    def _planeInView(self) -> str | None:
        """The slice shown in the chosen view ("z:10"); None where there is nothing to choose from.

        Raises:
            InputError: the view shows none.
        """
        nodes = {node.GetName(): node for node in sliceNodes()}
        node = nodes.get(self._ui.viewSelector.currentText)
        if node is None or not self._panel.channels() or self._panel.data.problem():
            return None
        return str(planeShown(node, self._panel.parameters.volume))

    def _showComplete(self) -> None:
        """Say on the button what pressing it does to the slice in view."""
        try:
            plane = self._planeInView()
        except SparseUNetError:
            plane = None
        isDeclared = plane is not None and plane in self._panel.parameters.completeSlices
        self._ui.completeButton.text = _("Slice is not complete") if isDeclared else _("Slice is complete")

    # -- the views ------------------------------------------------------------------------------------------

    def _onView(self, _index: int) -> None:
        self._showComplete()

    def _onViewMoved(self, name: str) -> None:
        index = self._ui.viewSelector.findText(name)
        if index >= 0:
            self._ui.viewSelector.setCurrentIndex(index)
            self._showComplete()

    def _onLayout(self, _layout: int) -> None:
        if self._panel.isEntered:
            self._followViews()

    def _followViews(self) -> None:
        """Offer the views that the layout shows, and follow them."""
        selector = self._ui.viewSelector
        names = [node.GetName() for node in sliceNodes()]
        if [selector.itemText(n) for n in range(selector.count)] != names:
            chosen = selector.currentText
            selector.clear()
            selector.addItems(names)
            selector.setCurrentIndex(max(0, selector.findText(chosen)))
        self._follower.start()
