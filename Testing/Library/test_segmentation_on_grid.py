"""Segmentations brought to the grid of their volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from grids import oblique_left_handed
from segmentation_examples import SEGMENTS, example

from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segmentation_files import on_grid
from SparseUNet3DLib.segments import Segmentation


class TestOnGrid:
    volume = oblique_left_handed((8, 7, 6))

    def cropped(self, start: tuple[int, int, int], size: tuple[int, int, int]) -> Segmentation:
        """A segmentation full of label 1 whose first voxel is voxel ``start`` (i, j, k) of the volume."""
        origin = tuple((self.volume.index_to_physical() @ [*start, 1])[:3].tolist())
        geometry = replace(self.volume, size=size, origin=origin)
        return Segmentation(np.ones(geometry.array_shape, np.uint16), SEGMENTS, geometry)

    def test_the_same_grid_to_within_rounding_becomes_exactly_the_volumes(self):
        moved = replace(self.volume, origin=tuple(o + 1e-6 for o in self.volume.origin))
        segmentation = example(moved)
        placed = on_grid(segmentation, self.volume)
        assert placed.geometry == self.volume
        assert placed.labels is segmentation.labels

    def test_a_cropped_segmentation_is_pasted(self, recwarn):
        placed = on_grid(self.cropped((2, 1, 3), (4, 5, 2)), self.volume)
        expected = np.zeros((6, 7, 8), np.uint16)
        expected[3:5, 1:6, 2:6] = 1
        np.testing.assert_array_equal(placed.labels, expected)
        assert placed.geometry == self.volume
        assert placed.segments == SEGMENTS
        assert not recwarn.list

    def test_a_segmentation_reaching_beyond_is_cropped_and_told(self):
        warnings: list[str] = []
        placed = on_grid(self.cropped((-2, 3, 4), (5, 2, 9)), self.volume, "a.seg.nrrd", warnings.append)
        expected = np.zeros((6, 7, 8), np.uint16)
        expected[4:6, 3:5, 0:3] = 1
        np.testing.assert_array_equal(placed.labels, expected)
        assert warnings == [
            "78 of 90 labelled voxels of the segmentation 'a.seg.nrrd' lie outside the volume and are left out."
        ]

    def test_cropping_background_only_is_not_worth_a_warning(self, recwarn):
        segmentation = self.cropped((-2, -2, -2), (12, 12, 12))
        segmentation.labels[:] = 0
        segmentation.labels[2, 2, 2] = 1
        placed = on_grid(segmentation, self.volume)
        assert placed.labels[0, 0, 0] == 1
        assert np.count_nonzero(placed.labels) == 1
        assert not recwarn.list

    def test_a_segmentation_outside_is_refused(self):
        with pytest.raises(InputError, match="lies outside the volume"):
            on_grid(self.cropped((20, 0, 0), (3, 3, 3)), self.volume)
        with pytest.raises(InputError, match="lies outside the volume"):
            on_grid(self.cropped((0, -9, 0), (3, 3, 3)), self.volume)

    @pytest.mark.parametrize(
        "change",
        [
            {"spacing": (1.0, 1.0, 1.0)},
            {"direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)},
            {"origin": (0.123, 0.0, 0.0)},
        ],
    )
    def test_another_lattice_is_refused_with_both_grids_and_the_remedy(self, change: dict):
        other = replace(self.volume, **change)
        with pytest.raises(InputError) as caught:
            on_grid(example(other), self.volume, "a.seg.nrrd")
        message = str(caught.value)
        assert "The segmentation 'a.seg.nrrd' lies on another voxel grid" in message
        assert other.describe() in message
        assert self.volume.describe() in message
        assert "Specify geometry" in message

    def test_an_empty_segmentation_fits_everywhere(self):
        one_voxel = Segmentation(np.zeros((1, 1, 1), np.uint16), SEGMENTS, Geometry((1, 1, 1)))
        placed = on_grid(one_voxel, self.volume)
        assert placed.labels.shape == (6, 7, 8)
        assert not placed.labels.any()
        assert placed.segments == SEGMENTS
