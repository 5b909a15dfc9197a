"""slicer.modules: Slicer's own modules with their real logic, and scripted modules with their panels."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtWidgets

from .implementations import implements, wrap
from .own_widgets import with_properties


@implements
class qSlicerAbstractModule(with_properties(QtCore.QObject, "qSlicerAbstractCoreModule", path="")):
    """A module."""

    def __init__(self, name: str, logic: Any = None, path: str = "") -> None:
        super().__init__()
        self._logic = logic
        self._panel: Any = None
        for attribute, value in (("name", name), ("title", name), ("path", path)):
            self.setProperty(attribute, value)

    def logic(self) -> Any:
        return self._logic

    def set_panel(self, panel: Any) -> None:
        self._panel = panel

    def widgetRepresentation(self) -> Any:
        return self._panel

    def createNewWidgetRepresentation(self) -> Any:
        return self._panel


@implements
class qSlicerLoadableModule(qSlicerAbstractModule):
    """A module written in C++."""


@implements
class qSlicerScriptedLoadableModule(
    with_properties(
        qSlicerLoadableModule,
        "qSlicerScriptedLoadableModule",
        written=(
            "title",
            "categories",
            "contributors",
            "helpText",
            "acknowledgementText",
            "hidden",
            "dependencies",
            "index",
            "associatedNodeTypes",
        ),
    )
):
    """A module written in Python; its class fills in the title and the rest."""


@implements
class qSlicerScriptedLoadableModuleWidget(
    with_properties(QtWidgets.QWidget, "qSlicerScriptedLoadableModuleWidget", written=("moduleName",))
):
    """The panel of a scripted module: Python's widget class puts its widgets into it."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, module: qSlicerScriptedLoadableModule | None = None) -> None:
        super().__init__()
        self._module = module
        self._entered = False
        self._python: Any = None
        self._scene: Any = None
        self._make: Any = None
        QtWidgets.QVBoxLayout(self)

    def set_factory(self, make: Any) -> None:
        """How to make the Python object, at first and on reload."""
        self._make = make

    def reload(self) -> None:
        self._python = self._make(wrap(self))
        self._python.setup()
        if self._entered:
            self._call("enter")

    def self(self) -> Any:
        return self._python

    def module(self) -> Any:
        return self._module

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def enter(self) -> None:
        self._entered = True
        self._call("enter")

    def exit(self) -> None:
        self._entered = False
        self._call("exit")

    def _call(self, name: str) -> None:
        method = getattr(self._python, name, None)
        if method is not None:
            method()

    isEntered = QtCore.Property(bool, lambda self: self._entered)
    moduleName = QtCore.Property(str, lambda self: self._module.property("name"))


@implements
class qSlicerModuleFactoryManager(QtCore.QObject):
    """Knows the names of the modules."""

    def __init__(self, modules: dict[str, qSlicerAbstractModule]) -> None:
        super().__init__()
        self._modules = modules

    def loadedModuleNames(self) -> list[str]:
        return list(self._modules)

    def isLoaded(self, name: str) -> bool:
        return name in self._modules

    def loadedModule(self, name: str) -> Any:
        return self._modules.get(name)


@implements
class qSlicerModuleManager(QtCore.QObject):
    """Has the modules."""

    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self, namespace: ModuleType) -> None:
        super().__init__()
        self._namespace = namespace
        self._modules: dict[str, qSlicerAbstractModule] = {}
        self._factory = qSlicerModuleFactoryManager(self._modules)

    def add(self, module: qSlicerAbstractModule) -> None:
        name = module.property("name")
        self._modules[name] = module
        setattr(self._namespace, name.lower(), wrap(module))
        self.moduleLoaded.emit(name)

    def module(self, name: str) -> Any:
        return self._modules.get(name)

    def modulesNames(self) -> list[str]:
        return list(self._modules)

    def factoryManager(self) -> qSlicerModuleFactoryManager:
        return self._factory


@implements
class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):
    """Switches from module to module: the one left is exited, the chosen one entered."""

    moduleSelected = QtCore.Signal(str)

    def __init__(self, manager: qSlicerModuleManager, parent: QtWidgets.QWidget) -> None:
        super().__init__(parent)
        self._manager = manager
        self._selected = ""

    def selectModule(self, name: str) -> None:
        if name == self._selected:
            return
        for module, action in ((self._selected, "exit"), (name, "enter")):
            found = self._manager.module(module)
            panel = found.widgetRepresentation() if found is not None else None
            if panel is not None:
                getattr(panel, action)()
        self._selected = name
        self.moduleSelected.emit(name)

    selectedModule = QtCore.Property(str, lambda self: self._selected, selectModule)


@implements
class qSlicerMainWindow(QtWidgets.QMainWindow):
    """The main window, with a status bar and the module selector."""

    def __init__(self, manager: qSlicerModuleManager) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = qSlicerModuleSelectorToolBar(manager, self)
        self.addToolBar(self._selector)
        self.statusBar()

    def moduleSelector(self) -> qSlicerModuleSelectorToolBar:
        return self._selector
