from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from grids import oblique_left_handed, random_geometry
from hypothesis import given
from hypothesis import strategies as st

from SparseUNet3DLib.errors import InputError, MemoryLimitError, OutputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import (
    check_keeps_grid,
    image_array,
    read_header,
    read_image,
    volume_stem,
    write_image,
)
from SparseUNet3DLib.quiet import native_messages

SIZE = (4, 3, 2)
VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def noise(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("ct.nrrd", "ct"),
        ("ct.seg.nrrd", "ct"),
        ("a.b.nii.gz", "a.b"),
        ("CT.OME.TIF", "CT"),
        ("cells.ome.tiff", "cells"),
        ("ct.v2.mha", "ct.v2"),
        (".nii.gz", ".nii"),
    ],
)
def test_stem_leaves_out_the_whole_ending(name: str, stem: str):
    assert volume_stem(Path("folder") / name) == stem


@pytest.mark.parametrize("left_handed", [False, True])
def test_a_grid_read_from_nrrd_comes_back_bit_for_bit(tmp_path: Path, left_handed: bool):
    rng = np.random.default_rng(1)
    first, second = tmp_path / "first.nrrd", tmp_path / "second.nrrd"
    moved_by_simpleitk = 0
    for _ in range(60):
        image = sitk.GetImageFromArray(VOXELS)
        random_geometry(rng, SIZE, left_handed).apply_to(image)
        sitk.WriteImage(image, str(first))
        image = read_image(first)
        geometry = Geometry.from_image(image)
        write_image(VOXELS, geometry, second)
        assert Geometry.from_image(read_image(second)) == geometry
        sitk.WriteImage(image, str(second))
        moved_by_simpleitk += Geometry.from_image(read_image(second)) != geometry
    assert moved_by_simpleitk > 0  # else the search for exact axis vectors would be needless


@given(seed=st.integers(0, 2**32 - 1), left_handed=st.booleans())
def test_any_grid_comes_back_bit_for_bit_from_metaimage_and_close_from_nrrd(tmp_path_factory, seed, left_handed):
    folder = tmp_path_factory.mktemp("grids")
    geometry = random_geometry(np.random.default_rng(seed), SIZE, left_handed)
    write_image(VOXELS, geometry, folder / "a.mha")
    assert Geometry.from_image(read_image(folder / "a.mha")) == geometry
    write_image(VOXELS, geometry, folder / "a.nrrd")
    back = Geometry.from_image(read_image(folder / "a.nrrd"))
    np.testing.assert_allclose(back.index_to_physical(), geometry.index_to_physical(), rtol=1e-15, atol=1e-14)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_a_grid_to_single_precision(tmp_path: Path, suffix: str):
    rng = np.random.default_rng(2)
    for left_handed in (False, True):
        geometry = random_geometry(rng, SIZE, left_handed)
        write_image(VOXELS, geometry, tmp_path / f"a{suffix}")
        back = Geometry.from_image(read_image(tmp_path / f"a{suffix}"))
        assert back.same_grid(geometry)
        np.testing.assert_allclose(back.index_to_physical(), geometry.index_to_physical(), rtol=1e-6, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"scan-\xff.nrrd")
    with pytest.raises(OutputError, match="bytes that are no letters"):
        write_image(VOXELS, Geometry(SIZE), path)
    write_image(VOXELS, Geometry(SIZE), tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").rename(path)
    with pytest.raises(InputError, match="bytes in its name or folder that are no letters"):
        read_image(path)


def test_a_grid_that_nifti_would_move_is_refused_and_leaves_nothing(tmp_path: Path):
    far_away = Geometry(SIZE, spacing=(0.001, 0.001, 0.001), origin=(12345.678, 0.0, 0.0))
    with pytest.raises(OutputError, match=r"this format turns the grid .* write a \.nrrd file"):
        write_image(VOXELS, far_away, tmp_path / "a.nii")
    assert list(tmp_path.iterdir()) == []
    write_image(VOXELS, far_away, tmp_path / "a.nrrd")
    assert Geometry.from_image(read_image(tmp_path / "a.nrrd")).same_grid(far_away)


def test_axes_that_are_not_at_right_angles_are_refused_before_hours_are_spent(tmp_path: Path):
    """As of a CT with a tilted gantry."""
    tilted = Geometry(SIZE, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.2, 0.0, 0.0, 0.98))
    with pytest.raises(OutputError, match="not at right angles"):
        check_keeps_grid(tmp_path / "a.nii.gz", tilted)
    check_keeps_grid(tmp_path / "a.nrrd", tilted)
    write_image(VOXELS, tilted, tmp_path / "a.nrrd")
    assert Geometry.from_image(read_image(tmp_path / "a.nrrd")).same_grid(tilted)


