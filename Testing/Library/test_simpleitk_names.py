"""Files whose folders or names have letters that SimpleITK does not know on Windows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SparseUNet3DLib import image_files, simpleitk_names
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import image_array, read_image, write_image

GEOMETRY = Geometry((4, 3, 2))
VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.fixture
def plain_letters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """SimpleITK as it is on Windows: other names mean nothing to it."""

    def refuse(name: str) -> str:
        assert name.isascii(), f"SimpleITK would not find '{name}'"
        return name

    class Reader(sitk.ImageFileReader):
        def SetFileName(self, name: str) -> None:
            super().SetFileName(refuse(name))

    write = sitk.WriteImage
    monkeypatch.setattr(image_files.sitk, "ImageFileReader", Reader)
    monkeypatch.setattr(
        image_files.sitk, "WriteImage", lambda image, name, **options: write(image, refuse(name), **options)
    )
    for module in (image_files, simpleitk_names):
        monkeypatch.setattr(module, "knows_all_letters", lambda: False)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_the_folder_may_have_any_letters(tmp_path: Path, plain_letters_only: None, ending: str):
    folder = tmp_path / "Müller" / "肺"
    folder.mkdir(parents=True)
    before = os.getcwd()
    write_image(VOXELS, GEOMETRY, folder / f"ct{ending}")
    np.testing.assert_array_equal(image_array(read_image(folder / f"ct{ending}"))[0], VOXELS)
    assert os.getcwd() == before
    assert [p.name for p in folder.iterdir()] == [f"ct{ending}"]


def test_a_name_that_cannot_be_found_is_told(tmp_path: Path, plain_letters_only: None):
    path = tmp_path / "schädel.nrrd"
    path.write_bytes(b"NRRD0004")
    with pytest.raises(InputError, match=r"schädel.nrrd' cannot be found by SimpleITK on Windows; give it a name of"):
        read_image(path)


def test_a_file_with_such_a_name_is_written_all_the_same(tmp_path: Path, plain_letters_only: None):
    write_image(VOXELS, GEOMETRY, tmp_path / "schädel.nrrd")
    (tmp_path / "schädel.nrrd").rename(tmp_path / "skull.nrrd")
    np.testing.assert_array_equal(image_array(read_image(tmp_path / "skull.nrrd"))[0], VOXELS)


def test_elsewhere_any_name_will_do(tmp_path: Path):
    assert simpleitk_names.knows_all_letters() or os.name == "nt"
    with simpleitk_names.name_for_simpleitk(tmp_path / "schädel.nrrd") as name:
        assert Path(name) == tmp_path / "schädel.nrrd"
