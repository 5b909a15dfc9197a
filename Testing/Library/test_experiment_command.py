"""The experiment command on tiny volumes: what it trains, what it leaves behind, and how it goes on."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command import call, run, start
from tiny_experiment import a_cell, ours, rows_of, tiny

from SparseUNet3DLib.command_line import experiment
from SparseUNet3DLib.errors import DivergenceError, InputError, Interrupted, MemoryLimitError, SparseUNetError
from SparseUNet3DLib.experiments import cells
from SparseUNet3DLib.experiments.dataset import read_dataset
from SparseUNet3DLib.experiments.protocols import NETWORKS, fully_automated, semi_automated
from SparseUNet3DLib.experiments.tables import write_cells
from SparseUNet3DLib.segmentation_files import read_segmentation
from SparseUNet3DLib.workflow import train


def test_tables_are_written_with_the_papers_beside_and_nothing_is_done_twice(tmp_path: Path, capsys):
    tiny(tmp_path)
    out = tmp_path / "out"
    assert call("experiment", "fully-automated", tmp_path / "tiny.toml", "-o", out, "--device", "cpu") == 0
    rows = ours(out / "fully-automated.csv")
    assert [(r["row"], r["column"]) for r in rows] == [(v, c) for v in ("S1", "S2") for c in NETWORKS]
    assert all(0 <= float(r["iou"]) <= 1 and r["iterations"] == "1" for r in rows)
    assert {r["patch"] for r in rows} == {"100x108x116", "1x108x116"} and rows[0]["device"].startswith("CPU")
    assert rows[0]["slices"] == "8,7,6"
    assert len(rows_of(out / "fully-automated.csv")) == 6 + 12  # and the paper's
    text = (out / "fully-automated.md").read_text(encoding="utf-8")
    assert "| 3 | 0.779 | 0.554 | 0.325 |" in text and "| S1 | " in text
    assert "The best that any threshold" in text and "each network at most 1 steps" in text
    pictures = sorted(p.name for p in out.glob("*.png"))
    assert len(pictures) == 6
    assert {"fully-automated-S1-2D-with-BN.png", "fully-automated-S2-3D-without-BN.png"} <= {*pictures}
    found = read_segmentation(out / "fully-automated-S1-2D-with-BN.seg.nrrd")
    assert found.labels.shape == (12, 20, 24) and [s.name for s in found.segments] == ["tubule", "lumen"]
    assert not list(out.glob("*.run"))
    (out / pictures[0]).unlink()  # is drawn again from the segmentation
    before = (out / "fully-automated.csv").stat().st_mtime_ns
    capsys.readouterr()
    assert call("experiment", "fully-automated", tmp_path / "tiny.toml", "-o", out, "--device", "cpu") == 0
    assert (out / "fully-automated.csv").stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("| S1 |") >= 1
    assert sorted(p.name for p in out.glob("*.png")) == pictures


def test_each_network_learns_from_its_own_slices_only_and_from_all_of_them(tmp_path: Path, monkeypatch):
    """Nothing is held out, no ensemble, and a size that does not follow the memory which happens to be free."""
    trained = []

    def spy(cases, recipe, options, reporter, stop):
        trained.append((cases, recipe, options))
        return train(cases, recipe, options, reporter, stop)

    monkeypatch.setattr(cells, "train", spy)
    out = tmp_path / "out"
    path = tiny(tmp_path, 1)
    command = ("experiment", "semi-automated", path, "-o", out, "--device", "cpu", "--no-pictures")
    assert call(*command) == 0
    runs = semi_automated(read_dataset(path).cases)
    assert len(trained) == len(runs) == 9
    for (cases, recipe, options), entry in zip(trained, runs, strict=True):
        (case,) = cases
        assert case.annotation.planes == entry.training["S1"]
        assert (recipe.network, recipe.batch_norm) == NETWORKS[entry.column]
        assert recipe.members == 1 and options.hold_out == 0 and options.plan["batch_size"] == "1"
        assert options.plan.get("patch_size") == (None if recipe.network == "2d" else "100x108x116")
        assert options.plan.get("spacing") == (None if recipe.network == "2d" else "1.5x1x1")
    assert [r["row"] for r in ours(out / "semi-automated.csv")[::3]] == ["subset 1", "subset 2", "subset 3"]


@pytest.mark.parametrize(
    "error, kind, told",
    [
        (DivergenceError("Training diverged."), DivergenceError, "Training diverged."),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), MemoryLimitError, "Memory ran out."),
    ],
)
def test_a_cell_that_cannot_be_made_leaves_the_others(
    tmp_path: Path, monkeypatch, capsys, error: Exception, kind: type[SparseUNetError], told: str
):
    """It is tried again the next time, and the exit code is that of what went wrong."""

    def fail_in_2d(cases, recipe, *rest):
        if recipe.network == "2d":
            raise error
        return train(cases, recipe, *rest)

    monkeypatch.setattr(cells, "train", fail_in_2d)
    command = ("experiment", "fully-automated", tiny(tmp_path), "-o", tmp_path / "out", "--no-pictures")
    assert call(*command, "--device", "cpu") == kind.exit_code
    table = tmp_path / "out" / "fully-automated.csv"
    assert [(r["row"], r["column"]) for r in ours(table)] == [
        (v, c) for v in ("S1", "S2") for c in NETWORKS if not c.startswith("2D")
    ]
    out, err = capsys.readouterr()
    assert "| S1 |" in out and (tmp_path / "out" / "fully-automated.md").exists()
    assert "2 of 6 cells could not be made" in err and f"S1, 2D with BN is left out: {told}" in " ".join(err.split())
    monkeypatch.undo()
    assert call(*command, "--device", "cpu") == 0
    assert len(ours(table)) == 6 and not list(table.parent.glob("*.run"))


def test_a_network_that_is_asked_to_finish_early_is_not_compared_with_others(tmp_path: Path, monkeypatch, capsys):
    def ask(cases, recipe, options, reporter, stop):
        stop.request("finish")
        return train(cases, recipe, options, reporter, stop)

    monkeypatch.setattr(cells, "train", ask)
    command = ("experiment", "sparsity", tiny(tmp_path, 1, 5), "-o", tmp_path / "out", "--no-pictures")
    assert call(*command, "--device", "cpu") == Interrupted.exit_code
    assert not (tmp_path / "out" / "sparsity.csv").exists()
    assert "the same command goes on where it was" in capsys.readouterr().err


def test_a_folder_keeps_the_table_of_one_data_set(tmp_path: Path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    write_cells(out / "sparsity.csv", "sparsity", [a_cell()])
    before = (out / "sparsity.csv").read_bytes()
    assert call("experiment", "sparsity", tiny(tmp_path, 1), "-o", out, "--no-pictures") == InputError.exit_code
    assert "is the table of 'data'; choose another folder" in capsys.readouterr().err
    assert (out / "sparsity.csv").read_bytes() == before


def test_stopped_in_the_middle_of_a_network_the_same_command_goes_on_there_and_tells_programs_so(tmp_path: Path):
    """Every line on standard output is an event; the folder is named after the data set."""
    tiny(tmp_path, 1, 1000)
    command = ("experiment", "semi-automated", "tiny.toml", "--device", "cpu", "--no-pictures", "--progress", "jsonl")
    reached = []
    for _ in range(2):
        with start(*command, cwd=tmp_path) as process:
            steps = (json.loads(line) for line in process.stdout)
            reached.append(next(e["iteration"] for e in steps if e["event"] == "step" and e["iteration"] > 2))
            process.send_signal(signal.SIGTERM)
            assert [e["kind"] for e in steps if e["event"] == "error"] == ["Interrupted"]
        assert process.returncode == Interrupted.exit_code
        checkpoints = list(tmp_path.glob("tiny-tables/*.run/checkpoint.safetensors"))
        assert len(checkpoints) == 1
    with start(*command, cwd=tmp_path) as process:
        steps = (json.loads(line) for line in process.stdout)
        assert next(e["iteration"] for e in steps if e["event"] == "step") > reached[-1]
        process.kill()


def test_other_settings_are_other_results(tmp_path: Path):
    out = tmp_path / "out"
    for iterations in (1, 2):
        path = tiny(tmp_path, 2, iterations)
        assert call("experiment", "fully-automated", path, "-o", out, "--device", "cpu", "--no-pictures") == 0
        rows = ours(out / "fully-automated.csv")
        assert [r["iterations"] for r in rows] == [str(iterations)] * 6
        assert not list(out.glob("*.png"))
    data = read_dataset(tiny(tmp_path, 2, 3))
    table = experiment._Table("fully-automated", data, fully_automated(data.cases), out)
    assert "at most 3 steps" not in table.markdown()  # as none of them is made yet
    assert len(table.cells) == 6


def test_other_names_of_the_structures_are_other_results(tmp_path: Path):
    """By their names networks know which structures of two volumes are the same."""
    data = read_dataset(tiny(tmp_path))
    case = data.cases["S2"]
    first, second = case.annotation.segments
    renamed = (replace(first, name=second.name), replace(second, name=first.name))
    case = replace(case, annotation=replace(case.annotation, segments=renamed))
    again, other = read_dataset(tmp_path / "tiny.toml"), replace(data, cases={**data.cases, "S2": case})
    first, second, third = (experiment._fingerprint(fully_automated(d.cases)[0], d) for d in (data, again, other))
    assert first == second != third


def test_a_row_that_learns_from_the_same_slices_as_another_has_its_segmentation_too(tmp_path: Path):
    path = tiny(tmp_path, 1)
    text = path.read_text(encoding="utf-8").replace('"y:1-19:3", "x:1-23:3"', '"y:10", "x:12"')
    path.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    (out / "sparsity-2,2,1-S1.seg.nrrd").write_bytes(b"of former settings")
    assert call("experiment", "sparsity", path, "-o", out, "--device", "cpu", "--no-pictures") == 0
    first, second = (read_segmentation(out / f"sparsity-{row}-S1.seg.nrrd") for row in ("1,1,1", "2,2,1"))
    assert (first.labels == second.labels).all() and first.labels.any()
    rows = {r["row"]: r["settings"] for r in ours(out / "sparsity.csv")}
    assert rows["1,1,1"] == rows["2,2,1"] != rows["3,3,2"]


def test_a_killed_experiment_goes_on_where_it_was(tmp_path: Path):
    """Killed in its second cell, it keeps the first and goes on with the second from its checkpoint."""
    tiny(tmp_path, 1, 6)
    command = ("experiment", "sparsity", "tiny.toml", "-o", "out", "--device", "cpu", "--no-pictures")
    table = tmp_path / "out" / "sparsity.csv"
    with start(*command, cwd=tmp_path) as process:
        deadline = time.monotonic() + 100
        while not (table.exists() and list(table.parent.glob("*.run/checkpoint.safetensors"))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    first = ours(table)
    assert 1 <= len(first) < 4
    code, _, err = run(*command, cwd=tmp_path)
    assert code == 0, err
    rows = ours(table)
    assert rows[: len(first)] == first
    assert [(r["column"], r["row"]) for r in rows] == [("S1", row) for row in ("1,1,1", "2,2,1", "3,3,2", "5,5,3")]
    shares = [float(r["share"]) for r in rows]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    text = (tmp_path / "out" / "sparsity.md").read_text(encoding="utf-8")
    assert f"| 1,1,1 ({100 * shares[0]:.1f}%) |" in text