@pytest.mark.skipif(os.name == "nt", reason="Windows allows 255 characters, but for a path of 260")
def test_the_longest_names_can_be_written_and_shares_without_permissions(tmp_path: Path, monkeypatch):
    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    path = tmp_path / f"{'n' * 246}.seg.nrrd"
    write_image(VOXELS, Geometry(SIZE), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_voxels_keep_their_values_and_type(tmp_path: Path, suffix: str, dtype: type):
    write_image(VOXELS.astype(dtype), Geometry(SIZE), tmp_path / f"a{suffix}")
    array = image_array(read_image(tmp_path / f"a{suffix}"))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, VOXELS[np.newaxis])


def test_files_are_compressed(tmp_path: Path):
    for suffix in (".nrrd", ".nii.gz", ".mha"):
        write_image(np.zeros((20, 30, 40), np.uint8), Geometry((40, 30, 20)), tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").stat().st_size < 2000


def test_array_keeps_the_image_alive_and_shares_its_voxels(tmp_path: Path):
    write_image(VOXELS, Geometry(SIZE), tmp_path / "a.nrrd")
    image = read_image(tmp_path / "a.nrrd")
    array = image_array(image)
    array[0, 0, 0, 0] = -7
    assert image.GetPixel(0, 0, 0) == -7
    del image
    np.testing.assert_array_equal(array[0].ravel()[1:], VOXELS.ravel()[1:])


def test_only_whole_grid_formats_are_written(tmp_path: Path):
    for name in ("a.tif", "a.mhd", "a.txt", "a"):
        with pytest.raises(UsageError, match=r"must end in one of \.nrrd, "):
            write_image(VOXELS, Geometry(SIZE), tmp_path / name)
    with pytest.raises(ValueError, match="does not fill"):
        write_image(VOXELS, Geometry((2, 3, 4)), tmp_path / "a.nrrd")


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(OutputError, match=r"the folder '.*gone' does not exist"):
        write_image(VOXELS, Geometry(SIZE), tmp_path / "gone" / "a.nrrd")


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    write_image(VOXELS, Geometry(SIZE), path)
    before = path.read_bytes()
    big = noise((40, 50, 60))
    resource = pytest.importorskip("resource")  # Unix only
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OutputError, match=r"Cannot write '.*': .*"):
            write_image(big, Geometry((60, 50, 40)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".tif"])
@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, kept: float, capfd):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(noise((30, 40, 50))), str(path), True)
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(InputError, match=f"a{suffix}'.*(cut short|damaged)"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_the_reason_is_what_the_library_printed(tmp_path: Path):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path))
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(InputError, match="data not read completely"):
        read_image(path)


def test_flipped_bits_in_compressed_nifti_are_noticed(tmp_path: Path):
    path = tmp_path / "a.nii.gz"
    write_image(noise((30, 40, 50)), Geometry((50, 40, 30)), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged or"):
        read_image(path)


def test_a_plain_nifti_with_a_compressed_name_is_read(tmp_path: Path):
    write_image(VOXELS, Geometry(SIZE), tmp_path / "a.nii")
    os.rename(tmp_path / "a.nii", tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image_array(read_image(tmp_path / "a.nii.gz"))[0], VOXELS)


def test_files_that_are_no_volumes_are_refused_with_the_reason(tmp_path: Path):
    (tmp_path / "empty.nrrd").touch()
    (tmp_path / "junk.nrrd").write_bytes(b"not an image" * 50)
    (tmp_path / "head.nrrd").write_bytes(b"NRRD0004\ntype: uint8\n\n")
    for name, reason in [
        ("gone.nrrd", "No such file or directory"),
        (".", "is a folder; name the volume's file"),
        ("empty.nrrd", r"is empty \(0 bytes\)"),
        ("junk.nrrd", r"damaged or not an image in a known format; use one of \.nrrd"),
        ("head.nrrd", "damaged, cut short or not supported"),
    ]:
        with pytest.raises(InputError, match=reason):
            read_image(tmp_path / name)


def test_a_header_without_its_voxel_file_is_refused(tmp_path: Path):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").unlink()
    with pytest.raises(InputError, match="damaged, cut short or not supported"):
        read_image(tmp_path / "a.mhd")


def test_images_of_other_dimensions_are_refused(tmp_path: Path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.uint8)), str(tmp_path / "flat.png"))
    with pytest.raises(InputError, match=r"two-dimensional image \(6x5\)"):
        read_image(tmp_path / "flat.png")
    for suffix in (".nrrd", ".nii", ".mha"):
        series = sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8), isVector=False)
        sitk.WriteImage(series, str(tmp_path / f"series{suffix}"))
        with pytest.raises(InputError, match=r"time series or sequence \(5x4x3x2 voxels, 4 dimensions\)"):
            read_image(tmp_path / f"series{suffix}")


