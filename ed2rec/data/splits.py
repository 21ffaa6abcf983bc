"""Leave-one-out: each user's last item is for the test, the one before it for validation, the rest for training.

Beside it a split at one moment for everybody: under leave-one-out a model may have learned from what others did after
a user's test item, which nobody can do who recommends today.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .dataset import Dataset, Histories

SHORTEST = 3  # one item to learn from, one to validate on, one to test on


@dataclass(frozen=True)
class Cases:
    """Questions with their answers: what does user `users[i]`, who has taken `histories[i]`, take next? `targets[i]`.

    users: (n,) int64 user numbers; histories: n rows; targets: (n,) int64 item numbers.
    """

    users: np.ndarray
    histories: Histories
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> Cases:
        """The chosen ones, in that order."""
        return Cases(self.users[rows], self.histories.take(rows), self.targets[rows])


@dataclass(frozen=True)
class LeaveOneOut:
    """For a user with items [i1 … in]:

    train  [i1 … i(n-2)]                      row u is user number u
    valid  [i1 … i(n-2)] → i(n-1)
    test   [i1 … i(n-1)] → in                 the validation item is part of the test history
    """

    train: Histories
    valid: Cases
    test: Cases


def leave_one_out(histories: Histories, user_ids: Sequence[str] | None = None) -> LeaveOneOut:
    """Splits every user. Raises DataError if one has fewer than three items; `user_ids` lets it name the user."""
    lengths = histories.lengths
    if len(short := np.flatnonzero(lengths < SHORTEST)):
        first = int(short[0])
        name = f"user {user_ids[first]!r}" if user_ids is not None else f"user number {first}"
        raise DataError(
            f"{name[0].upper()}{name[1:]} has {lengths[first]} item(s) and leave-one-out needs {SHORTEST} "
            f"({len(short)} of {len(histories)} users have too few). Prepare again with --k-core {SHORTEST}."
        )
    users = np.arange(len(histories), dtype=np.int64)
    ends = histories.offsets[1:]
    train = histories.first(lengths - 2)
    return LeaveOneOut(
        train=train,
        valid=Cases(users, train, histories.flat[ends - 2].astype(np.int64)),
        test=Cases(users, histories.first(lengths - 1), histories.flat[ends - 1].astype(np.int64)),
    )


@dataclass(frozen=True)
class GlobalTime:
    """The log cut at two moments v < t. For a user with items at times s1 <= s2 <= …:

    train  [items before v]                               row u is user number u, perhaps empty
    valid  [items before v] → the first one in [v, t)     users with items in both
    test   [items before t] → the first one at t or later      users with items in both

    An interaction at a moment stands after it. Items that are first taken after v stay targets.
    """

    train: Histories
    valid: Cases
    test: Cases
    valid_from: float
    test_from: float


def times_of(dataset: Dataset) -> np.ndarray:
    """(interactions,) timestamps in the order of `dataset.histories.flat`. DataError where the source had no times."""
    stated = dataset.facts.get("source", {}).get("timestamps")
    if stated is not None:
        raise DataError(
            f"Dataset {dataset.name} has no times (its timestamps are {stated}), so it cannot be split by time. Use "
            "leave-one-out, or prepare it from a source with times: --format amazon, atomic, csv or ml-100k."
        )
    return dataset.interactions["timestamp"].to_numpy()


def global_time(
    histories: Histories, timestamps: np.ndarray, *, quantile: float = 0.9, valid_quantile: float = 0.9
) -> GlobalTime:
    """Splits everybody at the same two moments.

        t = the `quantile` of all timestamps,   v = the `valid_quantile` of those before t

    timestamps: (total,) of `histories.flat`, not falling along a row (`times_of`); quantiles: in (0, 1), of which the
    next later moment that occurs is taken. Raises DataError where nobody would be left to learn from or to ask.
    """
    if not (0 < quantile < 1 and 0 < valid_quantile < 1):
        raise DataError(f"The shares of a split by time are {quantile} and {valid_quantile}; give two between 0 and 1.")
    times = np.asarray(timestamps)
    if times.shape != histories.flat.shape or not _in_order(histories, times):
        raise ValueError("timestamps must be one per interaction and in time order within each row")
    test_from = _moment(times, quantile)
    valid_from = _moment(times[times < test_from], valid_quantile)
    before_valid, before_test = (_count_before(histories, times, cut) for cut in (valid_from, test_from))
    return GlobalTime(
        train=histories.first(before_valid),
        valid=_first_after(histories, before_valid, before_test, "validation", valid_from),
        test=_first_after(histories, before_test, histories.lengths, "test", test_from),
        valid_from=valid_from,
        test_from=test_from,
    )


def _moment(times: np.ndarray, quantile: float) -> float:
    if not len(times):
        raise DataError("A split by time needs interactions before its cut, and here all are at one time or none is "
                        "there: lower the share, use leave-one-out, or give more data.")  # fmt: skip
    return float(np.quantile(times, quantile, method="higher"))


def _in_order(histories: Histories, times: np.ndarray) -> bool:
    falling = np.flatnonzero(np.diff(times) < 0) + 1  # only where another row begins
    return bool(np.isin(falling, histories.offsets).all())


def _count_before(histories: Histories, times: np.ndarray, moment: float) -> np.ndarray:
    """(n,) how many interactions of each row are before the moment."""
    running = np.concatenate([[0], np.cumsum(times < moment)])
    return running[histories.offsets[1:]] - running[histories.offsets[:-1]]


def _first_after(histories: Histories, known: np.ndarray, end: np.ndarray, what: str, moment: float) -> Cases:
    """Those with a known item and another one after it are asked for the first of the latter."""
    users = np.flatnonzero((known > 0) & (known < end))
    if not len(users):
        raise DataError(f"No user has an item before the time {moment:g} and one in the {what} period after it: choose "
                        "other shares, use leave-one-out, or give more data.")  # fmt: skip
    targets = histories.flat[histories.offsets[:-1][users] + known[users]]
    return Cases(users.astype(np.int64), histories.first(known[users], users), targets.astype(np.int64))
