"""The paper's protocols on tiny volumes: what is learnt from, what is scored, and that a killed run goes on."""

from __future__ import annotations

import csv
import itertools
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import ROOT, call, run, start
from volumes_for_tests import make_case

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError, MissingDependencyError, UsageError
from SparseUNet3DLib.experiments.cells import count, only_planes, painted, scored_voxels
from SparseUNet3DLib.experiments.dataset import read_dataset
from SparseUNet3DLib.experiments.protocols import NETWORKS, Run, fully_automated, semi_automated, sparsity
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segmentation

SHAPE = (24, 28, 32)


def volume(counts: tuple[int, int, int], seed: int = 0) -> Case:
    """A volume with so many annotated (yz, xz, xy) slices."""
    labels = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint16)
    planes = tuple(
        Plane(axis, int(index))
        for axis, n in enumerate(reversed(counts)) for index in np.linspace(1, SHAPE[axis] - 2, n).round()
    )
    return make_case(np.zeros(SHAPE, np.float32), None, labels, planes=planes, names=("one", "other"), name=f"v{seed}")


def volumes(*counts: tuple[int, int, int]) -> dict[str, Case]:
    return {f"v{n}": volume(c, n) for n, c in enumerate(counts)}


def all_slices(planes: dict) -> list[tuple[str, Plane]]:
    return [(name, plane) for name, chosen in planes.items() for plane in chosen]


THE_PAPERS = ((7, 5, 21), (6, 7, 12), (4, 5, 10))


# -- protocols -------------------------------------------------------------------------------------------


def test_each_slice_is_tested_once_and_never_learnt_from_in_its_fold():
    cases = volumes(*THE_PAPERS)
    runs = semi_automated(cases)
    assert [(r.row, r.column) for r in runs] == [(f"subset {n}", c) for n in (1, 2, 3) for c in NETWORKS]
    every = sorted((name, plane) for name, case in cases.items() for plane in case.annotation.planes)
    assert len(every) == 77
    tested = [s for r in runs[::3] for s in all_slices(r.test)]
    assert sorted(tested) == every
    for entry in runs:
        assert not set(all_slices(entry.test)) & set(all_slices(entry.training))
        assert sorted(all_slices(entry.test) + all_slices(entry.training)) == every
        assert len(all_slices(entry.test)) in (25, 26)


def test_the_folds_are_spread_over_volumes_and_orientations():
    for entry in semi_automated(volumes(*THE_PAPERS))[::3]:
        for planes in entry.test.values():
            assert len(planes) >= 6
            assert {p.axis for p in planes} == {0, 1, 2}


def test_rows_of_table_2_grow_out_of_each_other_and_share_their_test_slices():
    cases = volumes((7, 6, 21), (6, 7, 12))
    runs = sparsity(cases)
    for name, case in cases.items():
        rows = [r for r in runs if r.column == name]
        assert [r.row for r in rows] == ["1,1,1", "2,2,1", "3,3,2", "5,5,3"]
        for row, counts in zip(rows, ((1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 3)), strict=True):
            found = [sum(p.axis == axis for p in row.training[name]) for axis in (2, 1, 0)]
            assert tuple(found) == counts
            assert not set(row.training[name]) & set(row.test[name])
            assert row.test == rows[0].test
        for less, more in itertools.pairwise(rows):
            assert set(less.training[name]) < set(more.training[name])
        assert sorted((*rows[-1].training[name], *rows[-1].test[name])) == sorted(case.annotation.planes)


def test_few_slices_are_spread_over_the_volume():
    """A single slice is the middle one, and the second and third go to the ends."""
    rows = sparsity(volumes((7, 6, 21)))
    single, three = rows[0].training["v0"], rows[2].training["v0"]
    assert [p.index for p in single if p.axis == 2] == [16]
    assert [p.index for p in three if p.axis == 2] == [1, 16, 30]


