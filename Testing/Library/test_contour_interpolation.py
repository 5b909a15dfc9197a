from __future__ import annotations

import sys

import numpy as np
import pytest

from SparseUNet3DLib.contour_interpolation import interpolate_between_slices
from SparseUNet3DLib.errors import InputError, MissingDependencyError

Z, Y, X = np.ogrid[:21, :32, :32]
CONE = (Y - 16) ** 2 + (X - 16) ** 2 <= (4 + 0.4 * Z) ** 2
CYLINDER = (Y - 6) ** 2 + (X - 6) ** 2 <= 9
SHAPES = np.where(CONE, 3, np.where(CYLINDER, 1, 0) + 0 * Z)


@pytest.fixture
def itk():
    itk = pytest.importorskip("itk")
    pytest.importorskip("itk.itkMorphologicalContourInterpolatorPython")
    return itk


def test_shapes_are_filled_between_slices_and_not_beyond(itk):
    annotation = np.zeros_like(SHAPES)
    for index in (4, 10, 16):
        annotation[index] = SHAPES[index]

    filled = interpolate_between_slices(annotation)

    assert filled.dtype == np.uint16
    assert filled.shape == SHAPES.shape
    assert not filled[:4].any()
    assert not filled[17:].any()
    for label in (1, 3):
        truth, found = SHAPES[4:17] == label, filled[4:17] == label
        assert (truth & found).sum() / (truth | found).sum() > 0.9
    assert np.array_equal(filled[[4, 10, 16]], SHAPES[[4, 10, 16]])


def test_slices_of_all_orientations_are_used(itk):
    annotation = np.zeros_like(SHAPES)
    annotation[4], annotation[16] = SHAPES[4], SHAPES[16]
    only_z = interpolate_between_slices(annotation)
    for index in (10, 20):
        annotation[:, index] = SHAPES[:, index]
        annotation[:, :, index] = SHAPES[:, :, index]

    filled = interpolate_between_slices(annotation)

    assert not only_z[18].any()
    assert np.count_nonzero(filled[18] == 3) > 0.5 * np.count_nonzero(SHAPES[18] == 3)


def test_one_slice_or_none_leave_nothing_to_fill(itk):
    annotation = np.zeros_like(SHAPES)
    assert not interpolate_between_slices(annotation).any()
    annotation[9] = SHAPES[9]
    assert np.array_equal(interpolate_between_slices(annotation), annotation)


def test_the_number_of_threads_is_put_back(itk):
    threading = itk.MultiThreaderBase
    before = threading.GetGlobalMaximumNumberOfThreads(), threading.GetGlobalDefaultNumberOfThreads()

    interpolate_between_slices(np.zeros((3, 3, 3), np.uint8))

    assert (threading.GetGlobalMaximumNumberOfThreads(), threading.GetGlobalDefaultNumberOfThreads()) == before


@pytest.mark.parametrize("value", [-1, 65536])
def test_values_that_do_not_fit_are_refused(value):
    with pytest.raises(InputError, match=f"{value}.*use 0 for what is not annotated"):
        interpolate_between_slices(np.array([[[0, value]]]))


def test_missing_package_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "itk", None)  # what Python itself puts there for "cannot be imported"

    with pytest.raises(MissingDependencyError, match="pip install itk-morphologicalcontourinterpolation"):
        interpolate_between_slices(np.zeros((2, 2, 2), np.uint8))
