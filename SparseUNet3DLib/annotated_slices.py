"""Which slices are annotated, written into the annotation's own file: so it needs no further explanation.

Slicer's module hands its annotations over so; ``--slices`` and ``--held-out`` on the command line override it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from SparseUNet3DLib.image_files import read_header
from SparseUNet3DLib.plane_detection import Plane

_ANNOTATED, _HELD_OUT = "SparseUNet3D_AnnotatedSlices", "SparseUNet3D_HeldOutSlices"
#: Says that slices are listed, and that the list is empty.
_NONE = "none"


def slices_to_metadata(planes: Iterable[Plane], held_out: Iterable[Plane] | None) -> dict[str, str]:
    """What a file's metadata says of its slices; ``held_out`` None leaves the choice to the training."""
    metadata = {_ANNOTATED: _join(planes)}
    if held_out is not None:
        metadata[_HELD_OUT] = _join(held_out)
    return metadata


def slices_in_file(path: Path) -> tuple[list[str] | None, list[str] | None]:
    """Annotated and held-out slices ("z:10") that the metadata of ``path`` lists; None where it lists none.

    Raises:
        InputError: the file cannot be read.
    """
    header = read_header(path)
    keys = header.GetMetaDataKeys()
    annotated, held_out = (_split(header.GetMetaData(k)) if k in keys else None for k in (_ANNOTATED, _HELD_OUT))
    return annotated, held_out


def _join(planes: Iterable[Plane]) -> str:
    return " ".join(str(plane) for plane in sorted(planes)) or _NONE


def _split(text: str) -> list[str]:
    return [] if text.strip() == _NONE else text.split()
