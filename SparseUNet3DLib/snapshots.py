"""Good states of a training to return to when it diverges."""

from __future__ import annotations

from SparseUNet3DLib.errors import DivergenceError
from SparseUNet3DLib.events import Reporter
from SparseUNet3DLib.trainer import Trainer

_MOST_ROLLBACKS = 6


class Snapshots:
    """The last two states of one network's training."""

    def __init__(self, trainer: Trainer, reporter: Reporter) -> None:
        self._reporter = reporter
        self._rollbacks = 0
        self.begin(trainer)

    def begin(self, trainer: Trainer) -> None:
        """The present state is one to go back to, and those before it are not any more."""
        self._kept = [_state(trainer)]
        self._is_fresh = True

    def take(self, trainer: Trainer) -> None:
        """The present state is one to go back to."""
        self._kept = [*self._kept[-1:], _state(trainer)]
        self._is_fresh = True

    def roll_back(self, trainer: Trainer) -> None:
        """Return to the last good state with half the learning rate; twice in a row, to the one before it.

        Raises:
            DivergenceError: that has not helped often enough.
        """
        self._rollbacks += 1
        if self._rollbacks > _MOST_ROLLBACKS:
            raise DivergenceError(
                f"Training diverged {self._rollbacks} times (the loss became NaN or infinite), although the learning "
                "rate was halved each time; look for extreme gray values in the volume, and clip them."
            )
        if not self._is_fresh and len(self._kept) > 1:
            self._kept.pop()
        self._is_fresh = False
        state, iteration, factor = self._kept[-1]
        counters = trainer.counters
        diverged_at = counters.iteration
        trainer.restore(state)
        counters.iteration = iteration
        counters.rate_factor = 0.5 * min(factor, counters.rate_factor)
        self._reporter.emit(
            "warning",
            message=f"Training diverged at iteration {diverged_at + 1}; going on from iteration {iteration} "
            f"with {counters.rate_factor:g} of the learning rate.",
        )


def _state(trainer: Trainer) -> tuple[dict, int, float]:
    return trainer.state(), trainer.counters.iteration, trainer.counters.rate_factor
