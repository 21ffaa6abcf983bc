"""When the index moves: LLM warm-up on a fixed table, refreshes, frozen tail.

    steps   0 ──────── warm ──────── r ── r ── r ──── freeze ──────── end
            table of the      made anew, then          table frozen: the LLM
            warm-up           refreshed at each r      catches up with it

A static index is the same schedule without the middle: same warm-up, same number of steps.
"""

from dataclasses import dataclass

from ed2rec.errors import ConfigError


def check_shares(fixed_start: float, frozen_tail: float) -> None:
    """ConfigError where nothing is left between the two, so that an index which should move could not."""
    if round(fixed_start + frozen_tail, 9) >= 1:
        raise ConfigError(
            f"training.fixed_start={fixed_start:g} and training.frozen_tail={frozen_tail:g} leave no steps in which "
            "the index moves: let them add up to less than 1, or set training.refreshes=0 for a static index"
        )


@dataclass(frozen=True)
class IndexSchedule:
    """warm, freeze: steps at which the generators start and stop to learn. refreshes: after which steps tables move."""

    warm: int
    freeze: int
    refreshes: tuple[int, ...]

    @classmethod
    def of(cls, steps: int, warm_share: float, tail_share: float, refreshes: int) -> "IndexSchedule":
        """Refreshes evenly spaced over the middle, the last one where the tail starts. None: a static index."""
        warm, freeze = round(warm_share * steps), round((1 - tail_share) * steps)
        if refreshes == 0 or freeze <= warm:
            return cls(0, 0, ())
        points = {warm + round((i + 1) * (freeze - warm) / refreshes) for i in range(refreshes)} - {warm}
        return cls(warm, freeze, tuple(sorted(points)))

    def moving(self, step: int) -> bool:
        """Whether the generators learn in the step after `step` steps."""
        return self.warm <= step < self.freeze
