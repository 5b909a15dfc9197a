"""Interpolation of contours between annotated slices: what the demo compares the network with.

Zukić et al., "ND Morphological Contour Interpolation", The Insight Journal 2016
(https://hdl.handle.net/10380/3563), the algorithm behind Slicer's "Fill between slices". It needs the
optional package itk-morphologicalcontourinterpolation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from SparseUNet3DLib.errors import InputError, MissingDependencyError


def interpolate_between_slices(annotation: np.ndarray) -> np.ndarray:
    """Fill each segment between the slices on which it is annotated.

    The filter finds the slices on which a segment is drawn itself, along every axis. It looks at these
    shapes only: voxel sizes and the image play no part, and a slice that was annotated as background
    is not told from one that was never annotated.

    Args:
        annotation: (z, y, x) integer labels on the annotated slices, 0 elsewhere.

    Returns:
        (z, y, x) uint16 labels; 0 beyond the outermost annotated slices.

    Raises:
        InputError: a label does not fit into 0..65535.
        MissingDependencyError: the package is not installed.
    """
    if annotation.size and not 0 <= annotation.min() <= annotation.max() <= np.iinfo(np.uint16).max:
        raise InputError(
            f"The annotation has labels from {annotation.min()} to {annotation.max()}, but contours can only be "
            "interpolated for labels from 0 to 65535; use 0 for what is not annotated."
        )
    itk = _import_itk()
    image = itk.image_from_array(np.ascontiguousarray(annotation, dtype=np.uint16))
    with _one_thread(itk):
        return itk.array_from_image(itk.morphological_contour_interpolator(image))


def _import_itk() -> ModuleType:
    try:
        import itk

        itk.MorphologicalContourInterpolator  # noqa: B018  (loaded at first use; absent without the package)
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            "Interpolating contours between slices needs the Python package "
            "itk-morphologicalcontourinterpolation, which is not installed; "
            "install it with: python -m pip install itk-morphologicalcontourinterpolation"
        ) from error
    return itk


@contextmanager
def _one_thread(itk: ModuleType) -> Iterator[None]:
    """With two threads the filter's build on PyPI sometimes aborts the whole process."""
    threading = itk.MultiThreaderBase
    maximum, default = threading.GetGlobalMaximumNumberOfThreads(), threading.GetGlobalDefaultNumberOfThreads()
    threading.SetGlobalMaximumNumberOfThreads(1)
    try:
        yield
    finally:
        threading.SetGlobalMaximumNumberOfThreads(maximum)
        threading.SetGlobalDefaultNumberOfThreads(default)
