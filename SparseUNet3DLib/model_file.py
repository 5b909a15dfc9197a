"""The trained model: weights with everything needed to use them and to know where they come from."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
import torch
from torch import nn

from SparseUNet3DLib.errors import InputError, UsageError
from SparseUNet3DLib.mixture import USUAL, Mixture
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.networks.ensemble import split_weights
from SparseUNet3DLib.normalisation import ChannelNormalisation
from SparseUNet3DLib.orientation import is_direction
from SparseUNet3DLib.plan import LARGEST, Plan, check_plan
from SparseUNet3DLib.recipe import MOST_MEMBERS, NETWORKS, Recipe
from SparseUNet3DLib.segments import Segment
from SparseUNet3DLib.tensor_file import read_tensor_file, tensors_below, write_tensor_file
from SparseUNet3DLib.volumes import Volume

KIND = "model"
#: 2 has ``scored_weights``.
FORMAT_VERSION = 2
_SCORED = "scored."
#: What no plan exceeds besides: levels, or networks; voxels of a patch.
_MOST_LEVELS, _MOST_VOXELS = 12, 2**31


@dataclass(frozen=True)
class Model:
    """A trained network.

    Attributes:
        plan: the network's shape.
        recipe: how it was trained.
        channels: names and normalisation of the image channels it expects, in order.
        segments: what it segments; class n is ``segments[n - 1]``, class 0 background.
        weights: the network's parameters and buffers by name; of several networks, see `networks.ensemble`.
        record: the training record: volumes by name, share annotated, iterations, scores, versions, date.
        mixture: what the network, and its classifier of single voxels if it has one, count.
        scored_weights: the weights before the network learnt from the slices as well that had been held out: the IoU
            in the record is theirs. None where they are no others.
    """

    plan: Plan
    recipe: Recipe
    channels: tuple[ChannelNormalisation, ...]
    segments: tuple[Segment, ...]
    weights: dict[str, torch.Tensor]
    record: dict = field(default_factory=dict)
    mixture: Mixture = USUAL
    scored_weights: dict[str, torch.Tensor] | None = None

    def as_scored(self) -> Model:
        """The model when it had not learnt yet from the slices that were held out to score it."""
        return replace(self, weights=self.scored_weights, scored_weights=None) if self.scored_weights else self

    def network(self, device: torch.device) -> nn.Module:
        """The network with these weights on ``device``, ready for inference."""
        network = build_network(self.plan)
        network.load_state_dict(self.weights)
        return network.to(device).eval()

    def members(self) -> list[Model]:
        """A model of each of the networks whose logits are averaged."""
        single, number = replace(self.plan, members=1), self.plan.members
        weights = split_weights(self.weights, number)
        scored = split_weights(self.scored_weights, number) if self.scored_weights else [None] * number
        return [
            replace(self, plan=single, weights=w, scored_weights=s) for w, s in zip(weights, scored, strict=True)
        ]

    def learnt_volume(self, turned: Volume) -> dict | None:
        """The training record's entry of this volume, which is turned to the plan's axes; None if it has none."""
        fingerprint, spacing = turned.fingerprint(), sorted(turned.geometry.array_spacing)
        for volume in self.record.get("volumes", []):
            # The record's spacing is along the axes that the volume had then, in a precision that formats differ in.
            if volume.get("fingerprint") == fingerprint and np.allclose(sorted(volume["spacing"]), spacing, rtol=1e-3):
                return volume
        return None

    def save(self, path: str | os.PathLike) -> None:
        """Write the model as one ``.safetensors`` file, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        scored = {_SCORED + name: tensor for name, tensor in (self.scored_weights or {}).items()}
        write_tensor_file(path, KIND, self.header(), self.weights | scored)

    def header(self) -> dict:
        """All but the weights, as plain values."""
        return {
            "format": FORMAT_VERSION,
            "plan": self.plan.to_dict(),
            "recipe": self.recipe.to_dict(),
            "channels": [c.to_dict() for c in self.channels],
            "segments": [asdict(s) for s in self.segments],
            "record": self.record,
            "mixture": asdict(self.mixture),
        }

    def card(self) -> str:
        """The model as a card of a few lines: what it segments, what it expects, how it was trained."""
        record = self.record
        lines = [f"Segments ({len(self.segments)}):"]
        lines += [f"  {i + 1}  {s.name}" for i, s in enumerate(self.segments)]
        lines.append(f"Channels ({len(self.channels)}):")
        for channel in self.channels:
            how = "as in training" if channel.fixed else "by each volume's own gray values"
            lines.append(f"  {channel.name}, normalised {how}")
        lines.append("Plan:")
        lines += [f"  {line}" for line in self.plan.describe()]
        if self.plan.voxel_spacing:
            mixture = self.mixture
            lines.append(f"  logits: {mixture.network:.2f} of the network, {mixture.voxels:.2f} of single voxels")
        parameters = sum(w.numel() for w in self.weights.values())
        lines.append(f"  {parameters:,} parameters")
        lines.append("Training:")
        lines.append(f"  recipe {self.recipe.name}, seed {self.recipe.seed}")
        for volume in record.get("volumes", []):
            lines.append(
                f"  volume {volume['name']}: {volume['shape']} voxels, {100 * volume['annotated']:.1f} % annotated"
            )
        if "iterations" in record:
            seconds = record.get("seconds", 0)
            lines.append(f"  {record['iterations']} iterations in {seconds:.0f} s on {record['device']}")
        scores = record.get("held_out_iou")
        if scores:
            lines.append("  IoU on held-out slices: " + ", ".join(f"{n} {_three(v)}" for n, v in scores.items()))
        if "date" in record:
            versions = ", ".join(f"{n} {v}" for n, v in record.get("versions", {}).items())
            lines.append(f"  {record['date']} ({versions})")
        return "\n".join(lines)


