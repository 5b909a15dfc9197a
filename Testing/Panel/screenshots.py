"""Pictures of the panel in its five states, for the README: made with the stand-in, on the sample.

    .venv/bin/python Testing/Panel/screenshots.py FOLDER
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "Testing" / "Panel")]

import SlicerStandIn
from driving import makeLauncher, pathWith

#: What the module panel gets of a window that is 1280 wide; it scrolls where it is higher.
WIDTH = 480
SECTIONS = ("dataSection", "annotateSection", "trainSection", "resultSection", "modelSection")


def main() -> None:
    """Write panel-data.png, panel-annotate.png, panel-training.png, panel-result.png and panel-model.png."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    standIn = SlicerStandIn.start()
    with tempfile.TemporaryDirectory() as launcher:
        makeLauncher(Path(launcher), "unset OMP_NUM_THREADS")
        os.environ["PATH"] = pathWith(Path(launcher))
        widget = standIn.load_module(ROOT / "SparseUNet3D")
        takeAll(standIn, widget, folder)
        standIn.unload_module("SparseUNet3D")
        standIn.clear()  # at exit Python frees nodes and their observers in an order that crashes


def takeAll(standIn: object, widget: object, folder: Path) -> None:
    """Drive the panel through its states."""
    panel, ui = widget.panel, widget.panel.ui

    def take(name: str, *opened: str) -> None:
        for section in SECTIONS:
            getattr(ui, section).collapsed = section not in opened
        standIn.process_events()
        standIn.grab(widget, folder / f"panel-{name}.png", WIDTH)

    assert standIn.process_events(lambda: ui.deviceSentence.text.endswith("."), 60)
    ui.sampleButton.click()
    assert standIn.process_events(lambda: ui.segmentButton.enabled, 30), ui.sliceMessage.text
    for _slice in range(2):
        ui.nextButton.click()
    take("data", "dataSection", "annotateSection")
    take("annotate", "annotateSection")
    panel.parameters.preset = "quick"
    ui.segmentButton.click()
    assert standIn.process_events(lambda: len(panel.train.chart.values("held-out IoU")) > 5, 60), ui.errorLabel.text
    take("training", "trainSection", "resultSection")
    assert standIn.process_events(lambda: not panel.isBusy, 240)
    assert not ui.errorLabel.text, ui.errorLabel.text
    take("result", "trainSection", "resultSection")
    panel.model.load(panel.parameters.modelPath)
    ui.inputFolderButton.directory, ui.outputFolderButton.directory = "/data/volumes", "/data/results"
    take("model", "resultSection", "modelSection")


if __name__ == "__main__":
    main()
