"""Safetensors files with a JSON header: loading one can execute nothing, whoever wrote it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from SparseUNet3DLib.atomic import atomic_path
from SparseUNet3DLib.errors import InputError

_KIND = "sparseunet3d_kind"
_HEADER = "sparseunet3d_header"


def write_tensor_file(path: str | os.PathLike, kind: str, header: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write ``tensors`` and ``header`` (plain values) as a file of ``kind``, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, {_KIND: kind, _HEADER: json.dumps(header)})
        except SafetensorError as error:  # the library wraps the system's "no space left" and the like
            raise OSError(str(error)) from error


def read_tensor_file(path: str | os.PathLike, kind: str, headers_only: bool = False) -> tuple[dict, dict]:
    """Header and tensors of a file of ``kind``; the tensors are left out where only the header is wanted.

    Raises:
        InputError: there is no such file, or it is damaged, foreign, or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"'{path}' is a folder; name the {kind} file in it.")
    if not os.path.isfile(path):
        raise InputError(f"There is no {kind} file '{path}'; check its name.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KIND not in metadata or _HEADER not in metadata:
                raise InputError(f"'{path}' was written by another program; a {kind} of SparseUNet3D is needed here.")
            if metadata[_KIND] != kind:
                raise InputError(f"'{path}' is a SparseUNet3D {metadata[_KIND]}, but a {kind} is needed here.")
            header = json.loads(metadata[_HEADER])
            if not isinstance(header, dict):
                raise ValueError("the header is no object")
            names = [] if headers_only else file.keys()
            # Copies: what safetensors returns is the file itself in memory, which Windows would not let be replaced.
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise InputError(
            f"'{path}' cannot be read as a SparseUNet3D {kind}: it is damaged, incomplete or no such file at all; "
            f"save or copy it again ({str(error).splitlines()[0][:120]})."
        ) from None
    return header, tensors


def tensors_below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