def test_an_orientation_with_fewer_slices_gives_what_it_has():
    """The third sample of the paper has only four yz slices, so that its 5,5,3 are 4,5,3."""
    last = sparsity({"S3": volume(THE_PAPERS[2])})[-1]
    assert [sum(p.axis == axis for p in last.training["S3"]) for axis in (2, 1, 0)] == [4, 5, 3]
    assert {p.axis for p in last.test["S3"]} == {0}


def test_a_volume_without_slices_to_score_on_is_refused():
    with pytest.raises(InputError, match=r"Volume 'v0' has no annotated slice beyond the 5, 5, 3"):
        sparsity(volumes((5, 5, 3)))
    with pytest.raises(InputError, match="needs 3 annotated slices or more, not 2"):
        semi_automated(volumes((1, 1, 0)))
    with pytest.raises(InputError, match="has no completely annotated slice"):
        semi_automated(volumes((0, 0, 0)))


def test_the_volume_that_is_segmented_is_not_learnt_from():
    cases = volumes(*THE_PAPERS)
    runs = fully_automated(cases)
    assert [(r.row, r.column) for r in runs] == [(name, c) for name in cases for c in NETWORKS]
    for entry in runs:
        assert entry.training.keys() == cases.keys() - {entry.row}
        assert entry.test == {entry.row: tuple(sorted(cases[entry.row].annotation.planes))}
    with pytest.raises(InputError, match="needs two volumes or more"):
        fully_automated(volumes((3, 3, 3)))


# -- voxels ----------------------------------------------------------------------------------------------


def test_nothing_of_a_test_slice_is_learnt_from_but_where_training_slices_cross_it():
    case = volume((3, 3, 3))
    training, test = case.annotation.planes[::2], case.annotation.planes[1::2]
    kept = only_planes(case, training).annotation
    entry = Run("row", "column", "3D with BN", {"v0": training}, {"v0": test})
    scored = scored_voxels(entry, "v0", case)
    assert not (scored & kept.annotated).any()
    on_test = np.zeros(SHAPE, bool)
    for plane in test:
        on_test[plane.voxels] = True
    np.testing.assert_array_equal(scored | (kept.annotated & on_test), on_test)
    np.testing.assert_array_equal(kept.labels[kept.annotated], case.annotation.labels[kept.annotated])
    assert not kept.labels[~kept.annotated].any()
    assert kept.planes == training


def test_scores_count_the_test_slices_of_all_volumes_together():
    """Right on one volume and nothing found on the other: IoU is of the voxels of both, not the mean of two."""
    cases = volumes((0, 0, 3), (0, 0, 1))
    test = {name: case.annotation.planes for name, case in cases.items()}
    entry = Run("row", "column", "3D with BN", {}, test)
    right, nothing = (painted(cases[name]) for name in ("v0", "v1"))
    nothing = replace(nothing, labels=np.zeros_like(nothing.labels))
    iou, segments = count(entry, cases, {"v0": right, "v1": nothing})
    for value, name in enumerate(("one", "other"), start=1):
        sizes = [np.count_nonzero(cases[v].annotation.labels == value) for v in ("v0", "v1")]
        assert segments[name] == pytest.approx(sizes[0] / sum(sizes))
    assert iou == pytest.approx(np.mean(list(segments.values())))


def test_a_segment_that_the_network_never_saw_counts_as_not_found():
    cases = volumes((0, 0, 3))
    whole = painted(cases["v0"])
    labels = np.where(whole.labels == 1, whole.labels, np.uint16(0))
    only_one = Segmentation(labels, whole.segments[:1], whole.geometry)
    entry = Run("row", "column", "3D with BN", {}, {"v0": cases["v0"].annotation.planes})
    iou, segments = count(entry, cases, {"v0": only_one})
    assert segments == {"one": 1.0, "other": 0.0} and iou == 0.5


