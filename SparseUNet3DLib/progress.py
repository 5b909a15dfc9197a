"""How much of a run is over, by its time budget or its number of iterations, whichever comes first."""

from __future__ import annotations

from SparseUNet3DLib.recipe import Recipe
from SparseUNet3DLib.trainer import Counters

#: From then on a network learns from the slices as well that the program had held out to score it.
SCORED_FRACTION = 0.7
#: A resumed run may have a little more or less time than it was begun with: so much of a share does not count.
_SLACK = 0.1


class Progress:
    """Of a run that trains ``members`` networks one after another; each has an even share of what is left."""

    def __init__(self, recipe: Recipe, members: int) -> None:
        self._limits = recipe.seconds, recipe.iterations
        self._patience, self._members = recipe.patience, members

    def of_run(self, counters: Counters) -> float:
        """How much of the whole run is over, 0..1."""
        return self._share_over((counters.seconds, counters.iteration), (0.0, 0), 1)

    def of_network(self, counters: Counters) -> float:
        """How much of the present network's training is over, 0..1."""
        over, scored = self._of_network_at(_now(counters), counters), counters.scored_at
        if scored is None or not self._was_plateau(scored, counters):
            return over
        # What follows a plateau is as long beside what came before as it would have been without one.
        shares = [
            (now - first) / (then - first)
            for now, then, first, limit in zip(_now(counters), scored, _first(counters), self._limits, strict=True)
            if limit is not None and then > first
        ]
        return max(over, min(1.0, SCORED_FRACTION * max(shares, default=0.0)))

    def was_scored_too_early(self, counters: Counters) -> bool:
        """Whether the present network was scored for the last time when there was less time than the run has now."""
        scored = counters.scored_at
        if scored is None or self._was_plateau(scored, counters):
            return False
        least = SCORED_FRACTION * (1 - _SLACK)
        # Where it is too far on to learn anything before the next score, the old one has to do.
        return max(self._of_network_at(at, counters) for at in (scored, _now(counters))) < least

    def is_over(self, counters: Counters) -> bool:
        """Whether the present network's training is, also because it has come to a plateau."""
        return self.of_network(counters) >= 1.0 or (counters.scored_at is None and self.is_at_plateau(counters))

    def is_time_to_learn_all(self, counters: Counters) -> bool:
        """Whether the present network is far enough to be scored for the last time, and has time left to learn more."""
        over = self.of_network(counters)
        if counters.scored_at is not None or over >= 1.0:
            return False
        return over >= SCORED_FRACTION or self.is_at_plateau(counters)

    def is_at_plateau(self, counters: Counters) -> bool:
        """Whether the present network has not improved for longer than the recipe's patience."""
        return self._is_plateau(_now(counters), counters)

    def _was_plateau(self, scored: tuple[float, int], counters: Counters) -> bool:
        """Whether the network was scored earlier than usual, because of a plateau."""
        is_early = self._of_network_at(scored, counters) < SCORED_FRACTION * (1 - _SLACK)
        return is_early and self._is_plateau(scored, counters, _SLACK)

    def _is_plateau(self, at: tuple[float, int], counters: Counters, slack: float = 0.0) -> bool:
        if self._patience is None or counters.best_iou < 0:
            return False
        best = self._of_network_at((counters.best_seconds, counters.best_iteration), counters)
        return self._of_network_at(at, counters) - best > self._patience * (1 - slack)

    def _of_network_at(self, at: tuple[float, int], counters: Counters) -> float:
        return self._share_over(at, _first(counters), self._members - counters.member)

    def _share_over(self, at: tuple[float, int], first: tuple[float, int], parts: int) -> float:
        """How much is over ``at`` a time of the first of ``parts`` between ``first`` and the run's end.

        Times are (seconds, iteration).
        """
        shares = [0.0]
        for now, before, limit in zip(at, first, self._limits, strict=True):
            if limit is not None:
                shares.append(parts * (now - before) / (limit - before) if limit > before else 1.0)
        return min(1.0, max(shares))


def _now(counters: Counters) -> tuple[float, int]:
    return counters.seconds, counters.iteration


def _first(counters: Counters) -> tuple[float, int]:
    return counters.first_seconds, counters.first_iteration
