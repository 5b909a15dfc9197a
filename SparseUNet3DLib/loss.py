"""The loss: only annotated voxels count (Çiçek et al. 2016, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

#: Target value of voxels that nobody annotated.
UNANNOTATED = -1
_LEAST_WEIGHT = 1e-12


def sparse_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    dice: bool = True,
    annotated: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted softmax cross-entropy, plus soft Dice, over the annotated voxels.

    Args:
        logits: (b, classes, z, y, x).
        target: (b, z, y, x) integers; ``UNANNOTATED`` has weight 0.
        class_weights: (classes,) influence of each class on the cross-entropy; None: all the same.
        dice: add 1 - mean soft Dice of the foreground classes that are annotated in this batch.
        annotated: (n,) flat indices of the target's annotated voxels, which are few: with them a CPU has a tenth of
            the work. For a GPU leave them out: Python would wait to be told how many they are, for longer than all
            voxels take.

    Returns:
        A scalar, finite (0, with a gradient of 0) also where nothing is annotated.
    """
    voxels, labels = logits.permute(0, 2, 3, 4, 1).reshape(-1, logits.shape[1]), target.reshape(-1)
    if annotated is not None:
        voxels, labels = voxels.index_select(0, annotated), labels.index_select(0, annotated)
    # Voxels last: a GPU takes long for sums over many rows of a few numbers.
    log_probability = F.log_softmax(voxels.T.to(torch.float32, memory_format=torch.contiguous_format), dim=0)
    known, label = labels != UNANNOTATED, labels.clamp_min(0)
    weights = known.float() if class_weights is None else class_weights[label] * known
    loss = -(log_probability.gather(0, label[None])[0] * weights).sum() / weights.sum().clamp_min(_LEAST_WEIGHT)
    if dice:
        loss = loss + _soft_dice_loss(log_probability.exp(), labels, known)
    return loss


def annotated_voxels(target: torch.Tensor) -> torch.Tensor:
    """(n,) flat indices of the annotated voxels of a target of any shape."""
    return (target != UNANNOTATED).reshape(-1).nonzero().squeeze(1)


def _soft_dice_loss(probability: torch.Tensor, labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """1 - mean Dice over the foreground classes present in ``labels`` (n,); 0 where there is none.

    ``probability`` is (classes, n). It is not asked which classes there are: a GPU would have to be waited for.
    """
    truth = labels == torch.arange(1, len(probability), device=labels.device)[:, None]
    probability = probability[1:] * known
    sizes = truth.sum(1)
    present = sizes > 0
    # Absent classes are left out before the division: 0 / 0 would poison the gradient of all.
    both = torch.where(present, probability.sum(1) + sizes, 1)
    dice = 2 * (probability * truth).sum(1) / both
    return ((1 - dice) * present).sum() / present.sum().clamp_min(1)


def class_weights(counts: Sequence[int], balance: float) -> torch.Tensor:
    """Weights (1 / frequency)**balance of classes with ``counts`` annotated voxels, with mean 1 over voxels.

    A class that is never annotated gets weight 0; it cannot occur in a target.
    """
    # Not by torch: before a step a GPU waits for these few numbers.
    frequency = np.array(counts, np.float64) / max(1, sum(counts))
    weights = np.where(frequency > 0, np.maximum(frequency, 1e-12) ** -balance, 0.0)
    return torch.from_numpy((weights / max((weights * frequency).sum(), 1e-12)).astype(np.float32))
