"""Compare recipes over tasks and seeds: IoU on the voxels that were never annotated.

    .venv/bin/python Testing/Benchmarks/compare_recipes.py --data DATA --out dice.csv --seconds 60 \
        --tasks spine-ct,spine-mr --seeds 0,1 "dice=true" "dice=false"

Each variant is a list of changes to the preset `balanced`, separated by blanks; `augmentation.` reaches what is
inside and `plan.` the network's plan (`plan.patch_size=48x48x48`), "base" changes nothing. ``--seconds`` is wall time
for training and segmenting; ``--iterations`` makes a comparison independent of what else the machine does. A run
whose row the CSV file has already is not repeated, so an interrupted comparison goes on. In the end prints a Markdown
table: one row per task.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

from results_file import append_row, find_row
from sparse_tasks import TASKS, load_task

from SparseUNet3DLib.device import tune_allocator
from SparseUNet3DLib.evaluation import NEVER_ANNOTATED, score_segmentation
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.recipe import Recipe, preset
from SparseUNet3DLib.workflow import RunOptions, densify

FIELDS = ("task", "setting", "budget", "variant", "seed", "iou", "classes", "iterations", "wall")
KEY = FIELDS[:5]


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--iterations", type=int, help="that many training steps instead of --seconds")
    parser.add_argument("--setting", default="main")
    parser.add_argument("--hold-out", type=int, default=None)
    parser.add_argument("--tasks", default=",".join(name for name, task in TASKS.items() if not task.untouched))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("variants", nargs="+")
    args = parser.parse_args()
    tune_allocator()
    budget = f"{args.iterations} steps" if args.iterations else f"{args.seconds:g} s"
    wanted = [
        {"task": task, "setting": args.setting, "budget": budget, "variant": variant, "seed": seed}
        for seed in args.seeds.split(",") for task in args.tasks.split(",") for variant in args.variants
    ]
    for run in wanted:
        if find_row(args.out, run, KEY) is None:
            row = run | _measure(run, args.data, args.hold_out)
            append_row(args.out, row, FIELDS)
            print(row, flush=True)
    _print_table([row for run in wanted if (row := find_row(args.out, run, KEY))], args.variants)


def change_recipe(recipe: Recipe, variant: str) -> Recipe:
    """``recipe`` with changes such as "dice=false augmentation.rotation=30"."""
    for change in variant.split():
        name, _, value = change.partition("=")
        with contextlib.suppress(json.JSONDecodeError):  # what is no number or truth value is a word
            value = json.loads(value)
        if name.startswith("augmentation."):
            field = name.removeprefix("augmentation.")
            recipe = replace(recipe, augmentation=replace(recipe.augmentation, **{field: value}))
        elif name != "base" and not name.startswith("plan."):
            recipe = replace(recipe, **{name: value})
    return recipe


def change_plan(variant: str) -> dict[str, str]:
    """What ``variant`` changes of the plan, as `RunOptions.plan` takes it."""
    changes = (change.removeprefix("plan.").split("=") for change in variant.split() if change.startswith("plan."))
    return dict(changes)


def _measure(run: dict, data: Path, hold_out: int | None) -> dict:
    case, truth = load_task(TASKS[run["task"]], data, run["setting"])
    number, unit = run["budget"].split()
    limits = {"seconds": None, "iterations": int(number)} if unit == "steps" else {"seconds": float(number)}
    recipe = replace(preset("balanced"), seed=int(run["seed"]), **limits)
    reporter = CollectingReporter()
    start = time.perf_counter()
    options = RunOptions("cpu", hold_out=hold_out, plan=change_plan(run["variant"]))
    prediction, model = densify(case.volume, case.annotation, change_recipe(recipe, run["variant"]), options, reporter)
    wall = time.perf_counter() - start
    where = ~case.annotation.annotated
    scores = score_segmentation(prediction.segmentation, truth, where, NEVER_ANNOTATED)
    return {
        "iou": f"{scores.mean_iou:.4f}",
        "classes": " ".join(f"{c.iou:.3f}" for c in scores.classes),
        "iterations": model.record["iterations"],
        "wall": f"{wall:.0f}",
    }


def _print_table(rows: list[dict], variants: list[str]) -> None:
    print("| task | " + " | ".join(variants) + " |")
    print("| --- |" + " --- |" * len(variants))
    means: dict[str, list[float]] = {v: [] for v in variants}
    for task in dict.fromkeys(r["task"] for r in rows):
        cells = []
        for variant in variants:
            values = [float(r["iou"]) for r in rows if r["task"] == task and r["variant"] == variant]
            means[variant].append(statistics.mean(values))
            cells.append(", ".join(f"{v:.3f}" for v in values))
        print(f"| {task} | " + " | ".join(cells) + " |")
    print("| mean | " + " | ".join(f"{statistics.mean(means[v]):.3f}" for v in variants) + " |")


if __name__ == "__main__":
    main()
