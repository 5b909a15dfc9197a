"""The training loop: when to stop, validate, save, go back, or ask for less memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from SparseUNet3DLib.cases import Case
from SparseUNet3DLib.checkpoint import FILE_NAME, Checkpoint, fingerprint, write_checkpoint
from SparseUNet3DLib.device import choose_precision, memory_format
from SparseUNet3DLib.errors import Interrupted, UsageError
from SparseUNet3DLib.learnt_networks import LearntNetworks
from SparseUNet3DLib.networks import build_network
from SparseUNet3DLib.out_of_memory import is_out_of_memory
from SparseUNet3DLib.plan import Plan, format_triple
from SparseUNet3DLib.progress import SCORED_FRACTION, Progress
from SparseUNet3DLib.sampling import PatchSampler
from SparseUNet3DLib.snapshots import Snapshots
from SparseUNet3DLib.trainer import Counters, Trainer
from SparseUNet3DLib.training_task import TrainingFold, TrainingResult, TrainingTask
from SparseUNet3DLib.validation import mean_iou
from SparseUNet3DLib.voxel_classifier import VoxelSample

_CHECKPOINT_SECONDS = 20.0
_STEP_EVENT_SECONDS = 0.25
#: Validation and previews may each take this share of the time; the first, for which one waits, a larger one.
_SIDE_TASK_SHARE, _FIRST_SHARE = 0.05, 0.2
#: And the last score this share of the time that is left to the network.
_LAST_SCORE_SHARE = 0.3
#: A tile takes about this share of what a patch takes in training, without gradients and optimiser.
_TILE_COST = 0.3
_FIRST_VALIDATION_SECONDS = 5.0
#: A network stopped before this fraction of its training is left out, if others are finished.
_LEARNT_FRACTION = 0.5


def run_training(task: TrainingTask, resume: bool = False) -> TrainingResult:
    """Train until the recipe's end, some time after a plateau, or a request to finish.

    Args:
        resume: go on from the checkpoint in ``task.folder``.

    Raises:
        Interrupted: asked to stop; a checkpoint was written where there is a folder.
        DivergenceError: the loss became NaN again and again.
        MemoryLimitError: not even the smallest patch fits.
        InputError: the checkpoint to resume from is damaged or of another task.
        UsageError: there is no folder to resume from.
    """
    loop = _Loop(task, resume)
    try:
        return loop.run()
    finally:
        loop.drop_trainer()


class _Loop:
    """The state of one call of ``run_training`` that is not part of a checkpoint."""

    def __init__(self, task: TrainingTask, resume: bool) -> None:
        started = time.perf_counter()
        self.task = task
        self.task_id = fingerprint(task.folds[0].cases, task.normalisation, task.folds[0].complete)
        checkpoint = self._read_checkpoint() if resume else None
        # The cases have been turned to the task's axes; a checkpoint of an earlier version does not tell any.
        plan = replace(checkpoint.plan if checkpoint else task.plan, members=1, direction=task.plan.direction)
        # The precision is part of the checkpoint: a self-test might decide otherwise the next time.
        precision = checkpoint.precision if checkpoint else choose_precision(task.device, task.recipe.precision)
        counters = checkpoint.counters if checkpoint else Counters()
        self.members = max(len(task.folds), counters.member + 1)
        self.progress = Progress(task.recipe, self.members)
        self.networks = checkpoint.networks() if checkpoint else LearntNetworks()
        self.voxel_sample: VoxelSample | None = None
        # A run that is prolonged goes back to where it was scored: else its score would be that of a beginning.
        back = self.networks.scored.pop(counters.member) if self.progress.was_scored_too_early(counters) else None
        if back:
            counters.scored_at = None
        self.trainer = self._make_trainer(plan, precision, counters)
        if checkpoint:
            checkpoint.restore(self.trainer, moments=not back)  # which know of what is held out again
        if back:
            self.trainer.load_weights(back)
        self.clock = started - counters.seconds
        self.last_checkpoint = self.last_event = -float("inf")
        self._begin_member()
        self.next_preview = self._seconds() + _FIRST_VALIDATION_SECONDS

    def _read_checkpoint(self) -> Checkpoint:
        task = self.task
        if task.folder is None:
            raise UsageError("To resume a run, name the folder with its checkpoint.")
        checkpoint = Checkpoint(task.folder / FILE_NAME)
        checkpoint.require_task(self.task_id, task.recipe)
        if replace(checkpoint.plan, direction=task.plan.direction) != replace(task.plan, members=1):
            task.reporter.emit(
                "warning",
                message=f"Going on as the run was, with {checkpoint.plan.batch_size} patch(es) of "
                f"{format_triple(checkpoint.plan.patch_size)} voxels per step; the present plan does not count.",
            )
        return checkpoint

    def _begin_member(self) -> None:
        if self.trainer.plan.voxel_spacing and not self.trainer.counters.steps:
            self._fit_voxel_network(self._fold().cases)
            # The U-Net's schedule begins now.
            self.trainer.counters.seconds = self.trainer.counters.first_seconds = self._seconds()
        self.snapshots = Snapshots(self.trainer, self.task.reporter)
        self.validated_at: int | None = None
        self.next_validation = self._seconds() + _FIRST_VALIDATION_SECONDS

    def run(self) -> TrainingResult:
        """Steps until the end."""
        if self.trainer.counters.iteration == 0:
            self._save()  # a run killed before its first checkpoint resumes as well
        while self._train_member():
            if self.trainer.counters.member + 1 == self.members or self.progress.of_run(self.trainer.counters) >= 1.0:
                break
            self._score_at_end()
            self._next_member()
        self._save()
        is_kept = self._is_kept()
        if is_kept:  # else its score would tell nothing
            self._score_at_end()
        return self._result(is_kept)

    def _train_member(self) -> bool:
        """Steps until the present network's end; False where it was asked to finish before."""
        while True:
            # Before the step, as a run that was stopped while it was scored goes on from here.
            if self._is_time_to_learn_all():
                self._learn_all()
                if self._asked_for() == "finish":
                    return False
            # At least one step, also where the time was over before the first.
            if self.trainer.counters.steps and self.progress.is_over(self.trainer.counters):
                return True
            self._guarded_step()
            self._side_tasks()
            if self._asked_for() == "finish":
                return False

    def _is_time_to_learn_all(self) -> bool:
        fold, counters = self._fold(), self.trainer.counters
        if not fold.complete or not self.progress.is_time_to_learn_all(counters):
            return False
        # Of a large volume there may be so much to score that no time would be left to learn from it.
        patches = counters.steps * self.trainer.plan.batch_size
        over = max(SCORED_FRACTION, self.progress.of_network(counters))
        share = fold.validation_tiles * _TILE_COST / max(1, patches) * over / (1 - over)
        return self.task.recipe.seconds is None or share <= _LAST_SCORE_SHARE

    def _learn_all(self) -> None:
        """Score the network a last time, and let it learn from the slices as well that were held out for that."""
        trainer, counters, fold = self.trainer, self.trainer.counters, self._fold()
        self._validate()
        if not self.progress.is_time_to_learn_all(counters) or self._asked_for() == "finish":  # the plateau was none
            return
        fold.forget()
        self.networks.scored[counters.member] = trainer.weights()
        trainer.learn_from(fold.complete)
        if trainer.plan.voxel_spacing:
            self._fit_voxel_network(fold.complete)
        counters.seconds = self._seconds()
        counters.scored_at = counters.seconds, counters.iteration
        self.snapshots.begin(trainer)  # what was before has learnt less

    def _score_at_end(self) -> None:
        """Unless it has learnt by now from what it would be scored on."""
        if self.trainer.counters.scored_at is None:
            self._validate()

    def _asked_for(self) -> str | None:
        """What is wanted of the run; where it is to leave, it does so, with a checkpoint."""
        wanted = self.task.stop.requested()
        if wanted == "interrupt":
            self._save()
            raise Interrupted(self._stopped_message())
        return wanted

    def _next_member(self) -> None:
        plan, precision, counters = self.trainer.plan, self.trainer.precision, self.trainer.counters
        self._fold().forget()
        self.networks.finished.append(self.trainer.weights())
        counters.begin_member()
        self.drop_trainer()
        self.trainer = self._make_trainer(plan, precision, counters)
        self._begin_member()

    def _result(self, is_kept: bool) -> TrainingResult:
        """Of the finished networks and, if it ``is_kept``, the present one."""
        trainer, counters = self.trainer, self.trainer.counters
        weights, scored = self.networks.join(trainer.weights() if is_kept else None)
        number = counters.member + is_kept
        return TrainingResult(
            weights, replace(trainer.plan, members=number), trainer.precision, counters.iteration, counters.seconds,
            counters.history, mean_iou([i for i in counters.held_out_iou[:number] if i is not None]), scored,
        )

    def _is_kept(self) -> bool:
        """Whether the present network is far enough to be of use beside finished ones, which took so many steps."""
        counters = self.trainer.counters
        has_learnt = counters.steps * counters.member >= _LEARNT_FRACTION * counters.first_iteration
        return not self.networks.finished or has_learnt or self.progress.is_at_plateau(counters)

    def drop_trainer(self) -> None:
        """Forget the present network's training, whose memory is needed for what comes next."""
        self.trainer = None  # type: ignore[assignment]
        if self.task.device.type == "cuda":
            gc.collect()  # a compiled network is referred to in circles
            torch.cuda.empty_cache()

    # -- one step ------------------------------------------------------------------------------------

    def _guarded_step(self) -> None:
        try:
            loss = self.trainer.step(self.progress.of_network(self.trainer.counters))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            loss = None
        if loss is None:
            self._use_less_memory()
        elif loss != loss or loss in (float("inf"), -float("inf")):
            self.snapshots.roll_back(self.trainer)
            self.validated_at = None
        else:
            self.trainer.counters.seconds = self._seconds()
            self._report_step(loss)

    def _use_less_memory(self) -> None:
        plan = self.trainer.plan.smaller()
        self.task.reporter.emit(
            "warning",
            message=f"Out of memory; going on with {plan.batch_size} patch(es) of {format_triple(plan.patch_size)} "
            "voxels per step.",
        )
        state, counters = self.trainer.state(), self.trainer.counters
        if not counters.steps:  # the optimisers may have begun to set up their moments
            state = {name: tensor for name, tensor in state.items() if not name.startswith("optimizer")}
        self.drop_trainer()
        precision = choose_precision(self.task.device, self.task.recipe.precision)
        self.trainer = self._make_trainer(plan, precision, counters)
        self.trainer.restore(state)

    # -- between steps -------------------------------------------------------------------------------

    def _side_tasks(self) -> None:
        now = self._seconds()
        if now - self.last_checkpoint >= _CHECKPOINT_SECONDS:
            self._save()
        fold, networks = self._fold(), self.trainer.counters.member + 1
        is_scored = fold.validate is not None and self.trainer.counters.scored_at is None
        if is_scored and now >= self.next_validation and self._is_cheap(fold.validation_tiles):
            self._validate()
        now = self._seconds()
        tiles = networks * self.task.preview_tiles
        if self.task.preview is not None and now >= self.next_preview and self._is_cheap(tiles):
            trainer = self.trainer
            self.task.preview(self._present_answer(), trainer.plan, trainer.precision, trainer.counters.iteration)
            self.next_preview = self._seconds() + (self._seconds() - now) / _SIDE_TASK_SHARE

    def _is_cheap(self, tiles: int) -> bool:
        """Whether so many tiles take little beside what training has taken: on a large volume they may take minutes."""
        patches = self.trainer.counters.iteration * self.trainer.plan.batch_size
        return tiles * _TILE_COST <= _FIRST_SHARE * patches

    def _save(self) -> None:
        self.last_checkpoint = self._seconds()
        self.snapshots.take(self.trainer)
        if self.task.folder is None:
            return
        path = self.task.folder / FILE_NAME
        write_checkpoint(path, self.trainer, self.task_id, self.networks)
        self.task.reporter.emit("checkpoint", path=str(path), iteration=self.trainer.counters.iteration)

    def _validate(self) -> None:
        """Score the present network, unless it just has been."""
        trainer, validate, started = self.trainer, self._fold().validate, self._seconds()
        if validate is None or self.validated_at == trainer.counters.iteration:
            return
        network = self._load(trainer.weights())
        iou = validate(network, trainer.plan, trainer.precision, lambda fraction: self._asked_for())
        known = [v for v in iou.values() if v is not None]
        mean = sum(known) / len(known) if known else None
        counters = trainer.counters
        counters.set_held_out_iou(iou)
        iteration = counters.iteration
        counters.history.append({"iteration": iteration, "seconds": round(counters.seconds, 2), "mean_iou": mean})
        self.task.reporter.emit("validation", iteration=iteration, mean_iou=mean, iou=iou)
        if mean is not None and mean > counters.best_iou:
            counters.best_iou, counters.best_iteration, counters.best_seconds = mean, iteration, counters.seconds
        self.validated_at = iteration
        self.next_validation = self._seconds() + (self._seconds() - started) / _SIDE_TASK_SHARE

    def _report_step(self, loss: float) -> None:
        counters, recipe = self.trainer.counters, self.task.recipe
        if counters.seconds - self.last_event < _STEP_EVENT_SECONDS and counters.iteration != recipe.iterations:
            return
        self.last_event = counters.seconds
        fraction = self.progress.of_run(counters)
        entry = {"iteration": counters.iteration, "seconds": round(counters.seconds, 2), "loss": loss}
        # A thousandth of the run apart: a curve of days is no longer than one of minutes.
        losses = [e for e in counters.history[-3:] if "loss" in e]
        if not losses or counters.seconds - losses[-1]["seconds"] >= counters.seconds / 1000:
            counters.history.append(entry)
        self.task.reporter.emit(
            "step",
            iteration=counters.iteration,
            iterations=recipe.iterations,
            seconds=counters.seconds,
            seconds_total=recipe.seconds,
            fraction=fraction,
            loss=loss,
            learning_rate=self.trainer.learning_rate(self.progress.of_network(counters)),
            network=counters.member + 1,
            networks=self.members,
            eta_seconds=counters.seconds * (1 - fraction) / fraction if fraction > 0 else None,
        )

    # -- helpers -------------------------------------------------------------------------------------

    def _make_trainer(self, plan: Plan, precision: torch.dtype, counters: Counters) -> Trainer:
        task = self.task
        fold = self._fold(counters.member)
        cases = fold.cases if counters.scored_at is None else fold.complete
        sampler = PatchSampler(cases, task.normalisation, plan, task.recipe, task.device, task.resample)
        trainer = Trainer(plan, task.recipe, sampler, task.device, precision, counters)
        # Further networks begin from random weights: the former ones have learnt what these hold out.
        if not counters.steps and counters.member < len(task.initial_weights):
            trainer.load_weights(task.initial_weights[counters.member])
        return trainer

    def _fit_voxel_network(self, cases: Sequence[Case]) -> None:
        task, trainer = self.task, self.trainer
        if task.device.type == "cuda":  # a training may have left it full
            torch.cuda.empty_cache()
        if self.voxel_sample is None:
            learnt = [part for fold in task.folds for part in (fold.cases, fold.complete) if part]
            self.voxel_sample = VoxelSample(learnt, task.normalisation, trainer.plan, task.device, task.resample)
        trainer.set_voxel_network(self.voxel_sample.fit(cases, trainer.seed))
        if task.device.type == "cuda":
            torch.cuda.empty_cache()

    def _fold(self, member: int | None = None) -> TrainingFold:
        """What the present network, or another, learns from; a run resumed with less time has fewer."""
        member = self.trainer.counters.member if member is None else member
        return self.task.folds[member % len(self.task.folds)]

    def _load(self, weights: dict[str, torch.Tensor], members: int = 1) -> nn.Module:
        """Another network, or several in one, with these weights, in inference mode."""
        network = build_network(replace(self.trainer.plan, members=members))
        network.load_state_dict(weights)
        return network.to(self.task.device, memory_format=memory_format(self.task.device)).eval()

    def _present_answer(self) -> nn.Module:
        """What the run would come to if it was stopped now."""
        result = self._result(self._is_kept())
        return self._load(result.weights, result.plan.members)

    def _seconds(self) -> float:
        return time.perf_counter() - self.clock

    def _stopped_message(self) -> str:
        where = f"; the checkpoint is in '{self.task.folder}', go on with --resume" if self.task.folder else ""
        return f"Stopped as asked after {self.trainer.counters.iteration} iterations{where}."
