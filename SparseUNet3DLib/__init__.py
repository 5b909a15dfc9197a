"""Segment a whole volume from a few annotated slices with a 3D U-Net (Çiçek et al., MICCAI 2016).

Importing this package is quick and needs no other: each name below brings its module with it when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: The public names, each with the module that defines it.
_PUBLIC = {
    "Case": "cases",
    "RunOptions": "workflow",
    "SparseAnnotation": "annotation",
    "densify": "workflow",
    "from_painted": "annotation",
    "from_planes": "annotation",
    "from_scribbles": "annotation",
    "load_model": "model_file",
    "on_grid": "segmentation_files",
    "parse_planes": "annotation",
    "preset": "recipe",
    "read_segmentation": "segmentation_files",
    "read_volume": "volumes",
    "score_segmentation": "evaluation",
    "segment": "workflow",
    "train": "workflow",
    "write_segmentation": "segmentation_files",
}
#: Modules that do deep learning.
_NEED_TORCH = ("model_file", "workflow")

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for.

    Raises:
        MissingDependencyError: a package that it needs, PyTorch above all, is not installed.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from SparseUNet3DLib.dependencies import missing_package, require_torch

    if _PUBLIC[name] in _NEED_TORCH:
        require_torch()
    try:
        module = import_module(f"{__name__}.{_PUBLIC[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__:
            raise
        raise missing_package(error) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
