"""Data sets of experiments: what a TOML file may say, and what is refused before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command import ROOT
from tiny_experiment import PHANTOM, tiny

from SparseUNet3DLib.errors import InputError, MissingDependencyError, UsageError
from SparseUNet3DLib.experiments.dataset import read_dataset
from SparseUNet3DLib.experiments.protocols import fully_automated, semi_automated, sparsity
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import write_image
from SparseUNet3DLib.plane_detection import Plane


def test_a_data_set_says_what_is_trained_and_how(tmp_path: Path):
    data = read_dataset(tiny(tmp_path))
    assert data.name == "tiny tubules"
    assert list(data.cases) == ["S1", "S2"]
    assert data.recipe.iterations == 1 and data.recipe.seconds is None and data.recipe.optimizer == "adamw"
    assert data.recipe.class_balance == 1.0  # the paper's, as nothing else is said
    assert data.plan == {"patch_size": "100x108x116", "widths": "2,2,2,2", "spacing": "1.5x1x1"}
    assert len(data.cases["S1"].annotation.planes) == 6 + 7 + 8
    assert set(data.thresholds["S1"]) == {"tubule", "lumen", "union"}
    assert 0 < data.thresholds["S1"]["union"] < 0.8


def test_files_are_relative_to_the_data_set_and_segments_may_be_chosen(tmp_path: Path):
    from command import PAINTED, SEGMENTS, write_case

    write_case(tmp_path)
    path = tmp_path / "own.toml"
    text = '[[volume]]\nname = "v"\nchannels = ["vol.nrrd"]\nsegmentation = "ann.seg.nrrd"\n'
    slices = f'slices = ["z:{",".join(map(str, PAINTED))}"]\n'
    path.write_text(text + slices, encoding="utf-8")
    annotation = read_dataset(path).cases["v"].annotation
    assert [s.name for s in annotation.segments] == [s.name for s in SEGMENTS]
    path.write_text(text + slices + f'segments = ["{SEGMENTS[1].name}"]\n', encoding="utf-8")
    chosen = read_dataset(path).cases["v"].annotation
    np.testing.assert_array_equal(chosen.labels > 0, annotation.labels == 2)
    assert [s.name for s in chosen.segments] == [SEGMENTS[1].name]


@pytest.mark.parametrize("name", ["chest-ct", "phantom"])
def test_the_data_sets_that_are_included_can_be_read(name: str):
    data = read_dataset(ROOT / "Testing" / "Experiments" / f"{name}.toml")
    assert semi_automated(data.cases) and sparsity(data.cases)
    if name == "phantom":
        assert len(fully_automated(data.cases)) == 9


def test_the_included_data_set_that_is_fetched_can_be_read_once_it_is_there(tmp_path: Path):
    for name, size in (("ct-1", (122, 101, 30)), ("ct-2", (170, 170, 20)), ("mr", (117, 91, 20))):
        labels = np.random.default_rng(0).integers(0, 6, size[::-1]).astype(np.uint8)
        (tmp_path / "abdomen" / name).mkdir(parents=True)
        for file, array in (("image", labels.astype(np.int16)), ("labels", labels)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "abdomen" / name / f"{file}.nrrd"))
    shutil.copy(ROOT / "Testing" / "Experiments" / "abdomen.toml", tmp_path)
    data = read_dataset(tmp_path / "abdomen.toml")
    assert len(fully_automated(data.cases)) == 9
    for case in data.cases.values():
        names = [s.name for s in case.annotation.segments]
        assert names == ["liver", "spleen", "stomach", "vertebrae", "back muscles"]
        assert len({s.color for s in case.annotation.segments}) == 5
        assert 0.3 < case.annotation.annotated.mean() < 0.4


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("name = 'x'", r"it lists no volumes; add a \[\[volume\]\]"),
        ("[[volume", "is no TOML file"),
        ("colour = 1\n[[volume]]", "A data set has no 'colour'; choose among"),
        ("volume = [1]", "volume 'volume 1': A volume is described by a table"),
        ("training = 3\n[[volume]]\nphantom={seed=1}\nslices='z:3'", r"\[training\] is described by a table"),
        ("[[volume]]\nphantom = 3", "A phantom is described by a table"),
        ("[[volume]]\nphantom = {seed = -1}", "seed must be a whole number from 0, not -1"),
        ("[[volume]]\nphantom = {shape = [12, 20]}", r"shape must be three numbers \[z, y, x\]"),
        ("[[volume]]\nphantom = {light = 0}", "light must be a number above 0, not 0"),
        ("[[volume]]\nphantom = {seed = 1}\nsegments = ['a']", "A generated volume has no 'segments'"),
        ("[[volume]]\nphantom = {seed = 1}\nslices = [3]", r"'slices' must be a text in quotes, or a list of them"),
        ("[[volume]]\nphantom = {seed = 1}", "No annotated slices are given"),
        ("[training]\nminutes = 'x'\n[[volume]]\nphantom={seed=1}\nslices='z:3'", "minutes must be a finite number"),
        ("[training]\noptimizer = 3\n[[volume]]\nphantom={seed=1}\nslices='z:3'", "Unknown optimizer '3'"),
        ("[training]\nseed = 'x'\n[[volume]]\nphantom={seed=1}\nslices='z:3'", "seed must be like 0, not 'x'"),
        ("[training]\nnetwork = '2d'\n[[volume]]\nphantom={seed=1}\nslices='z:3'", "has no 'network'; choose"),
        ("[[volume]]\ncolour = 1", "volume 'volume 1': A volume has no 'colour'"),
        ("[[volume]]\nchannels = ['a.nrrd']", "'segmentation' is missing"),
        ("[[volume]]\nchannels = ['a.nrrd']\nsegmentation = 'b.nrrd'", "a.nrrd"),
        ("[training]\ncolour = 1\n[[volume]]\nphantom = {seed = 1}\nslices='z:3'", r"\[training\] has no 'colour'"),
        ("[[volume]]\nphantom = {size = 3}", "A phantom has no 'size'; choose among light, seed, shape, spacing"),
        ("[[volume]]\nphantom = {seed=1}\nslices='z:900'", "volume 'volume 1': "),
        ("[[volume]]\nname='a'\nphantom={seed=1}\nslices='z:3'\n[[volume]]\nname='a'", "two volumes are named 'a'"),
        ("[[volume]]\nname='a b'\nphantom={seed=1}\nslices='z:3'\n[[volume]]\nname='a-b'", "are named 'a-b'"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((InputError, UsageError), match=sentence) as caught:
        read_dataset(path)
    assert "bad.toml" in str(caught.value)


def write_labels(path: Path, labels: np.ndarray, channels: int = 1) -> Path:
    """A volume, its label map with these values, and a data set of both; the data set's file."""
    geometry = Geometry(tuple(reversed(labels.shape)), (1.0, 1.0, 1.0))
    names = []
    for n in range(channels):
        write_image(np.random.default_rng(n).integers(0, 200, labels.shape).astype(np.uint8), geometry,
                    path / f"channel{n}.nrrd")  # fmt: skip
        names.append(f"channel{n}.nrrd")
    write_image(labels, geometry, path / "labels.nrrd")
    dataset = path / "labels.toml"
    dataset.write_text(f"[[volume]]\nname = 'S1'\nchannels = {names}\nsegmentation = 'labels.nrrd'\n")
    return dataset


