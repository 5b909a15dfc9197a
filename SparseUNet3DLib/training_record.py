"""What a model file tells of how its network came about."""

from __future__ import annotations

import datetime
import platform

import numpy as np
import SimpleITK as sitk
import torch

import SparseUNet3DLib
from SparseUNet3DLib.cases import Case, Fold
from SparseUNet3DLib.device import describe_device
from SparseUNet3DLib.model_file import Model
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.preparation import Preparation, held_out_planes
from SparseUNet3DLib.training_task import TrainingResult


def make_record(prepared: Preparation, result: TrainingResult, start: Model | None) -> dict:
    """The training record that the model carries."""
    fold = prepared.folds[0]
    return {
        "volumes": [
            {
                "name": c.volume.name,
                "fingerprint": prepared.turn(c).volume(c.volume).fingerprint(),
                "shape": list(c.volume.array.shape[1:]),
                "spacing": list(c.volume.geometry.array_spacing),
                "direction": list(c.volume.geometry.direction),
                "annotated": float(learnt.annotation.annotated.mean()),
                "planes": [str(p) for p in sorted({*c.annotation.planes, *_withheld(fold, c)})],
            }
            for c, learnt in zip(fold.training, fold.training if result.scored is None else fold.complete, strict=True)
        ],
        "iterations": result.iterations,
        "seconds": round(result.seconds, 1),
        "device": describe_device(prepared.device),
        "precision": str(result.precision).removeprefix("torch."),
        "held_out_planes": held_out_planes(prepared.folds),
        "held_out_by_network": [_new_when_scored(f) for f in prepared.folds[: result.plan.members]],
        "held_out_iou": result.held_out_iou,
        "history": result.history,
        "started_from": start.record.get("date") if start else None,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "SparseUNet3D": SparseUNet3DLib.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "SimpleITK": sitk.Version_VersionString(),
            "Python": platform.python_version(),
        },
    }


def _new_when_scored(fold: Fold) -> dict[str, list[str]]:
    """The planes held out from a network until it was scored, but for those that it has learnt from in a run before."""
    before = {name: {str(plane) for plane in planes} for name, planes in fold.learnt.items()}
    found = held_out_planes([fold])
    return {name: [p for p in planes if p not in before.get(name, ())] for name, planes in found.items()}


def _withheld(fold: Fold, case: Case) -> tuple[Plane, ...]:
    """The planes held out from ``case``, one of those to train on."""
    return next((v.annotation.planes for v in fold.validation if v.volume is case.volume), ())
