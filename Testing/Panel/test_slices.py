"""Which slices are annotated: the rows of the panel's table, without any widget."""

from __future__ import annotations

import numpy as np
import pytest
from SparseUNet3DModule.slices import HELD_OUT, IGNORE, TRAIN, describePlane, overview, parsePlane

from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment, Segmentation

SHAPE = (20, 24, 28)
SEGMENTS = (Segment("a", "ball"), Segment("b", "core"))


def dense() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    distance = ((z - 10) / 8) ** 2 + ((y - 12) / 9) ** 2 + ((x - 14) / 11) ** 2
    return ((distance < 1).astype(np.uint16) + (distance < 0.2)).astype(np.uint16)


def painted(*planes: Plane, geometry: Geometry | None = None) -> Segmentation:
    labels = np.zeros(SHAPE, np.uint16)
    for plane in planes:
        labels[plane.voxels] = dense()[plane.voxels]
    return Segmentation(labels, SEGMENTS, geometry or Geometry(SHAPE[::-1], (1.0, 2.0, 3.0), (5.0, -6.0, 7.0)))


def test_painted_slices_are_rows():
    found = overview(painted(Plane(0, 4), Plane(0, 10), Plane(2, 14)), [], {})
    assert [str(row.plane) for row in found.rows] == ["z:4", "z:10", "x:14"]
    assert [row.segments for row in found.rows] == [("ball",), ("ball", "core"), ("ball", "core")]
    assert [row.orientation for row in found.rows] == ["axial", "axial", "sagittal"]
    assert [row.position for row in found.rows] == [7 + 3 * 4, 7 + 3 * 10, -(5 + 14)]
    assert {row.use for row in found.rows} == {TRAIN} and not any(row.declared for row in found.rows)
    assert found.problem == ""


def test_shares_are_of_the_whole_volume():
    found = overview(painted(Plane(0, 10)), [], {})
    counts = np.bincount(dense()[10].ravel(), minlength=3) / dense().size
    assert found.shares == {"background": pytest.approx(counts[0]), "ball": pytest.approx(counts[1]),
                            "core": pytest.approx(counts[2])}
    assert sum(found.shares.values()) == pytest.approx(1 / 20)


def test_declared_slices_count_also_when_empty():
    found = overview(painted(Plane(0, 10)), ["z:0", "y:1"], {})
    rows = [(str(r.plane), r.segments, r.declared) for r in found.rows]
    assert rows == [("z:0", (), True), ("z:10", ("ball", "core"), False), ("y:1", (), True)]
    assert overview(painted(Plane(0, 10)), ["z:99"], {}).planes() == [Plane(0, 10)]  # of another volume


def test_slices_of_a_result_are_not_taken_for_painted_ones():
    """A thin structure in all of a volume looks like slices that were painted."""
    z, y, x = np.indices(SHAPE)
    thin = (((z - 10) / 1.6) ** 2 + ((y - 12) / 9) ** 2 + ((x - 14) / 11) ** 2 < 1).astype(np.uint16)
    result = Segmentation(thin, SEGMENTS, Geometry(SHAPE[::-1]))
    assert [str(plane) for plane in overview(result, ["z:11"], {}).planes()] == ["z:9", "z:10", "z:11"]
    assert [str(plane) for plane in overview(result, ["z:11"], {}, isDense=True).planes()] == ["z:11"]
    assert "press 'Slice is complete'" in overview(result, [], {}, isDense=True).problem


def test_uses_are_the_user_s():
    uses = {"z:4": IGNORE, "z:10": HELD_OUT}
    found = overview(painted(Plane(0, 4), Plane(0, 10), Plane(0, 15)), [], uses)
    assert found.planes(TRAIN) == [Plane(0, 15)]
    assert found.planes(HELD_OUT) == [Plane(0, 10)]
    assert found.planes() == [Plane(0, 4), Plane(0, 10), Plane(0, 15)]
    assert sum(found.shares.values()) == pytest.approx(2 / 20)  # ignored slices are not counted
    assert not found.problem


@pytest.mark.parametrize(
    "segmentation, uses, problem",
    [
        (Segmentation(np.zeros(SHAPE, np.uint16), (), Geometry(SHAPE[::-1])), {}, "There is no segment yet"),
        (painted(), {}, "Nothing is painted yet"),
        (Segmentation(dense(), SEGMENTS, Geometry(SHAPE[::-1])), {}, "press 'Slice is complete'"),
        (painted(Plane(0, 4)), {"z:4": HELD_OUT}, "No slice is left to train on"),
        (painted(Plane(0, 4)), {"z:4": IGNORE}, "No completely painted slice"),
        (
            Segmentation(np.pad(np.ones((1, 24, 28), np.uint16), ((5, 14), (0, 0), (0, 0))), SEGMENTS[:1],
                         Geometry(SHAPE[::-1])),
            {}, "Only 'ball' is annotated on the slices z:5, and nothing to tell it from",
        ),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(segmentation: Segmentation, uses: dict, problem: str):
    found = overview(segmentation, [], uses)
    assert problem in found.problem


def test_empty_slices_alone_are_too_little():
    assert "Nothing is painted on these slices" in overview(painted(), ["z:3"], {}).problem


def test_scribbles_need_a_background_and_have_no_rows():
    assert "segment named 'background'" in overview(painted(Plane(0, 4)), [], {}, True).problem
    named = Segmentation(painted(Plane(0, 10)).labels, (Segment("a", "Background"), SEGMENTS[1]), Geometry(SHAPE[::-1]))
    found = overview(named, [], {}, True)
    assert not found.problem and not found.rows
    assert set(found.shares) == {"background", "core"}


@pytest.mark.parametrize(
    "direction, names",
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), ("axial", "coronal", "sagittal")),
        ((0, 1, 0, 0, 0, 1, 1, 0, 0), ("coronal", "sagittal", "axial")),
        ((-1, 0, 0, 0, 0, -1, 0, -1, 0), ("coronal", "axial", "sagittal")),
        ((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1), ("axial", "coronal", "sagittal")),
    ],
)
def test_slices_are_named_by_where_they_lie(direction: tuple, names: tuple):
    toWorld = np.eye(4)
    toWorld[:3, :3] = np.reshape(direction, (3, 3))
    assert tuple(describePlane(Plane(axis, 0), toWorld)[0] for axis in range(3)) == names


def test_planes_are_read_as_written():
    assert parsePlane("y:12") == Plane(1, 12)
