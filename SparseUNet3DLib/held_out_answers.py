"""What each network of a run makes of the slices that it has not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SparseUNet3DLib.cases import Case, Fold
from SparseUNet3DLib.device import choose_precision, memory_format
from SparseUNet3DLib.evaluation import confusion
from SparseUNet3DLib.known_slices import KnownSlices
from SparseUNet3DLib.mixture import HeldOutLogits, Mixture
from SparseUNet3DLib.model_file import Model
from SparseUNet3DLib.preparation import Preparation
from SparseUNet3DLib.tiles import Box
from SparseUNet3DLib.validation import HeldOutValidation


@dataclass(frozen=True)
class Answer:
    """About one held-out slice.

    Attributes:
        case: the volume, turned to the run's axes; annotated is what was held out of it.
        box: the slice's voxels (z, y, x).
        logits: of its annotated ones.
    """

    case: Case
    box: Box
    logits: HeldOutLogits


def make_validation(prepared: Preparation, fold: Fold) -> HeldOutValidation:
    """Scores on the held-out planes of ``fold``, of which the network knows nothing but the other planes."""
    kept = {id(c.volume): prepared.turn(c).annotation(c.annotation) for c in fold.training}
    known = [KnownSlices.for_plan(kept[id(c.volume)], prepared.plan, prepared.device) for c in fold.validation]
    cases = [prepared.turn(c).case(c) for c in fold.validation]
    return HeldOutValidation(cases, known, prepared.normalisation, prepared.device)


def held_out_answers(prepared: Preparation, model: Model) -> list[Answer]:
    """Those of each network of ``model`` about the slices that were held out of its training."""
    answers = []
    for fold, member in zip(prepared.folds, model.members(), strict=False):  # a run may be stopped before the last
        if not fold.validation:
            continue
        network = member.network(prepared.device).to(memory_format=memory_format(prepared.device))
        precision = choose_precision(prepared.device, model.recipe.precision)
        validation = make_validation(prepared, fold)
        answers += [Answer(*found) for found in validation.separate_logits(network, member.plan, precision)]
    return answers


def map_of_errors(answers: Sequence[Answer], mixture: Mixture, shape: tuple[int, ...]) -> np.ndarray:
    """Where ``answers`` about a volume of ``shape`` (z, y, x) are right and wrong, see `evaluation.confusion`."""
    total = np.zeros(shape, np.uint8)
    for answer in answers:
        logits = answer.logits
        found = mixture.of(logits.network, logits.voxels).argmax(0)
        annotated = answer.case.annotation.annotated[answer.box.slices]
        total[answer.box.slices][annotated] = confusion(found.numpy(), logits.labels.numpy())
    return total
