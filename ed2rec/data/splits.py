"""Leave-one-out: each user's last item is for the test, the one before it for validation, the rest for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .dataset import Histories

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
