"""The network's shape, chosen from the data: levels per axis, widths, patch and batch size.

The rules follow nnU-Net's planner (Isensee et al. 2021) and the per-axis levels of the authors' own
U-Net plugin (Falk et al. 2019): an axis is pooled, or convolved over, only once the other axes have
come down to its resolution, so that 10 mm slices are not treated as if voxels were cubes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from SparseUNet3DLib.errors import InputError, MemoryLimitError
from SparseUNet3DLib.plan import ANISOTROPIC, LARGEST, PAPER_SMALLEST, Plan, Triple, format_triple
from SparseUNet3DLib.recipe import Recipe

PAPER_PATCH = (116, 132, 132)
PAPER_WIDTHS = (32, 64, 128, 256)
#: A volume of up to this many times the voxels of a usual patch is not cut into patches.
_WHOLE = 1.25
#: A step made on another device may see so many times the voxels of a usual one of this device.
_MUCH = 2.5
#: An axis is pooled while so many voxels remain of a patch. On a CPU a level less is worth more, as steps are a third
#: shorter. But where few slices are annotated the place of things tells more than their looks.
_POOLED, _POOLED_ON_CPU = 8, 16
#: Patches of thick slices lose slices before they lose their width, but keep this many.
_FEW_SLICES = 16


def make_plan(
    recipe: Recipe,
    shapes: Sequence[Triple],
    spacing: tuple[float, float, float],
    in_channels: int,
    classes: int,
    on_gpu: bool = False,
    few_slices: bool = False,
) -> Plan:
    """Choose the network's shape for volumes of the given shapes (z, y, x) at the spacing that it works at (mm).

    ``on_gpu`` chooses a wider network and larger patches. Where ``few_slices`` are annotated, a volume that is not
    large is seen whole: patches would show one or two of them, which would be learnt by heart.
    """
    if recipe.network == "auto":
        shape = tuple(int(n) for n in np.median(np.asarray(shapes), axis=0))
        return _auto_plan(recipe, shape, spacing, in_channels, classes, on_gpu, few_slices)
    return _paper_plan(recipe, shapes, spacing, in_channels, classes)


def usual_grid_voxels(on_gpu: bool) -> int:
    """Volumes of more voxels "auto" sees on a coarser grid, where their structures allow."""
    return 128**3 if on_gpu else 64**3


def _auto_plan(
    recipe: Recipe,
    shape: Triple,
    spacing: tuple[float, float, float],
    in_channels: int,
    classes: int,
    on_gpu: bool,
    few_slices: bool,
) -> Plan:
    if min(shape) < 1:
        raise InputError(f"A volume of {format_triple(shape)} voxels is empty.")
    batch, voxels = _usual_step(on_gpu)
    base, widest = (32, 320) if on_gpu else (16, 128)
    whole = _WHOLE * (usual_grid_voxels(on_gpu) if few_slices else voxels)
    patch = shape if math.prod(shape) <= whole else _patch_shape(shape, spacing, voxels)
    strides, kernels = _levels(patch, spacing, _POOLED if on_gpu or few_slices else _POOLED_ON_CPU)
    widths = tuple(min(base * 2**level, widest) for level in range(len(kernels)))
    total = np.prod(np.array(strides), axis=0) if strides else np.ones(3, int)
    patch = tuple(int(min(math.ceil(p / t), LARGEST // t) * t) for p, t in zip(patch, total, strict=True))
    return Plan(
        "auto", in_channels, classes, spacing, strides, kernels, widths, patch, batch, batch_norm=recipe.batch_norm,
    )


def _usual_step(on_gpu: bool) -> tuple[int, int]:
    """Patches of a step and voxels of a patch. On a CPU many small steps teach more per minute than few large ones."""
    return (2, 128**3) if on_gpu else (1, 48**3)


def lighter_steps(plan: Plan, on_gpu: bool) -> Plan:
    """The plan of a model to go on from, with smaller steps if it is one of another, much faster device.

    With steps made for a GPU a CPU would do ten or twenty in some minutes.
    """
    batch, voxels = _usual_step(on_gpu)
    while plan.network == "auto" and plan.batch_size * math.prod(plan.patch_size) > _MUCH * batch * voxels:
        try:
            plan = plan.smaller()
        except MemoryLimitError:  # a patch as small as the network allows
            break
    return plan


def _patch_shape(shape: Triple, spacing: tuple[float, float, float], voxels: int) -> Triple:
    """A box of about ``voxels`` voxels inside ``shape``, as close to a cube in mm as the shape allows.

    Thick slices are an exception: the whole width of a slice tells left from right, the next slices but
    one tell little.
    """
    most, mm = np.array(shape, float), np.array(spacing)
    coarse = mm > ANISOTROPIC * mm.min()
    if coarse.sum() == 1:
        few = np.minimum(most, _FEW_SLICES)
        most = np.where(coarse, np.maximum(few, most * min(1.0, voxels / most.prod())), most)
    # The edge of the cube whose part inside the volume has so many voxels, by bisection.
    low, high = 0.0, float((most * mm).max())
    for _ in range(60):
        edge = (low + high) / 2
        if np.minimum(most, edge / mm).prod() > voxels:
            high = edge
        else:
            low = edge
    return tuple(int(max(1, round(p))) for p in np.minimum(most, high / mm))


def _levels(
    patch: Triple, spacing: tuple[float, float, float], least: int
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Strides and kernels: pool an axis while ``least`` voxels remain and it is among the finest of such axes.

    An axis is convolved over from the level on where it is pooled or among the finest.
    """
    size, mm = np.array(patch, float), np.array(spacing, float)
    wide = np.zeros(3, bool)
    strides: list[Triple] = []
    kernels: list[Triple] = []
    while True:
        # An axis too short to be pooled must not keep the others from it: a thin stack is pooled in-plane.
        pooled = (mm < ANISOTROPIC * mm[size >= least].min(initial=np.inf)) & (size >= least)
        wide |= pooled | ((mm <= ANISOTROPIC * mm[size > 1].min(initial=np.inf)) & (size > 1))
        kernels.append(tuple(int(k) for k in np.where(wide, 3, 1)))
        if not pooled.any() or len(strides) == 5:
            return tuple(strides), tuple(kernels)
        stride = np.where(pooled, 2, 1)
        strides.append(tuple(int(s) for s in stride))
        size, mm = size / stride, mm * stride


def _paper_plan(
    recipe: Recipe, shapes: Sequence[Triple], spacing: tuple[float, float, float], in_channels: int, classes: int
) -> Plan:
    flat = recipe.network == "2d"
    step = (1, 2, 2) if flat else (2, 2, 2)
    kernel = (1, 3, 3) if flat else (3, 3, 3)
    largest = np.max(np.asarray(shapes), axis=0)
    # A slice-wise network is cheap: its tile covers the slice as far as 388 -> 300 voxels.
    flat_patch = (1, *(min(388, PAPER_SMALLEST + 8 * math.ceil(max(0, n - 4) / 8)) for n in largest[1:]))
    patch = tuple(int(n) for n in flat_patch) if flat else PAPER_PATCH
    return Plan(
        recipe.network, in_channels, classes, spacing, (step,) * 3, (kernel,) * 4, PAPER_WIDTHS, patch,
        1, batch_norm=recipe.batch_norm,
    )