def test_annotated_shares_are_those_that_the_paper_prints():
    """Table 2 prints 2.5, 3.3, 5.7 and 8.9 %: the union of the planes, mean over the three samples."""
    shapes = ((64, 244, 248), (56, 244, 245), (59, 244, 246))
    printed = {(1, 1, 1): 2.5, (2, 2, 1): 3.3, (3, 3, 2): 5.7, (5, 5, 3): 8.9}
    for counts, percent in printed.items():
        shares = []
        for shape in shapes:
            planes = tuple(Plane(axis, 3 + 2 * n) for axis in range(3) for n in range(counts[2 - axis]))
            case = make_case(np.zeros(shape, np.uint8), planes=planes)
            shares.append(only_planes(case, planes).annotation.annotated.mean())
        assert round(100 * float(np.mean(shares)), 1) == percent


# -- data sets -------------------------------------------------------------------------------------------

TINY = """
name = "tiny tubules"
[training]
iterations = {iterations}
optimizer = "adamw"
learning_rate = 0.003
precision = "float32"
widths = "2,2,2,2"
patch_size = "100x108x116"
"""
PHANTOM = """
[[volume]]
name = "{name}"
phantom = {{ seed = {seed}, shape = [12, 20, 24], spacing = [2.0, 1.0, 1.0] }}
slices = ["z:1-11:2", "y:1-19:3", "x:1-23:3"]
"""


def tiny(folder: Path, number: int = 2, iterations: int = 1) -> Path:
    path = folder / "tiny.toml"
    entries = (PHANTOM.format(name=f"S{n}", seed=n) for n in range(1, number + 1))
    path.write_text(TINY.format(iterations=iterations) + "".join(entries), encoding="utf-8")
    return path


def test_a_data_set_says_what_is_trained_and_how(tmp_path: Path):
    data = read_dataset(tiny(tmp_path))
    assert data.name == "tiny tubules"
    assert list(data.cases) == ["S1", "S2"]
    assert data.recipe.iterations == 1 and data.recipe.seconds is None and data.recipe.optimizer == "adamw"
    assert data.recipe.class_balance == 1.0  # the paper's, as nothing else is said
    assert data.plan == {"patch_size": "100x108x116", "widths": "2,2,2,2"}
    assert len(data.cases["S1"].annotation.planes) == 6 + 7 + 8
    assert set(data.thresholds["S1"]) == {"tubule", "lumen", "union"}
    assert 0 < data.thresholds["S1"]["union"] < 0.8


def test_files_are_relative_to_the_data_set_and_segments_may_be_chosen(tmp_path: Path):
    from command import PAINTED, SEGMENTS, write_case

    write_case(tmp_path)
    path = tmp_path / "own.toml"
    text = '[[volume]]\nname = "v"\nchannels = ["vol.nrrd"]\nsegmentation = "ann.seg.nrrd"\n'
    slices = f'slices = ["z:{",".join(map(str, PAINTED))}"]\n'
    path.write_text(text + slices, encoding="utf-8")
    annotation = read_dataset(path).cases["v"].annotation
    assert [s.name for s in annotation.segments] == [s.name for s in SEGMENTS]
    path.write_text(text + slices + f'segments = ["{SEGMENTS[1].name}"]\n', encoding="utf-8")
    chosen = read_dataset(path).cases["v"].annotation
    np.testing.assert_array_equal(chosen.labels > 0, annotation.labels == 2)
    assert [s.name for s in chosen.segments] == [SEGMENTS[1].name]


