from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from grids import oblique_left_handed, random_geometry

from SparseUNet3DLib.errors import InputError, OutputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import write_image
from SparseUNet3DLib.segmentation_files import on_grid, read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation

RIB = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
    "~SCT^113197003^Rib~^^~Anatomic codes - DICOM master list~^^~^^"
)
SEGMENTS = (
    Segment("Segment_9", "ribs", (0.992157, 0.909804, 0.619608), {"TerminologyEntry": RIB, "Segmentation.Status": "x"}),
    Segment("1.2.840.1", "größe := 中 / b|c", (0.1, 1 / 3, 1.0)),
    Segment("empty", "no voxels yet", (0.0, 1.0, 0.0)),
)
SIZE = (7, 6, 5)


def example(geometry: Geometry | None = None) -> Segmentation:
    geometry = geometry or oblique_left_handed(SIZE)
    labels = np.random.default_rng(3).integers(0, 3, geometry.array_shape).astype(np.uint16)
    return Segmentation(labels, SEGMENTS, geometry)


def write_slicer_file(path: Path, array: np.ndarray, metadata: dict[str, str]) -> None:
    """Write ``array``, (z, y, x) or with layers (z, y, x, c), with ``metadata``."""
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), True)


def assert_equal(actual: Segmentation, expected: Segmentation) -> None:
    np.testing.assert_array_equal(actual.labels, expected.labels)
    assert actual.labels.dtype == np.uint16
    assert actual.segments == expected.segments


