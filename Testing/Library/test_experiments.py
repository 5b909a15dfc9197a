"""The paper's protocols: what is learnt from, what is scored, and how the tables show it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_experiment import a_cell, rows_of
from volumes_for_tests import make_case

from SparseUNet3DLib.annotation_share import share_annotated
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.experiments.cells import count, only_planes, painted, scored_voxels
from SparseUNet3DLib.experiments.protocols import NETWORKS, Run, fully_automated, semi_automated, sparsity
from SparseUNet3DLib.experiments.tables import as_markdown, read_cells, write_cells
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
            # All rows are scored on the very same voxels.
            assert row.unscored == rows[-1].training
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
    entry = Run("row", "column", "3D with BN", {"v0": training}, {"v0": test}, {"v0": training})
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
            shares.append(share_annotated(only_planes(case, planes).annotation).total)
        table = as_markdown("sparsity", [a_cell(share=share) for share in shares], [], {})
        assert f"| 1,1,1 ({percent}%) |" in table


def test_a_table_tells_each_segment_and_where_slices_were_fewer(tmp_path: Path):
    both = [a_cell(), a_cell(row="5,5,3", slices="4,5,3", iou=0.75, segments="one=0.7; other=0.8")]
    text = as_markdown("sparsity", both, ["with care"], {"S1": {"one": 0.2, "other": 0.4, "union": 0.5}})
    assert "- with care" in text and "IoU of 'other':" in text and "| 5,5,3 (10.0%) | 0.800 |" in text
    assert "5,5,3 of S1 are 4,5,3." in text
    assert "| volume | mean | one | other | union |" in text and "| S1 | 0.300 | 0.200 | 0.400 | 0.500 |" in text
    write_cells(tmp_path / "t.csv", "sparsity", both)
    assert read_cells(tmp_path / "t.csv") == both
    rows = rows_of(tmp_path / "t.csv")
    assert [r["iou"] for r in rows if r["row"].startswith("5,5,3")] == ["0.75", "0.856", "0.849", "0.872"]
    odd = a_cell(segments="kidney; left=0.5000; b=c=nan; lumen=1.0000").segment_ious
    assert list(odd) == ["kidney; left", "b=c", "lumen"] and (odd["kidney; left"], odd["lumen"]) == (0.5, 1.0)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is no table of this program"):
        read_cells(tmp_path / "t.csv")
