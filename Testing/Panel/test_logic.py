"""The module from the Python console: what the README's scripts do, and what they are told when it cannot be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")

from driving import MINUTES, PAINTED, addAnnotation, addVolume, denseLabels, grayValues, labelsOf, nodeNames

from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.segmentation_files import read_segmentation


@pytest.fixture
def logic(panel):
    """As a script gets it."""
    return slicer.util.getModuleLogic("SparseUNet3D")


def test_one_volume_of_which_slices_are_painted(logic):
    volume = addVolume("CT")
    annotation = addAnnotation(volume)
    outcome = logic.densify(volume, annotation, slices=["z:4", "z:8,12", "z:20"], heldOut=["z:8"], minutes=MINUTES)
    dense = slicer.mrmlScene.GetNodeByID(outcome.segmentations[0])
    labels = labelsOf(dense, volume)
    np.testing.assert_array_equal(labels[[4, 8, 12, 20]], denseLabels()[[4, 8, 12, 20]])
    assert set(outcome.heldOutIou) == {"ball", "core"} and outcome.model.exists()
    record = logic.modelCard(outcome.model)["header"]["record"]
    assert record["held_out_planes"] == {"CT": ["z:8"]}
    again = logic.densify(volume, annotation, minutes=MINUTES, startFrom=outcome.model, resultNode=dense)
    assert again.segmentations == outcome.segmentations
    assert nodeNames("vtkMRMLSegmentationNode") == ["painted", "CT segmented"]


def test_slices_that_are_named_are_the_only_ones_or_join_those_that_are_found(logic):
    volume = addVolume()
    annotation = addAnnotation(volume)
    found = [str(plane) for plane in logic.annotatedSlices(volume, annotation).planes()]
    assert found == [f"z:{index}" for index in PAINTED]

    def planes(*slices):
        return [str(plane) for plane in logic.makeCase([volume], annotation, slices or None).planes]

    assert planes() == planes("auto") == found
    assert planes("z:4") == ["z:4"]
    assert planes("auto", "z:1", "y:2") == ["z:1", *found, "y:2"]


def test_train_on_three_and_apply_to_others(logic, tmp_path):
    cases = []
    for n in range(3):
        volume = addVolume(f"train{n}", grayValues(n))
        cases.append(([volume], addAnnotation(volume)))
    cases[2] = (*cases[2], ["auto", "z:1"])
    events = []
    trained = logic.train(cases, minutes=MINUTES, onEvent=events.append)
    plan = next(e for e in events if e["event"] == "plan")
    assert sorted(plan["held_out"]) == ["train0", "train1", "train2"]
    learnt = {v["name"]: v["planes"] for v in logic.modelCard(trained.model)["header"]["record"]["volumes"]}
    assert "z:1" in learnt["train2"] and "z:1" not in learnt["train0"]
    new = [addVolume(f"new{n}", grayValues(9 + n)) for n in range(2)]
    outcome = logic.segment(trained.model, [[node] for node in new], confidence=True)
    assert [slicer.mrmlScene.GetNodeByID(i).GetName() for i in outcome.segmentations] == [
        "new0 segmented", "new1 segmented"
    ]
    assert len(outcome.confidences) == 2
    files = []
    for node in new:
        files.append(tmp_path / f"{node.GetName()}.nrrd")
        slicer.util.saveNode(node, str(files[-1]))
    written = logic.segmentFiles(trained.model, files, tmp_path / "results").files
    assert written == [tmp_path / "results" / f"new{n}.seg.nrrd" for n in range(2)]
    inScene = labelsOf(slicer.mrmlScene.GetNodeByID(outcome.segmentations[0]), new[0])
    np.testing.assert_array_equal(read_segmentation(written[0]).labels, inScene)
    written[1].unlink()
    (tmp_path / "results" / "new0.seg.nrrd").write_text("corrected by hand")
    assert logic.segmentFiles(trained.model, files, tmp_path / "results").files == written[1:]
    assert written[0].read_text() == "corrected by hand"


def test_without_waiting(logic, drive):
    volume = addVolume()
    outcomes, kinds = [], []
    job = logic.densify(
        volume, addAnnotation(volume), minutes=MINUTES, wait=False, onEnd=outcomes.append,
        onEvent=lambda event: kinds.append(event["event"]),
    )
    assert job.state == "handing over" and not outcomes
    assert drive(lambda: outcomes, 60)
    assert job.state == "ended" and not outcomes[0].error
    assert {"started", "plan", "step", "phase", "done"} <= set(kinds)


def test_an_interrupted_run_goes_on(logic, drive):
    volume = addVolume()
    annotation = addAnnotation(volume)
    outcomes, steps = [], []
    job = logic.densify(
        volume, annotation, minutes=10, wait=False, onEnd=outcomes.append,
        onEvent=lambda event: steps.append(event["iteration"]) if event["event"] == "step" else None,
    )
    assert drive(lambda: steps, 60)
    job.interrupt()
    assert drive(lambda: outcomes, 60)
    assert outcomes[0].interrupted and not outcomes[0].segmentations
    resumed = []
    logic.densify(
        volume, annotation, minutes=MINUTES, resumeFolder=job.folder,
        onEvent=lambda event: resumed.append(event["iteration"]) if event["event"] == "step" else None,
    )
    assert not resumed or resumed[0] > steps[0]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"annotationNode": None}, InputError, "No annotation is chosen"),
        ({"slices": ["z:99"]}, UsageError, "z:99"),
        ({"slices": ["q:1"]}, UsageError, "q:1"),
        ({"slices": ["z:0"]}, RuntimeError, "No structure is painted on the slices z:0"),
        ({"heldOut": ["z:1"]}, RuntimeError, "Slices z:1 cannot be held out"),
        ({"preset": "magic"}, RuntimeError, "exit code 2"),
        ({"device": "cuda:77"}, RuntimeError, "'cuda:77' is not available"),
        ({"startFrom": "/no/model.safetensors"}, RuntimeError, "/no/model.safetensors"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(logic, change, error, message):
    volume = addVolume()
    arguments = {"volumeNode": volume, "annotationNode": addAnnotation(volume), "minutes": MINUTES, **change}
    with pytest.raises(error, match=message):
        logic.densify(**arguments)


def test_a_new_annotation_and_its_slices(logic):
    volume = addVolume("CT")
    assert logic.createAnnotation(volume).GetName() == "CT annotation"
    found = logic.annotatedSlices(volume, addAnnotation(volume))
    assert [str(plane) for plane in found.planes()] == [f"z:{k}" for k in PAINTED]
    with pytest.raises(InputError, match="There is no volume file"):
        logic.segmentFiles("m.safetensors", [], "out")


# -- sample and self-test ----------------------------------------------------------------------------------------------


def test_the_sample_is_registered_and_ready_to_train_on(panel, drive):
    from SparseUNet3DModule.sample_data import CATEGORY, SAMPLE

    slicer.app.startupCompleted.emit()
    source = next(s for s in slicer.modules.sampleDataSources[CATEGORY] if s.sampleName == SAMPLE)
    nodes = source.customDownloader(source)
    assert [n.GetName() for n in nodes] == ["Tomato-Lectin", "DAPI", "beta-Catenin", "Tubules, a few slices"]
    slicer.mrmlScene.Clear(0)
    panel.ui.sampleButton.click()
    assert len(panel.channels()) == 3
    assert drive(lambda: panel.ui.segmentButton.enabled)
    assert len(panel.annotate.overview.rows) == 6
    assert {row.segments for row in panel.annotate.overview.rows} == {("tubule", "lumen")}


def test_the_self_test(panel, monkeypatch):
    import SparseUNet3D

    monkeypatch.setattr(SparseUNet3D.SparseUNet3DTest, "minutes", 0.1)
    monkeypatch.setattr(SparseUNet3D.SparseUNet3DTest, "leastIou", 0.0)
    SparseUNet3D.SparseUNet3DTest().runTest()


def test_the_self_test_without_torch(panel, monkeypatch):
    import SparseUNet3D

    monkeypatch.setattr(SparseUNet3D, "missingPackages", lambda: ["torch"])
    SparseUNet3D.SparseUNet3DTest().runTest()
    assert not slicer.util.getNodes("*segmented*")


def test_the_module_is_reloaded_with_its_packages(panel, stand_in, drive):
    import sys

    volume = addVolume()
    panel.parameters.volume, panel.parameters.annotation = volume, addAnnotation(volume)
    before = sys.modules["SparseUNet3DModule.panel"]
    slicer.modules.SparseUNet3DWidget.onReload()
    stand_in.process_events()
    assert sys.modules["SparseUNet3DModule.panel"] is not before
    again = slicer.modules.SparseUNet3DWidget.panel
    assert again is not panel and again.parameters.volume is volume
    assert drive(lambda: again.ui.sliceTable.rowCount == len(PAINTED))


def test_old_runs_are_removed_and_new_ones_kept(logic, monkeypatch):
    import os

    from SparseUNet3DModule import runs

    old, new = runs.newRunFolder(), runs.newRunFolder()
    os.utime(old, (0, 0))
    runs.removeOldRuns()
    assert not old.exists() and new.exists() and new.parent == Path(slicer.app.temporaryPath) / "SparseUNet3D"


def test_samples_can_be_loaded_twice(panel):
    from SparseUNet3DModule.sample_data import loadSample

    loadSample()
    nodes = loadSample()
    assert nodes[0].GetName() == "Tomato-Lectin_1"
