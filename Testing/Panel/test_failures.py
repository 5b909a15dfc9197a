"""What can go wrong with a run: each time one sentence, nothing lost, and no process left behind."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import SHAPE, addAnnotation, addVolume, isAlive, labelsOf, makeLauncher, nodeNames, pathWith

TRAINING = "Training network 1 of 4: step"  # the most there are


def startTraining(panel, drive) -> Path:
    """Press Segment, wait until it trains and has a checkpoint; the run's folder."""
    panel.parameters.minutes = 30.0
    panel.ui.segmentButton.click()
    assert drive(lambda: panel.ui.statusLabel.text.startswith(TRAINING), 60), panel.ui.errorLabel.text
    return Path(panel.parameters.runFolder)


def hasCheckpoint(folder: Path) -> bool:
    return any((folder / "checkpoint").glob("*.safetensors"))


def test_a_killed_worker_is_explained_and_its_run_goes_on(panel, ready, drive, train):
    folder = startTraining(panel, drive)
    assert drive(lambda: hasCheckpoint(folder), 60)
    pids = panel.job.pids
    assert len(pids) == 2  # the launcher, and the Python that it started
    os.kill(max(pids), signal.SIGKILL)
    assert drive(lambda: not panel.isBusy, 30)
    assert "was ended by the system or another program" in panel.ui.errorLabel.text
    assert not panel.ui.errorFrame.isHidden() and panel.parameters.result is None
    panel.ui.copyErrorButton.click()
    assert slicer.app.clipboard().text().startswith("The worker process was ended")
    assert panel.ui.continueButton.enabled
    train(panel.ui.continueButton)
    assert panel.parameters.runFolder == str(folder) and panel.parameters.result is not None


def test_closing_the_scene_ends_the_run_and_leaves_nothing(panel, ready, drive):
    startTraining(panel, drive)
    pids = panel.job.pids
    slicer.mrmlScene.Clear(0)
    assert not panel.isBusy and panel.ui.statusLabel.text == ""
    assert drive(lambda: not any(map(isAlive, pids)), 30)
    assert nodeNames("vtkMRMLSegmentationNode") == [] and panel.parameters.runFolder == ""
    assert panel.ui.segmentButton.toolTip == "Choose a volume first."


def test_the_application_leaves_no_process_behind(panel, ready, drive, stand_in):
    startTraining(panel, drive)
    pids = panel.job.pids
    stand_in.quit()
    assert not panel.logic._jobs
    assert drive(lambda: not any(map(isAlive, pids)), 10)  # a killed process needs a moment to give its memory back


def test_unloading_the_module_ends_the_run(panel, ready, drive, stand_in):
    startTraining(panel, drive)
    pids = panel.job.pids
    panel.logic.endAll()
    assert not panel.isBusy
    assert drive(lambda: not any(map(isAlive, pids)), 10)


def test_a_worker_that_does_not_listen_is_ended(panel, ready, drive, monkeypatch):
    monkeypatch.setattr("SparseUNet3DModule.job._PATIENCE", 0.5)
    startTraining(panel, drive)
    pids = panel.job.pids
    os.kill(max(pids), signal.SIGSTOP)
    panel.ui.stopButton.click()
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 30)
    assert drive(lambda: not any(map(isAlive, pids)), 10)
    assert panel.ui.errorFrame.isHidden()  # it was asked for


def test_a_loaded_model_takes_the_place_of_a_stopped_run(panel, ready, drive, dialogs, tmp_path, train):
    folder = startTraining(panel, drive)
    assert drive(lambda: hasCheckpoint(folder), 60)
    panel.ui.stopButton.click()
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 30)
    assert panel.ui.statusLabel.text == "Stopped. Press 'Continue' to go on."
    panel.parameters.runFolder, stopped = "", panel.parameters.runFolder
    train()
    panel.model.save(str(tmp_path / "other"))
    other, panel.parameters.runFolder = panel.parameters.modelPath, stopped
    panel.parameters.modelPath = ""
    dialogs.answer("yesNo", False)
    panel.model.load(other)
    assert "can still be continued" in dialogs.texts("yesNo")[-1]
    assert (panel.parameters.modelPath, panel.parameters.runFolder) == ("", stopped)
    dialogs.answer("yesNo", True)
    panel.model.load(other)
    assert (panel.parameters.modelPath, panel.parameters.runFolder) == (other, "")
    assert panel.ui.statusLabel.text == "The model is loaded."
    train(panel.ui.continueButton)
    assert panel.logic.modelCard(panel.parameters.modelPath)["header"]["record"]["started_from"]


def test_closing_the_window_ends_what_the_console_waits_for(panel, ready, stand_in):
    import qt

    window, asked = slicer.util.mainWindow(), panel.parameters
    qt.QTimer.singleShot(1500, window.hide)
    try:
        with pytest.raises(RuntimeError, match="Stopped"):
            panel.logic.densify(asked.volume, asked.annotation, minutes=30.0)
    finally:
        window.show()


