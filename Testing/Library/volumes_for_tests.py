"""Small training cases made from arrays, and plans and recipes to cut patches from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from SparseUNet3DLib.annotation import SparseAnnotation
from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.normalisation import ChannelNormalisation, ChannelStatistics
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.recipe import AugmentationRecipe, Recipe
from SparseUNet3DLib.sampling import PatchSampler
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.volumes import Volume

Triple = tuple[int, int, int]

CPU = torch.device("cpu")
#: Nothing is changed: patches are cut out as they are.
STILL = AugmentationRecipe(rotation=0.0, scaling=0.0, elastic_sd=0.0, gray_slope=1.0)
#: Leaves gray values up to a million as they are.
UNCHANGED = ChannelNormalisation("gray", ChannelStatistics(-1e6, 1e6, 0.0, 1.0))


def make_case(
    image: np.ndarray,
    annotated: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    planes: tuple[Plane, ...] = (),
    names: tuple[str, ...] = ("structure",),
    name: str = "volume",
) -> Case:
    """A case from (z, y, x) arrays, by default with all voxels annotated as background.

    ``image`` may have a leading channel axis; ``planes`` are annotated as well as ``annotated``;
    ``spacing`` is (z, y, x) in mm.
    """
    image = image[None] if image.ndim == 3 else image
    shape = image.shape[1:]
    geometry = Geometry(tuple(reversed(shape)), tuple(reversed(spacing)))
    annotated = np.full(shape, not planes) if annotated is None else annotated.copy()
    for plane in planes:
        annotated[plane.voxels] = True
    labels = np.zeros(shape, np.uint16) if labels is None else np.where(annotated, labels, 0).astype(np.uint16)
    segments = tuple(Segment(f"Segment_{n}", n) for n in names)
    annotation = SparseAnnotation(labels, annotated, segments, geometry, planes)
    return Case(Volume(image, geometry, ("gray",) * len(image), name), annotation)


def make_plan_of(
    patch: Triple, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), network: str = "auto", **changes: object
) -> Plan:
    """A plan that cuts patches of this size and spacing (z, y, x)."""
    step, kernel = ((1, 2, 2), (1, 3, 3)) if network == "2d" else ((2, 2, 2), (3, 3, 3))
    levels = 1 if network == "auto" else 3
    plan = Plan(network, 1, 2, spacing, (step,) * levels, (kernel,) * (levels + 1), (2,) * (levels + 1), patch, 1)
    return replace(plan, **changes)


def make_sampler(
    cases: list[Case], plan: Plan, augmentation: AugmentationRecipe = STILL, foreground_share: float = 0.5
) -> PatchSampler:
    """A sampler that leaves gray values as they are."""
    recipe = Recipe(augmentation=augmentation, foreground_share=foreground_share)
    return PatchSampler(cases, [UNCHANGED] * plan.in_channels, plan, recipe, CPU)


def draw(sampler: PatchSampler, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and targets of one batch."""
    batch = sampler.draw_batch(random)
    return batch.images, batch.target


def numbered(shape: Triple) -> np.ndarray:
    """(z, y, x) float32 volume in which each voxel's value is its flat index."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
