"""Message boxes and other modal dialogs: none opens, each is recorded, and a test says beforehand what to answer.

dialogs.answer("yesNo", False)                        # the next and all later questions
dialogs.answer("openFile", "/tmp/model.safetensors")
dialogs.answer("exec", lambda shown: shown.dialog.findChild("QPushButton", "apply").click() or 1)
assert "no annotated slice" in dialogs.texts("error")[-1]
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PySide6 import QtCore, QtWidgets

from . import implementations
from .calls import replaces


@dataclass
class Shown:
    """A dialog that Slicer would have shown."""

    kind: str
    text: str = ""
    title: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    dialog: Any = None


# What a user who agrees to everything, but chooses no file, answers.
_DEFAULTS: dict[str, Any] = {
    "okCancel": True,
    "yesNo": True,
    "retryClose": False,
    "openFile": "",
    "openFiles": [],
    "saveFile": "",
    "folder": "",
    "input": "",
    "exec": 0,
}


class Dialogs:
    """All that was shown, and what is answered."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self._answers: dict[str, Any] = {}

    def clear(self) -> None:
        self.shown.clear()
        self._answers.clear()

    def answer(self, kind: str, value: Any) -> None:
        """Answer dialogs of the kind with the value, or with what a function gives for the Shown."""
        self._answers[kind] = value

    def texts(self, kind: str | None = None) -> list[str]:
        return [item.text for item in self.shown if kind in (None, item.kind)]

    def show(self, kind: str, text: str = "", title: str = "", dialog: Any = None, **details: Any) -> Any:
        """Record a dialog; what it answers."""
        shown = Shown(kind, text, title, details, dialog)
        self.shown.append(shown)
        value = self._answers.get(kind, _DEFAULTS.get(kind))
        return value(shown) if callable(value) else value


dialogs = Dialogs()


# -- slicer.util --------------------------------------------------------------------------------------------------
def install(util: Any) -> None:
    """Replace what in slicer.util opens a message box."""

    def display(kind: str, level: int) -> Any:
        def function(text: str, windowTitle: str | None = None, parent: Any = None, **keywords: Any) -> Any:
            logging.log(level, text)
            return dialogs.show(kind, text, windowTitle or "", **keywords)

        return function

    util.errorDisplay = display("error", logging.ERROR)
    util.warningDisplay = display("warning", logging.WARNING)
    util.infoDisplay = display("info", logging.INFO)
    util.confirmOkCancelDisplay = display("okCancel", logging.INFO)
    util.confirmYesNoDisplay = display("yesNo", logging.INFO)
    util.confirmRetryCloseDisplay = display("retryClose", logging.ERROR)

    def message_box(text: str, parent: Any = None, **keywords: Any) -> int:
        answer = dialogs.show("messageBox", text, **keywords)
        return int(QtWidgets.QMessageBox.StandardButton.Ok.value) if answer is None else answer

    def delay_display(message: str, autoCloseMsec: int = 1000, parent: Any = None, **keywords: Any) -> None:
        logging.info(message)
        dialogs.show("delay", message, **keywords)
        QtCore.QCoreApplication.processEvents()

    util.messageBox = message_box
    util.delayDisplay = delay_display


# -- Qt's own -----------------------------------------------------------------------------------------------------
@replaces("QDialog.exec", "QMessageBox.exec")
def _exec(core: QtWidgets.QDialog) -> Any:
    """The dialog is really shown while the answering function runs, so that it can be driven and photographed."""
    core.show()
    QtCore.QCoreApplication.processEvents()
    text = core.text() if isinstance(core, QtWidgets.QMessageBox) else ""
    result = dialogs.show("exec", text, core.windowTitle(), implementations.wrap(core))
    core.done(int(result or 0))
    return result


@replaces("QMenu.exec")
def _exec_menu(core: QtWidgets.QMenu | None, *arguments: Any) -> Any:
    return implementations.unwrap(dialogs.show("menu", core.title() if core is not None else ""))


def _message(button: str) -> Any:
    default = getattr(QtWidgets.QMessageBox.StandardButton, button)

    def function(core: None, parent: Any = None, title: str = "", text: str = "", *rest: Any) -> Any:
        answer = dialogs.show("messageBox", text, title)
        return int(default.value) if answer is None else answer

    return function


for _name, _button in (("information", "Ok"), ("warning", "Ok"), ("critical", "Ok"), ("question", "Yes")):
    replaces(f"QMessageBox.{_name}")(_message(_button))


def _file(kind: str) -> Any:
    def function(
        core: None, parent: Any = None, caption: str = "", start: str = "", filters: Any = "", *rest: Any
    ) -> str | Sequence[str]:
        return dialogs.show(kind, caption, start=start, filters=filters)

    return function


for _name, _kind in (
    ("getOpenFileName", "openFile"),
    ("getOpenFileNames", "openFiles"),
    ("getSaveFileName", "saveFile"),
    ("getExistingDirectory", "folder"),
):
    replaces(f"QFileDialog.{_name}")(_file(_kind))


@replaces(
    "QInputDialog.getText", "QInputDialog.getMultiLineText", "QInputDialog.getItem", "QInputDialog.getInt",
    "QInputDialog.getDouble",
)  # fmt: skip
def _input(core: None, parent: Any, title: str, label: str, *rest: Any) -> Any:
    return dialogs.show("input", label, title)


@replaces("QDesktopServices.openUrl")
def _open_url(core: None, url: QtCore.QUrl) -> bool:
    dialogs.show("url", url.toString())
    return True
