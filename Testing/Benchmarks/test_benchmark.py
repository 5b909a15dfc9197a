"""The benchmark as its users run it: rows, going on after a kill, tables and plots."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the benchmark asks POSIX what a process took")

HERE = Path(__file__).parent
NEAREST, BETWEEN, OURS = "nearest annotated voxel", "Fill between slices", "SparseUNet3D"
HEADER = "task,setting,method,minutes,seed,iou,classes,wall,cpu,peak_mb,annotated,machine,date,error"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The folder of a volume with bright balls for the task nuclei-small, and where they are."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    seeds = np.zeros((20, 24, 28), bool)
    seeds[tuple(rng.integers(5, n - 5, 6) for n in seeds.shape)] = True
    labels = ndimage.label(ndimage.distance_transform_edt(~seeds) < 5)[0].astype(np.uint16)
    image = ((labels > 0) * 100 + rng.normal(0, 10, labels.shape)).astype(np.float32)
    (folder / "nuclei-stardist").mkdir()
    for name, array in (("image", image), ("labels", labels)):
        sitk.WriteImage(sitk.GetImageFromArray(array), folder / "nuclei-stardist" / f"{name}.nrrd")
    return folder, labels > 0


def benchmark(data: Path, out: Path, methods: tuple[str, ...], *options: str) -> list[str]:
    tasks = ("--tasks", "nuclei-small", "--methods", ",".join(methods))
    return [sys.executable, str(HERE / "benchmark.py"), "--data", str(data), "--out", str(out), *tasks, *options]


def rows_of(out: Path) -> list[dict]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, *rows: str) -> None:
    (folder / "results.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def report(*arguments: Path) -> str:
    command = [sys.executable, str(HERE / "report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_row_has_the_iou_on_the_voxels_that_were_never_annotated(truth: tuple, tmp_path: Path) -> None:
    folder, nuclei = truth
    subprocess.run(benchmark(folder, tmp_path, (NEAREST,), "--settings", "sparse"), check=True)
    annotated = np.zeros(nuclei.shape, bool)
    for axis in range(3):
        places = np.flatnonzero(nuclei.any(axis=tuple(a for a in range(3) if a != axis)))
        middle = places[0] + (places[-1] + 1 - places[0]) // 2
        annotated[(slice(None),) * axis + (middle,)] = True
    nearest = ndimage.distance_transform_edt(~annotated, return_distances=False, return_indices=True)
    found = nuclei[tuple(nearest)][~annotated]
    iou = (found & nuclei[~annotated]).sum() / (found | nuclei[~annotated]).sum()
    (row,) = rows_of(tmp_path)
    everywhere = (nuclei[tuple(nearest)] & nuclei).sum() / (nuclei[tuple(nearest)] | nuclei).sum()
    assert abs(everywhere - iou) > 0.01
    assert float(row["iou"]) == pytest.approx(iou, abs=1e-3)
    assert float(row["annotated"]) == pytest.approx(annotated.mean(), abs=1e-4)
    assert (row["setting"], row["minutes"], row["seed"], row["error"]) == ("sparse", "", "0", "")
    assert float(row["peak_mb"]) > 50
    assert "GFLOP/s" in row["machine"]


def test_a_killed_benchmark_goes_on_where_it_was(truth: tuple, tmp_path: Path) -> None:
    folder, _nuclei = truth
    command = benchmark(folder, tmp_path, (NEAREST, OURS, BETWEEN), "--minutes", "0.05", "--seeds", "0,1")
    table = tmp_path / "results.csv"
    process = subprocess.Popen(command, start_new_session=True)
    while not (table.exists() and table.read_text().count("\n") > 1):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = table.read_bytes()
    subprocess.run(command, check=True)
    assert table.read_bytes().startswith(before)
    rows = rows_of(tmp_path)
    assert [(row["method"], row["seed"]) for row in rows] == [(NEAREST, "0"), (OURS, "0"), (OURS, "1"), (BETWEEN, "0")]
    assert all(0 < float(row["iou"]) <= 1 for row in rows)
    complete = table.read_bytes()
    subprocess.run(command, check=True)
    assert table.read_bytes() == complete


def test_a_failed_run_is_a_row_that_says_why(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "nuclei-stardist").mkdir(parents=True)
    (data / "nuclei-stardist" / "image.nrrd").write_bytes(b"no volume")
    subprocess.run(benchmark(data, out, (NEAREST,)), check=True)
    (row,) = rows_of(out)
    assert row["iou"] == ""
    assert "image.nrrd" in row["error"]
    done = subprocess.run([sys.executable, str(HERE / "report.py"), str(out)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == f"No run in {out / 'results.csv'} succeeded; its column 'error' says why."


def test_tables_need_no_runs_at_main(tmp_path: Path) -> None:
    write_rows(
        tmp_path, f"nuclei,sparse,{OURS},1,0,0.79,0.79,60,110,700,0.03,m,d,", f"nuclei,rich,{OURS},1,0,,,,,,,,d,no"
    )
    assert "| nuclei (3.0 %) | **0.790** |" in report(tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_tables_and_plots_go_into_the_documents(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        f"nuclei,main,{NEAREST},,0,0.5,0.5,0.1,0.2,100,0.08,m,d,",
        f"nuclei,main,{BETWEEN},,0,0.6,0.6,0.3,0.3,100,0.08,m,d,",
        f"nuclei,main,{OURS},1,0,0.79,0.79,60,110,700,0.08,m,d,",
        f"nuclei,main,{OURS},1,1,0.83,0.83,61,120,800,0.08,m,d,",
        f"tumour,main,{NEAREST},,0,0.7,0.7,0.1,0.2,100,0.05,m,d,",
        f"tumour,main,{OURS},1,0,0.75,0.75,62,119,900,0.05,m,d,",
        f"tumour,sparse,{OURS},1,0,0.7,0.7,62,119,900,0.02,m,d,",
        f"tumour-1,main,{NEAREST},,0,0.9,0.9,0.1,0.2,100,0.05,m,d,",
        f"tumour-1,main,{OURS},1,0,0.88,0.88,60,119,900,0.05,m,d,",
    )
    document, pictures = tmp_path / "BENCHMARKS.md", tmp_path / "Documentation"
    pictures.mkdir()
    document.write_text("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    printed = report(tmp_path, document, pictures)
    before, tables, after = document.read_text().replace("<!-- /", "<!-- ").split("<!-- benchmark -->")
    assert (before, after) == ("before\n", "\nafter\n")
    assert tables.strip() == printed.strip()
    assert "| nuclei (8.0 %) | **0.810 +- 0.020** | 0.500 | 0.600 | 0.600 |" in printed
    # No method was measured on both tasks but these two.
    assert "| mean | 0.780 | 0.600 |  | 0.650 |" in printed
    # Above the best peer of each task: .21 and .05; the three runs by .19, .23 and .05.
    assert "| main, 1 min | 3 | 0.780 | 0.130 | 0.050 (tumour) | 0.210 (nuclei) | 0.050 |" in printed
    assert "| main, 1 min, untouched | 1 | 0.880 | -0.020 | -0.020 (tumour-1) | -0.020 (tumour-1) | -0.020 |" in printed
    # Where there is no peer, there is nothing to be above.
    assert "| sparse, 1 min |" not in printed
    assert f"| {OURS}, 1 min | 60 to 62 | 110 to 120 | 700 to 900 |" in printed
    for name in ("iou-minutes.png", "iou-slices.png"):
        width, height = sitk.ReadImage(pictures / name).GetSize()
        assert min(width, height) > 200
