"""A small generated volume with ellipsoids, sparsely annotated, and settings under which it trains in seconds."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from SparseUNet3DLib.annotation import SparseAnnotation, from_planes
from SparseUNet3DLib.cases import Case, make_folds
from SparseUNet3DLib.events import CollectingReporter
from SparseUNet3DLib.geometry import Geometry
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.preparation import RunOptions
from SparseUNet3DLib.recipe import AugmentationRecipe, Recipe
from SparseUNet3DLib.sampling import PatchSampler
from SparseUNet3DLib.segments import Segment, Segmentation
from SparseUNet3DLib.stopping import StopRequest
from SparseUNet3DLib.trainer import Trainer
from SparseUNet3DLib.training_task import TrainingFold, TrainingTask
from SparseUNet3DLib.validation import HeldOutValidation
from SparseUNet3DLib.volumes import Volume

SEGMENTS = (Segment("s1", "bright", (1.0, 0.0, 0.0)), Segment("s2", "dark", (0.0, 1.0, 0.0)))
SHAPE = (24, 32, 32)
#: Environment variable that names the test which runs in this process by itself.
_FRESH = "SPARSEUNET3D_TEST_BY_ITSELF"
#: Overrides of a plan for the shape above.
NARROW = {"patch_size": "16x16x16", "strides": "2x2x2", "widths": "4,8", "batch_size": "2"}
CPU = torch.device("cpu")


def ellipsoid(shape: Sequence[int], centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """(z, y, x) bool; centre and radii as fractions of the shape."""
    grid = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def tiny_labels(shape: Sequence[int] = SHAPE) -> np.ndarray:
    """(z, y, x) uint16: a bright body (1) and a dark one (2) beside it."""
    labels = np.zeros(shape, np.uint16)
    labels[ellipsoid(shape, (0.5, 0.38, 0.36), (0.4, 0.26, 0.24))] = 1
    labels[ellipsoid(shape, (0.55, 0.68, 0.72), (0.32, 0.2, 0.18))] = 2
    return labels


def tiny_volume(
    shape: Sequence[int] = SHAPE,
    dtype: type = np.float32,
    channels: int = 1,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    seed: int = 0,
) -> Volume:
    """Gray values 60 (background), 100 (bright), 20 (dark) with noise of 5; ``spacing`` is (i, j, k)."""
    rng = np.random.default_rng(seed)
    clean = np.array([60.0, 100.0, 20.0])[tiny_labels(shape)]
    array = np.stack([clean + rng.normal(0, 5, shape) for _ in range(channels)])
    geometry = Geometry(tuple(reversed(shape)), spacing, (10.0, -20.0, 30.0))
    names = tuple(f"channel{n}" for n in range(channels))
    return Volume(array.astype(dtype), geometry, names, "tiny")


def tiny_annotation(volume: Volume, planes: Sequence[int] = (3, 7, 11, 15, 19)) -> SparseAnnotation:
    """The true labels on a few z planes."""
    truth = Segmentation(tiny_labels(volume.array.shape[1:]), SEGMENTS, volume.geometry)
    return from_planes(truth, [Plane(0, n) for n in planes])


def tiny_plan(**changes: object) -> Plan:
    """A narrow "auto" plan."""
    plan = Plan(
        "auto", 1, 3, (1.0, 1.0, 1.0), ((2, 2, 2),), ((3, 3, 3),) * 2, (4, 8), (16, 16, 16), 2
    )
    return replace(plan, **changes)


def paper_plan(**changes: object) -> Plan:
    """The paper's network, narrow, with output tiles of 12 voxels."""
    plan = Plan(
        "paper", 1, 3, (1.0, 1.0, 1.0), ((2, 2, 2),) * 3, ((3, 3, 3),) * 4, (2, 2, 2, 2), (100, 100, 100), 1
    )
    return replace(plan, **changes)


