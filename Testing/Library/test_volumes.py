from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from grids import oblique_left_handed

from SparseUNet3DLib.errors import InputError, OutputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.volumes import read_volume, write_scalar_volume

GRID = oblique_left_handed((4, 3, 2))
VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
#: The header of a NIfTI-1 file, as far as it must be known to swap its bytes.
NIFTI_HEADER = np.dtype(
    [
        *(("size", "<i4"), ("text", "V36"), ("dims", "<i2", 8), ("intent", "<f4", 3), ("codes", "<i2", 4)),
        *(("pixdim", "<f4", 8), ("offset", "<f4", 3), ("slices", "<i2"), ("units", "V2"), ("range", "<f4", 4)),
        *(("limits", "<i4", 2), ("notes", "V104"), ("forms", "<i2", 2), ("affine", "<f4", 18), ("end", "V24")),
    ]
)


def refuse_warning(message: str) -> None:
    pytest.fail(f"unexpected warning: {message}")


def write_channels(path: Path, array: np.ndarray, geometry: Geometry = GRID) -> None:
    """Write ``array`` (z, y, x, c) as one image with vector voxels."""
    image = sitk.GetImageFromArray(array, isVector=True)
    geometry.apply_to(image)
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_one_scalar_file_keeps_type_values_and_grid(tmp_path: Path, suffix: str, dtype: type):
    image = sitk.GetImageFromArray(VOXELS.astype(dtype))
    GRID.apply_to(image)
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"))
    volume = read_volume(tmp_path / f"ct{suffix}", refuse_warning)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, VOXELS[np.newaxis])
    assert volume.geometry.same_grid(GRID)
    assert (volume.name, volume.channel_names, volume.non_finite) == ("ct", ("ct",), 0)


def test_a_negative_spacing_is_an_axis_that_runs_the_other_way(tmp_path: Path):
    """As some MetaImages have it; what the header says, and what the image is, are one."""
    path = tmp_path / "v.mha"
    write_scalar_volume(VOXELS, GRID, path, compress=False)
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = ", b"ElementSpacing = -"))
    found = read_volume(path, refuse_warning).geometry
    assert min(found.spacing) > 0
    assert found.same_grid(Geometry.from_image(sitk.ReadImage(str(path))))
    assert found.index_to_physical()[:3, 0] == pytest.approx(-GRID.index_to_physical()[:3, 0])


def test_big_endian_files_give_native_arrays(tmp_path: Path):
    header = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 4 3 2\nencoding: raw\nendian: big\n\n"
    (tmp_path / "big.nrrd").write_bytes(header.encode() + VOXELS.astype(">i2").tobytes())
    volume = read_volume(tmp_path / "big.nrrd", refuse_warning)
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array[0], VOXELS)


def test_vector_and_colour_voxels_become_channels(tmp_path: Path):
    array = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 3), dtype=np.uint8)
    for name in ("rgb.nrrd", "rgb.nii", "rgb.mha"):
        write_channels(tmp_path / name, array)
        volume = read_volume(str(tmp_path / name), refuse_warning)
        np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))
        assert volume.channel_names == ("rgb[0]", "rgb[1]", "rgb[2]")
        assert volume.array.dtype == np.uint8


def test_several_files_become_channels_of_a_common_type(tmp_path: Path):
    write_scalar_volume(VOXELS.astype(np.uint8), GRID, tmp_path / "t1.nrrd")
    write_scalar_volume(VOXELS - 5, GRID, tmp_path / "t2.mha")
    write_channels(tmp_path / "rg.nii.gz", np.stack([VOXELS + 100, VOXELS + 200], axis=-1).astype(np.uint8))
    volume = read_volume([tmp_path / "t1.nrrd", tmp_path / "t2.mha", tmp_path / "rg.nii.gz"], refuse_warning)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, [VOXELS, VOXELS - 5, VOXELS + 100, VOXELS + 200])
    assert volume.channel_names == ("t1", "t2", "rg[0]", "rg[1]")
    assert volume.name == "t1"
    assert volume.geometry.same_grid(GRID)


