"""Saying clearly which Python package is missing, and how to get it."""

from __future__ import annotations

from types import ModuleType

from SparseUNet3DLib.errors import MissingDependencyError

#: The oldest PyTorch that works, as in pyproject.toml.
MINIMUM_TORCH = (2, 4)
#: What a package is called in ``pip install``, by the name it is imported by, where the two differ.
_DISTRIBUTIONS = {"PIL": "pillow", "itk": "itk-morphologicalcontourinterpolation"}


def missing_package(error: ModuleNotFoundError) -> MissingDependencyError:
    """The error to raise when a package of others could not be imported."""
    package = (error.name or "").partition(".")[0]
    distribution = _DISTRIBUTIONS.get(package, package)
    return MissingDependencyError(
        f"The Python package '{distribution}' is needed for this and is not installed; "
        f"install it with 'pip install {distribution}'."
    )


def require_torch() -> ModuleType:
    """Import PyTorch.

    Raises:
        MissingDependencyError: it is not installed, does not load, is older than 2.4, or is a 2.9, whose 3D
            convolutions do not use cuDNN (https://github.com/pytorch/pytorch/issues/166122).
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise missing_package(error) from error
        raise MissingDependencyError(
            "Training and segmenting need PyTorch, which is not installed; install it with 'pip install torch' "
            "(in 3D Slicer: with the PyTorch extension)."
        ) from error
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"PyTorch is installed but does not load ({error}); reinstall it with "
            "'pip install --force-reinstall torch'."
        ) from error
    _check_torch_version(torch.__version__)
    return torch


def _check_torch_version(version: str) -> None:
    """Refuse versions that cannot be trained with."""
    release = tuple(int(part) for part in version.split(".")[:2])
    if release < MINIMUM_TORCH:
        raise MissingDependencyError(
            f"PyTorch {version} is installed, but 2.4 or newer is needed; "
            "update it with 'pip install --upgrade torch!=2.9.*'."
        )
    if release == (2, 9):
        raise MissingDependencyError(
            f"PyTorch {version} is installed, but the 3D convolutions of 2.9 are several times slower and take far "
            "more memory than those of other versions; install another with 'pip install --upgrade torch!=2.9.*'."
        )
