"""Names of Qt 5 that Qt 6 lacks. What Qt's meta-objects tell of it is in the API contract; this is the rest."""

from __future__ import annotations

from contract import Contract

QT5_ONLY_CLASSES = frozenset(
    {
        "QDesktopWidget",
        "QDirModel",
        "QGLWidget",
        "QLinkedList",
        "QMatrix",
        "QRegExp",
        "QRegExpValidator",
        "QSound",
        "QStringRef",
        "QTextCodec",
        "QTextDecoder",
        "QTextEncoder",
    }
)

#: By the class that declares the name: the name, and what to use instead.
_MEMBERS = {
    "QApplication": {"desktop": "primaryScreen()"},
    "QFileInfo": {"created": "birthTime()", "readLink": "symLinkTarget()"},
    "QFontMetrics": {"width": "horizontalAdvance()"},
    "QImage": {"byteCount": "sizeInBytes()"},
    "QLayout": {"margin": "contentsMargins()", "setMargin": "setContentsMargins()"},
    "QListWidgetItem": {"backgroundColor": "background()", "textColor": "foreground()"},
    "QPalette": {"Background": "Window", "Foreground": "WindowText"},
    "QPlainTextEdit": {"tabStopWidth": "tabStopDistance", "setTabStopWidth": "setTabStopDistance()"},
    "QProcess": {"pid": "processId()"},
    "QTableWidgetItem": {"backgroundColor": "background()", "textColor": "foreground()"},
    "QTextEdit": {"tabStopWidth": "tabStopDistance", "setTabStopWidth": "setTabStopDistance()"},
    "QTreeWidgetItem": {"backgroundColor": "background()", "textColor": "foreground()"},
    "QWheelEvent": {"delta": "angleDelta()"},
    "QWidget": {"getContentsMargins": "contentsMargins()"},
    "Qt": {
        "BackgroundColorRole": "BackgroundRole",
        "ItemIsTristate": "ItemIsAutoTristate",
        "MidButton": "MiddleButton",
        "TextColorRole": "ForegroundRole",
    },
}

#: Signals of which `object.signal.connect` takes another overload in Qt 6.
AMBIGUOUS_SIGNALS = frozenset({("QProcess", "finished")})


def qt5_only_member(contract: Contract, cls: str, name: str) -> str | None:
    """What to tell a user of a member that Qt 6 lacks; None for all others."""
    for owner in contract.mro(cls):
        if name in _MEMBERS.get(owner, ()):
            return f"Qt 6 has no {cls}.{name}: use {_MEMBERS[owner][name]}"
    return f"Qt 6 has no {cls}.{name}" if contract.missing_in_qt6(cls, name) else None
