"""PyTorch and safetensors: looked for, and installed when the user agrees, on the main thread."""

from __future__ import annotations

import importlib.util
import logging

import slicer

from SparseUNet3DLib.errors import MissingDependencyError

#: Versions that work, as SparseUNet3DLib/dependencies.py checks them.
TORCH_REQUIREMENT = ">=2.4,!=2.9.*"
_OFFLINE = (
    "Without a network, install PyTorch and safetensors into Slicer from files, as the README describes under 'Without "
    "a network'."
)


def isTorchInstalled() -> bool:
    """Whether PyTorch can be found, without loading it into Slicer."""
    return importlib.util.find_spec("torch") is not None


def missingPackages() -> list[str]:
    """What has to be installed before the first training."""
    return [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]


def installMissing() -> None:
    """Install what is missing; blocks, as pip must run on the main thread.

    Raises:
        MissingDependencyError: the PyTorch extension is not installed, or an installation failed.
    """
    missing = missingPackages()
    if "torch" in missing:
        _installTorch()
    if "safetensors" in missing:
        _install("safetensors")
    importlib.invalidate_caches()
    still = missingPackages()
    if still:
        raise MissingDependencyError(
            f"{' and '.join(still)} could not be installed; look at the Python console for pip's own words, check the "
            f"network, and try again. {_OFFLINE}"
        )


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "Training needs the PyTorch extension; install 'PyTorch' in the Extensions Manager, restart Slicer, and "
            "try again."
        ) from None
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT
        )
    except Exception as error:  # pip and light-the-torch fail in many ways
        logging.exception("PyTorch could not be installed")
        raise MissingDependencyError(
            f"PyTorch could not be installed ({error}). Open the module PyTorch Utils, choose another version or "
            f"computation backend there, and try again. {_OFFLINE}"
        ) from error
    if torch is None:
        raise MissingDependencyError(
            f"PyTorch was not installed; open the module PyTorch Utils to see why, and try again. {_OFFLINE}"
        )


def _install(package: str) -> None:
    try:
        slicer.util.pip_install(package)
    except Exception as error:
        logging.exception("%s could not be installed", package)
        raise MissingDependencyError(f"The package '{package}' could not be installed ({error}). {_OFFLINE}") from error
