"""Histories as batches of tensors: what every learned baseline reads, in training and when it recommends.

Items stand in time order from the left and padding (item number K, one past the catalogue) behind the last one, so a
causal model never meets padding, and a position means the same in training and afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ed2rec.data.dataset import Histories

BUCKET = 32
"""Batches that are sorted by length together: less padding, and their order stays random."""


@dataclass(frozen=True)
class Sequences:
    """A batch of B histories of at most L items.

    items: (B, L) int64, L >= 1, padded with K = catalogue. lengths: (B,) int64, 0…L. users: (B,) int64, U = population
    where the user is not known. targets: (B, L) int64, what follows each position, K where nothing is asked; None when
    recommending.
    """

    items: Tensor
    lengths: Tensor
    users: Tensor
    targets: Tensor | None
    catalogue: int

    def __len__(self) -> int:
        return len(self.items)

    @property
    def real(self) -> Tensor:
        """(B, L) bool: where there is an item."""
        return self.items < self.catalogue

    def last(self, states: Tensor) -> Tensor:
        """(B, L, H) → (B, H): at the last item; at position 0, which is padding, for an empty history."""
        return states[torch.arange(len(states), device=states.device), (self.lengths - 1).clamp(min=0)]

    def to_left(self, width: int) -> Tensor:
        """(B, width): the latest items with the padding in front, for models with a window of fixed size."""
        back = torch.arange(-width, 0, device=self.items.device)
        at = self.lengths[:, None] + back
        return self.items.gather(1, at.clamp(min=0, max=self.items.shape[1] - 1)).where(at >= 0, self.catalogue)

    def to(self, device: torch.device) -> Sequences:
        targets = None if self.targets is None else self.targets.to(device, non_blocking=True)
        return replace(self, items=self.items.to(device), lengths=self.lengths.to(device),
                       users=self.users.to(device), targets=targets)  # fmt: skip


def of_histories(
    histories: Histories, users: NDArray[np.int64] | None, *, catalogue: int, population: int, longest: int
) -> Sequences:
    """The latest `longest` items of each history, to recommend from."""
    ends, lengths = histories.offsets[1:], np.minimum(histories.lengths, longest)
    known = np.full(len(histories), population) if users is None else np.where(users < 0, population, users)
    return Sequences(
        _gather(histories.flat, ends - lengths, lengths, catalogue), torch.from_numpy(lengths),
        torch.from_numpy(known.astype(np.int64)), None, catalogue,
    )  # fmt: skip


class Training:
    """Every training target once per epoch, in shuffled batches of about equal lengths.

    whole_rows: one row holds a user's items and asks for the next one at each position (a history beyond `longest`
    becomes several rows, each later one with as much context as fits); otherwise each row is one history and its next
    item, asked for at the row's last item. A user with a single training item gives no target.
    """

    def __init__(
        self, train: Histories, *, catalogue: int, longest: int, whole_rows: bool, batch: int, seed: int
    ) -> None:
        self.flat, self.catalogue, self.batch, self.seed = train.flat, catalogue, batch, seed
        counts = np.maximum(train.lengths - 1, 0)  # targets of each user
        step = longest if whole_rows else 1  # targets of a row
        rows = -(-counts // step)
        owner = np.repeat(np.arange(len(train)), rows)
        number = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)  # of a row among its owner's
        end = np.minimum((number + 1) * step, counts[owner])  # inputs end here, targets one later
        self.asked = end - number * step
        start = np.maximum(end - longest, 0)
        self.users, self.starts, self.lengths = owner, train.offsets[:-1][owner] + start, end - start

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.users) // self.batch)

    @property
    def targets(self) -> int:
        """Targets per epoch."""
        return int(self.asked.sum())

    def epoch(self, number: int) -> Iterator[Sequences]:
        """The batches of one epoch: the same for the same seed and number."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(len(self.users))
        chunk = self.batch * BUCKET
        batches = []
        for low in range(0, len(order), chunk):
            rows = order[low : low + chunk]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[at : at + self.batch] for at in range(0, len(rows), self.batch)]
        for index in random.permutation(len(batches)):
            yield self._rows(batches[index])

    def _rows(self, rows: NDArray[np.int64]) -> Sequences:
        starts, lengths = self.starts[rows], self.lengths[rows]
        targets = _gather(self.flat, starts + 1, lengths, self.catalogue)
        place = torch.arange(targets.shape[1])
        unasked = place < torch.from_numpy(lengths - self.asked[rows])[:, None]
        targets[unasked] = self.catalogue
        return Sequences(_gather(self.flat, starts, lengths, self.catalogue), torch.from_numpy(lengths),
                         torch.from_numpy(self.users[rows]), targets, self.catalogue)  # fmt: skip


def _gather(flat: NDArray[np.int32], starts: NDArray, lengths: NDArray, padding: int) -> Tensor:
    """(n, max(1, longest)) int64: row i is flat[starts[i] : starts[i] + lengths[i]] and padding behind it."""
    place = np.arange(max(1, int(lengths.max(initial=0))))
    at = starts[:, None] + place
    real = place < lengths[:, None]
    if not len(flat):
        return torch.full(at.shape, padding, dtype=torch.int64)
    return torch.from_numpy(np.where(real, flat[np.where(real, at, 0)], padding).astype(np.int64))
