"""What is annotated, and as what, for planes, paintings and scribbles; splitting and counting it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SparseUNet3DLib.annotation import Plane, SparseAnnotation, from_painted, from_planes, from_scribbles, parse_planes
from SparseUNet3DLib.annotation_share import share_annotated
from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.holding_out import choose_held_out, held_out
from SparseUNet3DLib.segments import Segment, Segmentation

SHAPE = (20, 24, 28)
TUBULE, INSIDE, BACKGROUND = Segment("t", "tubule"), Segment("i", "inside"), Segment("b", "Background")


def segmentation(labels: np.ndarray, *segments: Segment) -> Segmentation:
    return Segmentation(labels.astype(np.uint16), segments, Geometry(tuple(reversed(labels.shape))))


def truth() -> np.ndarray:
    """A ball of class 2 in a shell of class 1, in the middle of the volume."""
    z, y, x = np.ogrid[tuple(slice(n) for n in SHAPE)]
    squared = (z - 10) ** 2 + (y - 12) ** 2 + (x - 14) ** 2
    return np.where(squared <= 16, 2, np.where(squared <= 64, 1, 0))


def on(planes: list[Plane]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for plane in planes:
        mask[plane.voxels] = True
    return mask


THREE = [Plane(0, 10), Plane(1, 12), Plane(2, 15)]


class TestFromPlanes:
    def test_all_of_a_plane_is_annotated_and_nothing_else(self):
        annotation = from_planes(segmentation(truth(), TUBULE, INSIDE), [*reversed(THREE), THREE[0]])
        assert np.array_equal(annotation.annotated, on(THREE))
        assert np.array_equal(annotation.labels, np.where(on(THREE), truth(), 0))
        assert annotation.labels.dtype == np.uint16
        assert annotation.planes == tuple(THREE)
        assert annotation.segments == (TUBULE, INSIDE)
        assert annotation.geometry.array_shape == SHAPE

    def test_a_plane_without_structure_is_background(self):
        annotation = from_planes(segmentation(truth(), TUBULE, INSIDE), [Plane(0, 0), Plane(0, 10)])
        assert annotation.annotated[0].all()
        assert not annotation.labels[0].any()

    def test_a_background_segment_is_class_0_and_the_others_close_up(self):
        labels = np.choose(truth(), [1, 2, 3])
        annotation = from_planes(segmentation(labels, BACKGROUND, TUBULE, INSIDE), THREE)
        assert annotation.segments == (TUBULE, INSIDE)
        assert annotation.class_names == ("background", "tubule", "inside")
        assert np.array_equal(annotation.labels, np.where(on(THREE), truth(), 0))

    def test_the_background_segment_may_have_another_name(self):
        labels = np.choose(truth(), [3, 1, 2])
        empty = Segment("e", "Lumen ")
        annotation = from_planes(segmentation(labels, TUBULE, INSIDE, empty), THREE, background="lumen")
        assert annotation.segments == (TUBULE, INSIDE)
        assert np.array_equal(annotation.labels, np.where(on(THREE), truth(), 0))

    def test_a_segment_on_no_annotated_plane_has_no_voxels(self):
        annotation = from_planes(segmentation(truth(), TUBULE, INSIDE), [Plane(0, 4)])
        assert annotation.class_voxels.tolist() == [24 * 28 - 89, 89, 0]

    def test_the_segmentation_is_not_changed(self):
        given_segmentation = segmentation(truth(), TUBULE, INSIDE)
        from_planes(given_segmentation, THREE)
        from_painted(segmentation(np.where(on(THREE), truth(), 0), TUBULE, INSIDE))
        assert np.array_equal(given_segmentation.labels, truth())

    def test_errors(self):
        full = segmentation(truth(), TUBULE, INSIDE)
        with pytest.raises(UsageError, match="No annotated slices are given"):
            from_planes(full, [])
        with pytest.raises(UsageError, match=r"z:20 lies outside the volume; z goes from 0 to 19"):
            from_planes(full, [Plane(0, 20)])
        with pytest.raises(InputError, match="No structure is painted on the slices z:0, y:1"):
            from_planes(full, [Plane(0, 0), Plane(1, 1)])
        with pytest.raises(InputError, match="Only 'tubule' is annotated on the slices z:3"):
            from_planes(segmentation(np.ones(SHAPE), TUBULE), [Plane(0, 3)])


class TestFromPainted:
    def test_painted_planes_are_found_and_complete(self):
        annotation = from_painted(segmentation(np.where(on(THREE), truth(), 0), TUBULE, INSIDE))
        assert annotation.planes == tuple(THREE)
        assert np.array_equal(annotation.annotated, on(THREE))
        assert np.array_equal(annotation.labels, np.where(on(THREE), truth(), 0))

    def test_planes_without_structure_can_be_named(self):
        annotation = from_painted(segmentation(np.where(on(THREE), truth(), 0), TUBULE, INSIDE), [Plane(0, 0)])
        assert annotation.planes == (Plane(0, 0), *THREE)
        assert np.array_equal(annotation.annotated, on([Plane(0, 0), *THREE]))

    def test_loose_paint_is_annotated_without_its_surroundings(self):
        labels = np.where(on(THREE), truth(), 0)
        labels[1, 2, 3:6] = 2
        annotation = from_painted(segmentation(labels, TUBULE, INSIDE))
        assert annotation.planes == tuple(THREE)
        assert np.argwhere(annotation.annotated & ~on(THREE)).tolist() == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
        assert annotation.labels[1, 2, 3:6].tolist() == [2, 2, 2]

    def test_painted_background_counts_as_painted(self):
        labels = np.where(on(THREE), truth(), 0)
        labels[1, 2, 3:6] = 3
        annotation = from_painted(segmentation(labels, TUBULE, INSIDE, BACKGROUND))
        assert np.argwhere(annotation.annotated & ~on(THREE)).tolist() == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
        assert not annotation.labels[1, 2].any()
        assert annotation.segments == (TUBULE, INSIDE)

    def test_single_strokes_are_enough_where_background_is_painted(self):
        labels = np.zeros(SHAPE)
        labels[5, 6, 3:9], labels[7, 8, 3:9] = 1, 2
        annotation = from_painted(segmentation(labels, TUBULE, BACKGROUND))
        assert annotation.planes == ()
        assert annotation.class_voxels.tolist() == [6, 6]

    def test_a_dense_label_map_needs_its_slices_named(self):
        dense = segmentation(truth(), TUBULE, INSIDE)
        with pytest.raises(InputError, match=r"fills neighbouring slices in all directions.*--slices z:10-30"):
            from_painted(dense)
        annotation = from_painted(dense, [Plane(0, 10)])
        assert annotation.planes == (Plane(0, 10),)
        assert np.array_equal(annotation.annotated, on([Plane(0, 10)]) | (truth() > 0))

    def test_errors(self):
        with pytest.raises(InputError, match="Nothing is painted"):
            from_painted(segmentation(np.zeros(SHAPE), TUBULE))
        stroke = np.zeros(SHAPE)
        stroke[5, 6, 3:9] = 1
        with pytest.raises(InputError, match="No slice was found that is certain to be annotated completely"):
            from_painted(segmentation(stroke, TUBULE))
        with pytest.raises(InputError, match="No structure is painted; paint"):
            from_painted(segmentation(stroke, BACKGROUND))
        with pytest.raises(UsageError, match="y:24 lies outside the volume"):
            from_painted(segmentation(stroke, TUBULE), [Plane(1, 24)])


class TestFromScribbles:
    def test_only_painted_voxels_are_annotated(self):
        labels = np.zeros(SHAPE)
        labels[3, 4, 5:9], labels[10, 11:14, 2], labels[0, 0, 0] = 1, 2, 3
        annotation = from_scribbles(segmentation(labels, TUBULE, BACKGROUND, INSIDE))
        assert np.array_equal(annotation.annotated, labels > 0)
        assert annotation.class_voxels.tolist() == [3, 4, 1]
        assert annotation.labels[0, 0, 0] == 2
        assert annotation.segments == (TUBULE, INSIDE)
        assert annotation.planes == ()

    def test_errors(self):
        labels = np.zeros(SHAPE)
        labels[3, 4, 5:9] = 1
        with pytest.raises(InputError, match=r"segment named 'background'.*the segments are: 'tubule', 'inside'"):
            from_scribbles(segmentation(labels, TUBULE, INSIDE))
        with pytest.raises(InputError, match="Only 'tubule' is annotated, and nothing to tell it from"):
            from_scribbles(segmentation(labels, TUBULE, BACKGROUND))
        with pytest.raises(InputError, match="No structure is painted"):
            from_scribbles(segmentation(labels, BACKGROUND, TUBULE))
        with pytest.raises(InputError, match="segment named 'Air'"):
            from_scribbles(segmentation(labels, TUBULE, BACKGROUND), background="Air")


class TestParsePlanes:
    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            (["z:10,2"], ["z:2", "z:10"]),
            (["y:23", "z:3", "y:23"], ["z:3", "y:23"]),
            (["x:5-8"], ["x:5", "x:6", "x:7", "x:8"]),
            (["z:0-19:5"], ["z:0", "z:5", "z:10", "z:15"]),
            (["Z: 4-4, 7", "x:0"], ["z:4", "z:7", "x:0"]),
            ([], []),
        ],
    )
    def test_texts(self, texts, expected):
        assert [str(plane) for plane in parse_planes(texts, SHAPE)] == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("w:3", "'w:3' names no slices; write an axis x, y or z"),
            ("10", "'10' names no slices"),
            ("", "'' names no slices"),
            ("z:", "'' in 'z:' is no slice number"),
            ("z:ten", "'ten' in 'z:ten' is no slice number"),
            ("z:-1", "'-1' in 'z:-1' is no slice number"),
            ("z:3:2", "'3:2' in 'z:3:2' is no slice number"),
            ("z:²", "is no slice number"),
            ("z:9-5", "'9-5' in 'z:9-5' holds no slice"),
            ("z:0-9:0", "'0-9:0' in 'z:0-9:0' holds no slice"),
            ("z:20", "Slice z:20 lies outside the volume; z goes from 0 to 19 here"),
            ("y:20-24", "Slice y:24 lies outside the volume; y goes from 0 to 23 here"),
        ],
    )
    def test_errors(self, text, message):
        with pytest.raises(UsageError) as caught:
            parse_planes(["x:1", text], SHAPE)
        assert message in str(caught.value)

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 19)).map(lambda pair: Plane(*pair))))
    def test_planes_survive_being_written_and_read(self, planes):
        assert parse_planes([str(plane) for plane in planes], SHAPE) == tuple(sorted(planes))


def annotate(texts: list[str], labels: np.ndarray | None = None) -> SparseAnnotation:
    full = segmentation(truth() if labels is None else labels, TUBULE, INSIDE)
    return from_planes(full, parse_planes(texts, SHAPE))


class TestHeldOut:
    def test_validation_is_what_training_does_not_know(self):
        annotation = annotate(["z:8,10,12", "y:10,12", "x:14"])
        training, validation = held_out(annotation, parse_planes(["z:10", "y:12"], SHAPE))
        assert training.planes == parse_planes(["z:8,12", "y:10", "x:14"], SHAPE)
        assert validation.planes == parse_planes(["z:10", "y:12"], SHAPE)
        assert np.array_equal(training.annotated, on(list(training.planes)))
        assert np.array_equal(validation.annotated, on(list(validation.planes)) & ~training.annotated)
        assert np.array_equal(training.annotated | validation.annotated, annotation.annotated)
        for part in (training, validation):
            assert np.array_equal(part.labels[part.annotated], truth()[part.annotated])

    def test_voxels_on_no_plane_stay_in_training(self):
        labels = np.where(on(THREE), truth(), 0)
        labels[1, 2, 3:6] = 2
        annotation = from_painted(segmentation(labels, TUBULE, INSIDE))
        training, validation = held_out(annotation, [THREE[0]])
        assert training.annotated[1, 2, 3:6].all()
        assert not validation.annotated[1, 2, 3:6].any()

    def test_errors(self):
        annotation = annotate(["z:3,10"])
        with pytest.raises(UsageError, match=r"Slices z:4, x:1 cannot be held out.*choose among z:3, z:10"):
            held_out(annotation, [Plane(2, 1), Plane(0, 4), Plane(0, 3)])
        with pytest.raises(UsageError, match="Holding out z:10 would leave no annotated voxel of 'inside'"):
            held_out(annotation, [Plane(0, 10)])
        with pytest.raises(UsageError, match="no annotated voxel of 'background', 'tubule', 'inside'"):
            held_out(annotation, annotation.planes)


class TestChooseHeldOut:
    @pytest.mark.parametrize(("planes", "expected"), [(2, 0), (4, 0), (5, 1), (8, 1), (9, 2), (15, 3), (20, 3)])
    def test_about_one_in_six(self, planes, expected):
        assert len(choose_held_out(annotate([f"z:0-{planes - 1}"], np.tile(truth()[10], (20, 1, 1))))) == expected

    def test_at_most_six(self):
        assert len(choose_held_out(annotate(["z:0-19", "y:0-23", "x:0-27"]))) == 6

    def test_spread_over_orientations_and_inside(self):
        chosen = choose_held_out(annotate(["z:6,8,10,12,14", "y:8,10,12,14,16", "x:10,12,14,16,18"]), 3)
        assert chosen == parse_planes(["z:10", "y:12", "x:14"], SHAPE)

    def test_spread_along_an_orientation(self):
        chosen = choose_held_out(annotate(["z:3-17"]), 3)
        assert [plane.index for plane in chosen] == [6, 10, 13]

    def test_the_only_plane_of_an_orientation_is_kept(self):
        assert choose_held_out(annotate(["z:8,10,12", "y:12", "x:14"]), 1) == (Plane(0, 10),)

    def test_planes_that_show_structures_come_first(self):
        """The inner planes show none, because they lie beyond the structure."""
        labels = np.roll(truth(), -9, axis=0)
        labels[10:] = 0
        annotation = annotate(["z:0,1,2", "z:12-19"], labels)
        assert choose_held_out(annotation, 1)[0].index in (1, 2)

    def test_a_class_on_one_plane_only_is_kept_for_training(self):
        labels = truth()
        labels[labels == 2] = 1
        labels[10, 12, 14] = 2
        chosen = choose_held_out(annotate(["z:6,8,10,12,14"], labels), 2)
        assert Plane(0, 10) not in chosen
        assert len(chosen) == 2

    def test_none_where_training_needs_every_plane(self):
        labels = np.zeros(SHAPE)
        for z in range(5):
            labels[z, 5:9, 5:9] = z + 1
        segments = [Segment(str(n), f"segment {n}") for n in range(5)]
        annotation = from_planes(segmentation(labels, *segments), parse_planes(["z:0-4"], SHAPE))
        assert choose_held_out(annotation) == ()

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.sets(st.tuples(st.integers(0, 2), st.integers(7, 16)).map(lambda pair: Plane(*pair)), min_size=1))
    def test_training_never_loses_a_class(self, planes):
        annotation = from_planes(segmentation(truth(), TUBULE, INSIDE), planes)
        chosen = choose_held_out(annotation)
        assert len(chosen) <= max(1, len(planes) / 4)
        training, validation = held_out(annotation, chosen)
        assert np.array_equal(training.class_voxels > 0, annotation.class_voxels > 0)
        assert not (training.annotated & validation.annotated).any()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def test_slices_are_refused_exactly_where_a_class_would_be_lost(self, data):
        near = st.tuples(st.integers(0, 2), st.integers(6, 16)).map(lambda pair: Plane(*pair))
        planes = data.draw(st.sets(near, min_size=2, max_size=6))
        taken = data.draw(st.sets(st.sampled_from(sorted(planes)), min_size=1))
        annotation = from_planes(segmentation(truth(), TUBULE, INSIDE), planes)
        left = np.bincount(truth()[on([*(planes - taken)])], minlength=3)
        if ((annotation.class_voxels > 0) & (left == 0)).any():
            with pytest.raises(UsageError, match="would leave no annotated voxel of"):
                held_out(annotation, taken)
        else:
            training, _validation = held_out(annotation, taken)
            assert training.class_voxels.tolist() == left.tolist()

    def test_errors(self):
        assert choose_held_out(annotate(["z:3,10"]), 0) == ()
        with pytest.raises(UsageError, match=r"Only 1 of the 2 annotated slices can be held out .* but 2 are wanted"):
            choose_held_out(annotate(["z:3,10"]), 2)
        with pytest.raises(UsageError, match="Only 0 of the 1 annotated slices"):
            choose_held_out(annotate(["z:10"]), 1)
        with pytest.raises(UsageError, match="is -1, but it must be 0 or more"):
            choose_held_out(annotate(["z:10"]), -1)


class TestShares:
    @pytest.mark.parametrize(
        ("counts", "percent"), [((1, 1, 1), 2.5), ((2, 2, 1), 3.3), ((3, 3, 2), 5.7), ((5, 5, 3), 8.9)]
    )
    def test_the_papers_table_2(self, counts, percent):
        """Çiçek et al. 2016, Table 2: annotated voxels for (yz, xz, xy) planes, mean of three kidneys."""
        shares = []
        for size in ((248, 244, 64), (245, 244, 56), (246, 244, 59)):
            labels = np.zeros(tuple(reversed(size)), np.uint16)
            labels[20, 100, 100] = 1
            texts = [f"{letter}:20-{19 + count}" for letter, count in zip("xyz", counts, strict=True)]
            annotation = from_planes(segmentation(labels, TUBULE), parse_planes(texts, labels.shape))
            shares.append(share_annotated(annotation).total)
        assert round(100 * float(np.mean(shares)), 1) == percent

    def test_counts(self):
        shares = share_annotated(annotate(["z:10", "y:12,13", "x:14"]))
        annotated = on(parse_planes(["z:10", "y:12,13", "x:14"], SHAPE))
        assert shares.voxels == np.count_nonzero(annotated)
        assert shares.total == pytest.approx(annotated.mean())
        assert shares.planes == (1, 2, 1)
        assert shares.plane_shares == pytest.approx((1 / 20, 2 / 24, 1 / 28))
        assert shares.loose == 0
        assert [entry.name for entry in shares.classes] == ["background", "tubule", "inside"]
        assert [entry.voxels for entry in shares.classes] == np.bincount(truth()[annotated]).tolist()
        assert sum(entry.share for entry in shares.classes) == pytest.approx(1)

    def test_table(self):
        labels = np.zeros((10, 10, 10))
        labels[5, :5] = 1
        labels[2, 2, 2:4] = 1
        text = share_annotated(from_painted(segmentation(labels, TUBULE, INSIDE))).as_table()
        assert text.splitlines() == [
            "0,0,1 planes (yz, xz, xy): 10.2 % of voxels annotated",
            "  xy planes: 1, 10.0 %",
            "2 of 102 annotated voxels lie on none of these planes",
            "  background          50   49.0 %",
            "  tubule              52   51.0 %",
            "  inside               0  not annotated",
        ]
