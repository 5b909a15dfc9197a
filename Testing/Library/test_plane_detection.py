"""Planes are found from painted voxels, and none is declared that would teach a structure as background."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from SparseUNet3DLib.plane_detection import Plane, detect_planes

SHAPE = (36, 40, 44)


def paint(structure: np.ndarray, planes: list[Plane]) -> np.ndarray:
    """The structure where one of the planes cuts it."""
    painted = np.zeros_like(structure)
    for plane in planes:
        painted[plane.voxels] = structure[plane.voxels]
    return painted


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def tube(start: np.ndarray, stop: np.ndarray, radius: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    grid = np.moveaxis(np.indices(shape, float), 0, -1)
    along = stop - start
    share = np.clip((grid - start) @ along / max(along @ along, 1e-9), 0, 1)
    return ((grid - start - share[..., None] * along) ** 2).sum(-1) <= radius**2


def has_own_patch(painted: np.ndarray, plane: Plane, planes: list[Plane]) -> bool:
    """Whether a plane shows a square of 2x2 painted voxels that no orthogonal plane crosses."""
    own = painted.copy()
    for other in planes:
        if other.axis != plane.axis:
            own[other.voxels] = False
    image = own[plane.voxels]
    return bool((image[1:, 1:] & image[:-1, 1:] & image[1:, :-1] & image[:-1, :-1]).any())


def taught_wrongly(structure: np.ndarray, painted: np.ndarray, found: tuple[Plane, ...]) -> int:
    """Voxels of the structure that the found planes would teach as background."""
    return np.count_nonzero(paint(structure, list(found)) & ~painted)


def random_structure(rng: np.random.Generator, smallest: float = 2.0) -> np.ndarray:
    """One to four ellipsoids, tubes along any direction, or a random field's bumps."""
    if rng.random() < 0.2:
        field = ndimage.gaussian_filter(rng.normal(size=SHAPE), rng.uniform(2, 4))
        return field > np.quantile(field, rng.uniform(0.7, 0.95))
    structure = np.zeros(SHAPE, bool)
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.5:
            structure |= ellipsoid(rng.uniform(0, SHAPE), rng.uniform(smallest, 14, 3))
        else:
            structure |= tube(rng.uniform(0, SHAPE), rng.uniform(0, SHAPE), rng.uniform(smallest, 6))
    return structure