def papers_labels() -> np.ndarray:
    """Slices z:3, z:9 and y:8 as the paper's annotators left them: 0 inside, 1 tubule, 2 background, 3 unlabelled."""
    labels = np.full((12, 20, 24), 3, np.uint8)
    for plane in (Plane(0, 3), Plane(0, 9), Plane(1, 8)):
        labels[plane.voxels] = 2
    labels[3, 5:12, 5:12] = 1
    labels[3, 7:10, 7:10] = 0
    labels[9, 15:, 20:] = 3  # a corner that nobody could tell
    return labels


def test_the_papers_own_label_maps_can_be_used(tmp_path: Path):
    path = write_labels(tmp_path, papers_labels())
    with path.open("a", encoding="utf-8") as file:
        file.write("labels = { lumen = 0, tubule = 1, background = 2, unlabelled = 3 }\n")
    annotation = read_dataset(path).cases["S1"].annotation
    assert annotation.class_names == ("background", "lumen", "tubule")
    assert annotation.planes == (Plane(0, 3), Plane(0, 9), Plane(1, 8))
    np.testing.assert_array_equal(annotation.annotated, papers_labels() != 3)
    assert annotation.class_voxels.tolist() == [np.count_nonzero(papers_labels() == n) for n in (2, 0, 1)]
    with path.open("a", encoding="utf-8") as file:
        file.write("segments = ['tubule']\n")  # the inside becomes background, and stays annotated
    tubules = read_dataset(path).cases["S1"].annotation
    np.testing.assert_array_equal(tubules.labels == 1, annotation.labels == 2)
    np.testing.assert_array_equal(tubules.annotated, annotation.annotated)