def test_integers_and_floats_are_promoted_without_loss(tmp_path: Path):
    write_scalar_volume(np.full((2, 3, 4), 2**31 - 1, np.int32), GRID, tmp_path / "a.nrrd")
    write_scalar_volume(np.full((2, 3, 4), 0.5, np.float32), GRID, tmp_path / "b.nrrd")
    volume = read_volume([tmp_path / "a.nrrd", tmp_path / "b.nrrd"], refuse_warning)
    assert volume.array.dtype == np.float64
    assert np.unique(volume.array[0]).tolist() == [2**31 - 1]
    assert np.unique(volume.array[1]).tolist() == [0.5]


def test_files_on_different_grids_are_refused_with_both_grids(tmp_path: Path):
    write_scalar_volume(VOXELS, Geometry((4, 3, 2)), tmp_path / "a.nrrd")
    write_scalar_volume(VOXELS, Geometry((4, 3, 2), spacing=(1.0, 1.0, 2.5)), tmp_path / "b.nrrd")
    with pytest.raises(InputError) as caught:
        read_volume([tmp_path / "a.nrrd", tmp_path / "b.nrrd"])
    for part in ("a.nrrd' has 4x3x2 voxels of 1x1x1 mm", "b.nrrd' has 4x3x2 voxels of 1x1x2.5 mm"):
        assert part in str(caught.value)


def test_no_file_is_a_usage_error():
    with pytest.raises(UsageError, match="No volume"):
        read_volume([])


def test_a_pages_tiff_is_a_volume_whose_missing_position_is_told(tmp_path: Path):
    for name in ("stack.tif", "stack.ome.tif"):
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS.astype(np.uint16)), str(tmp_path / name))
        warnings: list[str] = []
        volume = read_volume(tmp_path / name, warnings.append)
        np.testing.assert_array_equal(volume.array[0], VOXELS)
        assert volume.name == "stack"
        assert len(warnings) == 1
        assert "stores no slice distance" in warnings[0]
        assert "4x3x2 voxels of 1x1x1 mm" in warnings[0]


@pytest.mark.parametrize(
    ("description", "accepted"),
    [
        ('<OME><Image><Pixels SizeC="1" SizeT="1" SizeX="4" SizeY="3" SizeZ="2"/></Image></OME>', True),
        ('<OME><Image><Pixels SizeC="2" SizeT="1" SizeX="4" SizeY="3" SizeZ="1"/></Image></OME>', False),
        ('<OME><Image><Pixels SizeC="1" SizeT="2" SizeX="4" SizeY="3" SizeZ="1"/></Image></OME>', False),
        ("ImageJ=1.53t\nimages=2\nslices=2\n", True),
        ("ImageJ=1.53t\nimages=2\nchannels=2\nhyperstack=true\n", False),
    ],
)
def test_tiff_pages_that_are_no_slices_are_refused(tmp_path: Path, description: str, accepted: bool):
    pictures = pytest.importorskip("PIL.Image")
    pages = [pictures.fromarray(plane.astype(np.uint8)) for plane in VOXELS]
    pages[0].save(tmp_path / "a.ome.tif", save_all=True, append_images=pages[1:], description=description)
    if accepted:
        np.testing.assert_array_equal(read_volume(tmp_path / "a.ome.tif", lambda _: None).array[0], VOXELS)
    else:
        with pytest.raises(InputError, match="mixes 2 channels or times into its pages"):
            read_volume(tmp_path / "a.ome.tif", lambda _: None)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".mha"])