@pytest.mark.parametrize("name", ["chest-ct", "phantom"])
def test_the_data_sets_that_are_included_can_be_read(name: str):
    data = read_dataset(ROOT / "Testing" / "Experiments" / f"{name}.toml")
    assert semi_automated(data.cases) and sparsity(data.cases)
    if name == "phantom":
        assert len(fully_automated(data.cases)) == 9


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("name = 'x'", r"it lists no volumes; add a \[\[volume\]\]"),
        ("[[volume", "is no TOML file"),
        ("colour = 1\n[[volume]]", "A data set has no 'colour'; choose among"),
        ("[[volume]]\ncolour = 1", "volume 'volume 1': A volume has no 'colour'"),
        ("[[volume]]\nchannels = ['a.nrrd']", "'segmentation' is missing"),
        ("[[volume]]\nchannels = ['a.nrrd']\nsegmentation = 'b.nrrd'", "a.nrrd"),
        ("[training]\ncolour = 1\n[[volume]]\nphantom = {seed = 1}\nslices='z:3'", r"\[training\] has no 'colour'"),
        ("[[volume]]\nphantom = {size = 3}", "A phantom has no 'size'; choose among seed, shape, spacing"),
        ("[[volume]]\nphantom = {seed=1}\nslices='z:900'", "volume 'volume 1': "),
        ("[[volume]]\nname='a'\nphantom={seed=1}\nslices='z:3'\n[[volume]]\nname='a'", "two volumes are named 'a'"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((InputError, UsageError), match=sentence) as caught:
        read_dataset(path)
    assert "bad.toml" in str(caught.value)


def test_a_package_that_is_missing_is_named(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text('package = "no_such_package"\n[[volume]]\n', encoding="utf-8")
    with pytest.raises(MissingDependencyError, match="pip install no_such_package"):
        read_dataset(path)


# -- the command -----------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_are_written_with_the_papers_beside_and_nothing_is_done_twice(tmp_path: Path, capsys):
    tiny(tmp_path)
    out = tmp_path / "out"
    assert call("experiment", "fully-automated", tmp_path / "tiny.toml", "-o", out, "--device", "cpu") == 0
    rows = rows_of(out / "fully-automated.csv")
    assert [(r["row"], r["column"]) for r in rows] == [(v, c) for v in ("S1", "S2") for c in NETWORKS]
    assert all(0 <= float(r["iou"]) <= 1 and r["iterations"] == "1" for r in rows)
    text = (out / "fully-automated.md").read_text(encoding="utf-8")
    assert "| 3 | 0.779 | 0.554 | 0.325 |" in text and "| S1 | " in text
    assert "The best that any threshold" in text and "1 steps" in text
    pictures = sorted(p.name for p in out.glob("*.png"))
    assert len(pictures) == 6
    assert {"fully-automated-S1-2D-with-BN.png", "fully-automated-S2-3D-without-BN.png"} <= {*pictures}
    assert not list(out.glob("*.run"))
    before = (out / "fully-automated.csv").stat().st_mtime_ns
    capsys.readouterr()
    assert call("experiment", "fully-automated", tmp_path / "tiny.toml", "-o", out, "--device", "cpu") == 0
    assert (out / "fully-automated.csv").stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("| S1 |") >= 1


def test_other_settings_are_other_results(tmp_path: Path):
    out = tmp_path / "out"
    for iterations in (1, 2):
        path = tiny(tmp_path, 2, iterations)
        assert call("experiment", "fully-automated", path, "-o", out, "--device", "cpu", "--no-pictures") == 0
        rows = rows_of(out / "fully-automated.csv")
        assert [r["iterations"] for r in rows] == [str(iterations)] * 6
        assert not list(out.glob("*.png"))


def test_a_killed_experiment_goes_on_where_it_was(tmp_path: Path):
    """Killed in its second cell, it keeps the first and goes on with the second from its checkpoint."""
    tiny(tmp_path, 2, 6)
    command = ("experiment", "sparsity", "tiny.toml", "-o", "out", "--device", "cpu", "--no-pictures")
    table = tmp_path / "out" / "sparsity.csv"
    with start(*command, cwd=tmp_path) as process:
        deadline = time.monotonic() + 100
        while not (table.exists() and list(table.parent.glob("*.run/checkpoint.safetensors"))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    first = rows_of(table)
    assert 1 <= len(first) < 8
    code, _, err = run(*command, cwd=tmp_path)
    assert code == 0, err
    rows = rows_of(table)
    assert rows[: len(first)] == first
    assert [(r["column"], r["row"]) for r in rows] == [
        (v, row) for v in ("S1", "S2") for row in ("1,1,1", "2,2,1", "3,3,2", "5,5,3")
    ]
    shares = [float(r["share"]) for r in rows[:4]]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    text = (tmp_path / "out" / "sparsity.md").read_text(encoding="utf-8")
    assert f"| 1,1,1 ({100 * shares[0]:.1f}%) |" in text
