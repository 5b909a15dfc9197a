"""The module in the stand-in for Slicer's Qt half: one panel for the tests of a file, an empty scene for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SparseUNet3D")]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Slicer, with a launcher of Python that works as Slicer's does."""
    pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed", exc_type=ImportError)
    pytest.importorskip("slicer", reason="slicer-core is not installed (there is none for this Python)")
    import SlicerStandIn

    stand_in = SlicerStandIn.start()
    from driving import makeLauncher, pathWith

    launcher = tmp_path_factory.mktemp("launcher")
    makeLauncher(launcher)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", pathWith(launcher))
        stand_in.show_main_window()
        stand_in.load_module(ROOT / "SparseUNet3D")
        yield stand_in
        stand_in.unload_module("SparseUNet3D")
        stand_in.close_main_window()


@pytest.fixture
def panel(stand_in: Any) -> Iterator[Any]:
    """The module's panel in an empty scene; no callback may have failed in the end."""
    import slicer

    stand_in.clear()
    panel = slicer.modules.SparseUNet3DWidget.panel
    yield panel
    panel.logic.endAll()
    stand_in.process_events()
    errors = list(stand_in.callback_errors)
    stand_in.clear()
    assert not errors, errors


@pytest.fixture
def drive(stand_in: Any) -> Callable[..., bool]:
    """Let the window live until something is so; whether it became so in time."""
    return lambda until, timeout=20.0: stand_in.process_events(until, timeout)


@pytest.fixture
def dialogs(stand_in: Any) -> Any:
    """What was asked, and what is answered."""
    return stand_in.dialogs


@pytest.fixture
def ready(panel: Any, drive: Callable[..., bool]) -> Any:
    """A volume of which some slices are painted, chosen and looked at."""
    from driving import PAINTED, addAnnotation, addVolume

    volume = addVolume()
    panel.parameters.volume, panel.parameters.annotation = volume, addAnnotation(volume)
    panel.ui.minutesSpinBox.value = 0.0
    assert drive(lambda: panel.ui.sliceTable.rowCount == len(PAINTED) and panel.ui.segmentButton.enabled)
    return panel


@pytest.fixture
def train(panel: Any, drive: Callable[..., bool]) -> Callable[..., None]:
    """Press a button and wait until the run has ended well."""
    from driving import MINUTES

    def train(button: Any = None, minutes: float = MINUTES) -> None:
        panel.parameters.minutes = minutes
        (button or panel.ui.segmentButton).click()
        assert panel.isBusy, panel.ui.errorLabel.text
        assert drive(lambda: not panel.isBusy, 120), panel.ui.statusLabel.text
        assert panel.ui.errorFrame.isHidden(), (panel.ui.errorLabel.text, panel.ui.logText.plainText)

    return train
