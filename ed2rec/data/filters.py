"""What is left out of a log, and a count of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Dropped:
    """How much a k-core took away, and in how many rounds it became stable."""

    k: int
    rounds: int
    users: int
    items: int
    interactions: int

    def as_fact(self) -> dict[str, int]:
        return asdict(self)


def keep_first(log: pl.DataFrame) -> pl.DataFrame:
    """Sorts by (user, timestamp, row) and keeps the first of a user's interactions with the same item.

    log: user, item (numbers), timestamp, row (position in the source, which decides between equal timestamps).
    """
    ordered = log.sort("user", "timestamp", "row")
    return ordered.filter(ordered.select(pl.struct("user", "item").is_first_distinct()).to_series())


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, Dropped]:
    """The largest part of a log in which every user and every item has at least k interactions (it is unique).

    users, items: (n,) numbers, one pair per interaction, no pair twice. Returns an (n,) mask and what went.
    Every round drops users and items together until nothing changes, so a chain reaction costs one round per link.
    """
    if k < 0:
        raise ValueError(f"k must be 0 or more, not {k}")
    kept = np.ones(len(users), dtype=bool)
    rounds = 0
    while kept.any():
        enough = _counts(users, kept)[users] >= k
        enough &= _counts(items, kept)[items] >= k
        if not (kept & ~enough).any():
            break
        kept &= enough
        rounds += 1
    dropped = Dropped(
        k=k,
        rounds=rounds,
        users=len(np.unique(users)) - len(np.unique(users[kept])),
        items=len(np.unique(items)) - len(np.unique(items[kept])),
        interactions=int((~kept).sum()),
    )
    return kept, dropped


def _counts(numbers: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.bincount(numbers[kept], minlength=int(numbers.max()) + 1)


def late_positions(users: pl.Series, late: int = 2) -> pl.Series:
    """Mask of each user's last `late` interactions, in a log sorted by (user, time).

    Under leave-one-out these are the validation and the test interaction. What a user writes about an item gives
    the item away, so `prepare` leaves such text out of the dataset, where nothing can learn from it by mistake.
    """
    from_end = pl.len().over("user") - pl.int_range(pl.len()).over("user")  # 1 for the last
    return users.alias("user").to_frame().select((from_end <= late).alias("late")).to_series()
