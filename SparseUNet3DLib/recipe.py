"""How training is done: one dataclass, and the named presets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace

from SparseUNet3DLib.errors import UsageError

NETWORKS = ("auto", "paper", "2d")
#: What each of these parts of a recipe may be.
_CHOICES = {
    "optimizer": ("muon", "adamw", "sgd"),
    "schedule": ("one-cycle", "steps"),
    "batch_norm": (None, "batch", "running", "frozen"),
    "precision": ("auto", "float32"),
}
#: A longer run trains a further network for each so many seconds, or for so many for each class, as patches are drawn
#: around all of them in turn: a structure that hardly a slice shows needs its steps. No more than so many in all.
_SECONDS_PER_MEMBER, _SECONDS_PER_CLASS, _MOST_MEMBERS = 90.0, 20.0, 4


#: Networks that one run may be told to train.
MOST_MEMBERS = 12


@dataclass(frozen=True)
class AugmentationRecipe:
    """Ranges of the random changes made to each patch (Çiçek et al. 2016, section 3.3).

    Attributes:
        rotation: rotation about each axis is uniform in +-``rotation`` degrees. On grids whose voxels
            are more than ``plan.ANISOTROPIC`` times longer along one axis, only in-plane.
        scaling: the size changes by a factor that is log-uniform in 1/(1+scaling)..1+scaling.
        elastic_sd: standard deviation of the B-spline coefficients, in voxels of the finest spacing.
        elastic_spacing: distance of the B-spline's control points, in the same voxels.
        gray_slope: each channel's gray values pass through a random monotone curve whose slopes are
            log-uniform in 1/gray_slope..gray_slope.
        mirror: axes ("x", "y", "z") along which patches may be mirrored. Empty by default, because a
            mirrored left lung is a right lung.
    """

    rotation: float = 30.0
    scaling: float = 0.4
    elastic_sd: float = 8.0
    elastic_spacing: float = 32.0
    gray_slope: float = 1.6
    mirror: tuple[str, ...] = ()

    def weakened(self, strength: float) -> AugmentationRecipe:
        """The same with ranges of ``strength`` (0..1) times the size; mirroring stays."""
        return replace(
            self,
            rotation=self.rotation * strength,
            scaling=(1 + self.scaling) ** strength - 1,
            elastic_sd=self.elastic_sd * strength,
            gray_slope=self.gray_slope**strength,
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained on given cases.

    Attributes:
        name: preset that this recipe came from.
        network: "auto" (planned from the data), "paper" (Çiçek et al. 2016) or "2d" (its slice-wise peer).
        seconds: wall-clock budget; the learning-rate schedule follows it. None: no time limit.
        iterations: number of optimiser steps. None: no limit. One of the two limits must be given.
        members: networks that a run trains one after another and whose answers are averaged, each with other
            slices held out. None: as many as the time allows (``ensemble_size``).
        patience: score a network for the last time when its held-out IoU has not improved for this fraction of its
            training; it ends after three sevenths of the time that it had by then, in which it learns from the held-out
            slices as well (at once, if the user holds them out). None: never.
        optimizer: "muon" (with AdamW for what is no convolution kernel), "adamw" or "sgd" (Nesterov momentum).
        learning_rate: highest learning rate of the schedule.
        schedule: "one-cycle" (warm-up over a tenth, then cosine to 0) or "steps" (divided by 10 after
            each 20,000 iterations, as in the Caffe networks derived from the paper's).
        momentum: of SGD and Muon; for AdamW the first beta.
        weight_decay: decoupled for Muon and AdamW, L2 for SGD.
        dice: add the soft Dice of the annotated voxels to the cross-entropy.
        class_balance: exponent b of the cross-entropy's class weights, (1 / frequency)**b; 0 is
            unweighted, 1 gives every class the same influence (the paper).
        final_class_balance: what the exponent comes to, linearly, by the end of the run. Balance wakes
            small structures early on; kept up, it makes them too large.
        foreground_share: share of the patches centred on a class drawn uniformly; the others are centred
            on any annotated voxel.
        ema_decay: decay of the moving average of the weights that is used for the result; 0: none.
        batch_norm: None (no batch normalisation; `auto` has instance normalisation) or the statistics
            used at test time: "batch", "running" or "frozen".
        voxel_classifier: ask a small network that tells a voxel's class from filters around it as well
            (`voxel_classifier`), on the volume that is learnt from; "auto" only.
        augmentation: ranges of the random changes.
        first_augmentation: strength of the augmentation (0..1) at the first step; it grows to 1 over
            ``augmentation_steps``, slowly at first. Early on a network has seen too little to learn it by heart,
            and changes only make learning slower; late, it needs them all.
        augmentation_steps: steps over which the augmentation grows.
        precision: "auto" (bfloat16 where a self-test finds it faster) or "float32".
        seed: of all random numbers.
    """

    name: str = "balanced"
    network: str = "auto"
    seconds: float | None = 240.0
    iterations: int | None = None
    members: int | None = None
    patience: float | None = None
    optimizer: str = "muon"
    learning_rate: float = 0.03
    schedule: str = "one-cycle"
    momentum: float = 0.9
    weight_decay: float = 1e-2
    dice: bool = False
    class_balance: float = 0.5
    final_class_balance: float = 0.0
    foreground_share: float = 0.5
    ema_decay: float = 0.99
    batch_norm: str | None = None
    voxel_classifier: bool = True
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    first_augmentation: float = 0.5
    augmentation_steps: int = 600
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UsageError(f"Unknown network '{self.network}'; choose one of {', '.join(NETWORKS)}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(str(c) for c in choices)
                raise UsageError(f"Unknown {name.replace('_', ' ')} '{getattr(self, name)}'; choose one of {known}.")
        if self.seconds is None and self.iterations is None:
            raise UsageError("Training needs an end: give a time budget (minutes) or a number of iterations.")
        for name in ("seconds", "iterations", "members"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"The number of {name} must be above 0 and finite, not {value}.")
        for name in ("learning_rate", "augmentation_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"The {name.replace('_', ' ')} must be above 0 and finite, not {getattr(self, name)}.")
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"The {name.replace('_', ' ')} must be from 0 to below 1, not {getattr(self, name)}.")
        if not 0 <= self.foreground_share <= 1:
            raise UsageError(f"The foreground share must be from 0 to 1, not {self.foreground_share}.")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"The weight decay must be 0 or more and finite, not {self.weight_decay}.")
        if self.patience is not None and not self.patience > 0:
            raise UsageError(f"The patience must be above 0, not {self.patience}.")
        if (self.members or 0) > MOST_MEMBERS:
            raise UsageError(f"A run trains at most {MOST_MEMBERS} networks, not {self.members}.")
        if not set(self.augmentation.mirror) <= {"x", "y", "z"}:
            raise UsageError(f"Mirror axes are x, y and z, not '{''.join(self.augmentation.mirror)}'.")

    def ensemble_size(self, classes: int) -> int:
        """How many networks a run trains to tell so many ``classes`` apart, background included."""
        if self.members is not None:
            return self.members
        each = max(_SECONDS_PER_MEMBER, _SECONDS_PER_CLASS * classes)
        return min(_MOST_MEMBERS, max(1, int((self.seconds or 0.0) // each)))

    def to_dict(self) -> dict:
        """As plain values, for a model file's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """The recipe that ``to_dict`` described; keys of other versions are left out."""
        values = _known(cls, values)
        augmentation = _known(AugmentationRecipe, values["augmentation"])
        augmentation["mirror"] = tuple(augmentation["mirror"])
        return cls(**{**values, "augmentation": AugmentationRecipe(**augmentation)})


def _known(kind: type, values: dict) -> dict:
    """Those of ``values`` that the dataclass ``kind`` has a field for."""
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


_BALANCED = Recipe()

PRESETS: dict[str, Recipe] = {
    "quick": replace(_BALANCED, name="quick", seconds=60.0),
    "balanced": _BALANCED,
    "thorough": replace(_BALANCED, name="thorough", seconds=1800.0, patience=0.3, ema_decay=0.999),
    # The paper's own training: Caffe's SGD, 70,000 iterations, weighted cross-entropy, batch size 1,
    # tiles centred on annotated voxels, current statistics at test time. Its learning rate and class
    # weights are not printed; the rate, momentum and steps are those of Caffe networks derived from it.
    "paper": replace(
        _BALANCED,
        name="paper",
        network="paper",
        members=1,
        seconds=None,
        iterations=70_000,
        optimizer="sgd",
        learning_rate=0.01,
        schedule="steps",
        momentum=0.99,
        weight_decay=5e-4,
        dice=False,
        class_balance=1.0,
        final_class_balance=1.0,
        foreground_share=0.0,
        ema_decay=0.0,
        batch_norm="batch",
        voxel_classifier=False,
        augmentation=AugmentationRecipe(rotation=5.0, scaling=0.1, elastic_sd=4.0, gray_slope=1.5),
        first_augmentation=1.0,
    ),
}


def preset(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"Unknown preset '{name}'; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
