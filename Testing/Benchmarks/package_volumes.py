"""The volumes that come with packages on PyPI, as the tasks want them: a folder each, image.nrrd and labels.nrrd.

    .venv/bin/python Testing/Benchmarks/package_volumes.py DATA

The packages are downloaded, not installed: TPTBox (Apache-2.0) has crops of a CT and an MR of the spine, stardist
(BSD-3-Clause) has fluorescent nuclei; slicerio (MIT), which has a chest CT, is installed for the demo.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import SimpleITK as sitk

_SPINE = "TPTBox/tests"
#: Package, its image and its labels by name of the folder; all within the downloaded archive.
_ARCHIVES = {
    "spine-ct": (
        "TPTBox==1.1.0",
        f"{_SPINE}/sample_ct/sub-ct_label-22_ct.nii.gz",
        f"{_SPINE}/sample_ct/sub-ct_seg-subreg_label-22_msk.nii.gz",
    ),
    "spine-mr": (
        "TPTBox==1.1.0",
        f"{_SPINE}/sample_mri/sub-mri_label-6_T2w.nii.gz",
        f"{_SPINE}/sample_mri/sub-mri_seg-subreg_label-6_msk.nii.gz",
    ),
    "nuclei-stardist": ("stardist==0.9.2", "stardist/data/images/img3d.tif", "stardist/data/images/mask3d.tif"),
}
FOLDERS = (*_ARCHIVES, "chest-ct")
#: The nuclei's file does not tell its voxels' size; its makers give twice the distance between slices.
_SPACING = {"nuclei-stardist": (1.0, 1.0, 2.0)}


def main() -> None:
    """Fetch what is missing."""
    data = Path(sys.argv[1])
    for name in FOLDERS:
        fetch(name, data)


def fetch(name: str, data: Path) -> None:
    """Put the volume ``name`` into ``data``, if it is not there yet."""
    folder = data / name
    if (folder / "labels.nrrd").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        image, labels = _chest_ct() if name == "chest-ct" else _from_archive(name, Path(scratch))
    sitk.WriteImage(image, str(folder / "image.nrrd"), useCompression=True)
    labels.CopyInformation(image)
    sitk.WriteImage(labels, str(folder / "labels.nrrd"), useCompression=True)


def _chest_ct() -> tuple[sitk.Image, sitk.Image]:
    import slicerio

    folder = Path(slicerio.__file__).parent / "data"
    return sitk.ReadImage(str(folder / "CTChest4.nrrd")), sitk.ReadImage(str(folder / "Segmentation.seg.nrrd"))


def _from_archive(name: str, scratch: Path) -> tuple[sitk.Image, sitk.Image]:
    package, *members = _ARCHIVES[name]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    kind = ["--no-binary", ":all:", "--no-build-isolation"] if package.startswith("stardist") else []
    subprocess.run([*command, *kind, package], check=True)
    (archive,) = (p for p in scratch.iterdir() if p.suffix in (".whl", ".gz"))
    images = []
    for member in members:
        path = scratch / Path(member).name
        path.write_bytes(_read(archive, member))
        image = sitk.ReadImage(str(path))
        image.SetSpacing(_SPACING.get(name, image.GetSpacing()))
        images.append(image)
    return images[0], images[1]


def _read(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return file.read(member)
    with tarfile.open(archive) as file:
        (found,) = (m for m in file.getmembers() if m.name.endswith(member))
        content = file.extractfile(found)
        assert content is not None
        return content.read()


if __name__ == "__main__":
    main()