def test_a_value_of_0_that_is_not_named_is_no_background_where_that_has_another(tmp_path: Path):
    labels = np.choose(papers_labels(), [1, 1, 2, 0]).astype(np.uint8)  # as other programs keep what is not painted
    path = write_labels(tmp_path, labels)
    with path.open("a", encoding="utf-8") as file:
        file.write("labels = { tubule = 1, background = 2 }\n")
    annotation = read_dataset(path).cases["S1"].annotation
    assert annotation.planes == (Plane(0, 3), Plane(0, 9), Plane(1, 8))
    np.testing.assert_array_equal(annotation.annotated, labels > 0)


def test_label_maps_that_are_not_explained_are_refused(tmp_path: Path):
    path = write_labels(tmp_path, papers_labels())
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "labels = { tubule = 1, unlabelled = 3 }\n", encoding="utf-8")
    with pytest.raises(InputError, match="has voxels of value 2, which 'labels' does not name"):
        read_dataset(path)
    path.write_text(text + "labels = 'tubule'\n", encoding="utf-8")
    with pytest.raises(InputError, match="'labels' must name the values"):
        read_dataset(path)
    path.write_text(text + "labels = { a = 0, tubule = 1, b = 1, background = 2 }\n", encoding="utf-8")
    with pytest.raises(InputError, match="'labels' gives several names to one value"):
        read_dataset(path)
    coarse = Geometry((24, 20, 12), (2.0, 2.0, 2.0))
    write_image(papers_labels(), coarse, tmp_path / "labels.nrrd")
    path.write_text(text + "labels = { a = 0, tubule = 1, background = 2, unlabelled = 3 }\n", encoding="utf-8")
    with pytest.raises(InputError, match="lies on another grid than the channels"):
        read_dataset(path)


def test_volumes_that_do_not_go_together_are_refused_before_anything_is_trained(tmp_path: Path):
    path = write_labels(tmp_path, papers_labels(), channels=2)
    with path.open("a", encoding="utf-8") as file:
        file.write("labels = { lumen = 0, tubule = 1, background = 2, unlabelled = 3 }\n")
        file.write(PHANTOM.format(name="S2", seed=2))
    with pytest.raises(InputError, match=r"volume 'S2' has 3 channel\(s\), but 'S1' has 2"):
        read_dataset(path)
    text = path.read_text(encoding="utf-8").replace("'channel1.nrrd']", "'channel1.nrrd', 'channel1.nrrd']")
    path.write_text(text.replace("lumen", "a").replace("tubule = 1", "b = 1"), encoding="utf-8")
    with pytest.raises(InputError, match="volume 'S2' has the segments lumen, tubule, but 'S1' has a, b"):
        read_dataset(path)
    path.write_text(text.replace("lumen", "a"), encoding="utf-8")
    warnings: list[str] = []
    read_dataset(path, warnings.append)
    assert warnings == ["Volumes 'S1' and 'S2' do not have the same segments: a, lumen."]


def test_slices_that_the_annotations_file_lists_are_those_that_count(tmp_path: Path):
    from command import SEGMENTS, write_case

    from SparseUNet3DLib.annotated_slices import slices_to_metadata

    write_case(tmp_path)
    image = sitk.ReadImage(str(tmp_path / "ann.seg.nrrd"))
    for key, value in slices_to_metadata([Plane(0, 6), Plane(1, 16)], None).items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "ann.seg.nrrd"))
    path = tmp_path / "own.toml"
    path.write_text('[[volume]]\nchannels = ["vol.nrrd"]\nsegmentation = "ann.seg.nrrd"\n', encoding="utf-8")
    annotation = read_dataset(path).cases["volume 1"].annotation
    assert annotation.planes == (Plane(0, 6), Plane(1, 16))
    assert [s.name for s in annotation.segments] == [s.name for s in SEGMENTS]


def test_two_segments_of_one_name_are_refused(tmp_path: Path):
    from command import write_case

    write_case(tmp_path)
    image = sitk.ReadImage(str(tmp_path / "ann.seg.nrrd"))
    image.SetMetaData("Segment1_Name", image.GetMetaData("Segment0_Name"))
    sitk.WriteImage(image, str(tmp_path / "ann.seg.nrrd"))
    path = tmp_path / "own.toml"
    path.write_text('[[volume]]\nchannels = ["vol.nrrd"]\nsegmentation = "ann.seg.nrrd"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"volume 'volume 1': '.*ann.seg.nrrd': 2 segments are named"):
        read_dataset(path)


def test_a_package_that_is_missing_is_named(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text('package = "no_such_package"\n[[volume]]\n', encoding="utf-8")
    with pytest.raises(MissingDependencyError, match="pip install no_such_package"):
        read_dataset(path)
