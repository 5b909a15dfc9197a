"""Single images in files, read and written through SimpleITK, with what SimpleITK leaves unchecked.

SimpleITK alone reads a NIfTI or TIFF file that was cut short without an error, writes a NIfTI file to
a full disk without an error, reads NaN in NIfTI as 0, and moves an oblique grid by the last bit each
time it passes through NRRD.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import InputError, MemoryLimitError, OutputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.nifti_voxels import non_finite_voxels, set_nan
from SparseUNet3DLib.quiet import native_messages
from SparseUNet3DLib.simpleitk_names import is_text, knows_all_letters, name_for_simpleitk

#: Endings of the files that can be read as volumes, in lower case.
SUPPORTED_SUFFIXES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".tif", ".tiff")
#: Endings of the files that are written: those that keep the whole grid, in one file (which can be put
#: in place in one step; .mhd and .nhdr have their voxels in a second file, TIFF loses origin and direction).
WRITABLE_SUFFIXES = (".nrrd", ".nii.gz", ".nii", ".mha")
_DOUBLE_SUFFIXES = (".seg.nrrd", ".nii.gz", ".ome.tif", ".ome.tiff")
_COMPLEX_PIXELS = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
#: How far the products of two axes may be from those of axes at right angles.
_RIGHT_ANGLE = 1e-4


def volume_stem(path: str | os.PathLike) -> str:
    """File name without its ending, where '.nii.gz', '.seg.nrrd' and '.ome.tif' each count as one ending."""
    name = Path(path).name
    for suffix in _DOUBLE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def read_header(path: str | os.PathLike) -> sitk.ImageFileReader:
    """Reader whose header information (size, spacing, pixel type, metadata) is read and checked.

    Raises:
        InputError: no such file, a folder, empty, not an image, not three-dimensional, complex
            pixels, no voxels, a grid without finite position, or on Windows a name that SimpleITK cannot find.
    """
    path = Path(path)
    _check_is_file(path)
    if not path.name.isascii() and not knows_all_letters():
        raise InputError(f"'{path}' cannot be found by SimpleITK on Windows; give it a name of plain letters (a to z).")
    if not is_text(path):
        raise InputError(f"'{path}' has bytes in its name or folder that are no letters (UTF-8); rename it.")
    reader = sitk.ImageFileReader()
    try:
        with native_messages() as messages, name_for_simpleitk(path) as name:
            reader.SetFileName(name)
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _read_error(path, error, messages) from None
    _check_no_tiff_damage(path, messages)
    _check_three_dimensional(path, reader)
    if reader.GetPixelID() in _COMPLEX_PIXELS:
        raise InputError(f"'{path}' has complex numbers as voxels; save its magnitude (or another real part) instead.")
    if 0 in reader.GetSize():
        raise InputError(f"'{path}' has no voxels: its size is {'x'.join(map(str, reader.GetSize()))}.")
    if not np.isfinite([*reader.GetSpacing(), *reader.GetOrigin(), *reader.GetDirection()]).all():
        raise InputError(f"'{path}' does not say where its voxels lie: its header holds NaN or infinite coordinates.")
    return reader


def read_image(path: str | os.PathLike) -> sitk.Image:
    """Three-dimensional image with its metadata, known to be complete; NaN voxels are NaN.

    Raises:
        InputError: as `read_header`, or the file is cut short or damaged.
        MemoryLimitError: the voxels do not fit into memory.
    """
    path = Path(path)
    reader = read_header(path)
    lost = non_finite_voxels(path, reader)
    try:
        with native_messages() as messages, name_for_simpleitk(path):
            image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise _read_error(path, error, messages) from None
    _check_no_tiff_damage(path, messages)
    if lost:
        set_nan(image_array(image), lost)
    return image


class _ImageBuffer:
    """Lends an image's voxels to NumPy and keeps the image alive for as long as an array uses them."""

    def __init__(self, image: sitk.Image) -> None:
        interface = sitk.GetArrayViewFromImage(image).__array_interface__
        address, _read_only = interface["data"]
        self.image = image
        self.__array_interface__ = {**interface, "data": (address, False)}


def image_array(image: sitk.Image) -> np.ndarray:
    """Voxels (c, z, y, x) of ``image``, shared with it instead of copied; the image must not be used further."""
    array = np.asarray(_ImageBuffer(image))
    return array[np.newaxis] if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(array, -1, 0)