def load_model(path: str | os.PathLike) -> Model:
    """Read a model that ``Model.save`` wrote. Executes nothing from the file.

    Raises:
        InputError: the file is missing, damaged, foreign, of a later version, or its parts do not fit together.
    """
    header, weights = read_tensor_file(path, KIND)
    try:
        if header["format"] > FORMAT_VERSION:
            raise InputError(f"it was written by a newer SparseUNet3D (format {header['format']}); update this one.")
        model = Model(
            plan=Plan.from_dict(header["plan"]),
            recipe=Recipe.from_dict(header["recipe"]),
            channels=tuple(ChannelNormalisation.from_dict(c) for c in header["channels"]),
            segments=tuple(_segment(s) for s in header["segments"]),
            # The first versions' networks had a head that corrected them by annotated slices; it is not asked any more.
            weights={n: t for n, t in weights.items() if "correction." not in n and not n.startswith(_SCORED)},
            record=header["record"],
            # The first versions had none.
            mixture=Mixture.from_dict(header["mixture"]) if "mixture" in header else USUAL,
            scored_weights=tensors_below(weights, _SCORED) or None,
        )
        _check(model)
        model.card()  # a training record that cannot be shown is damaged, too
    except (InputError, UsageError) as error:
        raise InputError(f"'{path}' is no usable model: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise InputError(f"'{path}' is no usable model: its header and weights do not fit ({reason}).") from None
    return model


def adapt_weights(model: Model, plan: Plan, segments: tuple[Segment, ...]) -> dict[str, torch.Tensor]:
    """Weights of ``model``, a single network, for other segments: the head's rows follow the segments' names.

    A segment whose name ``model`` does not know is told by its id, as it may have been renamed: ids alone do not tell,
    for "Segment_1" is what the first one is called in any segmentation. Rows of segments that ``model`` does not know
    are the mean of its rows, which decides for no class.

    Raises:
        InputError: the networks differ in more than their segments and patches.
    """
    adapted = replace(
        model.plan, classes=plan.classes, batch_size=plan.batch_size, patch_size=plan.patch_size,
        voxel_spacing=plan.voxel_spacing,
    )
    if adapted != plan:
        differing = [f.name for f in fields(Plan) if getattr(adapted, f.name) != getattr(plan, f.name)]
        raise InputError(
            "The model to start from has another network than is wanted: "
            + ", ".join(f"{n} {getattr(model.plan, n)}, not {getattr(plan, n)}" for n in differing)
            + "; leave these settings as they were, or train anew."
        )
    by_name = {s.name: i + 1 for i, s in enumerate(model.segments)}
    renamed = {s.id: by_name[s.name] for s in model.segments if s.name not in {t.name for t in segments}}
    rows = [0, *(by_name.get(s.name, renamed.get(s.id)) for s in segments)]
    weights = dict(model.weights)
    for name in ("head.weight", "head.bias"):
        old = weights[name]
        new = torch.zeros(plan.classes, *old.shape[1:])
        for row, source in enumerate(rows):
            new[row] = old[source] if source is not None else old.mean(0)
        weights[name] = new
    # The classifier of single voxels is fitted to the annotation anew.
    weights = {n: t for n, t in weights.items() if not n.startswith("voxel_network.")}
    return weights | {n: t for n, t in _fresh_weights(plan).items() if n.startswith("voxel_network.")}


def _fresh_weights(plan: Plan) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(plan).state_dict()


def _segment(values: dict) -> Segment:
    red, green, blue = (float(c) for c in values["color"])
    value = values.get("value")  # models of before have none
    return Segment(
        str(values["id"]), str(values["name"]), (red, green, blue), dict(values["tags"]),
        None if value is None else int(value),
    )


def _check(model: Model) -> None:
    """Refuse a model whose parts contradict each other, before any of it is used."""
    if len(model.segments) + 1 != model.plan.classes or len(model.channels) != model.plan.in_channels:
        raise InputError("its segments or channels do not fit its plan.")
    if model.plan.direction != () and not is_direction(model.plan.direction):
        raise InputError("the axes that it was trained on run in impossible directions.")
    if not all(_is_finite(factor) and factor >= 0 for factor in asdict(model.mixture).values()):
        raise InputError("its network and its classifier of single voxels count impossibly much.")
    _check_numbers(model.plan)
    check_plan(model.plan)
    for channel in model.channels:
        numbers = list(asdict(channel.fixed).values()) if channel.fixed else []
        if not all(_is_finite(n) for n in numbers) or (channel.fixed and not channel.fixed.sd > 0):
            raise InputError(f"the gray values of channel '{channel.name}' are normalised by impossible numbers.")
    with torch.device("meta"):
        expected = build_network(model.plan).state_dict()
    for weights in (model.weights, model.scored_weights):
        if weights is not None:
            _check_weights(weights, expected)


def _check_weights(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    if expected.keys() != weights.keys():
        raise InputError("its weights belong to another network than its plan describes.")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise InputError(f"weight '{name}' has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"weight '{name}' holds NaN or infinite values.")


def _check_numbers(plan: Plan) -> None:
    """Refuse what no planner writes: other types, numbers below 1, absurdly large ones."""
    triples = (plan.patch_size, *plan.strides, *plan.kernels)
    counts = [
        plan.in_channels, plan.classes, plan.batch_size, plan.members, *plan.widths, *(n for t in triples for n in t)
    ]
    if not all(type(n) is int and 1 <= n <= LARGEST for n in counts) or any(len(t) != 3 for t in triples):
        raise InputError(f"its plan has sizes that are not three whole numbers, or not between 1 and {LARGEST}.")
    if len(plan.widths) > _MOST_LEVELS or plan.members > MOST_MEMBERS or math.prod(plan.patch_size) > _MOST_VOXELS:
        raise InputError("its plan asks for an absurdly large network.")
    for spacing in (plan.spacing, plan.voxel_spacing or plan.spacing):
        if len(spacing) != 3 or not all(_is_finite(s) and s > 0 for s in spacing):
            raise InputError(f"its plan has the impossible spacing {spacing}.")
    if plan.voxel_spacing and plan.network != "auto":
        raise InputError(f"its plan wants single voxels classified, which a '{plan.network}' network does not do.")
    if plan.network not in NETWORKS:
        raise InputError(f"its plan is for the unknown network '{plan.network}'.")


def _is_finite(number: object) -> bool:
    return isinstance(number, (int, float)) and math.isfinite(number)


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
