"""What is compared: this program, and what a user has today, each as a function from a sparse case to dense labels.

Every function takes the case, the seed and the minutes it may take, and returns labels (z, y, x). A peer that takes
no time budget takes what it needs. Only what a function needs is imported, so that the table can be made without the
heavier packages (extra `benchmark`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from SparseUNet3DLib.cases import Case

Method = Callable[[Case, int, float], np.ndarray]
#: Standard deviations of the forest's filters, in voxels of the finest spacing.
_SCALES = (0.7, 1.0, 1.6, 3.5, 5.0)
_FOREST_VOXELS = 50_000


def sparse_unet(case: Case, seed: int, minutes: float) -> np.ndarray:
    """This program, with its defaults and a time budget for training and segmenting."""
    from SparseUNet3DLib.device import tune_allocator
    from SparseUNet3DLib.recipe import preset
    from SparseUNet3DLib.workflow import densify

    tune_allocator()
    recipe = replace(preset("balanced"), seconds=60 * minutes, seed=seed)
    prediction, _model = densify(case.volume, case.annotation, recipe)
    return prediction.segmentation.labels


def nearest_voxel(case: Case, _seed: int, _minutes: float) -> np.ndarray:
    """The label of the nearest annotated voxel, in millimetres."""
    from scipy import ndimage

    annotation = case.annotation
    spacing = case.volume.geometry.array_spacing
    index = ndimage.distance_transform_edt(~annotation.annotated, spacing, return_distances=False, return_indices=True)
    return annotation.labels[tuple(index)]


def fill_between_slices(case: Case, _seed: int, _minutes: float) -> np.ndarray:
    """Morphological contour interpolation, as Slicer's 'Fill between slices' does it."""
    from SparseUNet3DLib.contour_interpolation import interpolate_between_slices

    return interpolate_between_slices(case.annotation.labels)


def grow_from_seeds(case: Case, _seed: int, _minutes: float) -> np.ndarray:
    """Slicer's grow-cut on the first channel, with the annotated background as a seed of its own."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    def as_image(array: np.ndarray, kind: int) -> vtk.vtkImageData:
        image = vtk.vtkImageData()
        image.SetDimensions(*reversed(array.shape))
        image.SetSpacing(*reversed(case.volume.geometry.array_spacing))
        image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True, array_type=kind))
        return image

    annotation = case.annotation
    seeds = np.where(annotation.annotated, annotation.labels + 1, 0).astype(np.int16)
    grow = slicer.vtkImageGrowCutSegment()
    grow.SetIntensityVolume(as_image(case.volume.array[0].astype(np.float32), vtk.VTK_FLOAT))
    grow.SetSeedLabelVolume(as_image(seeds, vtk.VTK_SHORT))
    grow.Update()
    found = vtk_to_numpy(grow.GetOutput().GetPointData().GetScalars()).reshape(seeds.shape)
    return np.maximum(found.astype(np.int32) - 1, 0)


def random_walker(case: Case, _seed: int, _minutes: float) -> np.ndarray:
    """scikit-image's random walker with its defaults, on the first channel scaled to a standard deviation of 1."""
    from skimage.segmentation import random_walker as walk

    annotation = case.annotation
    seeds = np.where(annotation.annotated, annotation.labels.astype(np.int32) + 1, 0)
    gray = case.volume.array[0].astype(np.float64)
    gray = (gray - gray.mean()) / gray.std()
    return walk(gray, seeds, mode="cg_j", spacing=case.volume.geometry.array_spacing) - 1


def pixel_forest(case: Case, seed: int, _minutes: float) -> np.ndarray:
    """A random forest on multi-scale filters of every channel, as ilastik's pixel classification."""
    from sklearn.ensemble import RandomForestClassifier

    annotation = case.annotation
    features = np.stack([f for channel in case.volume.array for f in _filters(channel, case)], axis=-1)
    known = np.flatnonzero(annotation.annotated)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(known, min(_FOREST_VOXELS, len(known)), replace=False)
    flat = features.reshape(-1, features.shape[-1])
    forest = RandomForestClassifier(100, n_jobs=-1, random_state=seed).fit(
        flat[chosen], annotation.labels.ravel()[chosen]
    )
    return forest.predict(flat).reshape(annotation.labels.shape)


def _filters(channel: np.ndarray, case: Case) -> list[np.ndarray]:
    """Gaussian, gradient magnitude, Laplacian, and eigenvalues of Hessian and structure tensor at several scales."""
    from scipy import ndimage

    spacing = np.array(case.volume.geometry.array_spacing)
    gray = channel.astype(np.float32)
    found = []
    for scale in _SCALES:
        sigma = scale * spacing.min() / spacing
        found.append(ndimage.gaussian_filter(gray, sigma))
        found.append(ndimage.gaussian_gradient_magnitude(gray, sigma))
        found.append(ndimage.gaussian_laplace(gray, sigma))
        first = [ndimage.gaussian_filter(gray, sigma, order=np.eye(3, dtype=int)[a].tolist()) for a in range(3)]
        orders = [(2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2)]
        found += _eigenvalues([ndimage.gaussian_filter(gray, sigma, order=o) for o in orders])
        products = [first[a] * first[b] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
        found += _eigenvalues([ndimage.gaussian_filter(p, 2 * sigma) for p in products])
    return found


def _eigenvalues(upper: list[np.ndarray]) -> list[np.ndarray]:
    """The three eigenvalues at each voxel of symmetric matrices, given by their six upper entries row by row."""
    matrices = np.empty((*upper[0].shape, 3, 3), np.float32)
    for (row, column), entry in zip(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)), upper, strict=True):
        matrices[..., row, column] = matrices[..., column, row] = entry
    return list(np.moveaxis(np.linalg.eigvalsh(matrices), -1, 0))


def nnunet(case: Case, seed: int, minutes: float) -> np.ndarray:
    """nnU-Net v2 with its ignore label."""
    from nnunet_peer import nnunet as run

    return run(case, seed, minutes)


#: This program's name among the methods.
OURS = "SparseUNet3D"
#: Methods by the name that the table has for them; those of `TIMED` are run for several budgets.
METHODS: dict[str, Method] = {
    OURS: sparse_unet,
    "nearest annotated voxel": nearest_voxel,
    "Fill between slices": fill_between_slices,
    "Grow from seeds": grow_from_seeds,
    "random walker": random_walker,
    "pixel forest": pixel_forest,
    "nnU-Net v2": nnunet,
}
TIMED = (OURS, "nnU-Net v2")
#: Methods whose result depends on the seed.
SEEDED = (*TIMED, "pixel forest")
#: Methods that are only run where their package, which the extra `benchmark` leaves out, is installed.
EXTRA = {"nnU-Net v2": "nnunetv2"}