def write_image(
    array: np.ndarray,
    geometry: Geometry,
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    compress: bool = True,
) -> None:
    """Write ``array`` (z, y, x) on ``geometry``; a file already there stays until all is written.

    The grid comes back bit for bit from MetaImage, and from NRRD where it was read from NRRD; other
    grids NRRD rounds in the last bit. NIfTI stores single precision, so there it comes back to within
    `Geometry.same_grid`. Metadata is kept by NRRD only.

    Raises:
        UsageError: the ending of ``path`` names no format that keeps the grid in one file.
        OutputError: it cannot be written, or its format does not keep this grid.
    """
    path = Path(path)
    if not path.name.lower().endswith(WRITABLE_SUFFIXES):
        raise UsageError(f"Cannot write '{path}': its name must end in one of {', '.join(WRITABLE_SUFFIXES)}.")
    if not is_text(path):
        raise OutputError(f"Cannot write '{path}': its name or folder has bytes that are no letters (UTF-8).")
    if array.shape != geometry.array_shape:
        raise ValueError(f"array {array.shape} does not fill the grid {geometry.array_shape}")
    image = sitk.GetImageFromArray(array, isVector=False)
    geometry.apply_to(image)
    if path.suffix.lower() == ".nrrd":
        _put_on_nrrd_grid(image, geometry)
    for key, value in (metadata or {}).items():
        image.SetMetaData(key, value)
    with atomic_path(path) as temporary:
        try:
            with native_messages(), name_for_simpleitk(temporary) as name:
                sitk.WriteImage(image, name, useCompression=compress)
        except RuntimeError as error:
            raise OutputError(
                f"Cannot write '{path}': {_reason(error)}; check that the disk has space and the folder may be written."
            ) from None
        _check_written(temporary, path, geometry)