def random_planes(rng: np.random.Generator, widths: tuple[int, int]) -> list[Plane]:
    """Up to three slabs per axis, each of ``widths`` planes and with a gap to the next."""
    planes = []
    for axis, size in enumerate(SHAPE):
        index = int(rng.integers(0, size // 2))
        for _ in range(rng.integers(0, 4)):
            width = int(rng.integers(*widths, endpoint=True))
            planes += [Plane(axis, i) for i in range(index, min(index + width, size))]
            index += width + int(rng.integers(1, size // 4))
            if index >= size:
                break
    return planes


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_isolated_planes_teach_no_structure_as_background(seed):
    rng = np.random.default_rng(seed)
    structure, planes = random_structure(rng, smallest=0.5), random_planes(rng, (1, 1))
    painted = paint(structure, planes)
    detection = detect_planes(painted)
    assert taught_wrongly(structure, painted, detection.planes) == 0
    assert np.array_equal(detection.loose, painted & ~paint(painted, list(detection.planes)))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_neighbouring_planes_teach_no_structure_as_background(seed):
    rng = np.random.default_rng(seed)
    structure, planes = random_structure(rng), random_planes(rng, (1, 3))
    painted = paint(structure, planes)
    detection = detect_planes(painted)
    assert taught_wrongly(structure, painted, detection.planes) == 0
    assert np.array_equal(detection.loose, painted & ~paint(painted, list(detection.planes)))


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_isolated_planes_through_the_middle_are_all_found(seed):
    """A plane with a clear patch of its own is found, whatever crosses it."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(15, 21, 3)
    structure = ellipsoid(centre, rng.uniform(8, 14, 3))
    planes = [Plane(axis, int(centre[axis]) + i) for axis in range(3) for i in rng.permutation([-4, 0, 4])[: seed % 3]]
    planes.append(Plane(int(rng.integers(3)), int(rng.integers(16, 20))))
    planes = [p for p in set(planes) if not {Plane(p.axis, p.index - 1), Plane(p.axis, p.index + 1)} & set(planes)]
    detection = detect_planes(paint(structure, planes))
    assert detection.planes == tuple(sorted(planes))
    assert not detection.loose.any()


@pytest.mark.parametrize(
    ("widths", "smallest", "least_recall"), [((1, 1), 2.0, 0.99), ((1, 3), 4.0, 0.7)], ids=["isolated", "neighbouring"]
)
def test_recall_on_random_structures(widths, smallest, least_recall):
    """Of the planes with a clear patch: 99 % of isolated ones, 70 % where up to three lie side by side."""
    rng = np.random.default_rng(1)
    found = clear = 0
    for _ in range(200):
        structure, planes = random_structure(rng, smallest), random_planes(rng, widths)
        painted = paint(structure, planes)
        clearly = [plane for plane in planes if has_own_patch(painted, plane, planes)]
        clear += len(clearly)
        found += len(set(clearly) & set(detect_planes(painted).planes))
    assert clear > 500
    assert found / clear >= least_recall


BALL = ellipsoid((18, 20, 22), (14, 14, 14))


@pytest.mark.parametrize(
    "planes",
    [
        [Plane(0, 18)],
        [Plane(0, 18), Plane(1, 20), Plane(2, 22)],
        [Plane(0, 10), Plane(0, 11)],
        [Plane(0, 16), Plane(0, 17), Plane(0, 18), Plane(1, 15), Plane(2, 30), Plane(2, 31)],
        [Plane(0, index) for index in range(6, 32, 2)],
    ],
    ids=["one", "three orientations", "two side by side", "slabs crossing", "every other"],
)
def test_planes_through_a_ball_are_found(planes):
    detection = detect_planes(paint(BALL, planes))
    assert detection.planes == tuple(sorted(planes))
    assert not detection.loose.any()
    assert not detection.dense


def test_planes_at_the_border_of_the_volume_are_found():
    structure = ellipsoid((0, 20, 22), (10, 14, 14)) | ellipsoid((20, 20, 43), (8, 12, 12))
    planes = [Plane(0, 0), Plane(2, 43)]
    assert detect_planes(paint(structure, planes)).planes == tuple(planes)


def test_border_slices_of_a_structure_that_leaves_the_volume_are_not_taken_for_planes():
    """Its last two slices look cut, but only because the volume ends there."""
    structure = ellipsoid((37, 20, 22), (4, 14, 14))
    painted = paint(structure, [Plane(1, index) for index in range(15, 24)])
    assert not detect_planes(painted).planes


def test_several_components_and_a_plane_that_cuts_only_one_of_them():
    structure = ellipsoid((10, 10, 10), (6, 6, 6)) | ellipsoid((26, 30, 34), (6, 7, 6))
    planes = [Plane(0, 10), Plane(0, 27), Plane(1, 30)]
    assert detect_planes(paint(structure, planes)).planes == tuple(planes)


def test_a_patch_of_two_by_two_voxels_is_enough():
    structure = np.zeros(SHAPE, bool)
    structure[5:30, 10:12, 20:22] = True
    assert detect_planes(paint(structure, [Plane(0, 9), Plane(0, 20)])).planes == (Plane(0, 9), Plane(0, 20))


def test_single_lines_and_voxels_stay_loose():
    painted = paint(BALL, [Plane(0, 18)])
    painted[30, 5, 5] = True
    painted[4, 20, 10:30] = True
    detection = detect_planes(painted)
    assert detection.planes == (Plane(0, 18),)
    assert np.argwhere(detection.loose).tolist() == [*([4, 20, x] for x in range(10, 30)), [30, 5, 5]]


def test_a_narrow_straight_strip_is_not_enough():
    """Two neighbouring planes across a sheet one voxel thick leave the same strip."""
    sheet = np.zeros(SHAPE, bool)
    sheet[12, 3:38, 4:40] = True
    detection = detect_planes(paint(sheet, [Plane(1, 20), Plane(1, 21)]))
    assert detection.planes == ()
    assert np.count_nonzero(detection.loose) == 2 * 36


def test_a_slanted_painting_is_on_no_plane():
    """Painted in a rotated slice view: every plane holds one terrace of it only."""
    painted = np.zeros(SHAPE, bool)
    for z in range(10, 20):
        painted[z, 2 + 3 * (z - 10) : 5 + 3 * (z - 10), 5:40] = True
    assert detect_planes(painted).planes == ()


@pytest.mark.parametrize(
    "painted",
    [BALL, np.ones(SHAPE, bool), paint(BALL, [Plane(0, index) for index in range(12, 25)])],
    ids=["structure", "volume", "stack"],
)
def test_a_dense_painting_is_called_dense(painted):
    detection = detect_planes(painted)
    assert detection.dense
    assert detection.planes == ()
    assert np.array_equal(detection.loose, painted)


def test_painted_background_does_not_hide_the_planes():
    """Every voxel of the planes is painted, from border to border."""
    planes = [Plane(0, 7), Plane(0, 8), Plane(1, 20), Plane(2, 11)]
    assert detect_planes(paint(np.ones(SHAPE, bool), planes)).planes == tuple(planes)


def test_known_planes_explain_a_stack_so_that_others_are_found():
    stack = [Plane(0, index) for index in range(12, 25)]
    painted = paint(BALL, [*stack, Plane(1, 20)])
    assert detect_planes(painted).planes == ()
    detection = detect_planes(painted, known=[*stack, Plane(0, 0)])
    assert detection.planes == (Plane(0, 0), *stack, Plane(1, 20))
    assert not detection.loose.any()


def test_nothing_painted():
    detection = detect_planes(np.zeros(SHAPE, bool), known=[Plane(2, 3)])
    assert detection.planes == (Plane(2, 3),)
    assert not detection.loose.any()
    assert not detection.dense


def test_a_volume_of_one_slice():
    painted = ellipsoid((0, 20, 20), (1, 12, 9), (1, 40, 44))
    assert detect_planes(painted).planes == (Plane(0, 0),)


def test_the_painting_is_not_changed():
    painted = paint(BALL, [Plane(0, 18), Plane(1, 20)])
    before = painted.copy()
    detect_planes(painted)
    assert np.array_equal(painted, before)


def test_planes_are_named_and_sorted_by_axis():
    assert [str(plane) for plane in sorted([Plane(2, 1), Plane(0, 10), Plane(1, 4)])] == ["z:10", "y:4", "x:1"]
