from __future__ import annotations

import numpy as np
import torch
from volumes_for_tests import CPU, make_case

from SparseUNet3DLib.known_slices import KnownSlices
from SparseUNet3DLib.plane_detection import Plane

SHAPE = (9, 11, 13)
PLANES = (Plane(0, 2), Plane(0, 6), Plane(1, 5), Plane(2, 10))
SPACING = (3.0, 1.0, 1.5)


def known(planes: tuple[Plane, ...] = PLANES) -> tuple[KnownSlices, np.ndarray]:
    """The slices of a volume with two structures at random, and its labels."""
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint16)
    case = make_case(np.zeros(SHAPE, np.float32), None, labels, SPACING, planes, ("one", "other"))
    return KnownSlices(case.annotation, 3, CPU), labels


def everywhere() -> torch.Tensor:
    return torch.from_numpy(np.indices(SHAPE).astype(np.float32))


def test_each_voxel_is_told_the_share_of_the_slices_that_show_a_structure_beside_it():
    slices, labels = known()
    found = slices.channels(everywhere()).numpy()
    z, y, x = 4, 8, 3
    seen = {0: labels[2, y, x], 1: labels[6, y, x], 2: labels[z, 5, x], 3: labels[z, y, 10]}
    distances = {0: 2 * 3.0, 1: 2 * 3.0, 2: 3 * 1.0, 3: 7 * 1.5}  # in voxels of the finest spacing, 1 mm
    weights = {n: 1 / (d**2 + 0.25) for n, d in distances.items()}
    for structure in (1, 2):
        expected = sum(w for n, w in weights.items() if seen[n] == structure) / sum(weights.values())
        np.testing.assert_allclose(found[structure - 1, z, y, x], expected, rtol=1e-5)
    np.testing.assert_allclose(found[2, z, y, x], 1 / (1 + 3 / 8), rtol=1e-5)


def test_on_a_slice_its_own_labels_count_most():
    slices, labels = known((Plane(0, 2), Plane(0, 6)))
    found = slices.channels(everywhere()).numpy()
    for plane in (2, 6):
        np.testing.assert_array_equal(found[:2, plane].round(), np.stack([labels[plane] == n for n in (1, 2)]))
        assert (found[2, plane] == 1).all()
    assert found.min() >= 0 and found.max() <= 1


def test_hidden_slices_tell_nothing():
    slices, _ = known()
    without, _ = known(PLANES[1:])
    torch.testing.assert_close(slices.channels(everywhere(), PLANES[:1]), without.channels(everywhere()))
    assert (slices.channels(everywhere(), PLANES) == 0).all()


def test_positions_between_and_outside_of_the_voxels_are_answered():
    """A rotated patch asks beyond the border, where the nearest voxel of a slice answers."""
    slices, labels = known((Plane(0, 2),))
    where = torch.tensor([[2.0, 2.0, -3.0], [-4.0, 4.4, 3.0], [5.2, 40.0, 6.6]])[:, None, None]
    found = slices.channels(where).numpy()[:, 0, 0]
    for n, (y, x) in enumerate([(0, 5), (4, 12), (3, 7)]):
        np.testing.assert_allclose(found[:2, n], [labels[2, y, x] == 1, labels[2, y, x] == 2])
    np.testing.assert_allclose(found[2], [1, 1, 1 / (1 + 15 / 8)])


def test_the_voxels_of_the_slices_are_found():
    slices, _ = known()
    on = np.zeros(SHAPE, bool)
    for plane in PLANES[1:]:
        on[plane.voxels] = True
    np.testing.assert_array_equal(slices.contains(everywhere() + 0.3, PLANES[:1]).numpy(), on)
    assert not slices.contains(everywhere(), PLANES).any()


def test_an_annotation_without_complete_slices_tells_nothing():
    slices, _ = known(())
    assert (slices.channels(everywhere()) == 0).all()
