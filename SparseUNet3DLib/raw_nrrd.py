"""Uncompressed NRRD files, written and read in pieces so that a program with a window stays responsive.

Volumes change hands between Slicer and the training process in such files. The pieces come from generators:
each step takes a few milliseconds, and whoever runs them decides what happens in between. Everything else reads
and writes through SimpleITK (`image_files`), which reads these files, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import InputError
from SparseUNet3DLib.geometry import Geometry

#: Bytes written or read per step.
_PIECE = 2**24
_TYPES = {
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32",
    "int64": "int64", "uint64": "uint64", "float32": "float", "float64": "double",
}
#: Names that other writers give to the same types.
_SYNONYMS = {
    "signed char": "int8", "unsigned char": "uint8", "short": "int16", "unsigned short": "uint16", "int": "int32",
    "unsigned int": "uint32", "long long int": "int64", "unsigned long long int": "uint64",
}
_LONGEST_HEADER = 2**20


def write_raw_nrrd(
    path: str | os.PathLike, array: np.ndarray, geometry: Geometry, metadata: Mapping[str, str] | None = None
) -> Iterator[float]:
    """Write ``array`` (z, y, x) on ``geometry``; yields the fraction done after each piece.

    A file already there is replaced when the last piece is written.

    Raises:
        OutputError: it cannot be written.
    """
    if array.shape != geometry.array_shape:
        raise ValueError(f"array {array.shape} does not fill the grid {geometry.array_shape}")
    rows = max(1, _PIECE // max(1, array[0].nbytes))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_header(array.dtype, geometry, metadata or {}).encode())
        for start in range(0, len(array), rows):
            file.write(np.ascontiguousarray(array[start : start + rows]).data)
            yield min(1.0, (start + rows) / len(array))


def read_raw_nrrd(path: str | os.PathLike, into: list[np.ndarray]) -> Iterator[float]:
    """Read a three-dimensional, uncompressed NRRD file with its header in it; yields the fraction done.

    Args:
        into: the finished array (z, y, x) is appended to it in the end.

    Raises:
        InputError: it is another kind of file, or shorter than its header says.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        shape, dtype, length = _parse_header(file.read(_LONGEST_HEADER), Path(path))
        array = np.empty(shape, dtype)
        file.seek(length)
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, len(flat), _PIECE):
            piece = flat[start : start + _PIECE]
            if file.readinto(piece.data) != len(piece):
                raise InputError(f"'{path}' is shorter than its header says; it was not written completely.")
            yield (start + len(piece)) / len(flat)
    into.append(array)


def _header(dtype: np.dtype, geometry: Geometry, metadata: Mapping[str, str]) -> str:
    axes = geometry.index_to_physical()[:3, :3].T.tolist()
    lines = [
        "NRRD0005",
        f"type: {_TYPES[dtype.name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in geometry.size)}",
        f"space directions: {' '.join(_vector(axis) for axis in axes)}",
        "kinds: domain domain domain",
        f"endian: {sys.byteorder if dtype.isnative else _other_byte_order()}",
        "encoding: raw",
        f"space origin: {_vector(geometry.origin)}",
    ]
    lines += [f"{key}:={_escaped(value)}" for key, value in metadata.items()]
    return "\n".join(lines) + "\n\n"


def _vector(values: object) -> str:
    return f"({','.join(repr(float(v)) for v in values)})"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _other_byte_order() -> str:
    return "big" if sys.byteorder == "little" else "little"


def _parse_header(start: bytes, path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape (z, y, x) and type of the voxels, and the length of the header in bytes."""
    text, blank, _rest = start.partition(b"\n\n")
    lines = text.decode("utf-8", "replace").split("\n")
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line and ":=" not in line)
    names = {name: dtype for dtype, name in _TYPES.items()} | _SYNONYMS
    kind = fields.get("type", "")
    if not lines[0].startswith("NRRD") or fields.get("encoding") != "raw" or names.get(kind, kind) not in _TYPES:
        raise InputError(f"'{path}' is not an uncompressed NRRD file with its header in it.")
    dtype = np.dtype(names.get(kind, kind))
    order = {"big": ">", "little": "<"}.get(fields.get("endian", ""), "=")
    shape = tuple(int(n) for n in reversed(fields["sizes"].split()))
    return shape, dtype.newbyteorder(order), len(text) + len(blank)