def test_non_finite_voxels_take_the_lowest_finite_value_and_are_told(tmp_path: Path, suffix: str):
    array = VOXELS.astype(np.float32) - 3
    array[1, 0, 2], array[1, 2, 3], array[0, 0, 0] = np.nan, np.inf, -np.inf
    write_scalar_volume(array, GRID, tmp_path / f"ct{suffix}")
    warnings: list[str] = []
    volume = read_volume(tmp_path / f"ct{suffix}", warnings.append)
    expected = VOXELS.astype(np.float32) - 3
    expected[1, 0, 2] = expected[1, 2, 3] = expected[0, 0, 0] = -2
    np.testing.assert_array_equal(volume.array[0], expected)
    assert volume.non_finite == 3
    assert len(warnings) == 1
    assert warnings[0].startswith("3 of 24 voxels of channel 'ct' are NaN or infinite (the first is i=0, j=0, k=0)")
    assert "taken as -2," in warnings[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("piece", [32, 2**20])
def test_nifti_of_either_byte_order_keeps_its_non_finite_voxels_apart(
    tmp_path: Path, order: str, dtype: str, piece: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("SparseUNet3DLib.nifti_voxels._CHUNK_BYTES", piece)
    array = np.stack([VOXELS, VOXELS + 50], axis=-1).astype(dtype)
    array[1, 2, 3, 0] = array[0, 1, 2, 1] = np.nan
    path = tmp_path / "v.nii"
    write_channels(path, array, Geometry((4, 3, 2)))
    if order == ">":
        content = path.read_bytes()
        header = np.frombuffer(content[:352], NIFTI_HEADER).astype(NIFTI_HEADER.newbyteorder(">"))
        voxels = np.frombuffer(content[352:], dtype).astype(f">{dtype}")
        path.write_bytes(header.tobytes() + voxels.tobytes())
    volume = read_volume(path, lambda _: None)
    assert volume.non_finite == 2
    assert volume.array[0, 1, 2, 3] == 0
    assert volume.array[1, 0, 1, 2] == 50
    finite = np.moveaxis(np.nan_to_num(array), -1, 0)
    finite[1, 0, 1, 2] = 50
    np.testing.assert_array_equal(volume.array, finite)


def test_each_channel_has_its_own_lowest_value(tmp_path: Path):
    array = np.stack([VOXELS, VOXELS + 50, VOXELS], axis=-1).astype(np.float32)
    array[0, 1, 2, 1] = array[1, 1, 1, 2] = np.nan
    write_channels(tmp_path / "v.nrrd", array)
    warnings: list[str] = []
    volume = read_volume(tmp_path / "v.nrrd", warnings.append)
    assert volume.array[1, 0, 1, 2] == 50
    assert volume.array[2, 1, 1, 1] == 0
    assert np.isfinite(volume.array).all()
    assert volume.non_finite == 2
    assert [w.split("'")[1] for w in warnings] == ["v[1]", "v[2]"]
    assert "(the first is i=2, j=1, k=0)" in warnings[0]


def test_a_slice_without_finite_voxels_is_filled(tmp_path: Path):
    array = VOXELS.astype(np.float32)
    array[0] = np.nan
    write_scalar_volume(array, GRID, tmp_path / "a.nrrd")
    volume = read_volume(tmp_path / "a.nrrd", lambda _: None)
    assert np.unique(volume.array[0, 0]).tolist() == [12]


def test_a_channel_without_finite_voxels_is_refused(tmp_path: Path):
    array = np.stack([VOXELS, np.full(VOXELS.shape, np.nan)], axis=-1).astype(np.float32)
    write_channels(tmp_path / "v.nrrd", array)
    with pytest.raises(InputError, match=r"Every voxel of channel 'v\[1\]' is NaN or infinite"):
        read_volume(tmp_path / "v.nrrd", refuse_warning)


def test_warnings_reach_python_by_default(tmp_path: Path):
    array = VOXELS.astype(np.float32)
    array[0, 0, 0] = np.nan
    write_scalar_volume(array, GRID, tmp_path / "a.nrrd")
    with pytest.warns(UserWarning, match="1 of 24 voxels of channel 'a'"):
        read_volume(tmp_path / "a.nrrd")


def test_a_damaged_second_channel_is_named(tmp_path: Path):
    write_scalar_volume(VOXELS, GRID, tmp_path / "a.nrrd")
    (tmp_path / "b.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes()[:-10])
    with pytest.raises(InputError, match=r"b\.nrrd'.*cut short"):
        read_volume([tmp_path / "a.nrrd", tmp_path / "b.nrrd"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_scalar_volumes_are_written_in_place_of_the_old_file(tmp_path: Path, dtype: type):
    path = tmp_path / "confidence.nrrd"
    path.write_text("old")
    write_scalar_volume(VOXELS.astype(dtype), GRID, path)
    volume = read_volume(path, refuse_warning)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], VOXELS)
    assert volume.geometry.same_grid(GRID)
    with pytest.raises(OutputError, match="does not exist"):
        write_scalar_volume(VOXELS, GRID, tmp_path / "gone" / "a.nrrd")
