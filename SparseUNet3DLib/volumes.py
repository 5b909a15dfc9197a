"""Volumes: one or several channels of voxels on one grid, from one or several files."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.image_files import image_array, read_header, read_image, volume_stem, write_image

#: As many voxels of a channel tell volumes apart.
_FINGERPRINT_VOXELS = 1_000_000


@dataclass(frozen=True)
class Volume:
    """A volume with its channels.

    Attributes:
        array: (c, z, y, x) in the type the file has (int8 .. float64); several files are promoted to
            the smallest type that holds all of them.
        geometry: the grid of all channels.
        channel_names: file stems; the components of a vector or colour file are numbered from 0.
        name: stem of the first file.
        non_finite: number of NaN or infinite voxels that were replaced.
    """

    array: np.ndarray
    geometry: Geometry
    channel_names: tuple[str, ...]
    name: str
    non_finite: int = 0

    def fingerprint(self) -> str:
        """A short text that hardly any volume with other voxels has; of a large one's voxels some are looked at.

        It does not depend on the type of the voxels, nor on the geometry.
        """
        step = math.ceil((self.array[0].size / _FINGERPRINT_VOXELS) ** (1 / 3))
        digest = hashlib.sha256(repr(self.array.shape).encode())
        # Of -0.0 the sum makes 0.0, as an integer type would.
        digest.update((self.array[:, ::step, ::step, ::step].astype(np.float64) + 0.0).tobytes())
        return digest.hexdigest()[:16]


def require_channel_order(volume: Volume, expected: Sequence[str], whose: str) -> None:
    """Refuse a volume with the ``expected`` channels in another order, which nothing else would tell.

    Raises:
        InputError: it is such a volume; ``whose`` says in the message which order is expected.
    """
    names = volume.channel_names
    if names != tuple(expected) and sorted(names) == sorted(expected):
        raise InputError(
            f"The channels of '{volume.name}' are {', '.join(names)}, but those of {whose} are {', '.join(expected)}; "
            "give them in this order."
        )


def read_volume(
    paths: str | os.PathLike | Sequence[str | os.PathLike], warn: Callable[[str], None] = warnings.warn
) -> Volume:
    """Read a volume from one file (scalar, vector or colour) or from several files on the same grid.

    NaN and infinite voxels become the lowest finite value of their channel; ``warn`` is told so, and
    also when a format stores no position.

    Raises:
        UsageError: no file is named.
        InputError: a file cannot be used (see `image_files.read_image`), the files lie on different
            grids, or a channel holds no finite voxel.
        MemoryLimitError: the voxels do not fit into memory.
    """
    files = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    if not files:
        raise UsageError("No volume is named; name at least one file.")
    headers = [read_header(file) for file in files]
    geometries = [Geometry.from_image(header) for header in headers]
    _check_same_grid(files, geometries)
    if files[0].suffix.lower() in (".tif", ".tiff"):
        warn(
            f"'{files[0]}' is a TIFF file, which stores no slice distance, position or orientation; it is taken as "
            f"{geometries[0].describe()}. Convert it to .nrrd with the true values if they matter."
        )
    names = tuple(name for file, header in zip(files, headers, strict=True) for name in _channel_names(file, header))
    array = image_array(read_image(files[0])) if len(files) == 1 else _read_channels(files, headers)
    non_finite = _replace_non_finite(array, names, warn)
    return Volume(array, geometries[0], names, volume_stem(files[0]), non_finite)


def write_scalar_volume(
    array: np.ndarray, geometry: Geometry, path: str | os.PathLike, compress: bool = True
) -> None:
    """Write ``array`` (z, y, x), for example a uint16 label map or float32 confidence, to ``path``.

    The file replaces another one only when it is complete.

    Raises:
        UsageError: the ending of ``path`` is not one of `image_files.WRITABLE_SUFFIXES`.
        OutputError: the file cannot be written, or its format does not keep the grid.
    """
    write_image(array, geometry, path, compress=compress)


def _check_same_grid(files: list[Path], geometries: list[Geometry]) -> None:
    for file, geometry in zip(files[1:], geometries[1:], strict=True):
        if not geometry.same_grid(geometries[0]):
            raise InputError(
                f"The channels lie on different voxel grids: '{files[0]}' has {geometries[0].describe()}, '{file}' has "
                f"{geometry.describe()}; resample one onto the other (in Slicer: Resample Image)."
            )


def _channel_names(file: Path, header: sitk.ImageFileReader) -> list[str]:
    stem, components = volume_stem(file), header.GetNumberOfComponents()
    return [stem] if components == 1 else [f"{stem}[{n}]" for n in range(components)]


def _read_channels(files: list[Path], headers: list[sitk.ImageFileReader]) -> np.ndarray:
    """Channels (c, z, y, x) of several files, of which only one is held besides the result."""
    counts = [header.GetNumberOfComponents() for header in headers]
    dtype = np.result_type(*(_pixel_dtype(header) for header in headers))
    array = np.empty((sum(counts), *reversed(headers[0].GetSize())), dtype)
    start = 0
    for file, count in zip(files, counts, strict=True):
        array[start : start + count] = image_array(read_image(file))
        start += count
    return array


def _pixel_dtype(header: sitk.ImageFileReader) -> np.dtype:
    components = header.GetNumberOfComponents()
    return sitk.GetArrayFromImage(sitk.Image([1, 1, 1], header.GetPixelID(), components)).dtype


def _replace_non_finite(array: np.ndarray, names: tuple[str, ...], warn: Callable[[str], None]) -> int:
    """Replace NaN and infinite voxels of ``array`` (c, z, y, x) in place; the number of them."""
    if not np.issubdtype(array.dtype, np.floating):
        return 0
    return sum(_replace_in_channel(channel, name, warn) for channel, name in zip(array, names, strict=True))


def _replace_in_channel(channel: np.ndarray, name: str, warn: Callable[[str], None]) -> int:
    # Slice by slice, so that no mask of the whole volume is needed.
    counts = [int(plane.size - np.isfinite(plane).sum()) for plane in channel]
    total = sum(counts)
    if total == channel.size:
        raise InputError(f"Every voxel of channel '{name}' is NaN or infinite; export the volume again.")
    if total:
        lowest = min(finite.min() for plane in channel if (finite := plane[np.isfinite(plane)]).size)
        k = next(k for k, count in enumerate(counts) if count)
        j, i = np.argwhere(~np.isfinite(channel[k]))[0]
        for plane in channel:
            plane[~np.isfinite(plane)] = lowest
        warn(
            f"{total} of {channel.size} voxels of channel '{name}' are NaN or infinite (the first is i={i}, j={j}, "
            f"k={k}); they are taken as {lowest:g}, the lowest finite value of that channel."
        )
    return total
