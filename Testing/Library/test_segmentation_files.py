"""Segmentation files as Slicer writes and reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grids import random_geometry
from segmentation_examples import RIB, SEGMENTS, SIZE, assert_equal, example, write_slicer_file

from SparseUNet3DLib.errors import InputError, OutputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.segmentation_files import read_segmentation, write_segmentation
from SparseUNet3DLib.segments import Segment, Segmentation


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
