"""Examples → packed batches. Rows are filled with whole examples of all tasks.

Which batch comes at which step depends on nothing but (seed, step) and the index table, so a resumed run sees the
same ones.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from ed2rec.errors import DataError
from ed2rec.instructions.examples import Batch, Example, IndexTokens, collate, lengths_of


class Plan(Protocol):
    """Draws an epoch's examples; the same random state gives the same ones."""

    def draw(self, random: np.random.Generator) -> list[Example]: ...


def pack(lengths: Sequence[int] | np.ndarray, width: int, open_rows: int = 64) -> list[list[int]]:
    """Fill rows of `width` tokens with whole examples, first fit in the given order; `open_rows` are kept to fill up.

    Every example appears once; one longer than `width` gets a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    opened: list[int] = []
    for i, length in enumerate(lengths):
        for slot, row in enumerate(opened):
            if room[row] >= length:
                rows[row].append(i)
                room[row] -= int(length)
                if room[row] < 8:  # nothing fits any more
                    opened.pop(slot)
                break
        else:
            rows.append([i])
            room.append(width - int(length))
            opened.append(len(rows) - 1)
            if len(opened) > open_rows:
                opened.pop(int(np.argmin([room[row] for row in opened])))
    return rows


class PackedBatches(TorchDataset[Batch]):
    """Batch number `step` of a training run, made when asked for, from the index tables of that moment.

    index         the tables' token ids now; asked at every batch, so a refresh shows in the next one
    batch_tokens  tokens of one batch, padding included
    ahead         make the next batch while this one is computed, in a thread; it is the same batch
    """

    def __init__(
        self,
        plan: Plan,
        index: Callable[[], IndexTokens],
        pad: int,
        batch_tokens: int = 4096,
        packed: bool = True,
        seed: int = 0,
        ahead: bool = False,
    ) -> None:
        self.plan, self.index, self.pad, self.packed, self.seed = plan, index, pad, packed, seed
        self.batch_tokens = batch_tokens
        # Packing goes by the lengths of the first tables: a resumed run has later ones and must pack the same rows.
        self._lengths = self.index().lengths()
        self._epoch, self._rows = -1, [[0]]
        self._examples: list[Example] = []
        self._maker = ThreadPoolExecutor(1) if ahead else None
        self._next: tuple[int, IndexTokens, Future[Batch]] | None = None  # its step, and the tables it is made from
        self.steps_per_epoch = 1
        tokens = self._prepare(0)  # and no more steps than rows, of which one would come again and again
        self.steps_per_epoch = min(len(self._rows), max(1, round(tokens / batch_tokens)))
        self.steps = self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        index = self.index()
        batch = self._made(step, index)
        if self._maker and step + 1 < self.steps:
            self._next = (step + 1, index, self._maker.submit(self._make, step + 1, index))
        return batch

    def _made(self, step: int, index: IndexTokens) -> Batch:
        """What the thread has made, unless it is of another step or the tables are new; it rests from here on."""
        if self._next is not None:
            known, of, batch = self._next
            made = batch.result()
            if known == step and of is index:
                return made
        return self._make(step, index)

    def _make(self, step: int, index: IndexTokens) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._prepare(epoch)
        rows = self._rows[place :: self.steps_per_epoch] or [self._rows[place % len(self._rows)]]
        return collate([[self._examples[i] for i in row] for row in rows], index, self.pad)

    def epoch(self, number: int = 0) -> Iterator[Batch]:
        """All batches of an epoch."""
        return (self[step] for step in range(number * self.steps_per_epoch, (number + 1) * self.steps_per_epoch))

    def _prepare(self, epoch: int) -> int:
        """Draw, shuffle and pack an epoch; returns its tokens, padding included."""
        random = np.random.default_rng([self.seed, epoch])
        examples = self.plan.draw(random)
        if not examples:
            raise DataError(
                "no user has two items to train on (the last two are kept for validation and test): give a longer log, "
                "or prepare it with a higher --k-core"
            )
        order = random.permutation(len(examples))
        self._examples = [examples[i] for i in order]
        lengths = lengths_of(self._examples, *self._lengths)
        width = max(128, -(-int(lengths.max()) // 32) * 32)
        rows = pack(lengths, width) if self.packed else [[i] for i in range(len(lengths))]
        self._rows = [rows[i] for i in random.permutation(len(rows))]
        self._epoch = epoch
        return len(rows) * (width if self.packed else int(lengths.max()))
