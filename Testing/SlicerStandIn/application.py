"""slicer.app and what is reached through it: layout and slice views, files, settings, extensions."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from PySide6 import QtCore, QtWidgets

from .dialogs import dialogs
from .folders import folder
from .implementations import implements
from .own_widgets import with_properties
from .scene import Scene

_SYSTEM = {"linux": "linux", "darwin": "macosx", "win32": "win"}.get(sys.platform, sys.platform)
_ARCHITECTURE = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
VERSION = (5, 13, 0)


@implements
class qSlicerApplication(
    with_properties(
        QtWidgets.QApplication,
        "qSlicerCoreApplication",
        slicerHome=folder("home"),
        temporaryPath=folder("temporary"),
        cachePath=folder("cache"),
        extensionsInstallPath=folder("extensions"),
        startupWorkingPath=os.getcwd(),
        majorVersion=VERSION[0],
        minorVersion=VERSION[1],
        mainApplicationMajorVersion=VERSION[0],
        mainApplicationMinorVersion=VERSION[1],
        mainApplicationPatchVersion=VERSION[2],
        mainApplicationName="Slicer",
        mainApplicationDisplayName="3D Slicer",
        revision="34000",
        repositoryRevision="583e9b37",
        mainApplicationRevision="34000",
        releaseType="Preview",
        isInstalled=True,
        os=_SYSTEM,
        arch=_ARCHITECTURE,
        platform=f"{_SYSTEM}-{_ARCHITECTURE}",
        applicationLocaleName="en-US",
        documentationBaseUrl="https://slicer.readthedocs.io",
        documentationVersion="latest",
        documentationLanguage="en",
    )
):
    """The application. Whether it runs with --testing is up to whoever starts it."""

    startupCompleted = QtCore.Signal()
    renderPaused = QtCore.Signal(bool)
    mrmlSceneChanged = QtCore.Signal(object)
    testing = False

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments)
        self.setApplicationName("Slicer")
        self.setOrganizationName("SlicerStandIn")
        settings = QtCore.QSettings
        settings.setDefaultFormat(settings.Format.IniFormat)
        settings.setPath(settings.Format.IniFormat, settings.Scope.UserScope, folder("settings"))
        self.setQuitOnLastWindowClosed(False)
        self._pauses = 0

    def set_up(self, scene: Scene, managers: dict[str, Any]) -> None:
        """What the application's getters give."""
        self._scene, self._managers = scene, managers

    def mrmlScene(self) -> Any:
        return self._scene.mrml

    def applicationLogic(self) -> Any:
        return self._scene.application_logic

    def moduleLogic(self, name: str) -> Any:
        return self._scene.logics.get(name)

    def layoutManager(self) -> Any:
        return self._managers["layout"]

    def moduleManager(self) -> Any:
        return self._managers["modules"]

    def coreIOManager(self) -> Any:
        return self._managers["files"]

    def ioManager(self) -> Any:
        return self._managers["files"]

    def extensionsManagerModel(self) -> Any:
        return self._managers["extensions"]

    def settings(self) -> QtCore.QSettings:
        return self._managers["settings"]

    def userSettings(self) -> QtCore.QSettings:
        return self.settings()

    def revisionUserSettings(self) -> QtCore.QSettings:
        return self.settings()

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def environment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def pauseRender(self) -> None:
        self._pauses += 1
        if self._pauses == 1:
            self.renderPaused.emit(True)

    def resumeRender(self) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self.renderPaused.emit(False)

    def setRenderPaused(self, paused: bool) -> None:
        (self.pauseRender if paused else self.resumeRender)()

    def restart(self) -> None:
        """The process goes on: that Slicer would restart is recorded like a dialog."""
        dialogs.show("restart")

    def toSlicerHomeAbsolutePath(self, path: str) -> str:
        return os.path.join(self.property("slicerHome"), path)

    @staticmethod
    def testingEnabled() -> bool:
        return qSlicerApplication.testing


@implements
class qSlicerExtensionsManagerModel(with_properties(QtCore.QObject, "qSlicerExtensionsManagerModel")):
    """Extensions: `installed` says which there are; installing one notes its name in `requested`."""

    extensionInstalled = QtCore.Signal(str)

    def __init__(self, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        self.installed: set[str] = set()
        self.requested: list[str] = []

    def isExtensionInstalled(self, name: str) -> bool:
        return name in self.installed

    def isExtensionEnabled(self, name: str) -> bool:
        return name in self.installed

    def installExtensionFromServer(self, name: str, restart: bool = True, update: bool = True) -> bool:
        self.requested.append(name)
        self.installed.add(name)
        self.extensionInstalled.emit(name)
        return True

    def updateExtensionsMetadataFromServer(self, force: bool = False, wait: bool = False) -> bool:
        return True
