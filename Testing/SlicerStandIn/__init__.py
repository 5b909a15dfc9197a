"""A stand-in for the Qt half of 3D Slicer, to load, drive and photograph scripted modules without Slicer.

The MRML scene, its nodes, the logic classes and slicer.util are the real ones, from the Python package slicer-core.
What is missing there is made here on PySide6: the modules `qt` and `ctk` with PythonQt's rules of access (contract.py
says what exists, wrapping.py, members.py, calls.py, conversion.py and connections.py what it does), CTK's and Slicer's
widgets, slicer.app, slicer.modules and the base classes of scripted modules.

    import SlicerStandIn

    stand_in = SlicerStandIn.start()
    widget = stand_in.load_module("SparseUNet3D")     # a folder; the module is entered
    widget.panel.ui.segmentButton.click()
    assert stand_in.process_events(until=lambda: widget.panel.ui.progressBar.value == 100, timeout=60)
    stand_in.grab(widget, "panel.png", width=500)
    assert not stand_in.callback_errors
    stand_in.clear()                                  # an empty scene, nothing recorded

No message box opens: `stand_in.dialogs` records their texts and says what is answered (see dialogs.py). The folder
observed/ has questions that were put to a real Slicer, and its answers; the stand-in gives the same. What Slicer has
and the stand-in lacks raises NotImplementedError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stand_in import StandIn

_started: list[StandIn] = []


def start(testing: bool = False) -> StandIn:
    """Start it, once per process; `testing` is what slicer.app.testingEnabled() says."""
    from .stand_in import StandIn, install_modules

    if not _started:
        install_modules()
        _started.append(StandIn(testing))
    _started[0].testing = testing
    return _started[0]
