"""Checkpoints: a run killed at any moment goes on from its last one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.learnt_networks import LearntNetworks
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.tensor_file import read_tensor_file, write_tensor_file
from SparseUNet3DLib.trainer import Counters, Trainer

KIND = "checkpoint"
FILE_NAME = "checkpoint.safetensors"


def write_checkpoint(
    path: str | os.PathLike, trainer: Trainer, task: str, networks: LearntNetworks | None = None
) -> None:
    """Write the run's state atomically.

    Args:
        trainer: of the present network.
        task: what ``fingerprint`` returned.
        networks: what was kept of it and of those before.

    Raises:
        OutputError: the file cannot be written.
    """
    header = {
        "task": task,
        "plan": trainer.plan.to_dict(),
        "recipe": trainer.recipe.to_dict(),
        "precision": str(trainer.precision).removeprefix("torch."),
        "counters": asdict(trainer.counters),
    }
    before = networks.tensors() if networks else {}
    write_tensor_file(path, KIND, header, trainer.state() | before)


def networks_begun(path: str | os.PathLike) -> int:
    """How many networks the run of the checkpoint at ``path`` has trained, or begun to.

    Raises:
        InputError: it is missing, damaged or foreign.
    """
    header, _ = read_tensor_file(path, KIND, headers_only=True)
    try:
        return int(header["counters"]["member"]) + 1
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error


class Checkpoint:
    """A checkpoint that was read: the plan and precision to go on with, and the state."""

    def __init__(self, path: str | os.PathLike) -> None:
        """Read the checkpoint at ``path``.

        Raises:
            InputError: it is missing, damaged or foreign.
        """
        self._path = Path(path)
        header, self._state = read_tensor_file(path, KIND)
        try:
            self.task: str = header["task"]
            self.plan = Plan.from_dict(header["plan"])
            self.recipe = Recipe.from_dict(header["recipe"])
            self.precision: torch.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[header["precision"]]
            self.counters = Counters(**header["counters"])
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise _damaged(self._path) from error

    def require_task(self, task: str, recipe: Recipe) -> None:
        """Refuse to go on with other volumes, annotations or settings than the run began with.

        Raises:
            InputError: the checkpoint belongs to another task.
        """
        # A longer budget is no other task: a run may be prolonged.
        same_recipe = replace(self.recipe, seconds=None, iterations=1) == replace(recipe, seconds=None, iterations=1)
        if self.task != task or not same_recipe:
            raise InputError(
                f"The checkpoint in '{self._path.parent}' belongs to another volume, annotation or recipe; give the "
                "ones it was begun with (and --start-from, if it was), or --restart to begin anew."
            )

    def networks(self) -> LearntNetworks:
        """What was kept of the networks before the present one, and of that one when it was scored.

        Raises:
            InputError: the checkpoint is damaged.
        """
        networks = LearntNetworks.from_tensors(self._state, self.counters.member)
        if self.counters.scored_at is not None and self.counters.member not in networks.scored:
            raise _damaged(self._path)
        return networks

    def restore(self, trainer: Trainer, moments: bool = True) -> None:
        """Put the state into ``trainer``, which was made with this checkpoint's plan and precision.

        Args:
            moments: those of the optimisers as well.

        Raises:
            InputError: the tensors do not fit the plan.
        """
        try:
            trainer.restore({n: t for n, t in self._state.items() if moments or not n.startswith("optimizer")})
        except (KeyError, RuntimeError, ValueError) as error:
            raise _damaged(self._path) from error
        trainer.counters = self.counters


def _damaged(path: str | os.PathLike) -> InputError:
    return InputError(f"The checkpoint '{path}' is damaged; give --restart to begin anew.")


def fingerprint(
    cases: Sequence[Case], normalisation: Sequence[ChannelNormalisation], complete: Sequence[Case] = ()
) -> str:
    """A short text that differs for other volumes, annotations or normalisations.

    ``complete`` is what is learnt after ``cases``, of the same volumes, if that is more.
    """
    digest = hashlib.sha256(json.dumps([n.to_dict() for n in normalisation]).encode())
    if complete:
        digest.update(json.dumps([[str(plane) for plane in case.annotation.planes] for case in cases]).encode())
    for case in complete or cases:
        image, annotation = case.volume.array, case.annotation
        digest.update(json.dumps([image.shape, str(image.dtype), case.volume.geometry.array_spacing]).encode())
        digest.update(image[..., ::7, ::7, ::7].tobytes())
        digest.update(annotation.annotated.tobytes())
        digest.update(annotation.labels[annotation.annotated].tobytes())
        digest.update(json.dumps([s.id for s in annotation.segments]).encode())
    return digest.hexdigest()[:16]
