"""What the NIfTI reader inside SimpleITK (nifti_clib) does without a word, looked up in the file itself.

It fills up files that were cut short, and turns NaN and infinite voxels into 0.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from SparseUNet3DLib.errors import InputError

_SUFFIXES = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
#: Values of the header's first field: the header's size in NIfTI-1 and NIfTI-2.
_HEADER_SIZES = (348, 540)
#: The header's codes of floating-point voxels.
_FLOAT_TYPES = {"16": "f4", "64": "f8"}


def non_finite_voxels(path: Path, header: sitk.ImageFileReader) -> list[tuple[int, np.ndarray]]:
    """Where the file has NaN or infinite voxels, for ``set_nan``; empty for files of other formats.

    Raises:
        InputError: the file has fewer bytes than ``header`` promises, or its compressed data is wrong.
    """
    if not path.name.lower().endswith(_SUFFIXES) or not header.HasMetaDataKey("vox_offset"):
        return []
    sizes = [int(header.GetMetaData(f"dim[{n}]")) for n in range(1, int(header.GetMetaData("dim[0]")) + 1)]
    voxel_bytes = math.prod(sizes) * int(header.GetMetaData("bitpix")) // 8
    float_type = _FLOAT_TYPES.get(header.GetMetaData("datatype"))
    try:
        with open(path, "rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
        with gzip.open(path) if is_gzip else open(path, "rb") as file:
            return _scan(file, int(float(header.GetMetaData("vox_offset"))), voxel_bytes, float_type)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{path}' is damaged or cut short ({error}); copy or export it again.") from None


def set_nan(array: np.ndarray, where: Iterable[tuple[int, np.ndarray]]) -> None:
    """Set those voxels of ``array`` (c, z, y, x) to NaN that ``non_finite_voxels`` has found."""
    for first, bits in where:
        array[np.unravel_index(first + np.flatnonzero(np.unpackbits(bits)), array.shape)] = np.nan


def _scan(
    file: BinaryIO, offset: int, voxel_bytes: int, float_type: str | None
) -> list[tuple[int, np.ndarray]]:
    """Pieces of the file with such voxels: the first one's flat index, and a bit for each; all may be NaN in places."""
    little_endian = int.from_bytes(file.read(4), "little") in _HEADER_SIZES
    file.read(offset - 4)
    found = []
    position = 0
    while position < voxel_bytes:
        chunk = file.read(min(_CHUNK_BYTES, voxel_bytes - position))
        if not chunk:
            raise EOFError(f"it holds {position} of {voxel_bytes} bytes of voxels")
        if float_type:
            dtype = np.dtype(float_type).newbyteorder("<" if little_endian else ">")
            values = np.frombuffer(chunk, dtype, count=len(chunk) // dtype.itemsize)
            is_lost = ~np.isfinite(values)
            if is_lost.any():
                found.append((position // dtype.itemsize, np.packbits(is_lost)))
        position += len(chunk)
    file.read()  # to the end, where gzip's checksum is compared
    return found
