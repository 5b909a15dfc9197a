"""How a run goes, and what goes wrong: progress bar, status line, error and log."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SparseUNet3DLib.errors import SparseUNetError
from SparseUNet3DLib.eta import format_duration
from SparseUNet3DModule.installation import missingPackages

#: What a call may fail with: errors of this program, and of Slicer, where it cannot export a segment.
FAILURES = (SparseUNetError, RuntimeError, MemoryError)


def sentenceOf(error: Exception) -> str:
    """What an error says; Python's own about memory may say nothing."""
    return str(error) or _("Memory ran out; close other programs.")


class ProgressView:
    """Shows it for all sections, in that of the training."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        ui.copyErrorButton.connect("clicked()", self._onCopyError)
        ui.errorFrame.visible = False

    def clear(self) -> None:
        """Nothing is or was going on."""
        self._ui.errorFrame.visible = False
        self._ui.statusLabel.text = ""
        self._setFraction(0.0)

    def begin(self) -> None:
        """Something begins."""
        self._ui.errorFrame.visible = False
        self._ui.logText.plainText = ""
        self._ui.progressBar.setRange(0, 0)
        self._ui.statusLabel.text = _("Starting")
        self._bringIntoView(self._ui.progressBar)

    def tellOfInstallation(self) -> None:
        """Say that something is being installed, if it is: it blocks, and should not look like nothing happened."""
        missing = missingPackages()
        if missing:
            self._ui.statusLabel.text = _(
                "Installing {packages}. This takes several minutes, and Slicer does not respond meanwhile."
            ).format(packages=_(" and ").join(missing))
        slicer.app.processEvents()

    def showEvent(self, event: dict[str, Any]) -> None:
        """Show how far the worker is."""
        kind = event["event"]
        if kind == "phase":
            self._setFraction(event["fraction"])
            self._ui.statusLabel.text = _("{phase}: {percent:.0f} %").format(
                phase=event["phase"].capitalize(), percent=100 * event["fraction"]
            )
        elif kind == "step":
            self._setFraction(event["fraction"])
            self._ui.statusLabel.text = _describeStep(event)
        elif kind == "plan":
            self._log("\n".join(event["lines"]))
        elif kind == "warning":
            self._log(_("Warning: {message}").format(message=event["message"]))
        elif kind == "log":
            self._log(event["text"])

    def end(self, words: str, isDone: bool) -> None:
        """Show how it ended."""
        self._setFraction(float(isDone))
        self._ui.statusLabel.text = words

    def showProblem(self, message: str) -> None:
        """Show what went wrong, with a button to copy it."""
        self.end("", False)
        self._ui.errorLabel.text = message
        self._ui.errorFrame.visible = True
        self._bringIntoView(self._ui.errorFrame)
        self._log(message)

    def _setFraction(self, fraction: float) -> None:
        self._ui.progressBar.setRange(0, 100)
        self._ui.progressBar.value = int(100 * min(1.0, fraction))

    def _log(self, text: str) -> None:
        self._ui.logText.appendPlainText(text)

    def _bringIntoView(self, widget: Any) -> None:
        """Scroll the panel to ``widget``: what is shown there may have been begun far below."""
        self._ui.trainSection.collapsed = False
        area = widget.parent()
        while area is not None and not isinstance(area, qt.QScrollArea):
            area = area.parent()
        if area is not None:
            # Later: where it was hidden it has no place yet.
            qt.QTimer.singleShot(0, lambda: area.ensureWidgetVisible(widget))

    def _onCopyError(self) -> None:
        slicer.app.clipboard().setText(f"{self._ui.errorLabel.text}\n\n{self._ui.logText.plainText}")


def _describeStep(event: dict[str, Any]) -> str:
    left = format_duration(event["eta_seconds"]) if event["eta_seconds"] is not None else "?"
    what = _("Training")
    if event["networks"] > 1:
        what = _("Training network {n} of {all}").format(n=event["network"], all=event["networks"])
    return _("{what}: step {step}, {left} left, then the volume is segmented").format(
        what=what, step=event["iteration"], left=left
    )
