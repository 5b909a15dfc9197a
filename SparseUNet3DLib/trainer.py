"""One training run's state: network, optimiser, moving average, random numbers; steps and snapshots of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.device import Fetched, available_memory, memory_format, send
from SparseUNet3DLib.gradients import FindGradients, GradientFinder, record_gradients
from SparseUNet3DLib.loss import annotated_voxels, class_weights
from SparseUNet3DLib.moving_average import MovingAverage
from SparseUNet3DLib.muon import Muon
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.networks.voxel_network import VoxelNetwork
from SparseUNet3DLib.plan import Plan
from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.sampling import Batch, PatchSampler
from SparseUNet3DLib.tensor_file import tensors_below

_WARM_UP = 0.1
#: From when on a run is long enough for torch.compile, which takes half a minute, to pay: ten minutes, of which
#: segmenting may take some.
_LONG_SECONDS, _LONG_ITERATIONS = 500.0, 10_000
#: And for cuDNN's search, which takes ten seconds and makes steps an eighth shorter.
_SEARCH_SECONDS, _SEARCH_ITERATIONS = 100.0, 2000
#: What of the memory announced for a step, which is meant for float32, a recorded one takes in bfloat16 at most.
_BFLOAT16_SHARE = 0.7
#: Bytes for each logit that a loss of all voxels takes, gradients included: without and with soft Dice.
_LOSS_BYTES = {False: 20, True: 32}
#: Iterations between the learning-rate steps of Caffe networks derived from the paper's.
_STEP_ITERATIONS = 20_000
#: Between the seeds of a run's networks, so that they are not those of the runs with the next seeds.
_SEEDS_APART = 10_007


@dataclass
class Counters:
    """What a run counts.

    Attributes:
        iteration: optimiser steps done, of all networks that the run trains.
        seconds: training time so far, over all sessions of a resumed run.
        rate_factor: halved each time that training diverged.
        history: (iteration, seconds, loss) and validation results, for curves and the training record.
        member: the network that is being trained, from 0.
        first_iteration: steps that were done before this network.
        first_seconds: training time before this network.
        held_out_iou: of each network, on the slices held out of its training, as it was scored last.
        best_iou: highest mean IoU of the present network on its held-out slices; -1 where there is none yet.
        best_iteration: steps that were done then, of all networks.
        best_seconds: training time then.
        scored_at: training time and iteration since when the present network learns from the slices as well that had
            been held out; None where it does not yet.
    """

    iteration: int = 0
    seconds: float = 0.0
    rate_factor: float = 1.0
    history: list[dict] = field(default_factory=list)
    member: int = 0
    first_iteration: int = 0
    first_seconds: float = 0.0
    held_out_iou: list[dict[str, float | None] | None] = field(default_factory=list)
    best_iou: float = -1.0
    best_iteration: int = 0
    best_seconds: float = 0.0
    scored_at: tuple[float, int] | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps of the present network."""
        return self.iteration - self.first_iteration

    def set_held_out_iou(self, iou: dict[str, float | None]) -> None:
        """Remember what the present network was scored with."""
        before = self.held_out_iou[: self.member]
        self.held_out_iou = [*before, *[None] * (self.member - len(before)), iou]

    def begin_member(self) -> None:
        """Count the next network's training from here."""
        self.member += 1
        self.first_iteration, self.first_seconds, self.rate_factor = self.iteration, self.seconds, 1.0
        self.best_iou, self.best_iteration, self.best_seconds = -1.0, self.iteration, self.seconds
        self.scored_at = None


@dataclass(frozen=True)
class _DrawnAhead:
    """The next step's batch, and the random numbers' state before it was drawn."""

    generator_state: torch.Tensor
    batch: Batch