def test_problems_are_scrolled_to(stand_in, drive):
    """A model is loaded at the panel's end, and errors are shown further up."""
    import ctk
    import qt
    from SparseUNet3DModule.progress_view import ProgressView

    names = ("progressBar", "statusLabel", "errorFrame", "errorLabel", "logText", "copyErrorButton")
    kinds = (qt.QProgressBar, qt.QLabel, qt.QFrame, qt.QLabel, qt.QPlainTextEdit, qt.QPushButton)
    section, content, area, below = ctk.ctkCollapsibleButton(), qt.QWidget(), qt.QScrollArea(), qt.QLabel()
    ui = SimpleNamespace(trainSection=section, **{n: kind() for n, kind in zip(names, kinds, strict=True)})
    inSection, inContent = qt.QVBoxLayout(section), qt.QVBoxLayout(content)
    for name in names:
        inSection.addWidget(getattr(ui, name))
    ui.errorFrame.setMinimumHeight(50)
    below.setMinimumHeight(3000)
    inContent.addWidget(section)
    inContent.addWidget(below)
    area.setWidget(content)
    area.widgetResizable = True
    area.resize(300, 300)
    area.show()
    view = ProgressView(ui)
    section.collapsed = True
    for show in (view.begin, lambda: view.showProblem("It cannot be read.")):
        stand_in.process_events()
        area.ensureVisible(0, 2900)
        assert content.y < -2000
        show()
        assert drive(lambda: -500 < content.y <= 0, 5)
    assert ui.errorLabel.text == "It cannot be read." and not section.collapsed
    area.hide()


def test_the_volume_is_deleted_meanwhile(panel, ready, drive):
    folder = startTraining(panel, drive)
    slicer.mrmlScene.RemoveNode(panel.parameters.volume)
    assert panel.parameters.volume is None
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    result = folder / "result.seg.nrrd"
    assert panel.ui.errorLabel.text == (
        f"The volume of 'CT segmented' was deleted meanwhile; the result is kept in '{result}'."
    )
    assert result.exists()


def test_the_annotation_is_deleted_meanwhile(panel, ready, drive):
    startTraining(panel, drive)
    slicer.mrmlScene.RemoveNode(panel.parameters.annotation)
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.ui.statusLabel.text == "Done." and panel.parameters.result is not None


def test_the_result_is_deleted_afterwards(panel, ready, train):
    train()
    slicer.mrmlScene.RemoveNode(panel.parameters.result)
    slicer.mrmlScene.RemoveNode(panel.parameters.confidence)
    assert panel.parameters.result is None
    assert not panel.ui.show3DButton.enabled and not panel.ui.showConfidenceButton.enabled


def test_painting_goes_on_while_it_trains(panel, ready, drive):
    """What is painted after the start is not trained on, and not lost."""
    startTraining(panel, drive)
    annotation, volume = panel.parameters.annotation, panel.parameters.volume
    identifier = annotation.GetSegmentation().GetNthSegmentID(0)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(annotation, identifier, volume).copy()
    mask[10, 4:8, 4:8] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, annotation, identifier, volume)
    painted = labelsOf(annotation, volume)
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    np.testing.assert_array_equal(labelsOf(annotation, volume), painted)


