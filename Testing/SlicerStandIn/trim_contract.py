"""Make api.json, the part of Slicer's Python API that this project may use, from a description of all of it.

    python trim_contract.py /path/to/slicer_api.json

Kept are the classes named below, their base classes, and the classes that their members return. One class lies on
one line, so that a new version of Slicer makes a readable difference.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WANTED = """
QAbstractButton QAbstractItemView QAction QApplication QBoxLayout QBrush QButtonGroup QByteArray QCheckBox QClipboard
QColor QComboBox QCoreApplication QDesktopServices QDialog QDialogButtonBox QDir QDoubleSpinBox QEvent QFile QFileDialog
QFileInfo QFont QFormLayout QFrame QGridLayout QGroupBox QHBoxLayout QHeaderView QIcon QImage QInputDialog
QItemSelectionModel QKeySequence QLabel QLayout QLayoutItem QLineEdit QListWidget QListWidgetItem QMainWindow QMenu
QMessageBox QModelIndex QObject QPainter QPalette QPixmap QPlainTextEdit QPoint QProcess QProcessEnvironment
QProgressBar QProgressDialog QPushButton QRadioButton QRect QScrollArea QSettings QShortcut QSize QSizePolicy QSlider
QSpacerItem QSpinBox QSplitter QStackedLayout QStackedWidget QStandardPaths QStatusBar QStyle QTabWidget QTableView
QTableWidget QTableWidgetItem QTextBrowser QTextEdit QTimer QToolButton QTreeWidget QTreeWidgetItem QUiLoader QUrl
QVBoxLayout QWidget QWidgetItem Qt
ctkCheckableComboBox ctkCollapsibleButton ctkCollapsibleGroupBox ctkComboBox ctkDirectoryButton ctkFittedTextBrowser
ctkMessageBox ctkPathLineEdit ctkSliderWidget
qMRMLCheckableNodeComboBox qMRMLLayoutManager qMRMLNodeComboBox qMRMLPlotView qMRMLPlotWidget qMRMLSegmentEditorWidget
qMRMLSegmentsTableView qMRMLSliceControllerWidget qMRMLSliceView qMRMLSliceWidget qMRMLThreeDView qMRMLThreeDWidget
qMRMLWidget
qSlicerAbstractCoreModule qSlicerAbstractModule qSlicerAbstractModuleWidget qSlicerApplication qSlicerCoreApplication
qSlicerCoreIOManager qSlicerExtensionsManagerModel qSlicerIOManager qSlicerLayoutManager qSlicerModuleManager
qSlicerLoadableModule qSlicerMainWindow qSlicerModuleSelectorToolBar qSlicerScriptedLoadableModule
qSlicerScriptedLoadableModuleWidget qSlicerSegmentEditorAbstractEffect qSlicerWidget
"""

# Returned by members of the above, large, and of no use to this project, or not in Qt 6 at all.
UNWANTED = """
QDesktopWidget QGraphicsEffect QLocale QRegExp QSurface QTextCodec QVector3D QWindow ctkDICOMBrowser ctkDICOMDatabase
ctkErrorLogAbstractModel
"""

# Which C++ header declares the class, and which methods are out of reach behind properties: nobody asks here.
DROPPED_KEYS = {"header", "shadowed"}


def returned_classes(description: dict[str, Any]) -> set[str]:
    """Names in the types of a class's results, properties and child widgets."""
    types = [*description.get("returns", {}).values(), *description.get("children", {}).values()]
    types += [item["type"] for item in description["properties"].values()]
    return {name for text in types for name in re.findall(r"[\w:]+", text or "")}


def with_bases(names: Iterable[str], classes: dict[str, dict[str, Any]]) -> set[str]:
    """The named classes that there are, and all their ancestors."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in classes and name not in found:
            found.add(name)
            todo += classes[name]["bases"]
    return found


def trimmed(classes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The classes to keep, without the keys that nobody reads."""
    missing = [name for name in WANTED.split() if name not in classes]
    if missing:
        raise SystemExit(f"Not in the description of the API: {', '.join(missing)}")
    wanted = with_bases(WANTED.split(), classes)
    returned = {name for item in wanted for name in returned_classes(classes[item])}.difference(UNWANTED.split())
    return {
        name: {key: value for key, value in classes[name].items() if key not in DROPPED_KEYS}
        for name in wanted | with_bases(returned, classes)
    }


def main() -> None:
    full = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))

    def compact(value: Any) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    lines = [f"{json.dumps(name)}:{compact(value)}" for name, value in sorted(trimmed(full["classes"]).items())]
    about = {key: full["_about"][key] for key in ("notation", "versions")}
    text = f'{{"about":{compact(about)},\n"classes":{{\n' + ",\n".join(lines) + "\n}}\n"
    Path(__file__).with_name("api.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
