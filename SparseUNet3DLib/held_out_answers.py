"""What each network of a run makes of the slices that were held out of its training, and what that tells."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from SparseUNet3DLib.cases import Case, Fold
from SparseUNet3DLib.device import available_memory, choose_precision, memory_format
from SparseUNet3DLib.evaluation import confusion
from SparseUNet3DLib.mixture import HeldOutLogits, Mixture, fit_mixture
from SparseUNet3DLib.model_file import Model
from SparseUNet3DLib.plane_detection import Plane
from SparseUNet3DLib.preparation import Preparation
from SparseUNet3DLib.validation import HeldOutValidation, iou_by_segment, joint_counts, mean_iou

#: Share of the free main memory that the logits of all answers may take; those of large slices have gigabytes.
_MEMORY_SHARE = 0.1


@dataclass(frozen=True)
class Answer:
    """Of one network about one held-out slice.

    Attributes:
        case: the volume, turned to the run's axes; annotated is what was held out of it.
        plane: the slice.
        logits: of its annotated voxels.
        member: which of the run's networks it is.
        learnt: the network has learnt from the slice before this run, so that its answer is no test.
    """

    case: Case
    plane: Plane
    logits: HeldOutLogits
    member: int = 0
    learnt: bool = False


def make_validation(prepared: Preparation, fold: Fold) -> HeldOutValidation:
    """Scores on the held-out planes of ``fold``, which the network does not learn from until it is scored."""
    cases = [prepared.turn(c).case(c) for c in fold.validation]
    return HeldOutValidation(cases, prepared.normalisation, prepared.device, prepared.resample)


def held_out_answers(
    prepared: Preparation,
    model: Model,
    progress: Callable[[float], None] = lambda fraction: None,
    folder: Path | None = None,
) -> list[Answer]:
    """Those of each network of ``model``, as it was scored, about the slices that were held out of its training.

    Args:
        progress: told after each slice how much is done (0..1); what it raises ends it.
        folder: where logits are kept for which memory is too small; None: where the system has temporary files.
    """
    # A run may be stopped before the last network, and one that is resumed with less time have more than were wanted.
    folds = list(zip(prepared.folds, model.as_scored().members(), strict=False))
    cases = [c for fold, _ in folds for c in fold.validation]
    total = sum(len(c.annotation.planes) for c in cases)
    needed = sum(4 * model.plan.classes * int(c.annotation.annotated.sum()) for c in cases)  # two, in half precision
    in_files = needed > _MEMORY_SHARE * available_memory(torch.device("cpu"))
    answers: list[Answer] = []
    for number, (fold, member) in enumerate(folds):
        if not fold.validation:
            continue
        learnt = _learnt_planes(prepared, fold)
        network = member.network(prepared.device).to(memory_format=memory_format(prepared.device))
        precision = choose_precision(prepared.device, model.recipe.precision)
        for case, plane, logits in make_validation(prepared, fold).separate_logits(network, member.plan, precision):
            if in_files:
                network_part, voxel_part = (_in_file(part, folder) for part in (logits.network, logits.voxels))
                logits = HeldOutLogits(network_part, voxel_part, logits.labels)
            answers.append(Answer(case, plane, logits, number, plane in learnt[case.volume.name]))
            progress(len(answers) / total)
    return answers


def _in_file(logits: torch.Tensor, folder: Path | None) -> torch.Tensor:
    """The same numbers in a file, from which the system reads those that are asked for; it is gone when they are."""
    if not logits.numel():
        return logits
    with tempfile.TemporaryFile(dir=folder) as file:
        kept = np.memmap(file, np.float16, "w+", shape=tuple(logits.shape))
    kept[:] = logits.numpy()
    return torch.from_numpy(kept)


def _learnt_planes(prepared: Preparation, fold: Fold) -> dict[str, set[Plane]]:
    """By name of the volume, what the network has learnt from before, as planes of the turned volume."""
    return {
        c.volume.name: {
            prepared.turn(c).plane(p, c.annotation.labels.shape) for p in fold.learnt.get(c.volume.name, ())
        }
        for c in fold.validation
    }


def best_mixture(answers: Sequence[Answer]) -> Mixture:
    """What suits those of the ``answers`` that are a test."""
    tests = [a for a in answers if not a.learnt]
    return fit_mixture([a.logits for a in tests], len({(a.case.volume.name, a.plane) for a in tests}))


def held_out_iou(answers: Sequence[Answer], mixture: Mixture) -> dict[str, float | None] | None:
    """IoU by the segments' names, the mean over the networks; None where nothing was held out."""
    scores = []
    for member in sorted({a.member for a in answers}):
        own = [a for a in answers if a.member == member]
        segments = own[0].case.annotation.segments
        joint = np.zeros((len(segments) + 1,) * 2, np.int64)
        for answer in own:
            found = mixture.of(answer.logits.network, answer.logits.voxels).argmax(0)
            joint += joint_counts(answer.logits.labels.numpy(), found.numpy(), len(joint))
        scores.append(iou_by_segment(joint, segments))
    return mean_iou(scores)


def map_of_errors(answers: Sequence[Answer], mixture: Mixture, shape: tuple[int, ...]) -> np.ndarray:
    """Where ``answers`` about a volume of ``shape`` (z, y, x) are right and wrong, see `evaluation.confusion`.

    Where several networks tell of a slice, the mean of their logits decides.
    """
    total = np.zeros(shape, np.uint8)
    for plane in sorted({a.plane for a in answers}):
        about = [a for a in answers if a.plane == plane]
        labels = about[0].case.annotation.labels[plane.voxels]
        logits = torch.zeros(about[0].logits.network.shape[0], *labels.shape)
        known = np.zeros(labels.shape, bool)
        # Not all are about the same voxels: those where the slice crosses one that is learnt are not held out.
        for answer in about:
            annotated = answer.case.annotation.annotated[plane.voxels].copy()
            logits[:, torch.from_numpy(annotated)] += mixture.of(answer.logits.network, answer.logits.voxels)
            known |= annotated
        total[plane.voxels][known] = confusion(logits.argmax(0).numpy()[known], labels[known])
    return total
