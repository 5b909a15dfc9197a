"""Signals and what is connected to them, by PythonQt's rules.

A callback gets at most as many arguments as it takes, its exception is printed and goes no further, and the connection
keeps it alive. Exceptions are also kept in `callback_errors`, where a test can find them.
"""

from __future__ import annotations

import inspect
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import shiboken6
from PySide6.QtCore import SIGNAL, QMetaObject, QObject

from . import implementations
from .calls import call
from .contract import normalized
from .signatures import CONTRACT, overloads, parse

#: Exceptions that callbacks of signals and timers raised, in order.
callback_errors: list[BaseException] = []

# Signals of Qt 5 that Qt 6 has under another name.
_QT5_SIGNALS = {
    "currentIndexChanged(QString)": "currentTextChanged(QString)",
    "activated(QString)": "textActivated(QString)",
    "highlighted(QString)": "textHighlighted(QString)",
    "valueChanged(QString)": "textChanged(QString)",
    "error(QProcess::ProcessError)": "errorOccurred(QProcess::ProcessError)",
    "buttonClicked(int)": "idClicked(int)",
    "buttonPressed(int)": "idPressed(int)",
    "buttonReleased(int)": "idReleased(int)",
    "buttonToggled(int,bool)": "idToggled(int,bool)",
}


@dataclass
class Connection:
    signature: str
    callback: Any
    handle: QMetaObject.Connection


# By the address of the C++ object, since PySide's Python object for it may come and go.
_connections: dict[int, list[Connection]] = {}


def connect(core: QObject, cls: str, text: str, callback: Any) -> bool:
    """`connect("clicked(bool)", f)`: a signal that the class lacks is no error, only False."""
    signature = CONTRACT.signal(cls, text)
    if signature is None:
        print(f"QObject::connect: No such signal {cls}::{text}", file=sys.stderr)
        return False
    if not callable(callback):
        raise ValueError(f"{callback!r} is not callable")
    deliver = receiver(callback, len(parse(cls, signature).types))
    own = _own_signal(core, cls, signature)
    handle = own.connect(deliver) if own is not None else QObject.connect(core, SIGNAL(_qt6(core, signature)), deliver)
    if not handle:
        raise NotImplementedError(f"{cls}.{signature} exists in Slicer, but its stand-in does not have it")
    _of(core).append(Connection(signature, callback, handle))
    return True


def connect_slot(core: QObject, cls: str, text: str, receiver_core: QObject, receiver_cls: str, slot: str) -> bool:
    """`connect("clicked()", other, "slot()")`."""
    name = slot.partition("(")[0]
    if normalized(slot) not in {f"{form.name}({','.join(form.types)})" for form in overloads(receiver_cls, name)}:
        print(f"QObject::connect: No such slot {receiver_cls}::{slot}", file=sys.stderr)
        return False
    count = len(parse(receiver_cls, slot).types)

    def run_slot(*arguments: Any) -> None:
        if shiboken6.isValid(receiver_core):
            call(receiver_core, receiver_cls, name, arguments[:count], {})

    return connect(core, cls, text, run_slot)


def disconnect(core: QObject, cls: str, text: str, callback: Any = None) -> bool:
    """Without a callback every receiver goes, C++ ones too; False if nothing was connected."""
    signature = CONTRACT.signal(cls, text)
    if signature is None:
        return False
    mine = _of(core)
    found = [item for item in mine if item.signature == signature and (callback is None or item.callback == callback)]
    for item in found[:1] if callback is not None else found:
        QObject.disconnect(item.handle)
        mine.remove(item)
    if callback is None and _own_signal(core, cls, signature) is None:
        core.disconnect(SIGNAL(_qt6(core, signature)))
    return bool(found)


def emit(core: QObject, cls: str, signature: str, arguments: tuple[Any, ...]) -> None:
    """`signal.emit(...)`, or calling the signal."""
    signal = _own_signal(core, cls, signature) or getattr(core, _qt6(core, signature).partition("(")[0])
    signal.emit(*map(implementations.unwrap, arguments))


def receiver(callback: Any, sent: int | None = None) -> Callable[..., None]:
    """A function that hands a signal's arguments to a callback."""
    limit = _accepted_arguments(callback)
    count = sent if limit is None else limit if sent is None else min(sent, limit)

    def deliver(*arguments: Any) -> None:
        try:
            callback(*map(implementations.wrap, arguments[:count]))
        except Exception as error:
            callback_errors.append(error)
            traceback.print_exc()

    return deliver


def _accepted_arguments(callback: Any) -> int | None:
    """How many arguments the callback takes at most; None: all there are.

    PythonQt looks at a function's code: parameters with a default count, and partial objects get everything.
    """
    function, bound = callback, 0
    if isinstance(callback, types.MethodType):
        function, bound = callback.__func__, 1
    if isinstance(function, types.FunctionType):
        varies = function.__code__.co_flags & inspect.CO_VARARGS
        return None if varies else function.__code__.co_argcount - bound
    return getattr(callback, "most_arguments", None)


def _of(core: QObject) -> list[Connection]:
    address = shiboken6.getCppPointer(core)[0]
    if address not in _connections:
        _connections[address] = []
        core.destroyed.connect(lambda *_: _connections.pop(address, None))
    return _connections[address]


def _own_signal(core: QObject, cls: str, signature: str) -> Any:
    """The PySide signal of a class written in this package; overloads other than the first have names of their own."""
    name = signature.partition("(")[0]
    owner = next(item for item in CONTRACT.mro(cls) if signature in CONTRACT.members(item, "signals"))
    if not implementations.is_own(owner):
        return None
    return getattr(core, getattr(core, "SIGNAL_NAMES", {}).get(signature, name), None)


def _qt6(core: QObject, signature: str) -> str:
    """The signal's signature in Qt 6."""
    known = core.metaObject().indexOfSignal(signature) >= 0
    return signature if known else _QT5_SIGNALS.get(signature, signature)
