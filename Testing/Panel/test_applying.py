"""A model applied to several volumes, some of which fail or are not reached; and a model kept in a file."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import SPACING, addVolume, grayValues, nodeNames

MANY = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Where the model of this file's first test is kept for the others."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def trained(panel, ready, train, models) -> Any:
    """A panel with a model."""
    kept = models / "model.safetensors"
    if not kept.exists():
        train()
        shutil.copy(panel.parameters.modelPath, kept)
        slicer.mrmlScene.RemoveNode(panel.parameters.result)
    panel.parameters.modelPath = str(kept)
    return panel


def segmented() -> list[str]:
    return sorted(name for name in nodeNames("vtkMRMLSegmentationNode") if "segmented" in name)


def test_one_volume_that_cannot_be_segmented_does_not_cost_the_others(trained, drive):
    panel = trained
    volumes = [addVolume(f"CT {n}") for n in range(3)]
    volumes[1].SetSpacing(1000.0, 1000.0, 1500.0)
    for node in volumes:
        panel.ui.applySelector.check(node)
    panel.ui.applyManyButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert segmented() == ["CT 0 segmented", "CT 2 segmented"]
    text = panel.ui.errorLabel.text
    assert text.startswith("1 of 3 volumes could not be segmented: 'CT 1'. 'CT 1' was left out: 'CT 1' has a spacing")
    assert "tmp" not in text
    assert panel.parameters.result.GetName() == "CT 2 segmented"


def test_more_names_than_a_command_may_have_reach_the_worker(trained, drive, monkeypatch):
    from SparseUNet3DModule import job

    monkeypatch.setattr(job, "_LONGEST_COMMAND", 0)
    for n in range(2):
        trained.ui.applySelector.check(addVolume(f"CT {n}"))
    trained.ui.applyManyButton.click()
    assert drive(lambda: not trained.isBusy, 60)
    assert segmented() == ["CT 0 segmented", "CT 1 segmented"]


def test_names_in_any_letters_reach_the_worker(trained, drive, tmp_path, monkeypatch):
    """The launcher of Slicer 5.10 on Windows hands over no others than those of ASCII."""
    from SparseUNet3DModule import worker

    started = []
    start = worker.Worker.start

    def noted(self, arguments, folder=None):
        started.append(arguments)
        start(self, arguments, folder)

    monkeypatch.setattr(worker.Worker, "start", noted)
    folder = tmp_path / "Köpfe 頭"
    folder.mkdir()
    image = sitk.GetImageFromArray(grayValues())
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(folder / "brain.nrrd"))
    model = shutil.copy(trained.parameters.modelPath, folder / "gehirn-größe.safetensors")
    monkeypatch.chdir(tmp_path)
    model = Path(model).relative_to(tmp_path)
    outcome = trained.logic.segmentFiles(model, [Path("Köpfe 頭/brain.nrrd")], "Köpfe 頭/out")
    assert outcome.files == [folder / "out" / "brain.seg.nrrd"] and outcome.files[0].exists()
    (arguments,) = started
    assert all(a.isascii() for a in arguments)
    assert not list(outcome.folder.glob("arguments*"))


def test_the_only_volume_that_cannot_be_segmented_is_called_by_its_name(trained, drive):
    panel = trained
    volume = addVolume("brain")
    volume.SetSpacing(1000.0, 1000.0, 1500.0)
    panel.ui.applySelector.check(volume)
    panel.ui.applyManyButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.ui.errorLabel.text.startswith("'brain' has a spacing of")
    assert segmented() == []


def applyToMany(panel, drive, how: int) -> None:
    """Apply the model to many volumes, the first of which cannot be segmented, and interfere when one has been."""
    for n in range(MANY):
        panel.ui.applySelector.check(addVolume(f"CT {n}"))
    slicer.util.getNode("CT 0").SetSpacing(1000.0, 1000.0, 1500.0)
    panel.ui.applyManyButton.click()
    folder = panel.job.folder
    # Not those that are being written.
    assert drive(lambda: any(not f.name.startswith(".") for f in folder.glob("results/*.seg.nrrd")), 60)
    os.kill(max(panel.job.pids), how)


def test_what_was_segmented_before_one_stopped_is_kept(trained, drive):
    panel = trained
    applyToMany(panel, drive, signal.SIGSTOP)
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    count = len(segmented())
    assert 1 <= count < MANY - 1
    assert panel.ui.statusLabel.text == f"Stopped. Volumes that were segmented before: {count}."
    assert panel.ui.errorFrame.isHidden()


def test_what_was_segmented_before_the_worker_died_is_kept_and_its_death_told(trained, drive):
    panel = trained
    applyToMany(panel, drive, signal.SIGKILL)
    assert drive(lambda: not panel.isBusy, 60)
    assert 1 <= len(segmented()) < MANY - 1
    text = panel.ui.errorLabel.text
    assert text.startswith("The worker process was ended by the system") and "'CT 0' was left out" in text


def test_what_is_being_taken_back_is_not_stopped(trained, drive, monkeypatch):
    """All is computed; to stop now would only throw it away."""
    from SparseUNet3DModule import tasks

    load = tasks.loadResult

    def slowly(*arguments):
        for step in range(50):
            time.sleep(0.01)
            yield step / 100
        yield from load(*arguments)

    monkeypatch.setattr(tasks, "loadResult", slowly)
    panel = trained
    panel.ui.applyButton.click()
    assert drive(lambda: panel.job is not None and panel.job.state == "taking back", 60)
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.ui.statusLabel.text == "Done." and segmented() == ["CT segmented"]


@pytest.mark.parametrize("agreed", [True, False])
def test_a_model_file_is_not_replaced_unasked(trained, dialogs, tmp_path, agreed: bool):
    """The dialog asks about the name as it was typed, without the ending that it gets."""
    panel, there = trained, tmp_path / "lungs.safetensors"
    there.write_bytes(b"precious")
    dialogs.answer("saveFile", str(tmp_path / "lungs"))
    dialogs.answer("yesNo", agreed)
    panel.ui.saveModelButton.click()
    assert f"'{there}' exists already. Replace it?" in dialogs.texts("yesNo")
    assert (there.read_bytes() != b"precious") == agreed
    dialogs.answer("saveFile", str(tmp_path / "new"))
    panel.ui.saveModelButton.click()
    assert (tmp_path / "new.safetensors").exists() and len(dialogs.texts("yesNo")) == 1


def test_a_model_that_was_not_saved_is_kept_longer_than_its_run(panel, ready, train):
    from SparseUNet3DModule import runs

    train()
    model = Path(panel.parameters.modelPath)
    assert "not saved yet" in panel.ui.modelLabel.text
    (model.parent.parent / "old").mkdir()

    def pass_(days: int) -> bool:
        """Whether the model is there after so many more days."""
        for folder in model.parent.parent.iterdir():
            os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - days * 24 * 3600))
        runs.removeOldRuns()
        return model.exists()

    assert pass_(59) and not (model.parent.parent / "old").exists()
    panel.model._shown = ""
    panel.model.update()  # a scene that was saved with it is loaded, and it counts from then
    assert pass_(59)
    assert not pass_(2)
