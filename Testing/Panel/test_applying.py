"""A model applied to several volumes, some of which fail or are not reached; and a model kept in a file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import addVolume, nodeNames

MANY = 12


@pytest.fixture
def trained(panel, ready, train):
    """A panel with a model."""
    train()
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
    assert segmented() == ["CT 0 segmented", "CT 2 segmented", "CT segmented"]
    text = panel.ui.errorLabel.text
    assert text.startswith("'CT 1' was left out: 'CT 1' has a spacing of") and "tmp" not in text
    assert panel.parameters.result.GetName() == "CT 2 segmented"


def test_the_only_volume_that_cannot_be_segmented_is_called_by_its_name(trained, drive):
    panel = trained
    volume = addVolume("brain")
    volume.SetSpacing(1000.0, 1000.0, 1500.0)
    panel.ui.applySelector.check(volume)
    panel.ui.applyManyButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.ui.errorLabel.text.startswith("'brain' has a spacing of")
    assert segmented() == ["CT segmented"]


def test_what_was_segmented_before_one_stopped_is_kept(trained, drive):
    panel = trained
    for n in range(MANY):
        panel.ui.applySelector.check(addVolume(f"CT {n}"))
    panel.ui.applyManyButton.click()
    folder = panel.job.folder
    assert drive(lambda: any(folder.glob("results/*.seg.nrrd")), 60)
    os.kill(max(panel.job.pids), signal.SIGSTOP)
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    count = len(segmented()) - 1
    assert 1 <= count < MANY
    assert panel.ui.statusLabel.text == f"Stopped. Volumes that were segmented before: {count}."
    assert panel.ui.errorFrame.isHidden()


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
    former = panel.parameters.result
    panel.ui.applyButton.click()
    assert drive(lambda: panel.job is not None and panel.job.state == "taking back", 60)
    panel.ui.stopButton.click()
    assert drive(lambda: not panel.isBusy, 60)
    assert panel.ui.statusLabel.text == "Done." and panel.parameters.result is not former


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


def test_a_model_that_was_not_saved_is_kept_longer_than_its_run(trained, monkeypatch):
    from SparseUNet3DModule import runs

    panel = trained
    model = Path(panel.parameters.modelPath)
    assert "not saved yet" in panel.ui.modelLabel.text
    (model.parent.parent / "old").mkdir()
    day = 24 * 3600
    for age, left in ((8 * day, True), (61 * day, False)):
        for folder in model.parent.parent.iterdir():
            os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - age))
        if left:  # a scene that was saved with it is loaded
            panel.model._shown = ""
            panel.model.update()
            assert runs.isNotSaved(model)
        runs.removeOldRuns()
        assert model.exists() == left
    assert not (model.parent.parent / "old").exists()