def check_keeps_grid(path: str | os.PathLike, geometry: Geometry) -> None:
    """Whether the format of ``path`` keeps this grid, before hours are spent on what goes into it.

    NIfTI stores single precision: origins far from 0 beside small voxels move. And its axes are at right angles.

    Raises:
        OutputError: it does not.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    axes = np.reshape(geometry.direction, (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=_RIGHT_ANGLE):
        raise OutputError(
            f"Cannot write '{path}': the volume's axes are not at right angles, which this format cannot keep; write a "
            ".nrrd file instead."
        )
    spacing, origin, direction = (
        tuple(np.asarray(values, np.float32).astype(float).tolist())
        for values in (geometry.spacing, geometry.origin, geometry.direction)
    )
    stored = replace(geometry, spacing=spacing, origin=origin, direction=direction)
    if not stored.same_grid(geometry):
        raise _other_grid(path, geometry, stored)


def _other_grid(path: Path, geometry: Geometry, written: Geometry) -> OutputError:
    return OutputError(
        f"Cannot write '{path}': this format turns the grid {geometry.describe()} into {written.describe()}; "
        "write a .nrrd file instead."
    )


def _check_written(temporary: Path, path: Path, geometry: Geometry) -> None:
    """The file is complete (SimpleITK's NIfTI writer does not say when the disk is full) and on its grid."""
    try:
        header = read_header(temporary)
        non_finite_voxels(temporary, header)
    except InputError as error:
        raise OutputError(f"Cannot write '{path}': the disk is full or failing, it did not keep the file.") from error
    written = Geometry.from_image(header)
    if not written.same_grid(geometry):
        raise _other_grid(path, geometry, written)


def _put_on_nrrd_grid(image: sitk.Image, geometry: Geometry) -> None:
    """Give ``image`` the axis vectors to store as its direction, and a spacing of 1 to multiply them with.

    NRRD stores one vector per axis, the product of spacing and direction. Reading splits it again, and
    the rounding of product and split would move the grid by a bit each time.
    """
    columns = np.reshape(geometry.direction, (3, 3)).T.tolist()
    vectors = [_nrrd_axis_vector(d, s) for d, s in zip(columns, geometry.spacing, strict=True)]
    image.SetSpacing((1.0, 1.0, 1.0))
    image.SetDirection(np.transpose(vectors).ravel().tolist())


def _nrrd_axis_vector(direction: list[float], spacing: float) -> tuple[float, ...]:
    """Vector that a NRRD reader splits into exactly ``direction`` and ``spacing``, or else their rounded product.

    The reader takes the norm as spacing and multiplies the vector by its reciprocal (Teem,
    nrrdSpaceVecNorm and nrrdSpaceVecScale). Of a grid read from NRRD such a vector exists, within two
    units in the last place of the product; of other grids it may not.
    """
    product = tuple(d * spacing for d in direction)
    candidates = [
        [v for v in _neighbours(p) if v * (1.0 / spacing) == d] for p, d in zip(product, direction, strict=True)
    ]
    for x in candidates[0]:
        for y in candidates[1]:
            for z in candidates[2]:
                if math.sqrt(x * x + y * y + z * z) == spacing:
                    return x, y, z
    return product


def _neighbours(value: float) -> list[float]:
    """``value`` and the two floating-point numbers on either side of it, nearest first."""
    below, above = (float(np.nextafter(value, side)) for side in (-math.inf, math.inf))
    return [value, below, above, float(np.nextafter(below, -math.inf)), float(np.nextafter(above, math.inf))]


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(
            f"'{path}' is a folder; name the volume's file (open a DICOM series in Slicer and save it as .nrrd)."
        )
    try:
        with open(path, "rb") as file:
            first = file.read(1)
    except OSError as error:
        raise InputError(f"Cannot read '{path}': {error.strerror}.") from error
    if not first:
        raise InputError(f"'{path}' is empty (0 bytes); copy or export it again.")


def _check_three_dimensional(path: Path, reader: sitk.ImageFileReader) -> None:
    size = "x".join(map(str, reader.GetSize()))
    if reader.GetDimension() == 2:
        raise InputError(f"'{path}' is a two-dimensional image ({size}); a volume with several slices is needed.")
    # Slicer's sequences put time where other NRRD files have their channels.
    is_sequence = any(re.fullmatch(r"axis \d index type", key) for key in reader.GetMetaDataKeys())
    if reader.GetDimension() != 3 or is_sequence:
        raise InputError(
            f"'{path}' is a time series or sequence ({size} voxels, {reader.GetDimension()} dimensions); "
            "save the one volume to use (3 dimensions) as a file of its own."
        )
    if _is_tiff(path) and reader.HasMetaDataKey("ImageDescription"):
        _check_tiff_stack(path, reader.GetMetaData("ImageDescription"), reader.GetNumberOfComponents())


def _check_tiff_stack(path: Path, description: str, components: int) -> None:
    """Refuse an OME or ImageJ stack whose pages are channels or times: SimpleITK takes all pages for slices."""
    counts = [int(n) for n in re.findall(r'\b(?:SizeC|SizeT|channels|frames)="?(\d+)', description)]
    if math.prod(counts) > components:
        raise InputError(
            f"'{path}' mixes {math.prod(counts)} channels or times into its pages; save each channel of one time "
            "as a file of its own and give all these files."
        )


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


def _check_no_tiff_damage(path: Path, messages: list[str]) -> None:
    """Libtiff ends a damaged file at the last good page, and says so on standard error only."""
    damage = [line for line in messages if line.startswith("TIFF") and ": Warning, " not in line]
    if damage:
        raise InputError(f"'{path}' is damaged or cut short ({damage[0]}); copy or export it again.")


def _reason(error: Exception) -> str:
    """Last line of a SimpleITK message, which names the cause; the lines before it are places in C++ code."""
    line = str(error).strip().splitlines()[-1].removeprefix("Reason: ")
    return re.sub(r"^(ITK ERROR: |sitk::ERROR: )?(\w+\(0x[0-9a-f]+\): )?", "", line).rstrip(".! ")


def _read_error(path: Path, error: Exception, messages: list[str]) -> InputError | MemoryLimitError:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return MemoryLimitError(f"'{path}' does not fit into memory; crop or downsample it, or close other programs.")
    if "Unable to determine ImageIO reader" in str(error):
        return InputError(
            f"'{path}' is damaged or not an image in a known format; use one of {', '.join(SUPPORTED_SUFFIXES)}."
        )
    # MetaIO prints the cause; its exception blames whatever the operating system complained of last.
    reason = messages[0] if messages else _reason(error)
    return InputError(f"Cannot read '{path}': it is damaged, cut short or not supported ({reason}).")
