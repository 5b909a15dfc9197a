"""CTK's widgets for numbers, paths and texts."""

from __future__ import annotations

import os

from PySide6 import QtCore, QtWidgets

from .dialogs import dialogs
from .implementations import implements
from .own_widgets import with_properties


@implements
class ctkSliderWidget(
    with_properties(
        QtWidgets.QWidget,
        "ctkSliderWidget",
        written=("value", "minimum", "maximum", "singleStep", "decimals", "prefix", "suffix", "spinBoxVisible"),
        pageStep=10.0,
        tracking=True,
    )
):
    """A slider and a spin box. The value is exact: `decimals` only says how it is shown."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    decimalsChanged = QtCore.Signal(int)
    _TICKS = 1000

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._value, self._range, self._step = 0.0, [0.0, 99.0], 1.0
        self._showing = False
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._slider.setRange(0, self._TICKS)
        self._box = QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._slider.valueChanged.connect(self._slider_moved)
        self._box.valueChanged.connect(self._typed)
        self._show()

    def _show(self) -> None:
        """Show the value in both parts without hearing back from them."""
        self._showing = True
        low, high = self._range
        self._box.setRange(low, high)
        self._box.setSingleStep(self._step)
        self._box.setValue(self._value)
        self._slider.setValue(round((self._value - low) / (high - low) * self._TICKS) if high > low else 0)
        self._showing = False

    def _slider_moved(self, tick: int) -> None:
        if not self._showing:
            low, high = self._range
            steps = round((high - low) * tick / self._TICKS / self._step) if self._step > 0 else 0
            self.setValue(low + steps * self._step)

    def _typed(self, value: float) -> None:
        if not self._showing:
            self.setValue(value)

    def setValue(self, value: float) -> None:
        value = min(max(value, self._range[0]), self._range[1])
        changed = value != self._value
        self._value = value
        self._show()
        if changed:
            self.valueChanged.emit(value)

    def _set_limit(self, which: int, limit: float) -> None:
        if self._range[which] == limit:
            return
        self._range[which] = limit
        self._value = min(max(self._value, self._range[0]), self._range[1])
        self._show()
        self.valueChanged.emit(self._value)  # CTK's slider does so even if the value stays

    def _set_step(self, step: float) -> None:
        if self._step != step:
            self._step = step
            self._show()
            self.valueChanged.emit(self._value)  # as above

    def setDecimals(self, decimals: int) -> None:
        if self._box.decimals() != decimals:
            self._box.setDecimals(decimals)
            self.decimalsChanged.emit(decimals)
            self._show()

    def setSpinBoxVisible(self, visible: bool) -> None:
        self._box.setVisible(visible)

    def reset(self) -> None:
        self.setValue(0.0)

    value = QtCore.Property(float, lambda self: self._value, setValue)
    minimum = QtCore.Property(float, lambda self: self._range[0], lambda self, limit: self._set_limit(0, limit))
    maximum = QtCore.Property(float, lambda self: self._range[1], lambda self, limit: self._set_limit(1, limit))
    singleStep = QtCore.Property(float, lambda self: self._step, _set_step)
    decimals = QtCore.Property(int, lambda self: self._box.decimals(), setDecimals)
    prefix = QtCore.Property(str, lambda self: self._box.prefix(), lambda self, text: self._box.setPrefix(text))
    suffix = QtCore.Property(str, lambda self: self._box.suffix(), lambda self, text: self._box.setSuffix(text))
    spinBoxVisible = QtCore.Property(bool, lambda self: not self._box.isHidden(), setSpinBoxVisible)


@implements
class ctkPathLineEdit(
    with_properties(
        QtWidgets.QWidget,
        "ctkPathLineEdit",
        written=("currentPath", "showBrowseButton"),
        showHistoryButton=True,
        filters=3,
        minimumContentsLength=17,
    )
):
    """A path to type or to browse for."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._valid = False
        self._path = ""
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setEditable(True)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._browse = QtWidgets.QToolButton(self)
        self._browse.setText("…")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        layout.addWidget(self._browse)
        self._combo.editTextChanged.connect(self._changed)
        self._browse.clicked.connect(self.browse)

    def _changed(self, path: str) -> None:
        if path == self._path:
            return
        self._path = path
        self.currentPathChanged.emit(path)
        if self._valid != bool(path):  # whether there is such a file does not count
            self._valid = bool(path)
            self.validInputChanged.emit(self._valid)

    def setCurrentPath(self, path: str) -> None:
        self._combo.setEditText(path)

    def browse(self) -> None:
        writes = self.property("filters") & 0x20  # ctkPathLineEdit::Writable
        folders = not self.property("filters") & 0x2  # Files
        kind = "folder" if folders else "saveFile" if writes else "openFile"
        path = dialogs.show(kind, self.property("label"), start=self._path, filters=self.property("nameFilters"))
        if path:
            self.setCurrentPath(path)

    def comboBox(self) -> QtWidgets.QComboBox:
        return self._combo

    def addCurrentPathToHistory(self) -> None:
        if self._path and self._combo.findText(self._path) < 0:
            self._combo.insertItem(0, self._path)

    def retrieveHistory(self) -> None:
        """The history is not kept from session to session here."""

    currentPath = QtCore.Property(str, lambda self: self._path, setCurrentPath)
    showBrowseButton = QtCore.Property(
        bool, lambda self: not self._browse.isHidden(), lambda self, shown: self._browse.setVisible(shown)
    )


