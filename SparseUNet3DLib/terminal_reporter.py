"""Progress events as text for a person: one rewriting line on a terminal, plain lines in a log file."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any, TextIO

from SparseUNet3DLib.eta import EtaEstimator, format_duration
from SparseUNet3DLib.lost_output import discard_output

#: Used where the output is not a terminal, or the terminal does not tell its width.
DEFAULT_WIDTH = 80
#: Seconds between two drawings of the progress line on a terminal.
REDRAW_INTERVAL = 0.1
#: In a log file, progress is written at every tenth of a phase and at least this often (seconds).
LOG_INTERVAL = 60.0
#: Added before rounding down, so that 0.1 + 0.2 counts as 0.3.
ROUNDING = 1e-9


class TerminalReporter:
    """Writes events (see `SparseUNet3DLib.events`) as text to ``stream``, by default standard error.

    Where the stream is a terminal, progress is one line that is rewritten in place and never wider than the
    terminal; elsewhere it is plain lines. What can no longer be written (a closed terminal, a full disk) is
    dropped: progress reports never stop the work.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream is not None and self._stream.isatty()
        self._clock = clock
        self._phase = ""
        self._progress: dict[str, Any] = {}
        self._mean_iou: float | None = None
        self._eta = EtaEstimator(clock)
        self._shown_at = -float("inf")
        self._shown_tenth = -1
        self._line_length = 0
        self._mentioned: set[str] = set()

    def emit(self, event: str, **fields: Any) -> None:
        """Show one event; events that a person need not see are left out."""
        show = {
            "plan": self._show_plan,
            "phase": self._show_phase,
            "step": self._show_step,
            "validation": self._show_validation,
            "checkpoint": self._show_file,
            "preview": self._show_file,
            "warning": self._show_warning,
            "done": self._show_done,
            "error": self._show_error,
        }.get(event)
        if show is not None:
            show(event, fields)

    def _show_plan(self, _event: str, fields: dict[str, Any]) -> None:
        for line in fields["lines"]:
            self._print(line)
        self._print(f"device: {fields['device']}")
        for volume, planes in fields["held_out"].items():
            self._print(f"held out for validation in {volume}: {', '.join(planes)}")

    def _show_phase(self, _event: str, fields: dict[str, Any]) -> None:
        fraction = fields["fraction"]
        self._enter_phase(fields["phase"], fraction)
        self._show_progress(fraction=fraction, eta=self._eta.update(fraction))

    def _show_step(self, _event: str, fields: dict[str, Any]) -> None:
        self._enter_phase("training", fields["fraction"])
        self._show_progress(**fields, eta=fields["eta_seconds"])

    def _show_validation(self, _event: str, fields: dict[str, Any]) -> None:
        self._mean_iou = fields["mean_iou"]
        if not self._is_terminal:
            segments = ", ".join(f"{name} {score(iou)}" for name, iou in fields["iou"].items())
            self._print(f"Held-out IoU at step {fields['iteration']}: mean {score(self._mean_iou)} ({segments})")

    def _show_file(self, event: str, fields: dict[str, Any]) -> None:
        """Mention a file that is written again and again only the first time."""
        text = f"{event.capitalize()}: {fields['path']}"
        if text not in self._mentioned:
            self._mentioned.add(text)
            self._print(text, wrap=False)

    def _show_warning(self, _event: str, fields: dict[str, Any]) -> None:
        self._print(f"Warning: {fields['message']}")

    def _show_done(self, _event: str, fields: dict[str, Any]) -> None:
        self._end_line()
        for name, path in fields["outputs"].items():
            self._print(f"{name}: {path}", wrap=False)

    def _show_error(self, _event: str, fields: dict[str, Any]) -> None:
        self._end_line()
        # Being stopped on request is not a failure.
        label = "" if fields["kind"] == "Interrupted" else "Error: "
        self._print(f"{label}{fields['message']}")

    def _enter_phase(self, phase: str, fraction: float) -> None:
        """Begin a new line for another phase, or for the same one when it begins anew (with the next volume)."""
        begins_anew = self._progress.get("fraction", 0) >= 1 > fraction
        if phase == self._phase and not begins_anew:
            return
        self._end_line()
        self._phase = phase
        self._progress = {}
        self._mean_iou = None
        self._eta = EtaEstimator(self._clock)
        self._shown_at = -float("inf")
        self._shown_tenth = -1

    def _show_progress(self, **state: Any) -> None:
        """Take over the new state; show it if it is finished, or if the last showing is long enough ago."""
        if self._progress.get("fraction", 0) >= 1:
            return  # the finished line stands already
        self._progress.update(state)
        now, fraction = self._clock(), state["fraction"]
        tenth = int(10 * fraction + ROUNDING)
        if self._is_terminal:
            if fraction < 1 and now - self._shown_at < REDRAW_INTERVAL:
                return
            self._draw_line()
            if fraction >= 1:
                self._end_line()
        else:
            if tenth == self._shown_tenth and now - self._shown_at < LOG_INTERVAL:
                return
            self._print(self._progress_text(DEFAULT_WIDTH))
        self._shown_at, self._shown_tenth = now, tenth

    def _progress_text(self, width: int) -> str:
        """The state in at most ``width`` characters; what matters least is left out first."""
        state = self._progress
        # Rounded down: 100% is for what is finished.
        percent = int(100 * state["fraction"] + ROUNDING)
        parts = {"phase": f"{self._phase[:1].upper()}{self._phase[1:]} {percent}%"}
        if state.get("networks", 1) > 1:
            parts["network"] = f"network {state['network']}/{state['networks']}"
        if "iteration" in state:
            total = "" if state["iterations"] is None else f"/{state['iterations']}"
            parts["step"] = f"step {state['iteration']}{total}"
            parts["loss"] = f"loss {state['loss']:.4f}"
        if self._mean_iou is not None:
            parts["iou"] = f"held-out IoU {self._mean_iou:.3f}"
        if state["eta"] is not None and state["fraction"] < 1:
            parts["eta"] = f"{format_duration(state['eta'])} left"
        for least in ("step", "loss", "network", "iou", "eta"):
            if len("  ".join(parts.values())) <= width:
                break
            parts.pop(least, None)
        return printable("  ".join(parts.values()))[:width]

    def _draw_line(self) -> None:
        # The last column stays free: many terminals wrap as soon as it is filled.
        text = self._progress_text(self._width() - 1)
        self._write("\r" + text.ljust(min(self._line_length, self._width() - 1)))
        self._line_length = len(text)

    def _end_line(self) -> None:
        """Leave the progress line, brought up to date, standing above what comes next."""
        if self._line_length:
            self._draw_line()
            self._write("\n")
            self._line_length = 0

    def _print(self, text: str, wrap: bool = True) -> None:
        """Write ``text`` on lines of its own; the progress line makes way and is drawn again below."""
        if self._line_length:
            self._write("\r" + " " * self._line_length + "\r")
        text = printable(text)
        if wrap:
            # Paths and names stay in one piece, so that they can be copied.
            text = textwrap.fill(
                text, self._width(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
        self._write(text + "\n")
        if self._line_length:
            self._line_length = 0
            self._draw_line()

    def _width(self) -> int:
        if self._is_terminal:
            try:
                return os.get_terminal_size(self._stream.fileno()).columns or DEFAULT_WIDTH
            except (OSError, ValueError, AttributeError):
                pass
        return DEFAULT_WIDTH

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            discard_output(self._stream)
            self._stream = None
            self._is_terminal = False


def printable(text: str) -> str:
    """``text`` with control characters, which could move the cursor or clear the screen, written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def score(iou: float | None) -> str:
    """An IoU to three digits; "-" for one that is undefined."""
    return "-" if iou is None else f"{iou:.3f}"