class TestSlicerFiles:
    def test_everything_comes_back(self, tmp_path: Path):
        write_segmentation(example(), tmp_path / "a.seg.nrrd")
        back = read_segmentation(tmp_path / "a.seg.nrrd")
        assert_equal(back, example())
        assert [s.tags for s in back.segments] == [s.tags for s in SEGMENTS]
        assert back.geometry.same_grid(example().geometry)
        assert [p.name for p in tmp_path.iterdir()] == ["a.seg.nrrd"]

    def test_grid_is_bit_equal_after_the_first_reading(self, tmp_path: Path):
        rng = np.random.default_rng(5)
        for n in range(20):
            geometry = random_geometry(rng, SIZE, left_handed=n % 2 == 1)
            write_segmentation(example(geometry), tmp_path / "a.seg.nrrd")
            first = read_segmentation(tmp_path / "a.seg.nrrd")
            write_segmentation(first, tmp_path / "b.seg.nrrd")
            assert read_segmentation(tmp_path / "b.seg.nrrd").geometry == first.geometry

    def test_slicerio_reads_what_is_written(self, tmp_path: Path):
        slicerio = pytest.importorskip("slicerio")
        # Its NRRD reader leaves out every letter beyond ASCII.
        segments = (SEGMENTS[0], replace(SEGMENTS[1], name="b := c / d|e"), SEGMENTS[2])
        write_segmentation(replace(example(), segments=segments), tmp_path / "a.seg.nrrd")
        read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
        np.testing.assert_array_equal(read["voxels"], example().labels.T)
        np.testing.assert_allclose(read["ijkToLPS"], example().geometry.index_to_physical(), rtol=1e-14)
        assert read["masterRepresentation"] == "Binary labelmap"
        for n, (segment, expected) in enumerate(zip(read["segments"], segments, strict=True), start=1):
            assert (segment["id"], segment["name"]) == (expected.id, expected.name)
            assert tuple(segment["color"]) == expected.color
            assert (segment["labelValue"], segment["layer"]) == (n, 0)
            assert segment["extent"] == [0, 6, 0, 5, 0, 4]
        assert read["segments"][0]["terminology"]["type"] == ["SCT", "113197003", "Rib"]
        assert read["segments"][0]["status"] == "x"

    def test_a_file_of_slicer_is_read(self):
        slicerio = pytest.importorskip("slicerio")
        path = Path(slicerio.__file__).parent / "data" / "Segmentation.seg.nrrd"
        back, reference = read_segmentation(path), slicerio.read_segmentation(str(path))
        np.testing.assert_array_equal(back.labels, reference["voxels"].T)
        np.testing.assert_allclose(back.geometry.index_to_physical(), reference["ijkToLPS"], rtol=1e-14)
        assert [s.name for s in back.segments] == [s["name"] for s in reference["segments"]]
        assert [s.id for s in back.segments] == [f"Segment_{n}" for n in range(1, 8)]
        assert back.segments[0].color == (0.992157, 0.909804, 0.619608)
        assert back.segments[0].tags == {"Segmentation.Status": "inprogress", "TerminologyEntry": RIB}

    def test_overlapping_segments_of_slicer_are_refused_with_their_names(self):
        slicerio = pytest.importorskip("slicerio")
        path = Path(slicerio.__file__).parent / "data" / "SegmentationOverlapping.seg.nrrd"
        reference = slicerio.read_segmentation(str(path))
        with pytest.raises(InputError, match=r"overlap in (\d+) voxels.*Logical operators") as caught:
            read_segmentation(path)
        message = str(caught.value)
        masks = {s["name"]: reference["voxels"][s["layer"]] == s["labelValue"] for s in reference["segments"]}
        first, second = (name for name in masks if f"'{name}'" in message)
        assert f"overlap in {np.count_nonzero(masks[first] & masks[second])} voxels" in message

    def test_layers_without_overlap_are_merged(self, tmp_path: Path):
        layers = np.zeros((2, 3, 4, 2), np.uint8)
        layers[0, 0, 0, 0], layers[0, 1, 1, 1], layers[1, 2, 3, 1] = 1, 1, 2
        metadata = {"Segment0_ID": "a", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
        metadata |= {"Segment1_ID": "b", "Segment1_LabelValue": "1", "Segment1_Layer": "1"}
        metadata |= {"Segment2_ID": "c", "Segment2_LabelValue": "2", "Segment2_Layer": "1"}
        write_slicer_file(tmp_path / "a.seg.nrrd", layers, metadata)
        back = read_segmentation(tmp_path / "a.seg.nrrd")
        assert [s.id for s in back.segments] == ["a", "b", "c"]
        assert (back.labels[0, 0, 0], back.labels[0, 1, 1], back.labels[1, 2, 3]) == (1, 2, 3)
        assert np.count_nonzero(back.labels) == 3

    def test_old_files_have_one_layer_per_segment(self, tmp_path: Path):
        layers = np.zeros((2, 3, 4, 2), np.uint8)
        layers[0, 0, 0, 0] = layers[1, 2, 3, 1] = 1
        write_slicer_file(tmp_path / "a.seg.nrrd", layers, {"Segment0_ID": "a", "Segment1_ID": "b"})
        labels = read_segmentation(tmp_path / "a.seg.nrrd").labels
        assert (labels[0, 0, 0], labels[1, 2, 3], np.count_nonzero(labels)) == (1, 2, 2)

    def test_any_label_values_become_the_order_of_the_segments(self, tmp_path: Path):
        array = np.zeros((2, 3, 4), np.uint16)
        array[0, 0, 0], array[1, 1, 1] = 700, 5
        metadata = {"Segment0_ID": "high", "Segment0_LabelValue": "700"}
        metadata |= {"Segment1_ID": "unused", "Segment1_LabelValue": "6", "Segment10_ID": "low"}
        write_slicer_file(tmp_path / "a.seg.nrrd", array, metadata | {"Segment10_LabelValue": "5"})
        back = read_segmentation(tmp_path / "a.seg.nrrd")
        assert [s.id for s in back.segments] == ["high", "unused", "low"]
        assert (back.labels[0, 0, 0], back.labels[1, 1, 1], np.count_nonzero(back.labels)) == (1, 3, 2)

    def test_letters_of_old_windows_files_come_back(self, tmp_path: Path):
        write_slicer_file(tmp_path / "old.seg.nrrd", np.ones((2, 3, 4), np.uint8), {"Segment0_Name": "NAME"})
        content = (tmp_path / "old.seg.nrrd").read_bytes()
        (tmp_path / "old.seg.nrrd").write_bytes(content.replace(b"NAME", "Gefäß".encode("latin-1")))
        segmentation = read_segmentation(tmp_path / "old.seg.nrrd")
        for name in ("new.seg.nrrd", "new.nii.gz"):
            write_segmentation(segmentation, tmp_path / name)
            assert [s.name for s in read_segmentation(tmp_path / name).segments] == ["Gefäß"]

    @pytest.mark.parametrize(
        ("metadata", "reason"),
        [
            ({"Segment0_ID": "a", "Segment0_LabelValue": "2"}, "voxels of value 1, which belongs to none"),
            ({"Segment0_ID": "a", "Segment0_LabelValue": "one"}, r"segment 0 \('a'\) is damaged: .*'one'"),
            ({"Segment0_ID": "a", "Segment0_LabelValue": "0"}, "'a' has label value 0; it must be 1 or more"),
            ({"Segment0_ID": "a", "Segment0_Color": "1 0"}, r"colour \[1.0, 0.0\] is not red, green and blue"),
            ({"Segment0_ID": "a", "Segment0_Color": "1 0 255"}, "is not red, green and blue in 0..1"),
            ({"Segment0_ID": "a", "Segment0_Layer": "1"}, "should be in layer 1"),
            ({"Segment0_ID": "a", "Segment1_ID": "a"}, "2 segments have the same ID 'a'"),
            (
                {"Segment0_ID": "a", "Segment0_LabelValue": "1", "Segment1_ID": "b", "Segment1_LabelValue": "1"},
                "segments 'a' and 'b' claim the same label value 1",
            ),
            (
                {"Segment0_ID": "a", "Segmentation_MasterRepresentation": "Fractional labelmap"},
                "holds a fractional labelmap; .* make 'Binary labelmap'",
            ),
        ],
    )
    def test_contradictory_metadata_is_refused(self, tmp_path: Path, metadata: dict[str, str], reason: str):
        write_slicer_file(tmp_path / "a.seg.nrrd", np.ones((2, 3, 4), np.uint8), metadata)
        with pytest.raises(InputError, match=reason):
            read_segmentation(tmp_path / "a.seg.nrrd")

    @pytest.mark.parametrize("tags", [{"a:b": "c"}, {"a|b": "c"}, {"a": "b|c"}])
    def test_tags_that_would_be_read_differently_are_refused(self, tmp_path: Path, tags: dict[str, str]):
        segmentation = replace(example(), segments=(Segment("a", "A", tags=tags), *SEGMENTS[1:]))
        with pytest.raises(OutputError, match=r"of segment 'A' holds a ':' or '\|'"):
            write_segmentation(segmentation, tmp_path / "a.seg.nrrd")
        assert list(tmp_path.iterdir()) == []

    def test_tag_values_with_colons_are_kept(self, tmp_path: Path):
        segments = (Segment("a", "A", tags={"time": "12:30:00"}), *SEGMENTS[1:])
        write_segmentation(replace(example(), segments=segments), tmp_path / "a.seg.nrrd")
        assert read_segmentation(tmp_path / "a.seg.nrrd").segments[0].tags == {"time": "12:30:00"}

    def test_more_segments_than_a_byte_counts(self, tmp_path: Path):
        segments = tuple(Segment(f"s{n}", f"S{n}") for n in range(300))
        labels = np.arange(301, dtype=np.uint16).reshape(1, 7, 43)
        segmentation = Segmentation(labels, segments, Geometry((43, 7, 1)))
        write_segmentation(segmentation, tmp_path / "a.seg.nrrd")
        assert_equal(read_segmentation(tmp_path / "a.seg.nrrd"), segmentation)

    def test_a_full_disk_keeps_the_old_segmentation(self, tmp_path: Path):
        path = tmp_path / "a.seg.nrrd"
        write_segmentation(example(), path)
        before = path.read_bytes()
        resource = pytest.importorskip("resource")  # Unix only
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        try:
            with pytest.raises(OutputError, match="Cannot write"):
                write_segmentation(example(Geometry((60, 50, 40))), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class TestLabelMaps:
    @pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.nii", "a.mha"])
    def test_names_are_kept_in_the_sidecar(self, tmp_path: Path, name: str):
        write_segmentation(example(), tmp_path / name)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", name]
        back = read_segmentation(tmp_path / name)
        assert_equal(back, example())
        assert back.segments[0].tags == SEGMENTS[0].tags
        assert back.geometry.same_grid(example().geometry)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
    def test_values_present_become_segments_without_a_sidecar(self, tmp_path: Path, dtype: type):
        array = np.zeros((2, 3, 4), dtype)
        array[0, 0, 0], array[0, 1, 1], array[1, 1, 1] = 3, 90, 3
        write_slicer_file(tmp_path / "a.nrrd", array, {})
        back = read_segmentation(tmp_path / "a.nrrd")
        assert [(s.id, s.name) for s in back.segments] == [("Segment_3", "Segment 3"), ("Segment_90", "Segment 90")]
        np.testing.assert_array_equal(back.labels, np.select([array == 3, array == 90], [1, 2]))

    @pytest.mark.parametrize("values, dtype", [((5, 1), np.uint8), ((5, 700), np.uint16)])
    def test_values_are_kept(self, tmp_path: Path, values: tuple[int, int], dtype: type):
        """Other programs know a structure by its value."""
        array = np.zeros((2, 3, 4), np.int16)
        array[0, 0, 0], array[1, 1, 1] = values
        write_slicer_file(tmp_path / "a.nii.gz", array, {})
        write_segmentation(read_segmentation(tmp_path / "a.nii.gz"), tmp_path / "b.nii.gz")
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.nii.gz")))
        np.testing.assert_array_equal(written, array)
        assert written.dtype == dtype
        assert_equal(read_segmentation(tmp_path / "b.nii.gz"), read_segmentation(tmp_path / "a.nii.gz"))

    def test_values_that_cannot_be_kept_are_numbers(self, tmp_path: Path):
        """Of two layers of Slicer's, or too large."""
        for values in ((1, 1), (1, 100_000), (1, None), (0, 1)):
            segments = tuple(replace(s, value=v) for s, v in zip(SEGMENTS[:2], values, strict=True))
            write_segmentation(replace(example(), segments=segments), tmp_path / "a.nii.gz")
            assert_equal(read_segmentation(tmp_path / "a.nii.gz"), replace(example(), segments=segments))
            written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
            np.testing.assert_array_equal(written, example().labels)

    def test_made_up_colours_are_distinct(self, tmp_path: Path):
        write_slicer_file(tmp_path / "a.nrrd", np.arange(12, dtype=np.uint8).reshape(1, 3, 4), {})
        colors = np.array([s.color for s in read_segmentation(tmp_path / "a.nrrd").segments])
        assert colors.shape == (11, 3)
        distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
        assert distances[~np.eye(11, dtype=bool)].min() > 0.15
        assert ((colors >= 0) & (colors <= 1)).all()

    def test_an_empty_label_map_has_no_segments(self, tmp_path: Path):
        write_slicer_file(tmp_path / "a.nrrd", np.zeros((2, 3, 4), np.uint8), {})
        back = read_segmentation(tmp_path / "a.nrrd")
        assert back.segments == ()
        assert not back.labels.any()

    def test_very_large_values_are_labels_too(self, tmp_path: Path):
        array = np.zeros((2, 3, 4), np.uint32)
        array[0, 0, 0], array[1, 1, 1] = 614454277, 4294967295
        write_slicer_file(tmp_path / "a.nrrd", array, {})
        back = read_segmentation(tmp_path / "a.nrrd")
        assert [s.name for s in back.segments] == ["Segment 614454277", "Segment 4294967295"]
        assert (back.labels[0, 0, 0], back.labels[1, 1, 1]) == (1, 2)

    @pytest.mark.parametrize(
        ("value", "dtype", "reason"),
        [
            (-2, np.int16, "negative value -2"),
            (0.5, np.float32, "the value 0.5, which is no whole number"),
            (np.nan, np.float32, "the value nan, which is no whole number"),
            (np.inf, np.float64, "the value inf, which is no whole number"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
    def test_other_values_are_refused(self, tmp_path: Path, value: float, dtype: type, reason: str, suffix: str):
        array = np.zeros((2, 3, 4), dtype)
        array[1, 2, 3] = value
        write_image(array, Geometry((4, 3, 2)), tmp_path / f"a{suffix}")
        # NIfTI files do not say any more whether a voxel was NaN or infinite.
        with pytest.raises(InputError, match=reason.replace("inf,", "(inf|nan),")):
            read_segmentation(tmp_path / f"a{suffix}")

    def test_too_many_values_are_refused(self, tmp_path: Path):
        write_slicer_file(tmp_path / "a.nrrd", np.arange(65600, dtype=np.int32).reshape(2, 164, 200), {})
        with pytest.raises(InputError, match="holds 65599 different values"):
            read_segmentation(tmp_path / "a.nrrd")

    def test_colour_images_are_refused(self, tmp_path: Path):
        write_slicer_file(tmp_path / "a.nrrd", np.zeros((2, 3, 4, 3), np.uint8), {})
        with pytest.raises(InputError, match="has 3 channels; a label map has one"):
            read_segmentation(tmp_path / "a.nrrd")

    def test_labels_without_a_segment_are_not_written(self, tmp_path: Path):
        with pytest.raises(ValueError, match="label 2 has none of the 1 segments"):
            write_segmentation(replace(example(), segments=SEGMENTS[:1]), tmp_path / "a.nrrd")

    def test_unknown_endings_leave_nothing_behind(self, tmp_path: Path):
        with pytest.raises(UsageError, match="must end in one of"):
            write_segmentation(example(), tmp_path / "a.xyz")
        assert list(tmp_path.iterdir()) == []


class TestSidecars:
    def write(self, folder: Path, content: object) -> Path:
        """A label map with values 0, 1 and 4 and ``content`` in its sidecar."""
        array = np.zeros((2, 3, 4), np.uint8)
        array[0, 0, 0], array[1, 1, 1] = 1, 4
        write_slicer_file(folder / "a.nrrd", array, {})
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "a.json").write_text(text, encoding="utf-8")
        return folder / "a.nrrd"

    def test_the_order_of_the_sidecar_is_the_order_of_the_labels(self, tmp_path: Path):
        entries = [{"value": 4, "name": "vein", "color": [1, 0, 0.5]}, {"value": 2}, {"value": 1, "id": "one"}]
        back = read_segmentation(self.write(tmp_path, {"segments": entries}))
        assert [(s.id, s.name) for s in back.segments] == [
            ("Segment_4", "vein"),
            ("Segment_2", "Segment 2"),
            ("one", "Segment 1"),
        ]
        assert back.segments[0].color == (1.0, 0.0, 0.5)
        assert (back.labels[0, 0, 0], back.labels[1, 1, 1]) == (3, 1)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("{not json", r"a\.json', which should name the segments"),
            ({"segments": {}}, '"segments" must be a list'),
            ({"segments": [7]}, 'segment 0 in the list cannot be used: it needs a whole number as "value"'),
            ({"segments": [{"name": "x"}]}, 'a whole number as "value"'),
            ({"segments": [{"value": 1.5}]}, 'a whole number as "value"'),
            ({"segments": [{"value": 1, "name": 3}]}, "must be text"),
            ({"segments": [{"value": 1, "tags": ["a"]}]}, "must be text"),
            ({"segments": [{"value": 1, "tags": {"a": 1}}]}, "must be text"),
            ({"segments": [{"value": 1, "color": "red"}]}, "list of three numbers"),
            ({"segments": [{"value": 1, "color": [255, 0, 0]}]}, "red, green and blue in 0..1"),
            ({"segments": [{"value": 0}]}, "label value 0; it must be 1 or more"),
            ({"segments": [{"value": 1}, {"value": 1, "id": "b"}]}, "claim the same label value 1"),
            ({"segments": [{"value": 1, "id": "b"}, {"value": 4, "id": "b"}]}, "same ID 'b'"),
            ({"segments": [{"value": 1}]}, "voxels of value 4, which belongs to none"),
        ],
    )
    def test_a_sidecar_that_cannot_be_used_is_explained(self, tmp_path: Path, content: object, reason: str):
        with pytest.raises(InputError, match=reason):
            read_segmentation(self.write(tmp_path, content))

    def test_a_json_file_of_another_tool_is_ignored_and_never_replaced(self, tmp_path: Path):
        path = self.write(tmp_path, {"Manual": True})
        assert [s.name for s in read_segmentation(path).segments] == ["Segment 1", "Segment 4"]
        before = path.read_bytes()
        with pytest.raises(OutputError, match=r"would replace '.*a\.json', which is another file"):
            write_segmentation(example(), path)
        assert json.loads((tmp_path / "a.json").read_text()) == {"Manual": True}
        assert path.read_bytes() == before

    def test_a_damaged_json_file_is_not_replaced(self, tmp_path: Path):
        path = self.write(tmp_path, "{not json")
        with pytest.raises(OutputError, match="which is another file"):
            write_segmentation(example(), path)
        assert (tmp_path / "a.json").read_text() == "{not json"

    def test_its_own_sidecar_is_replaced(self, tmp_path: Path):
        path = self.write(tmp_path, {"segments": [{"value": 1}, {"value": 4}]})
        write_segmentation(example(), path)
        assert_equal(read_segmentation(path), example())


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