@implements
class ctkDirectoryButton(
    with_properties(QtWidgets.QWidget, "ctkDirectoryButton", written=("directory", "text"), elideMode=1)
):
    """A button that names a folder and lets the user choose another."""

    directoryChanged = QtCore.Signal(str)
    directorySelected = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._directory = QtCore.QDir.currentPath()
        self._text = ""
        self._button = QtWidgets.QPushButton(self)
        self._button.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._button)
        self._button.clicked.connect(self.browse)
        self._show()

    def _show(self) -> None:
        self._button.setText(self._text or self._directory)

    def _set_directory(self, directory: str) -> None:
        directory = QtCore.QDir(directory).path()
        if directory != self._directory:
            self._directory = directory
            self._show()
            self.directoryChanged.emit(directory)

    def _set_text(self, text: str) -> None:
        self._text = text
        self._show()

    def browse(self) -> str:
        directory = dialogs.show("folder", self.property("caption"), start=self._directory)
        if directory:
            self._set_directory(os.fspath(directory))
            self.directorySelected.emit(self._directory)
        return directory

    directory = QtCore.Property(str, lambda self: self._directory, _set_directory)
    text = QtCore.Property(str, lambda self: self._text or self._directory, _set_text)


@implements
class ctkComboBox(with_properties(QtWidgets.QComboBox, "ctkComboBox", scrollWheelEffect=1)):
    """A combo box that can show a text of its own while nothing is chosen."""

    returnRelease = QtCore.Signal()

    def property_changed(self, name: str) -> None:
        if name == "defaultText":
            self.setPlaceholderText(self.property("defaultText"))


@implements
class ctkMessageBox(with_properties(QtWidgets.QMessageBox, "ctkMessageBox")):
    """A message box with a check mark for not showing it again."""

    def setDontShowAgain(self, value: bool) -> None:
        self.setProperty("dontShowAgain", value)


@implements
class ctkFittedTextBrowser(
    with_properties(
        QtWidgets.QTextBrowser,
        "ctkFittedTextBrowser",
        collapsed=True,
        showDetailsText="Show details...",
        hideDetailsText="Hide details.",
    )
):
    """A text browser as high as its text."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._collapsible = ""
        self.textChanged.connect(self._fit)

    def _fit(self) -> None:
        self.setFixedHeight(self.sizeHint().height())

    def sizeHint(self) -> QtCore.QSize:
        hint = super().sizeHint()
        self.document().setTextWidth(self.viewport().width())
        hint.setHeight(int(self.document().size().height()) + 2 * self.frameWidth())
        return hint

    def resizeEvent(self, event: QtCore.QEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def setCollapsibleText(self, text: str) -> None:
        self._collapsible = text
        self.setText(text)

    def setCollapsibleHtml(self, text: str) -> None:
        self._collapsible = text
        self.setHtml(text)

    def setCollapsiblePlainText(self, text: str) -> None:
        self._collapsible = text
        self.setPlainText(text)

    def collapsibleText(self) -> str:
        return self._collapsible
