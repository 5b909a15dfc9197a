"""Label maps of the formats that keep no names, and the sidecars that keep them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from segmentation_examples import SEGMENTS, assert_equal, example, write_slicer_file

from SparseUNet3DLib.errors import InputError, OutputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import write_image
from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation


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
            ({"segments": [{"value": 1, "tags": {"a": "b|c"}}]}, "tag 'a' holds a ':' or '\\|', which separate tags"),
            ({"segments": [{"value": 1, "tags": {"a:b": "c"}}]}, "tag 'a:b' holds"),
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