def tiny_recipe(**changes: object) -> Recipe:
    """A recipe for a fixed number of iterations, in float32, with mild augmentation; what the network alone learns."""
    recipe = Recipe(
        name="tiny", seconds=None, iterations=20, learning_rate=0.01, class_balance=0.5, final_class_balance=0.0,
        foreground_share=0.5, ema_decay=0.99, precision="float32", voxel_classifier=False,
        augmentation=AugmentationRecipe(
            rotation=5.0, scaling=0.05, elastic_sd=1.0, elastic_spacing=32.0, gray_slope=1.1
        ),
    )
    return replace(recipe, **changes)


#: For runs of whole volumes.
PLAN = {**NARROW, "widths": "8,16"}
OPTIONS = RunOptions("cpu", hold_out=0, plan=PLAN)


def quick(iterations: int = 3, **changes: object) -> Recipe:
    """As ``tiny_recipe``, a few iterations only."""
    return tiny_recipe(iterations=iterations, **changes)


def tiny_task(
    folder: Path | None = None,
    cases: Sequence[Case] | None = None,
    validate: Callable[..., dict[str, float | None]] | None = None,
    **changes: object,
) -> TrainingTask:
    """A training of the narrow plan on the tiny volume, without validation; fields may be replaced."""
    volume = tiny_volume()
    task = TrainingTask(
        folds=[TrainingFold(cases or [Case(volume, tiny_annotation(volume))], validate)],
        normalisation=(ChannelNormalisation("channel0"),),
        plan=tiny_plan(),
        recipe=tiny_recipe(),
        device=CPU,
        reporter=CollectingReporter(),
        stop=StopRequest(),
        folder=folder,
    )
    return replace(task, **changes)


def held_out_task(**changes: object) -> tuple[TrainingTask, list[Case]]:
    """A training of the tiny volume without two of its slices, and the case with these."""
    volume = tiny_volume()
    (fold,) = make_folds([Case(volume, tiny_annotation(volume))], 2)
    channels = (ChannelNormalisation("channel0"),)
    validation = HeldOutValidation(fold.validation, channels, CPU)
    task = tiny_task(cases=fold.training, validate=validation, reporter=CollectingReporter())
    return replace(task, **changes), fold.validation


class StopAfter:
    """Asks to stop after so many steps."""

    def __init__(self, steps: int, kind: str = "interrupt") -> None:
        self.left, self.kind = steps, kind

    def requested(self) -> str:
        self.left -= 1
        return self.kind if self.left <= 0 else ""


def make_trainer(task: TrainingTask, precision: torch.dtype = torch.float32) -> Trainer:
    """The trainer with which ``task`` begins."""
    sampler = PatchSampler(task.folds[0].cases, task.normalisation, task.plan, task.recipe, task.device)
    return Trainer(task.plan, task.recipe, sampler, task.device, precision)


def iou(found: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> list[float]:
    """Intersection over union of each segment, over the voxels ``where``."""
    where = np.ones(truth.shape, bool) if where is None else where
    found, truth = found[where], truth[where]
    return [
        float(((found == n) & (truth == n)).sum() / ((found == n) | (truth == n)).sum())
        for n in range(1, len(SEGMENTS) + 1)
    ]


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same tensors, bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@contextmanager
def little_memory(spare: int) -> Iterator[Callable[[], None]]:
    """Let the system refuse this process more than ``spare`` further bytes of address space.

    Gives a function that ends this before the block does. The arrays that are to be refused must be larger
    than 32 MiB, so that they cannot come out of memory freed before; and once smaller ones are asked for the
    limit should be lifted, because a convolution whose scratch memory is refused crashes inside oneDNN.
    """
    import resource  # Unix only

    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, before[1]))

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_AS, before)

    try:
        yield lift
    finally:
        lift()


def in_fresh_process(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test by itself in a process of its own.

    Memory can only be refused predictably where little has been used and freed before.
    """

    @functools.wraps(test)
    def run_apart(**parameters: object) -> None:
        name = os.environ["PYTEST_CURRENT_TEST"].split("::", 1)[1].removesuffix(" (call)")
        if os.environ.get(_FRESH) == name:
            test(**parameters)
            return
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{test.__code__.co_filename}::{name}"],
            env={**os.environ, _FRESH: name}, capture_output=True, text=True, check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run_apart
