"""The networks; ``build_network`` makes the one that a plan describes."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from SparseUNet3DLib.networks.auto import AutoUNet
from SparseUNet3DLib.networks.ensemble import Ensemble
from SparseUNet3DLib.networks.paper import PaperUNet
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.voxel_features import FEATURES_PER_CHANNEL


def build_network(plan: Plan) -> nn.Module:
    """Network of ``plan``: (b, c, z, y, x) float images to (b, classes, z', y', x') logits.

    A plan for several members gives an ``Ensemble``.
    """
    if plan.members > 1:
        return Ensemble([build_network(replace(plan, members=1)) for _ in range(plan.members)])
    if plan.network == "auto":
        return AutoUNet(
            plan.in_channels, plan.classes, plan.strides, plan.kernels, plan.widths, plan.batch_norm,
            FEATURES_PER_CHANNEL * plan.in_channels if plan.voxel_spacing else 0,
        )
    return PaperUNet(
        plan.in_channels, plan.classes, plan.widths, plan.batch_norm, slice_wise=plan.network == "2d"
    )
