from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from volumes_for_tests import make_case

from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.working_spacing import _some_slices, choose_spacing


def ball_case(size: int, radius: float, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), planes: bool = True):
    """A ball in a volume of ``size`` voxels each way, annotated on its middle slices."""
    mm = [(np.arange(size) - size / 2) * s for s in spacing]
    distance = np.sqrt(sum(np.square(g) for g in np.meshgrid(*mm, indexing="ij")))
    labels = (distance < radius).astype(np.uint16)
    middle = tuple(Plane(axis, size // 2) for axis in range(3)) if planes else ()
    return make_case(np.zeros((size,) * 3, np.uint8), None, labels, spacing, middle)


def test_a_small_volume_is_left_as_it_is():
    assert choose_spacing([ball_case(48, 15)], 64**3) == (1.0, 1.0, 1.0)


def test_a_large_volume_with_large_structures_is_made_coarser_until_it_is_a_few_patches():
    spacing = choose_spacing([ball_case(128, 50)], 32**3)
    assert len(set(spacing)) == 1
    assert 0.5 * 32**3 < (128 / spacing[0]) ** 3 < 2.5 * 32**3


def test_small_structures_keep_their_voxels():
    coarse = choose_spacing([ball_case(128, 50)], 32**3)
    fine = choose_spacing([ball_case(128, 4)], 32**3)
    assert fine < coarse
    assert choose_spacing([ball_case(128, 0.6)], 32**3) == (1.0, 1.0, 1.0)


def test_many_structures_do_not_change_what_one_of_them_keeps():
    """Nor does it take longer: only those on a slice are looked at."""
    case = ball_case(128, 10)
    names = tuple(Segment(f"s{n}", f"s{n}") for n in range(2000))
    labels = np.where(case.annotation.labels > 0, 1500, 0).astype(np.uint16)
    many = replace(case, annotation=replace(case.annotation, labels=labels, segments=names))
    assert choose_spacing([many], 32**3) == choose_spacing([case], 32**3)


def test_of_large_slices_a_few_are_looked_at():
    labels = np.zeros((40, 1100, 1000), np.uint16)
    case = make_case(np.zeros(labels.shape, np.uint8), None, labels, planes=[Plane(0, n) for n in range(40)])
    assert [plane.index for _, plane in _some_slices([case.annotation])] == [0, 8, 16, 24, 32]
    small = ball_case(48, 15)
    assert [plane for _, plane in _some_slices([small.annotation] * 2)] == 2 * list(small.annotation.planes)


def test_the_finest_axes_come_first():
    spacing = choose_spacing([ball_case(80, 60, (4.0, 1.0, 1.0))], 48**3)
    assert spacing[0] == 4.0
    assert 1.0 < spacing[1] == spacing[2] <= 4.0


def test_without_annotated_slices_nothing_is_known_of_the_structures():
    assert choose_spacing([ball_case(128, 50, planes=False)], 32**3) == (1.0, 1.0, 1.0)


def test_a_volume_without_any_structure_on_its_slices_is_left_as_it_is():
    case = make_case(np.zeros((100, 100, 100), np.uint8), planes=(Plane(0, 3),))
    assert choose_spacing([case], 32**3) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("factor", [0.01, 1000.0])
def test_the_unit_of_length_does_not_matter(factor: float):
    plain = choose_spacing([ball_case(100, 40)], 32**3)
    scaled = choose_spacing([ball_case(100, 40 * factor, (factor,) * 3)], 32**3)
    np.testing.assert_allclose(scaled, np.array(plain) * factor)


def test_several_volumes_are_taken_together():
    large, small = ball_case(128, 50), ball_case(128, 4)
    assert choose_spacing([small], 32**3) <= choose_spacing([large, small], 32**3) <= choose_spacing([large], 32**3)
