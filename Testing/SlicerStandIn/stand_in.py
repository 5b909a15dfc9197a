"""Starting the stand-in, loading a module into it, driving it and taking its picture."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer.util
from PySide6 import QtCore

from . import (  # noqa: F401  (importing the widgets makes them known)
    checkable_nodes,
    collapsing,
    connections,
    ctk_widgets,
    forms,
    modules,
    node_combo_boxes,
    plot_view,
    qt5,
    segment_editor,
    segments_table,
    small_modules,
)
from . import dialogs as dialogs_module
from .application import qSlicerApplication, qSlicerExtensionsManagerModel
from .dialogs import dialogs
from .files import qSlicerIOManager
from .implementations import is_own, unwrap, wrap
from .layout import qSlicerLayoutManager
from .scene import Scene
from .signatures import CONTRACT
from .wrapping import Wrapper, WrapperModule, wrapper_class


class StandIn:
    """Slicer, as far as a scripted module can tell."""

    def __init__(self, testing: bool) -> None:
        qSlicerApplication.testing = testing
        self._application = qSlicerApplication(["Slicer"])
        self.dialogs = dialogs
        self.scene = Scene()
        self._module_manager = modules.qSlicerModuleManager(slicer.modules)
        self.extensions = qSlicerExtensionsManagerModel()
        self._application.set_up(
            self.scene,
            {
                "layout": qSlicerLayoutManager(self.scene),
                "modules": self._module_manager,
                "files": qSlicerIOManager(self.scene.mrml),
                "extensions": self.extensions,
                "settings": QtCore.QSettings(),
            },
        )
        slicer.mrmlScene = self.scene.mrml
        slicer.app = wrap(self._application)
        for name, logic in self.scene.logics.items():
            self._module_manager.add(modules.qSlicerLoadableModule(name, logic))
        self._module_manager.add(modules.qSlicerLoadableModule("SampleData"))
        self._window: modules.qSlicerMainWindow | None = None
        self._loaded: dict[str, Any] = {}

    # -- modules ------------------------------------------------------------------------------------------------
    def load_module(self, folder: Path | str, name: str | None = None) -> Any:
        """Load a scripted module as Slicer does, and enter it; its widget object.

        Only the module's own folder is put on sys.path.
        """
        folder = Path(folder).resolve()
        name = name or folder.name
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        source = folder / f"{name}.py"
        python = _import(name, source)
        module = modules.qSlicerScriptedLoadableModule(name, None, str(source))
        described = getattr(python, name)(wrap(module))
        self._module_manager.add(module)
        panel = modules.qSlicerScriptedLoadableModuleWidget(module)
        panel.setMRMLScene(self.scene.mrml)
        module.set_panel(panel)

        def make(parent: Any) -> Any:
            widget = getattr(sys.modules[name], f"{name}Widget")(parent)
            setattr(slicer.modules, f"{name}Widget", widget)
            return widget

        panel.set_factory(make)
        panel.reload()
        panel.enter()
        self._loaded[name] = (described, module, panel)
        self._application.startupCompleted.emit()
        return panel.self()

    def unload_module(self, name: str) -> None:
        """As when Slicer quits: the module is left, told, and its panel deleted."""
        _, _, panel = self._loaded.pop(name)
        panel.exit()
        self._module_manager.moduleAboutToBeUnloaded.emit(name)
        delattr(slicer.modules, f"{name}Widget")
        delattr(slicer.modules, name.lower())
        panel.deleteLater()
        self.process_events()

    def show_main_window(self) -> Any:
        """From here on slicer.util.mainWindow() gives a window, with a status bar and a module selector."""
        if self._window is None:
            self._window = modules.qSlicerMainWindow(self._module_manager)
            self._window.show()
        return wrap(self._window)

    def close_main_window(self) -> None:
        if self._window is not None:
            self._window.deleteLater()
            self._window = None
            self.process_events()

    # -- driving ------------------------------------------------------------------------------------------------
    def process_events(self, until: Callable[[], Any] | None = None, timeout: float = 30.0) -> bool:
        """Let Qt work, once or until something is so; whether it became so in time (in seconds)."""
        end = time.monotonic() + timeout
        while True:
            QtCore.QCoreApplication.processEvents()
            # Qt deletes what deleteLater() was called for only in an event loop that runs.
            QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
            if until is None or until():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.005)

    def quit(self) -> None:
        """Tell everybody that the application is about to quit; it does not."""
        self._application.aboutToQuit.emit()

    def clear(self) -> None:
        """An empty scene, no recorded dialogs, no settings, no errors of callbacks."""
        self.scene.clear()
        self.dialogs.clear()
        self._application.settings().clear()
        self.callback_errors.clear()
        self.process_events()

    @property
    def callback_errors(self) -> list[BaseException]:
        """Exceptions that callbacks of signals and timers raised; Slicer prints these and goes on."""
        return connections.callback_errors

    @property
    def testing(self) -> bool:
        """What slicer.app.testingEnabled() says."""
        return qSlicerApplication.testing

    @testing.setter
    def testing(self, value: bool) -> None:
        qSlicerApplication.testing = value

    def grab(self, widget: Any, path: Path | str, width: int | None = None, height: int | None = None) -> None:
        """Save a picture of a widget, or of a module's widget object: at a size, or as large as its contents want."""
        core = unwrap(widget if isinstance(widget, Wrapper) else widget.parent)
        core.show()
        self.process_events()
        width = width or core.sizeHint().width()
        if height is None:
            layout = core.layout()
            wraps = layout is not None and layout.hasHeightForWidth()
            height = layout.totalHeightForWidth(width) if wraps else core.sizeHint().height()
        core.resize(width, height)
        self.process_events()
        if not core.grab().save(str(path)):
            raise OSError(f"The picture could not be written to {path}")


def _import(name: str, source: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def install_modules() -> None:
    """Put qt, ctk and Slicer's Python modules where `import` finds them."""
    for name in ("qt", "ctk"):
        sys.modules[name] = WrapperModule(name)
    for name, description in CONTRACT.classes.items():
        if description["module"] == "slicer" and CONTRACT.known(name) and is_own(name):
            setattr(slicer, name, wrapper_class(name))
    slicer.modules = ModuleType("slicer.modules")
    slicer.modules.sampleDataSources = {}
    sys.modules["slicer.modules"] = slicer.modules
    slicer.i18n = small_modules.i18n()
    sys.modules["slicer.i18n"] = slicer.i18n
    sys.modules["sitkUtils"] = small_modules.sitk_utils()
    sys.modules["SampleData"] = small_modules.sample_data()
    from . import parameter_nodes, scripted_module

    for name, module in (("parameterNodeWrapper", parameter_nodes), ("ScriptedLoadableModule", scripted_module)):
        setattr(slicer, name, module)
        sys.modules[f"slicer.{name}"] = module
    dialogs_module.install(slicer.util)