class Trainer:
    """Trains one network; ``state`` and ``restore`` make a run continue bit by bit."""

    def __init__(
        self,
        plan: Plan,
        recipe: Recipe,
        sampler: PatchSampler,
        device: torch.device,
        precision: torch.dtype,
        counters: Counters | None = None,
    ) -> None:
        """``counters`` are those of a run that has trained other networks before."""
        self.plan, self.recipe, self.sampler = plan, recipe, sampler
        self.device, self.precision = device, precision
        self.counters = counters or Counters()
        self.seed = seed = recipe.seed + _SEEDS_APART * self.counters.member
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(plan)
        self.network: nn.Module = network.to(device, memory_format=memory_format(device))
        self._average = MovingAverage(self.network, recipe.ema_decay)
        self.optimizers = _make_optimizers(self.network, recipe, precision)
        self.generator = torch.Generator().manual_seed(seed)
        self._find_plainly = GradientFinder(self.network, self.network.features, precision, recipe.dice)
        self._may_record = device.type == "cuda"
        self._recorded: FindGradients | None = None
        #: The next batch is drawn while a GPU computes the step, and before what that step still has to do.
        self.draws_ahead = device.type == "cuda"
        self._drawing = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._ahead: _DrawnAhead | None = None

    def step(self, fraction: float) -> float:
        """One optimiser step at ``fraction`` (0..1) of the network's training; the loss.

        NaN or infinity says that the loss or its gradient is not finite; then the weights are of no use any more,
        and a former state must be restored.
        """
        batch = self._next_batch()  # kept to the end: on a GPU the next one is drawn beside what still reads it
        found = Fetched(self._find_gradients(batch, self.class_weights(fraction)))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(fraction)
            optimizer.step()
        if self.recipe.ema_decay:
            self._average.update(self.counters.steps + 1)
        if self.draws_ahead:
            self._draw_ahead()
        # Only here, when a GPU has been told of all that is to be done: while it does that, the next step begins.
        value, length = found.values()
        if not math.isfinite(value) or not math.isfinite(length):  # a finite loss may have a gradient that is not
            return length if math.isfinite(value) else value
        self.counters.iteration += 1
        return value

    def _next_batch(self) -> Batch:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return self._draw_batch(self.counters.steps)
        if self._drawing is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._drawing)
        return ahead.batch

    def _draw_ahead(self) -> None:
        state = self.generator.get_state()
        with torch.cuda.stream(self._drawing) if self._drawing is not None else nullcontext():
            self._ahead = _DrawnAhead(state, self._draw_batch(self.counters.steps + 1))

    def _draw_batch(self, steps: int) -> Batch:
        return self.sampler.draw_batch(self.generator, self.augmentation_strength(steps))

    def _find_gradients(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Loss, and length of the gradients."""
        if not self.network.training:
            self.network.train()
        images = batch.images.to(memory_format=memory_format(self.device))
        if self._may_record:
            self._may_record = False
            self._recorded = self._record(images, batch.target, weights)
        if self._recorded is not None:
            return self._recorded(images, batch.target, weights)
        return self._find_plainly(images, batch.target, weights, annotated_voxels(batch.target))

    def _record(self, *inputs: torch.Tensor) -> FindGradients | None:
        """None where that might take more memory than was announced, as its loss is of all voxels."""
        if self.precision != torch.bfloat16:
            return None
        announced = self.plan.training_bytes()
        logits = self.plan.classes * self.plan.batch_size * math.prod(self.plan.output_size)
        taken = _BFLOAT16_SHARE * announced + _LOSS_BYTES[self.recipe.dice] * logits
        if taken + self.sampler.resident_bytes > announced or taken > available_memory(self.device):
            return None
        seconds, iterations = self.recipe.seconds or 0, self.recipe.iterations or 0
        search = seconds >= _SEARCH_SECONDS or iterations >= _SEARCH_ITERATIONS
        compiled = seconds >= _LONG_SECONDS or iterations >= _LONG_ITERATIONS
        return record_gradients(self._find_plainly, *inputs, search, compiled)

    def augmentation_strength(self, steps: int) -> float:
        """Strength of the augmentation (0..1) after so many ``steps`` of the present network."""
        first = self.recipe.first_augmentation
        return first + (1 - first) * min(1.0, steps / self.recipe.augmentation_steps) ** 2

    def learning_rate(self, fraction: float) -> float:
        """Learning rate at ``fraction`` (0..1) of the network's training."""
        rate = self.recipe.learning_rate * self.counters.rate_factor
        if self.recipe.schedule == "steps":
            return rate * 0.1 ** (self.counters.steps // _STEP_ITERATIONS)
        if fraction < _WARM_UP:
            return rate * (0.04 + 0.96 * fraction / _WARM_UP)
        return rate * max(1e-3, 0.5 * (1 + math.cos(math.pi * (fraction - _WARM_UP) / (1 - _WARM_UP))))

    def class_weights(self, fraction: float) -> torch.Tensor:
        """(classes,) weights of the cross-entropy at ``fraction`` (0..1) of the network's training."""
        first, last = self.recipe.class_balance, self.recipe.final_class_balance
        return send(class_weights(self.sampler.class_counts, first + (last - first) * fraction), self.device)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights to use: their moving average, where the recipe keeps one."""
        chosen = self._average.tensors if self.recipe.ema_decay else self.network.state_dict()
        return {n: t.detach().cpu().clone() for n, t in chosen.items()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Start from ``weights`` instead of random ones."""
        self.network.load_state_dict(weights)
        self._average.load(self.network.state_dict())

    def learn_from(self, cases: Sequence[Case]) -> None:
        """Go on with another annotation of the same volumes."""
        if self._ahead:
            self.generator.set_state(self._ahead.generator_state)
            self._ahead = None
        self.sampler.learn_from(cases)

    def set_voxel_network(self, network: VoxelNetwork) -> None:
        """Take this classifier of single voxels; its weights stay so beside those that are trained."""
        for name, tensor in network.state_dict().items():
            self.network.state_dict()[f"voxel_network.{name}"].copy_(tensor)
            self._average.tensors[f"voxel_network.{name}"].copy_(tensor)

    def state(self) -> dict[str, torch.Tensor]:
        """Copies, in main memory, of all tensors that the next step depends on."""
        tensors = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self._average.tensors.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    if value is not None:
                        tensors[f"optimizer{number}.{index}.{name}"] = torch.as_tensor(value)
        tensors["generator"] = self._ahead.generator_state if self._ahead else self.generator.get_state()
        return {n: t.detach().cpu().clone() for n, t in tensors.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go back, or on, to what ``state`` returned.

        Raises:
            KeyError, ValueError, RuntimeError: the state is of another network.
        """
        self.network.load_state_dict(tensors_below(state, "network."))
        self._average.load(tensors_below(state, "average."))
        for number, optimizer in enumerate(self.optimizers):
            _restore_moments(optimizer, tensors_below(state, f"optimizer{number}."))
        self.generator.set_state(state["generator"].cpu())
        self._ahead = None


def _make_optimizers(network: nn.Module, recipe: Recipe, precision: torch.dtype) -> list[torch.optim.Optimizer]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    rate, momentum, decay = recipe.learning_rate, recipe.momentum, recipe.weight_decay
    fused = True if parameters[0].device.type in ("cpu", "cuda") else None
    if recipe.optimizer == "sgd":
        nesterov = momentum > 0
        return [torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=nesterov, fused=fused)]
    hidden: list[nn.Parameter] = []
    if recipe.optimizer == "muon":
        # What scales and shifts, and what decides for a class, is no matrix between hidden layers.
        hidden = [p for n, p in network.named_parameters() if p.ndim == 5 and n != "head.weight"]
    others = [p for p in parameters if not any(p is h for h in hidden)]
    adam = torch.optim.AdamW(others, lr=rate, betas=(momentum, 0.99), weight_decay=decay, fused=fused)
    if not hidden:
        return [adam]
    on_cpu = parameters[0].device.type == "cpu"  # a GPU hardly notices these products
    return [Muon(hidden, rate, momentum, decay, precision if on_cpu else torch.float32), adam]


def _restore_moments(optimizer: torch.optim.Optimizer, state: dict[str, torch.Tensor]) -> None:
    """Give ``optimizer`` the moments called "<parameter>.<moment>" in ``state``.

    Raises:
        ValueError: they do not fit its parameters.
    """
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        index, name = key.split(".", 1)
        # A copy: the optimiser changes its moments in place, and ``state`` may be restored again.
        moments.setdefault(int(index), {})[name] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if len({frozenset(optimizer.state.get(p, ())) for p in parameters}) > 1:
        raise ValueError("some parameters lack moments that others have")
    for parameter, values in optimizer.state.items():
        if any(v.ndim and v.shape != parameter.shape for v in values.values()):
            raise ValueError("the moments are of other parameters")
        # A file does not keep the layout, in which a GPU's optimisers want all that belongs to a parameter.
        values.update({n: torch.empty_like(parameter).copy_(v) for n, v in values.items() if v.ndim})
