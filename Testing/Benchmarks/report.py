"""Tables and plots of what benchmark.py measured.

    .venv/bin/python Testing/Benchmarks/report.py benchmark-output [BENCHMARKS.md Documentation]

Prints a Markdown table per setting (mean over seeds; +- half the range where there are several), one of how far this
program is above the best peer, and one of time and memory, and writes iou-minutes.png and iou-slices.png beside
results.csv. Given a Markdown file, the tables replace what it has between the lines "<!-- benchmark -->" and
"<!-- /benchmark -->", and the plots go into the folder named last.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from methods import METHODS, OURS, TIMED
from sparse_tasks import SETTINGS, TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BEGIN, _END = "<!-- benchmark -->", "<!-- /benchmark -->"
#: Okabe and Ito's colours, which the colour-blind can tell apart; ours is the first.
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def main() -> None:
    """Print the tables and draw the plots."""
    folder = Path(sys.argv[1])
    document, pictures = (Path(p) for p in sys.argv[2:4]) if len(sys.argv) > 2 else (None, folder)
    with (folder / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["iou"]]
    if not rows:
        sys.exit(f"No run in {folder / 'results.csv'} succeeded; its column 'error' says why.")
    lines = [
        line for setting in SETTINGS for untouched in (False, True)
        if (chosen := [r for r in rows if r["setting"] == setting and TASKS[r["task"]].untouched == untouched])
        for line in table(chosen, setting, untouched)
    ]
    lines += margins(rows)
    if at_main := [r for r in rows if r["setting"] == "main" and not TASKS[r["task"]].untouched]:
        lines += costs(at_main)
    print("\n".join(lines))
    plot_minutes(rows, pictures / "iou-minutes.png")
    plot_slices(rows, pictures / "iou-slices.png")
    if document is not None:
        before, rest = document.read_text().split(_BEGIN)
        _, after = rest.split(_END)
        document.write_text(before + _BEGIN + "\n".join(["", *lines, ""]) + _END + after)


def table(rows: list[dict], setting: str, untouched: bool) -> list[str]:
    """One row per task, one column per method (and budget); the best of each row in bold."""
    columns = [(m, b) for m in METHODS for b in _budgets([r for r in rows if r["method"] == m])]
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    yz, xz, xy = SETTINGS[setting]
    about = "; volumes by which nothing about this program was chosen" if untouched else ""
    lines = [
        f"\nSetting `{setting}`: {yz},{xz},{xy} slices (yz, xz, xy){about}\n",
        "| task (annotated) | " + " | ".join(f"{m}, {b} min" if b else m for m, b in columns)
        + " | best peer |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    best_peers = []
    for task in tasks:
        of_task = [row for row in rows if row["task"] == task]
        cells = {column: _ious(of_task, *column) for column in columns}
        best = max((statistics.mean(c) for c in cells.values() if c), default=0)
        best_peers.append(_best_peer(of_task))
        share = 100 * float(of_task[0]["annotated"])
        texts = [*(_cell(c, best) for c in cells.values()), _text(best_peers[-1])]
        lines.append(f"| {task} ({share:.1f} %) | " + " | ".join(texts) + " |")
    means = [[statistics.mean(c) for t in tasks if (c := _ious([r for r in rows if r["task"] == t], *column))]
             for column in columns]  # fmt: skip
    means.append([p for p in best_peers if p is not None])
    return [*lines, "| mean | " + " | ".join(_text(statistics.mean(m) if len(m) == len(tasks) else None)
                                             for m in means) + " |"]  # fmt: skip


def margins(rows: list[dict]) -> list[str]:
    """One row per setting and budget of ours: IoU above that of each task's best peer (its mean over seeds)."""
    lines = [
        f"\n{OURS}'s IoU above that of each task's best peer; volumes by which nothing was chosen are *untouched*\n",
        "| setting | runs | mean IoU | above, on average | on the task with the least | with the most | least run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for untouched in (False, True):
        for setting in SETTINGS:
            chosen = [r for r in rows if r["setting"] == setting and TASKS[r["task"]].untouched == untouched]
            for budget in _budgets([r for r in chosen if r["method"] == OURS]):
                if cells := _margin(chosen, budget):
                    name = f"{setting}, {budget} min" + (", untouched" if untouched else "")
                    lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines if len(lines) > 3 else []


def _margin(rows: list[dict], budget: str) -> list[str] | None:
    """None where no task has both a peer and this program."""
    runs, means, above = [], [], {}
    for task in TASKS:
        of_task = [row for row in rows if row["task"] == task]
        ours = _ious(of_task, OURS, budget)
        if ours and (peer := _best_peer(of_task)) is not None:
            runs += [iou - peer for iou in ours]
            means.append(statistics.mean(ours))
            above[task] = means[-1] - peer
    if not above:
        return None
    least, most = (f"{above[task]:.3f} ({task})" for task in (min(above, key=above.get), max(above, key=above.get)))
    averages = [_text(statistics.mean(means)), _text(statistics.mean(above.values()))]
    return [str(len(runs)), *averages, least, most, _text(min(runs))]


def costs(rows: list[dict]) -> list[str]:
    """One row per method and budget: time and memory over all tasks and seeds, from the least to the most."""
    lines = [
        "\nWhat each takes at `main`, least to most\n",
        "| method | wall, s | CPU, s | peak memory, MiB |",
        "| --- | --- | --- | --- |",
    ]
    for method in METHODS:
        of_method = [row for row in rows if row["method"] == method]
        for budget in _budgets(of_method):
            chosen = [row for row in of_method if row["minutes"] == budget]
            name = f"{method}, {budget} min" if budget else method
            cells = [_range([float(row[field]) for row in chosen]) for field in ("wall", "cpu", "peak_mb")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _range(values: list[float]) -> str:
    low, high = (f"{value:.1f}" if max(values) < 10 else f"{value:.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def plot_minutes(rows: list[dict], path: Path) -> None:
    """IoU against wall time at the setting `main`, one panel per task; a bar spans the seeds."""
    rows = [row for row in rows if row["setting"] == "main"]
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    if not tasks:
        return
    figure, panels = _panels(tasks)
    for task, panel in zip(tasks, panels, strict=False):
        for color, method in zip(_COLORS, METHODS, strict=True):
            of_method = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            points = []
            for budget in _budgets(of_method):
                chosen = [row for row in of_method if row["minutes"] == budget]
                seconds = statistics.mean(float(row["wall"]) for row in chosen)
                points.append((seconds, [float(row["iou"]) for row in chosen]))
            _draw(panel, points, "o-" if method in TIMED else "s", color, method)
        panel.set(title=task, xscale="log", xlabel="time in all", ylabel="IoU", xlim=(0.1, 1000), ylim=(0, 1))
        panel.set_xticks([0.1, 1, 10, 60, 600], ["0.1 s", "1 s", "10 s", "1 min", "10 min"])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    _save(figure, panels, path)


def plot_slices(rows: list[dict], path: Path) -> None:
    """IoU against the number of annotated slices, at the longest budget of the most settings, one panel per task.

    Tasks of which only one setting was run are left out.
    """
    tasks = [task for task in TASKS if len({row["setting"] for row in rows if row["task"] == task}) > 1]
    if not tasks:
        return
    figure, panels = _panels(tasks)
    for task, panel in zip(tasks, panels, strict=False):
        for color, method in zip(_COLORS, METHODS, strict=True):
            of_method = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            lines = {budget: _line_of_slices(of_method, method, budget) for budget in reversed(_budgets(of_method))}
            if lines:
                budget, line = max(lines.items(), key=lambda item: len(item[1]))
                _draw(panel, line, "o-", color, f"{method}, {budget} min" if budget else method)
        panel.set(title=task, xlabel="annotated slices", ylabel="IoU", ylim=(0, 1))
        panel.set_xticks([sum(slices) for slices in SETTINGS.values()])
        panel.grid(alpha=0.3)
    _save(figure, panels, path)


def _draw(panel: Axes, points: list[tuple[float, list[float]]], style: str, color: str, label: str) -> None:
    """Means of the values at each place, with a bar from the lowest to the highest."""
    if points:
        places, values = zip(*points, strict=True)
        panel.plot(places, [statistics.mean(v) for v in values], style, color=color, label=label, markersize=5)
        panel.vlines(places, [min(v) for v in values], [max(v) for v in values], color=color)


def _line_of_slices(rows: list[dict], method: str, budget: str) -> list[tuple[int, list[float]]]:
    """(number of annotated slices, IoU of each seed) of the settings measured."""
    return [
        (sum(slices), values)
        for setting, slices in SETTINGS.items()
        if (values := _ious([r for r in rows if r["setting"] == setting], method, budget))
    ]


def _panels(tasks: list[str]) -> tuple:
    from matplotlib import pyplot

    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, panels = pyplot.subplots(lines, columns, figsize=(4 * columns, 3.2 * lines), squeeze=False)
    for panel in panels.ravel()[len(tasks):]:
        panel.axis("off")
    return figure, panels.ravel()


def _save(figure: object, panels: object, path: Path) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=110)


def _ious(rows: list[dict], method: str, minutes: str) -> list[float]:
    return [float(row["iou"]) for row in rows if (row["method"], row["minutes"]) == (method, minutes)]


def _best_peer(rows: list[dict]) -> float | None:
    """The highest IoU (mean over seeds) of any method and budget but ours; None where there are no rows of others."""
    columns = {(row["method"], row["minutes"]) for row in rows if row["method"] != OURS}
    return max((statistics.mean(_ious(rows, *column)) for column in columns), default=None)


def _budgets(rows: list[dict]) -> list[str]:
    """Minutes, the longest last; "" where a method takes none."""
    return sorted({row["minutes"] for row in rows}, key=_number)


def _cell(values: list[float], best: float) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    text = f"{mean:.3f}" + (f" +- {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else "")
    return f"**{text}**" if mean == best else text


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _number(text: str) -> float:
    return float(text or 0)


if __name__ == "__main__":
    main()
