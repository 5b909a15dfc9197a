from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes_for_tests import make_case

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case, Learnt, harmonise, make_folds
from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.segments import Segment

SHAPE = (6, 7, 8)


def case_of(labels: np.ndarray, names: tuple[str, ...], name: str = "volume", planes: tuple[Plane, ...] = ()) -> Case:
    return make_case(np.zeros(labels.shape, np.float32), labels=labels, names=names, name=name, planes=planes)


def cyclic(values: tuple[int, ...], shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.resize(np.array(values), shape)


def refuse(message: str) -> None:
    pytest.fail(f"unexpected warning: {message}")


# -- harmonising -----------------------------------------------------------------------------------------


def test_segments_are_matched_by_name_in_order_of_first_appearance():
    warnings: list[str] = []
    one = case_of(cyclic((0, 1, 2)), ("bone", "liver"), "one")
    two = case_of(cyclic((0, 1, 2)), ("lung", "bone"), "two")
    first, second = harmonise([one, two], warnings.append)
    for case in (first, second):
        assert case.annotation.class_names == ("background", "bone", "liver", "lung")
        assert case.annotation.labels.dtype == np.uint16
    np.testing.assert_array_equal(first.annotation.labels, one.annotation.labels)
    np.testing.assert_array_equal(second.annotation.labels, cyclic((0, 3, 1)))
    # What is not about the labels stays as it is.
    assert second.volume is two.volume
    assert second.annotation.annotated is two.annotation.annotated
    assert warnings == [
        "'one' has no segment 'lung'; its annotated voxels are taken to show none of it.",
        "'two' has no segment 'liver'; its annotated voxels are taken to show none of it.",
    ]


def test_each_volume_gets_a_name_of_its_own():
    cases = [case_of(cyclic((0, 1)), ("bone",), name) for name in ("image", "image", "image (2)", "other", "image")]
    names = [c.volume.name for c in harmonise(cases, refuse)]
    assert names == ["image", "image (2)", "image (2) (2)", "other", "image (3)"]


def test_each_segment_keeps_an_id_of_its_own():
    """Slicer calls the first segment of any segmentation "Segment_1"."""
    cases = [case_of(cyclic((0, 1)), (name,), name) for name in ("liver", "spleen", "kidney")]
    segment = Segment("Segment_1", "")
    cases = [
        replace(c, annotation=replace(c.annotation, segments=(replace(segment, name=c.volume.name),))) for c in cases
    ]
    found = harmonise(cases, lambda message: None)[0].annotation.segments
    assert [(s.id, s.name) for s in found] == [
        ("Segment_1", "liver"), ("Segment_1_2", "spleen"), ("Segment_1_3", "kidney")
    ]


def test_equal_segments_need_no_warning():
    cases = [case_of(cyclic((0, 1)), ("bone",)), case_of(cyclic((1, 0)), ("bone",))]
    for before, after in zip(cases, harmonise(cases, refuse), strict=True):
        np.testing.assert_array_equal(after.annotation.labels, before.annotation.labels)


def test_segments_of_the_same_name_become_one():
    (case,) = harmonise([case_of(cyclic((0, 1, 2, 3)), ("bone", "liver", "bone"))], refuse)
    assert case.annotation.class_names == ("background", "bone", "liver")
    np.testing.assert_array_equal(case.annotation.labels, cyclic((0, 1, 2, 1)))


def test_a_segment_without_annotation_is_warned_of():
    warnings: list[str] = []
    harmonise([case_of(cyclic((0, 1)), ("bone", "liver"))], warnings.append)
    assert warnings == ["Segment 'liver' is on no annotated slice, so it will be found nowhere."]


def test_structures_alone_are_enough_where_there_are_two():
    harmonise([case_of(cyclic((1, 2)), ("bone", "liver"))], refuse)


def test_two_volumes_can_hold_one_class_each():
    harmonise([case_of(cyclic((0,)), ("bone",)), case_of(cyclic((1,)), ("bone",))], refuse)


def test_no_volume_is_refused():
    with pytest.raises(InputError, match="no volume to train on"):
        harmonise([], refuse)


@pytest.mark.parametrize("value, words", [(0, "only 'background'"), (1, "only 'bone'")])
def test_a_single_class_is_refused(value: int, words: str):
    with pytest.raises(InputError, match=rf"{words}.*at least two classes; annotate slices"):
        harmonise([case_of(cyclic((value,)), ("bone",))], refuse)


def test_nothing_annotated_is_refused():
    case = make_case(np.zeros(SHAPE, np.float32), annotated=np.zeros(SHAPE, bool))
    with pytest.raises(InputError, match="show nothing"):
        harmonise([case], refuse)


def test_different_numbers_of_channels_are_refused():
    two_channels = make_case(np.zeros((2, *SHAPE), np.float32), labels=cyclic((0, 1)), name="colour")
    with pytest.raises(InputError, match="'grey' has 1, 'colour' has 2"):
        harmonise([case_of(cyclic((0, 1)), ("structure",), "grey"), two_channels], refuse)


@pytest.mark.parametrize("change", [{"spacing": (1.0, 1.0, 2.0)}, {"origin": (0.0, 0.5, 0.0)}, {"size": (8, 7, 5)}])
def test_an_annotation_on_another_grid_is_refused(change: dict):
    case = case_of(cyclic((0, 1)), ("bone",), "thorax")
    geometry = replace(case.volume.geometry, **change)
    arrays = np.zeros(geometry.array_shape, np.uint16), np.ones(geometry.array_shape, bool)
    annotation = SparseAnnotation(*arrays, case.annotation.segments, geometry)
    with pytest.raises(InputError, match=r"annotation of 'thorax' lies on another grid .*8x7x6 voxels"):
        Case(case.volume, annotation)


def test_an_annotation_on_the_same_grid_up_to_rounding_is_taken():
    case = case_of(cyclic((0, 1)), ("bone",))
    rounded = Geometry(case.volume.geometry.size, (1.0, 1.0000001, 1.0))
    assert Case(case.volume, replace(case.annotation, geometry=rounded)).annotation.geometry is rounded


# -- holding planes out ----------------------------------------------------------------------------------


def plane_mask(planes: tuple[Plane, ...], shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for plane in planes:
        mask[plane.voxels] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(
    planes=st.sets(st.builds(Plane, st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=12),
    scribbled=st.booleans(),
    count=st.sampled_from([None, 0, 1, 2, 3]),
)
def test_nothing_held_out_is_trained_on(planes: set[Plane], scribbled: bool, count: int | None):
    planes = tuple(sorted(planes))
    labels = np.random.default_rng(0).integers(0, 3, SHAPE)
    extra = np.random.default_rng(1).random(SHAPE) < (0.1 if scribbled else 0)
    case = make_case(np.zeros(SHAPE, np.float32), extra, labels, planes=planes, names=("a", "b"))
    try:
        (fold,) = make_folds([case], count)
    except UsageError:
        assert count and len(planes) <= count + 1  # too few planes to give so many away
        return
    (trained,) = fold.training
    assert len(fold.validation) == (0 if count == 0 or not fold.validation else 1)
    if not fold.validation:
        assert trained.annotation is case.annotation
        return
    (checked,) = fold.validation
    kept, withheld = trained.annotation, checked.annotation
    assert trained.volume is checked.volume is case.volume
    # No voxel is in both, and none is lost but where the held-out planes are crossed.
    assert not (kept.annotated & withheld.annotated).any()
    np.testing.assert_array_equal(kept.annotated | withheld.annotated, case.annotation.annotated)
    assert not set(kept.planes) & set(withheld.planes)
    assert set(kept.planes) | set(withheld.planes) == set(planes)
    assert len(withheld.planes) == count or count is None
    # Voxels of a held-out plane are trained on only where a plane that is trained on crosses it.
    on_withheld = plane_mask(withheld.planes, SHAPE)
    assert not (kept.annotated & on_withheld & ~plane_mask(kept.planes, SHAPE)).any()
    assert not (withheld.annotated & ~on_withheld).any()
    for part in (kept, withheld):
        np.testing.assert_array_equal(part.labels[part.annotated], case.annotation.labels[part.annotated])
        assert part.labels is case.annotation.labels  # no copy: there may be many folds of a large volume
    assert (kept.class_voxels > 0).tolist() == (case.annotation.class_voxels > 0).tolist()


def test_one_plane_in_six_is_held_out_by_itself_and_none_of_four():
    labels = cyclic((0, 1), (20, 20, 20))
    few = tuple(Plane(0, n) for n in (2, 6, 10, 14))
    many = tuple(Plane(0, n) for n in range(1, 19))
    for planes, expected in ((few, 0), (many, 3)):
        (fold,) = make_folds([case_of(labels, ("a",), planes=planes)], None)
        assert len(fold.training) == 1
        assert sum(len(c.annotation.planes) for c in fold.validation) == expected


def test_volumes_without_a_held_out_plane_are_trained_on_but_not_validated_with():
    labels = cyclic((0, 1), (20, 20, 20))
    small = case_of(labels, ("a",), "small", (Plane(0, 3), Plane(1, 4)))
    large = case_of(labels, ("a",), "large", tuple(Plane(0, n) for n in range(12)))
    (fold,) = make_folds([small, large], None)
    assert [c.volume.name for c in fold.training] == ["small", "large"]
    assert [c.volume.name for c in fold.validation] == ["large"]
    assert fold.training[0].annotation is small.annotation


@pytest.mark.parametrize("folds", [1, 3, 8])
def test_each_network_has_other_planes_held_out_as_long_as_there_are_any(folds: int):
    planes = (*(Plane(0, n) for n in (3, 9, 15)), *(Plane(1, n) for n in (4, 10, 16)), Plane(2, 7), Plane(2, 13))
    case = case_of(cyclic((0, 1), (20, 20, 20)), ("a",), planes=planes)
    found = [f.validation[0].annotation.planes for f in make_folds([case], None, folds)]
    assert len(found) == len(set(found)) == folds and all(len(p) == 1 for p in found)
    assert found[0] == make_folds([case], None)[0].validation[0].annotation.planes
    for fold, held in zip(make_folds([case], None, folds), found, strict=True):
        assert set(fold.training[0].annotation.planes) == set(planes) - set(held)
    if folds == 3:
        assert len({p.axis for (p,) in found}) == 3  # every orientation has its turn


def test_planes_are_held_out_again_when_all_have_been():
    case = case_of(cyclic((0, 1), (20, 20, 20)), ("a",), planes=tuple(Plane(0, n) for n in (2, 6, 10, 14, 18)))
    found = [f.validation[0].annotation.planes[0] for f in make_folds([case], None, 7)]
    assert len(set(found[:5])) == 5 and set(found[5:]) < set(found[:5])


def test_planes_that_the_annotation_names_are_held_out_from_all_networks():
    case = case_of(cyclic((0, 1), (20, 20, 20)), ("a",), planes=tuple(Plane(0, n) for n in range(2, 16, 2)))
    case = replace(case, annotation=replace(case.annotation, held_out=(Plane(0, 6),)))
    assert [f.validation[0].annotation.planes for f in make_folds([case], None, 2)] == [(Plane(0, 6),)] * 2


def test_the_volume_whose_planes_cannot_be_held_out_is_named():
    labels = cyclic((0, 1), (20, 20, 20))
    cases = [case_of(labels, ("a",), name, (Plane(0, 3), Plane(0, 8))) for name in ("one", "two")]
    cases[1] = replace(cases[1], annotation=replace(cases[1].annotation, held_out=(Plane(0, 5),)))
    with pytest.raises(UsageError, match="'two': Slices z:5 cannot be held out"):
        make_folds(cases, None)


def held_out_when_continued(planes: tuple[Plane, ...], learnt: Learnt, count: int | None = None) -> tuple[Plane, ...]:
    case = case_of(cyclic((0, 1), (20, 20, 20)), ("a",), planes=planes)
    (fold,) = make_folds([case], count, 1, [learnt])
    return fold.validation[0].annotation.planes


def test_a_network_that_goes_on_learning_does_not_learn_what_was_held_out():
    """Also where more slices would by themselves give another choice, and more of them."""
    before, now = tuple(Plane(0, n) for n in (2, 6, 10, 14, 18)), tuple(Plane(0, n) for n in range(1, 19))
    fresh = held_out_when_continued(before, Learnt({}, {}))
    chosen = next(p for p in before if p not in fresh)
    learnt = Learnt({"volume": [str(p) for p in before]}, {"volume": [str(chosen)]})
    assert held_out_when_continued(before, learnt) == (chosen,)
    assert held_out_when_continued(now, learnt) == (chosen,)
    assert held_out_when_continued(before, learnt, 1) == (chosen,)  # the only one that it has not learnt
    assert held_out_when_continued(now, learnt, 2) != (chosen,)  # who wants two gets two
    # Nothing was held out, or it is not annotated any more: only what is new to the network tells anything.
    for held_out in ({}, {"volume": ["z:3000"]}):
        found = held_out_when_continued((*before, Plane(1, 5), Plane(1, 9)), replace(learnt, held_out=held_out))
        assert found in ((Plane(1, 5),), (Plane(1, 9),))


@pytest.mark.parametrize(
    "new", [(), (Plane(0, 18),), (Plane(0, 18), Plane(1, 9)), tuple(Plane(1, n) for n in range(9))]
)
def test_networks_that_learnt_all_slices_hold_out_half_of_the_new_ones_at_most(new: tuple[Plane, ...]):
    """One painted where the result was wrong is there to be learnt, and one learnt before says nothing."""
    old = tuple(Plane(0, n) for n in (1, 2, 6, 10, 14))
    learnt = Learnt({"volume": [str(p) for p in old]}, {})
    folds = make_folds([case_of(cyclic((0, 1), (20, 20, 20)), ("a",), planes=(*old, *new))], None, 2, [learnt] * 2)
    found = [f.validation[0].annotation.planes if f.validation else () for f in folds]
    assert all(set(planes) <= set(new) and len(planes) <= len(new) // 2 for planes in found)
    assert all(bool(planes) == (len(new) > 1) for planes in found)
    if len(new) > 1:
        assert found[0] != found[1]


def test_what_was_held_out_is_learnt_where_a_class_would_be_lost_otherwise():
    labels = np.zeros((20, 20, 20), np.uint16)
    labels[10] = 1
    planes = tuple(Plane(0, n) for n in (2, 6, 10, 14, 18))
    learnt = Learnt({}, {"volume": ["z:10"]})
    (fold,) = make_folds([case_of(labels, ("a",), planes=planes)], None, 1, [learnt])
    assert fold.validation[0].annotation.planes != (Plane(0, 10),)
