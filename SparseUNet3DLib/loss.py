"""The loss: only annotated voxels count (Çiçek et al. 2016, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

#: Target value of voxels that nobody annotated.
UNANNOTATED = -1


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
        annotated: (n,) flat indices of the target's annotated voxels, where they are known.

    Returns:
        A scalar, finite (0, with a gradient of 0) also where nothing is annotated.
    """
    if annotated is None:
        annotated = annotated_voxels(target)
    if annotated.numel() == 0:
        return logits.sum() * 0.0
    # Few voxels are annotated: picking them first makes the softmax a tenth of the work.
    picked = logits.permute(0, 2, 3, 4, 1).reshape(-1, logits.shape[1]).index_select(0, annotated).float()
    labels = target.reshape(-1).index_select(0, annotated)
    log_probability = F.log_softmax(picked, dim=1)
    loss = F.nll_loss(log_probability, labels, weight=class_weights)
    if dice:
        loss = loss + _soft_dice_loss(log_probability.exp(), labels)
    return loss


def annotated_voxels(target: torch.Tensor) -> torch.Tensor:
    """(n,) flat indices of the annotated voxels of a target of any shape."""
    return (target != UNANNOTATED).reshape(-1).nonzero().squeeze(1)


def _soft_dice_loss(probability: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 - mean Dice over the foreground classes present in ``labels``; 0 where there is none."""
    present = torch.bincount(labels, minlength=probability.shape[1])[1:].nonzero().squeeze(1) + 1
    if present.numel() == 0:
        return probability.sum() * 0.0
    # Absent classes are left out before the division: 0 / 0 would poison the gradient of all.
    truth = (labels[:, None] == present).to(probability.dtype)
    probability = probability[:, present]
    dice = 2 * (probability * truth).sum(0) / (probability.sum(0) + truth.sum(0))
    return 1 - dice.mean()


def class_weights(counts: Sequence[int], balance: float) -> torch.Tensor:
    """Weights (1 / frequency)**balance of classes with ``counts`` annotated voxels, with mean 1 over voxels.

    A class that is never annotated gets weight 0; it cannot occur in a target.
    """
    frequency = torch.tensor(counts, dtype=torch.float64) / max(1, sum(counts))
    weights = torch.where(frequency > 0, frequency.clamp_min(1e-12) ** -balance, torch.zeros_like(frequency))
    return (weights / (weights * frequency).sum().clamp_min(1e-12)).float()