def test_a_full_disk_is_told_in_a_sentence(panel, ready, drive):
    """No file may grow beyond some kilobytes here, which the system reports as it does a full disk."""
    panel.parameters.minutes = 0.05
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        panel.ui.segmentButton.click()
        assert drive(lambda: not panel.isBusy, 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Cannot write" in panel.ui.errorLabel.text and "File too large" in panel.ui.errorLabel.text
    assert not list(Path(panel.parameters.runFolder).rglob("*.nrrd"))


def test_memory_runs_out(panel, ready, drive, tmp_path, monkeypatch):
    makeLauncher(tmp_path, "ulimit -v 1000000")
    monkeypatch.setenv("PATH", pathWith(tmp_path))
    panel.ui.segmentButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    # Depending on where it runs out: in code that notices, while PyTorch is being loaded, or in a compiled library
    # that crashes of it.
    said = ("Memory ran out;", "PyTorch is installed but does not load", "often because memory ran out")
    assert any(words in panel.ui.errorLabel.text for words in said), panel.ui.logText.plainText


def test_python_is_not_found(panel, ready, drive, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    panel.ui.segmentButton.click()
    assert drive(lambda: not panel.isBusy, 30)
    assert "The worker process did not start" in panel.ui.errorLabel.text


def test_a_worker_that_crashes_is_explained(panel, ready, drive, tmp_path, monkeypatch):
    makeLauncher(tmp_path, 'echo "Traceback: something odd" >&2; exit 7')
    monkeypatch.setenv("PATH", pathWith(tmp_path))
    panel.ui.segmentButton.click()
    assert drive(lambda: not panel.isBusy, 30)
    assert "ended unexpectedly (exit code 7)" in panel.ui.errorLabel.text
    assert "something odd" in panel.ui.logText.plainText


@pytest.fixture
def withoutTorch(monkeypatch):
    """Python finds no torch, as in a Slicer without the PyTorch extension."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a))


def test_torch_is_asked_for_and_its_absence_explained(panel, ready, drive, dialogs, withoutTorch):
    dialogs.answer("yesNo", False)
    panel.ui.segmentButton.click()
    assert not panel.isBusy and panel.ui.errorFrame.isHidden()
    assert "torch must be installed" in dialogs.texts("yesNo")[-1]
    panel.model.load("some.safetensors")  # asks, too
    assert len(dialogs.texts("yesNo")) == 2 and panel.ui.errorFrame.isHidden()
    dialogs.answer("yesNo", True)
    panel.ui.segmentButton.click()
    assert not panel.isBusy
    assert "needs the PyTorch extension; install 'PyTorch' in the Extensions Manager" in panel.ui.errorLabel.text


def test_torch_that_cannot_be_installed_is_explained(panel, ready, dialogs, withoutTorch, monkeypatch, tmp_path):
    (tmp_path / "PyTorchUtils.py").write_text(
        "class PyTorchUtilsLogic:\n"
        "    def installTorch(self, askConfirmation=False, forceComputationBackend=None,\n"
        "                     torchVersionRequirement=None, torchvisionVersionRequirement=None):\n"
        "        raise RuntimeError('no network')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    dialogs.answer("yesNo", True)
    panel.ui.segmentButton.click()
    text = panel.ui.errorLabel.text
    assert "PyTorch could not be installed (no network)" in text and "as the README describes" in text


def test_a_deleted_node_never_hurts(panel, ready, drive):
    """In any order, at rest."""
    parameters = panel.parameters
    for node in (parameters.annotation, parameters.volume, parameters.parameterNode):
        slicer.mrmlScene.RemoveNode(node)
        assert drive(lambda: not panel.annotate._background.isBusy, 10)
    panel.setParameters(panel.logic.getParameters())
    volume = addVolume()
    panel.parameters.volume, panel.parameters.annotation = volume, addAnnotation(volume)
    assert drive(lambda: panel.ui.sliceTable.rowCount == 5)


def test_opening_and_closing_again_and_again(panel, ready, drive, stand_in):
    widget = slicer.modules.SparseUNet3DWidget
    window = slicer.util.mainWindow()
    for _ in range(3):
        widget.exit()
        assert panel.ui.segmentEditorWidget.activeEffect() is None
        assert not panel.annotate.views._shortcuts
        widget.enter()
        assert len(panel.annotate.views._shortcuts) == 3
        slicer.mrmlScene.Clear(0)
        assert panel.parameters.volume is None
    assert window is not None
    volume = addVolume()
    panel.ui.volumeSelector.setCurrentNode(volume)
    panel.ui.annotationSelector.setCurrentNode(addAnnotation(volume))
    assert drive(lambda: panel.ui.sliceTable.rowCount == 5 and panel.ui.segmentButton.enabled)


def test_a_volume_of_other_size_takes_the_annotation_s_place(panel, ready, drive):
    """Another volume is chosen for the same annotation: what is painted lies elsewhere on it, or nowhere."""
    small = addVolume("small", np.zeros((6, 8, 10), np.int16))
    panel.ui.volumeSelector.setCurrentNode(small)
    assert drive(lambda: panel.annotate.overview.rows != () or panel.annotate.overview.problem != "")
    assert all(row.plane.index < SHAPE[row.plane.axis] for row in panel.annotate.overview.rows)


def test_an_unexpected_error_is_no_success(panel, ready, drive, monkeypatch):
    def broken(*_arguments):
        yield 0.5
        raise KeyError("surprise")

    monkeypatch.setattr("SparseUNet3DModule.runs.handOver", broken)
    panel.ui.segmentButton.click()
    assert drive(lambda: not panel.isBusy, 30)
    assert "Unexpected error while handing over the volume: KeyError ('surprise')" in panel.ui.errorLabel.text
    assert panel.parameters.result is None


def test_nothing_of_a_run_stays_in_memory(panel, ready, train, drive):
    """Neither the job nor the volume's voxels, which Qt's connections would keep alive."""
    import gc
    import weakref

    panel.parameters.minutes = 0.02
    panel.ui.segmentButton.click()
    job = weakref.ref(panel.job)
    assert drive(lambda: not panel.isBusy, 60)
    drive(lambda: gc.collect() >= 0 and job() is None, 5)
    assert job() is None
