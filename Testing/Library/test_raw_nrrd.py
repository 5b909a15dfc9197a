from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from grids import random_geometry

from SparseUNet3DLib.errors import InputError, OutputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.raw_nrrd import read_raw_nrrd, write_raw_nrrd

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
GRID = Geometry((5, 4, 3), (0.5, 0.7, 2.0), (1.0, -2.0, 3.0))


def voxels(dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)


def read(path) -> np.ndarray:
    into: list[np.ndarray] = []
    assert list(read_raw_nrrd(path, into))[-1] == 1
    return into[0]


@pytest.mark.parametrize("dtype", TYPES)
def test_simpleitk_reads_what_is_written(dtype: str, tmp_path):
    assert list(write_raw_nrrd(tmp_path / "v.nrrd", voxels(dtype), GRID, {"note": "line\nline\\"}))[-1] == 1
    image = sitk.ReadImage(str(tmp_path / "v.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels(dtype))
    assert sitk.GetArrayFromImage(image).dtype == dtype
    assert Geometry.from_image(image).same_grid(GRID)
    assert image.GetMetaData("note") == "line\nline\\"


@pytest.mark.parametrize("seed", range(6))
def test_every_grid_is_kept(seed: int, tmp_path):
    grid = random_geometry(np.random.default_rng(seed), (4, 5, 6), left_handed=seed % 2 == 1)
    list(write_raw_nrrd(tmp_path / "v.nrrd", np.zeros(grid.array_shape, np.uint8), grid))
    assert Geometry.from_image(sitk.ReadImage(str(tmp_path / "v.nrrd"))).same_grid(grid)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_simpleitk_writes_is_read(dtype: str, tmp_path):
    image = sitk.GetImageFromArray(voxels(dtype))
    image.SetMetaData("note", "a: b")
    sitk.WriteImage(image, str(tmp_path / "v.nrrd"), useCompression=False)
    np.testing.assert_array_equal(read(tmp_path / "v.nrrd"), voxels(dtype))


def test_the_work_comes_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("SparseUNet3DLib.raw_nrrd._PIECE", 50)
    assert list(write_raw_nrrd(tmp_path / "v.nrrd", voxels(), GRID)) == [pytest.approx(n / 3) for n in (1, 2, 3)]
    into: list[np.ndarray] = []
    assert len(list(read_raw_nrrd(tmp_path / "v.nrrd", into))) == 3
    np.testing.assert_array_equal(into[0], voxels())


def test_views_and_foreign_byte_order_are_written_as_their_values(tmp_path):
    array = voxels().astype(">i2").transpose(2, 1, 0)[::-1]
    list(write_raw_nrrd(tmp_path / "v.nrrd", array, Geometry((3, 4, 5))))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "v.nrrd"))), array)
    np.testing.assert_array_equal(read(tmp_path / "v.nrrd"), array)


def test_nothing_is_left_of_a_write_that_is_given_up(tmp_path):
    (tmp_path / "v.nrrd").write_text("before")
    writing = write_raw_nrrd(tmp_path / "v.nrrd", voxels(), GRID)
    next(writing)
    writing.close()
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("v.nrrd", "before")]


def test_bad_files_are_refused_in_a_sentence(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(voxels()), str(tmp_path / "packed.nrrd"), useCompression=True)
    (tmp_path / "text.nrrd").write_text("hello")
    for name in ("packed.nrrd", "text.nrrd"):
        with pytest.raises(InputError, match="not an uncompressed NRRD file"):
            read(tmp_path / name)
    list(write_raw_nrrd(tmp_path / "v.nrrd", voxels(), GRID))
    (tmp_path / "short.nrrd").write_bytes((tmp_path / "v.nrrd").read_bytes()[:-1])
    with pytest.raises(InputError, match="shorter than its header says"):
        read(tmp_path / "short.nrrd")
    with pytest.raises(OutputError, match="does not exist"):
        list(write_raw_nrrd(tmp_path / "no" / "v.nrrd", voxels(), GRID))
