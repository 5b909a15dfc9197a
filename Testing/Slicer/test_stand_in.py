"""The stand-in for Slicer's Qt half: it answers as a real Slicer did, and refuses what Slicer refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = Path(__file__).resolve().parents[1] / "SlicerStandIn"


# -- what a real Slicer answered ---------------------------------------------------------------------------------
def normalised(answers: str) -> list[str]:
    """Lines without what differs from run to run: new segments' IDs and addresses."""
    return re.sub(r"0x[0-9a-f]+", "0x*", re.sub(r"\bS_\w+", "S_*", answers)).splitlines()


@pytest.mark.parametrize("questions", ["rules", "widgets"])
def test_it_answers_as_slicer_did(started, tmp_path, questions):
    answers = tmp_path / "answers.txt"
    script = STAND_IN / "observed" / f"{questions}.py"
    command = [sys.executable, "-m", "SlicerStandIn", str(script), str(answers)]
    done = subprocess.run(command, cwd=STAND_IN.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = script.with_suffix(".txt").read_text(encoding="utf-8")
    assert normalised(answers.read_text(encoding="utf-8")) == normalised(expected)


# -- what PythonQt refuses ---------------------------------------------------------------------------------------
REFUSED = {
    "qt.NoSuchClass": "AttributeError: module 'qt' has no attribute 'NoSuchClass'",
    "qt.QPushButton().setTex('a')": "AttributeError: QPushButton has no attribute named 'setTex'",
    "qt.QPushButton().text()": "TypeError: 'str' object is not callable",
    "qt.QPushButton().setText()": "ValueError: Called setText(QString text) -> void with wrong number of arguments: ()",
    "qt.QPushButton().setText(text='a')": "ValueError: Called setText(QString text) -> void with keyword arguments",
    "qt.QPushButton(text='a')": "ValueError: Called constructor of QPushButton with keyword arguments",
    "qt.QPushButton(1, 2, 3, 4)": "ValueError: Could not find matching overload",
    "qt.QPushButton().setIcon('icon.png')": "ValueError: Called setIcon(QIcon icon) -> void with wrong arguments",
    "qt.QPushButton().nosuch.connect(print)": "AttributeError: QPushButton has no attribute named 'nosuch'",
    "qt.QPushButton().clicked[bool]": "TypeError: 'QtCore.Signal' object is not subscriptable",
    "qt.QSpinBox().setValue('three')": "ValueError: Called setValue(int val) -> void with wrong arguments",
    "setattr(qt.QSpinBox(), 'value', None)": "AttributeError: Property 'value' of type 'int' does not accept",
    "setattr(qt.QWidget(), 'visibl', True)": "AttributeError: 'visibl' does not exist on QWidget and creating new",
    "setattr(qt.QLabel(), 'sizeHint', None)": "AttributeError: Property 'sizeHint' of type 'QSize' is not writable",
    "setattr(qt.QLabel(), 'setText', None)": "AttributeError: Slot 'setText' can not be overwritten on QLabel object",
    "qt.QVBoxLayout().addWidget('label')": "ValueError",
    "qt.Qt.AlignCentre": "AttributeError: type object 'Qt' has no attribute 'AlignCentre'",
    "ctk.ctkSliderWidget().setMinimum(1)": "AttributeError: ctkSliderWidget has no attribute named 'setMinimum'",
    "slicer.qMRMLNodeComboBox().setCurrentNode('CT')": "TypeError: method requires a VTK object",
    "slicer.qMRMLWidget().setMRMLScene(slicer.vtkMRMLModelNode())": "TypeError: method requires a vtkMRMLScene",
    "slicer.app.mainWindow": "AttributeError: qSlicerApplication has no attribute named 'mainWindow'",
    "slicer.app.slicerHome()": "TypeError: 'str' object is not callable",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_what_slicer_refuses_raises(stand_in, expression):
    import ctk
    import qt
    import slicer

    with pytest.raises((AttributeError, TypeError, ValueError)) as caught:
        eval(expression, {"qt": qt, "ctk": ctk, "slicer": slicer})
    assert f"{type(caught.value).__name__}: {caught.value}".startswith(REFUSED[expression])


@pytest.mark.parametrize("signal", ["clicked", "clicke()", "clicked(int)", "toggled()"])
def test_connecting_to_a_signal_that_is_not_there_returns_false(stand_in, signal):
    import qt

    assert qt.QPushButton().connect(signal, print) is False


def test_a_name_that_only_the_stand_in_lacks_says_so(stand_in):
    import slicer

    with pytest.raises(NotImplementedError, match="exists in Slicer"):
        slicer.qMRMLSegmentEditorWidget().toggleSourceVolumeIntensityMaskEnabled()


# -- PythonQt's objects ------------------------------------------------------------------------------------------
def test_one_object_has_one_wrapper_of_its_own_class(stand_in):
    import qt

    parent = qt.QWidget()
    parent.setLayout(qt.QHBoxLayout())
    button = qt.QPushButton("a")
    parent.layout().addWidget(button)
    assert parent.layout().className() == "QHBoxLayout"
    assert parent.layout().itemAt(0).widget() is button
    assert button in parent.children() and isinstance(parent.children(), tuple)
    button.objectName = "apply"
    assert parent.apply is button and parent.findChild(qt.QPushButton, "apply") is button
    assert parent.findChildren("QAbstractButton") == (button,)
    parent.delete()
    assert not button and button == None  # noqa: E711
    with pytest.raises(ValueError, match="destroyed QPushButton object"):
        button.click()


def test_python_subclasses_override_what_qt_calls(stand_in):
    import qt

    class Square(qt.QWidget):
        def __init__(self, side, parent=None):
            super().__init__(parent)
            self.side, self.painted = side, 0

        def sizeHint(self):
            return qt.QSize(self.side, self.side)

        def paintEvent(self, event):
            self.painted += 1
            qt.QWidget.paintEvent(self, event)

    square = Square(37)
    square.adjustSize()
    assert (square.width, square.height) == (37, 37)
    square.grab()
    assert square.painted == 1
    assert isinstance(square, qt.QWidget) and square.className() == "QWidget"


def test_callbacks_get_what_they_take_and_fail_alone(stand_in, capsys):
    import qt

    got = []
    box = qt.QComboBox()
    box.currentIndexChanged.connect(lambda: got.append("nothing"))
    box.connect("currentIndexChanged(int)", lambda index, more=None: got.append((index, more)))
    box.connect("currentIndexChanged(QString)", lambda text: 1 / 0)
    box.connect("currentIndexChanged(int)", got.append)
    box.addItem("one")
    assert got == ["nothing", (0, None), 0]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [type(error) for error in stand_in.callback_errors] == [ZeroDivisionError]
    stand_in.callback_errors.clear()
    assert box.disconnect("currentIndexChanged(int)", got.append)
    box.addItem("two")
    box.setCurrentIndex(1)
    stand_in.callback_errors.clear()
    assert got[3:] == ["nothing", (1, None)]


def test_signals_reach_slots_and_timers_fire(stand_in):
    import qt

    button, dialog = qt.QPushButton(), qt.QDialog()
    dialog.show()
    assert button.connect("clicked()", dialog, "hide()")
    button.click()
    assert not dialog.visible
    got = []
    table = qt.QTableWidget(1, 1)
    assert qt.QObject.connect(table, "cellClicked(int,int)", lambda row, column: got.append((row, column)))
    table.cellClicked.emit(3, 0)
    assert got.pop() == (3, 0)
    qt.QTimer.singleShot(1, lambda: got.append(1))
    assert stand_in.process_events(until=lambda: got)
    assert not stand_in.process_events(until=lambda: False, timeout=0.01)


# -- dialogs -----------------------------------------------------------------------------------------------------
def test_dialogs_are_recorded_and_answered(stand_in):
    import qt
    import slicer

    slicer.util.errorDisplay("It broke", detailedText="here")
    assert stand_in.dialogs.texts("error") == ["It broke"]
    assert stand_in.dialogs.shown[0].details == {"detailedText": "here"}
    assert slicer.util.confirmYesNoDisplay("Sure?") is True
    stand_in.dialogs.answer("yesNo", False)
    assert slicer.util.confirmYesNoDisplay("Sure?") is False
    assert qt.QFileDialog.getOpenFileName(None, "Open") == ""
    stand_in.dialogs.answer("openFile", "/tmp/model")
    assert qt.QFileDialog.getOpenFileName(None, "Open", "", "Models (*.safetensors)") == "/tmp/model"
    box = qt.QMessageBox()
    box.text = "Really?"
    stand_in.dialogs.answer("exec", lambda shown: qt.QMessageBox.Yes if shown.dialog.visible else 0)
    assert box.exec_() == qt.QMessageBox.Yes
    assert stand_in.dialogs.texts("exec") == ["Really?"]
    with pytest.raises(RuntimeError), slicer.util.tryWithErrorDisplay("Failed."):
        raise RuntimeError("why")
    assert stand_in.dialogs.texts("error")[-1] == "Failed.\n\nwhy"