def test_a_slicer_sequence_is_no_volume_with_channels(tmp_path: Path):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "channels.nrrd"))
    assert read_header(tmp_path / "channels.nrrd").GetNumberOfComponents() == 2
    image.SetMetaData("axis 3 index type", "numeric")
    sitk.WriteImage(image, str(tmp_path / "times.nrrd"))
    with pytest.raises(InputError, match="time series or sequence"):
        read_image(tmp_path / "times.nrrd")


@pytest.mark.parametrize("suffix", [".nrrd", ".nii"])
def test_complex_voxels_are_refused(tmp_path: Path, suffix: str):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.astype(np.complex64)), str(tmp_path / f"a{suffix}"))
    with pytest.raises(InputError, match="complex numbers"):
        read_image(tmp_path / f"a{suffix}")


def test_headers_that_make_no_sense_are_refused(tmp_path: Path):
    meta = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = {}\n{}ElementType = MET_UCHAR\n"
    meta += "ElementDataFile = LOCAL\nabc"
    (tmp_path / "none.mha").write_text(meta.format("4 0 6", ""))
    (tmp_path / "flat.mha").write_text(meta.format("1 1 3", "ElementSpacing = 1 0 1\n"))
    write_image(VOXELS, Geometry(SIZE), tmp_path / "lost.nii")
    header = bytearray((tmp_path / "lost.nii").read_bytes())
    for offset in (268, 292):  # qoffset_x and the last number of srow_x
        header[offset : offset + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "lost.nii").write_bytes(header)
    for name, reason in [
        ("none.mha", "no voxels: its size is 4x0x6"),
        ("flat.mha", "not supported .*spacing"),
        ("lost.nii", "NaN or infinite coordinates"),
    ]:
        with pytest.raises(InputError, match=reason):
            read_image(tmp_path / name)


def test_a_volume_larger_than_memory_is_refused(tmp_path: Path):
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 100000 100000 100000\nencoding: raw\n\nabc"
    (tmp_path / "huge.nrrd").write_text(header)
    with pytest.raises(MemoryLimitError, match="does not fit into memory"):
        read_image(tmp_path / "huge.nrrd")


def test_a_shared_grid_is_applied_to_arrays_as_given(tmp_path: Path):
    geometry = oblique_left_handed(SIZE)
    write_image(VOXELS, geometry, tmp_path / "a.mha")
    image = read_image(tmp_path / "a.mha")
    position = (geometry.index_to_physical() @ [3, 2, 1, 1])[:3]
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((3, 2, 1)), position)
    assert image.GetPixel(3, 2, 1) == VOXELS[1, 2, 3]


def test_messages_of_image_libraries_are_collected_and_others_passed_on(capfd):
    with native_messages() as messages:
        os.write(2, b"TIFFReadDirectory: Failed to read directory.\n\na line of another thread\n")
    assert messages == ["TIFFReadDirectory: Failed to read directory."]
    assert capfd.readouterr().err == "a line of another thread\n"


def test_standard_error_and_warnings_are_restored_after_an_error(capfd):
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    with pytest.raises(KeyError), native_messages():
        raise KeyError
    os.write(2, b"MetaImage: visible\n")
    assert capfd.readouterr().err == "MetaImage: visible\n"
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown


def test_files_are_read_where_there_is_no_standard_error(tmp_path: Path):
    write_image(VOXELS, Geometry(SIZE), tmp_path / "a.nrrd")
    original = os.dup(2)
    os.close(2)
    try:
        array = image_array(read_image(tmp_path / "a.nrrd"))
    finally:
        os.dup2(original, 2)
        os.close(original)
    np.testing.assert_array_equal(array[0], VOXELS)
