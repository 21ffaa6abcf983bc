"""Histories → packed batches. An example is (user, items, which of them are supervised, wording); a row holds several.

    <s> Recommend … user <ua_3><ub_9><uc_1><ud_7> who chose …: <a_1><b_8><c_2><d_5> <a_4><b_4><c_0><d_9><p_1> …
                                                               |------ item 1 ------| |-------- item 2 --------|

Dense: one example per window of a history; every item but the first is a target, predicted from all before it.
One per prefix: as most codes train, each target costs its whole history again; kept as a switch to compare with.
Packed: rows are filled with whole examples; segments keep them apart in attention, positions restart.

Which batch comes at which step depends on nothing but (seed, step) and the index table, so a resumed run sees the
same ones. Shape letters: R rows, T tokens of a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ed2rec.data.dataset import Histories
from ed2rec.errors import DataError
from ed2rec.instructions.neighbours import walks
from ed2rec.instructions.templates import Wording

TEXT, ITEM, USER = 0, 1, 2  # what a token stands for
WALK = 4  # steps of a walk of the similarity task: about as long as a short history


class IndexTokens(NamedTuple):
    """Token ids of one moment's tables. items (K, M+1), users (J, M+1), (0, 0) without a user index; −1: no suffix."""

    items: np.ndarray
    users: np.ndarray
    unknown_user: int


class Example(NamedTuple):
    user: int  # number, −1: dropped or unknown
    items: np.ndarray  # numbers in time order
    first: int  # items[first:] are targets
    wording: int


class Tokens(NamedTuple):
    """One laid-out sequence; all arrays (T,)."""

    ids: np.ndarray
    kind: np.ndarray  # TEXT, ITEM or USER
    number: np.ndarray  # of the entity
    level: np.ndarray  # of the index token
    target: np.ndarray  # bool: predicted from the tokens before it


class Batch(NamedTuple):
    """(R, T) each. `labels[r, t]` is the token id to be predicted AT position t (the next one), −100 for none, and
    `label_level` its level; `segment` numbers the examples of a row from 1, 0 is padding."""

    input_ids: Tensor
    position_ids: Tensor
    segment: Tensor
    kind: Tensor
    number: Tensor
    level: Tensor
    labels: Tensor
    label_level: Tensor

    @property
    def targets(self) -> int:
        """Supervised items."""
        return int((self.label_level == 0).sum())


def lay_out(example: Example, wording: Wording, index: IndexTokens) -> Tokens:
    """One example as tokens. A wording with text behind its history asks for the last item only, after that text."""
    history, answer, first = example.items, example.items[:0], example.first
    if not wording.open_ended:
        history, answer, first = example.items[:-1], example.items[-1:], len(example.items)
    pieces = []
    for part in wording.parts:
        if isinstance(part, np.ndarray):
            pieces.append(_text(part))
        elif part == "user":
            pieces.append(_user(example.user, index))
        else:
            pieces.append(_items(history, first, index.items))
    if len(answer):
        pieces.append(_items(answer, 0, index.items))
    return Tokens(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def prompt(history: np.ndarray, user: int, wording: Wording, index: IndexTokens) -> np.ndarray:
    """Token ids up to where the next item's index starts."""
    items = history if wording.open_ended else np.append(history, 0)
    tokens = lay_out(Example(user, items, len(items), 0), wording, index).ids
    return tokens if wording.open_ended else tokens[: len(tokens) - int((index.items[0] >= 0).sum())]


def _text(ids: np.ndarray) -> tuple[np.ndarray, ...]:
    zero = np.zeros(len(ids), np.int64)
    return ids, zero, zero, zero, zero.astype(bool)


def _user(user: int, index: IndexTokens) -> tuple[np.ndarray, ...]:
    if user < 0 or index.users.shape[1] == 0:
        return _text(np.array([index.unknown_user]))
    row = index.users[user]
    level = np.flatnonzero(row >= 0)
    full = np.full(len(level), USER)
    return row[level], full, np.full(len(level), user), level, np.zeros(len(level), bool)


def _items(items: np.ndarray, first: int, table: np.ndarray) -> tuple[np.ndarray, ...]:
    rows = table[items]
    real = rows >= 0
    position, level = np.nonzero(real)
    return rows[real], np.full(len(level), ITEM), items[position].astype(np.int64), level, position >= first


def collate(rows: Sequence[Sequence[Tokens]], pad: int) -> Batch:
    """Rows of examples → one batch, padded at the end to the longest row."""
    width = max(sum(len(tokens.ids) for tokens in row) for row in rows)
    arrays = {name: np.zeros((len(rows), width), np.int64) for name in Batch._fields}
    arrays["input_ids"][:] = pad
    arrays["labels"][:] = -100
    arrays["label_level"][:] = -1
    for r, row in enumerate(rows):
        start = 0
        for segment, tokens in enumerate(row, start=1):
            stop = start + len(tokens.ids)
            arrays["input_ids"][r, start:stop] = tokens.ids
            arrays["position_ids"][r, start:stop] = np.arange(stop - start)
            arrays["segment"][r, start:stop] = segment
            for name in ("kind", "number", "level"):
                arrays[name][r, start:stop] = getattr(tokens, name)
            at = start + np.flatnonzero(tokens.target[1:])
            arrays["labels"][r, at] = tokens.ids[1:][tokens.target[1:]]
            arrays["label_level"][r, at] = tokens.level[1:][tokens.target[1:]]
            start = stop
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@dataclass(frozen=True)
class ExamplePlan:
    """How an epoch's examples are drawn from the training histories.

    histories     row u: the training interactions of user u
    wordings      drawn uniformly
    user_reads    (J,) how many of a user's interactions the user index of training was made from. Where that index is
                  shown, only later items are targets: it would give the earlier ones away. None: all are targets.
    max_history   items shown before a target at most
    user_dropout  how often the user is shown as unknown
    dense         windows with every position supervised; False: one example per prefix
    neighbours    (K, n) items near each item by text; None leaves the similarity task out
    walks         walks of that task per item of the catalogue and epoch
    """

    histories: Histories
    wordings: Sequence[Wording]
    user_reads: np.ndarray | None = None
    has_users: bool = True
    max_history: int = 20
    user_dropout: float = 0.3
    dense: bool = True
    neighbours: np.ndarray | None = None
    walks: float = 0.0

    def draw(self, random: np.random.Generator) -> list[Example]:
        """One epoch: every target once (dense), or every prefix once; and the walks of the similarity task."""
        examples: list[Example] = []
        for user in range(len(self.histories)):
            items = self.histories[user]
            if len(items) < 2:
                continue
            windows = self._windows(len(items), random) if self.dense else self._prefixes(len(items))
            for start, first, stop in windows:
                shown = user if self.has_users and random.random() >= self.user_dropout else -1
                reads = 0 if shown < 0 or self.user_reads is None else int(self.user_reads[user])
                if reads >= stop:  # the user index knows every target of this window: show it as unknown
                    shown, reads = -1, 0
                wording = int(random.integers(len(self.wordings)))
                examples.append(Example(shown, items[start:stop], max(first, reads) - start, wording))
        return examples + self._similar(random)

    def _similar(self, random: np.random.Generator) -> list[Example]:
        """Walks through neighbouring texts, shown as histories of an unknown user."""
        if self.neighbours is None:
            return []
        starts = np.flatnonzero(self.neighbours[:, 0] >= 0)
        whole, part = divmod(self.walks * len(starts), max(1, len(starts)))
        chosen = np.concatenate([np.tile(starts, int(whole)), random.permutation(starts)[: round(part)]])
        made = walks(self.neighbours, chosen, WALK, random)
        kinds = random.integers(len(self.wordings), size=len(made))
        return [
            Example(-1, walk, 1 if self.dense else len(walk) - 1, int(kind))
            for walk, kind in zip(made, kinds, strict=True)
            if len(walk) > 1
        ]

    def _windows(self, length: int, random: np.random.Generator) -> list[tuple[int, int, int]]:
        """(start, first target, stop): neighbours share one item, which is a target once and context once."""
        step = self.max_history
        phase = int(random.integers(1, step + 1)) if length > step + 1 else length - 1
        edges = [0, *range(phase, length - 1, step), length - 1]
        return [(low, low + 1, high + 1) for low, high in pairwise(edges)]

    def _prefixes(self, length: int) -> list[tuple[int, int, int]]:
        return [(max(0, target - self.max_history), target, target + 1) for target in range(1, length)]


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
    rank, world   this process takes every world-th row of a batch
    """

    def __init__(
        self,
        plan: ExamplePlan,
        index: Callable[[], IndexTokens],
        pad: int,
        batch_tokens: int = 4096,
        packed: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.plan, self.index, self.pad, self.packed, self.seed = plan, index, pad, packed, seed
        self.batch_tokens, self.rank, self.world = batch_tokens, rank, world
        # Packing goes by the lengths of the first tables: a resumed run has later ones and must pack the same rows.
        self._lengths = [(table >= 0).sum(1) for table in self.index()[:2]]
        self._epoch, self._rows, self._examples = -1, [[0]], [Example(-1, np.zeros(0, np.int32), 0, 0)]
        self.steps_per_epoch = 1
        self.steps_per_epoch = max(1, round(self._prepare(0) / batch_tokens))
        self.steps = self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._prepare(epoch)
        rows = self._rows[place :: self.steps_per_epoch][self.rank :: self.world] or self._rows[:1]
        index = self.index()
        examples = [[self._examples[i] for i in row] for row in rows]
        return collate([[lay_out(e, self.plan.wordings[e.wording], index) for e in row] for row in examples], self.pad)

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
        lengths = np.array([self._length(example) for example in self._examples])
        width = max(128, -(-int(lengths.max()) // 32) * 32)
        rows = pack(lengths, width) if self.packed else [[i] for i in range(len(lengths))]
        self._rows = [rows[i] for i in random.permutation(len(rows))]
        self._epoch = epoch
        return len(rows) * (width if self.packed else int(lengths.max()))

    def _length(self, example: Example) -> int:
        items, users = self._lengths
        user = int(users[example.user]) if example.user >= 0 and len(users) else 1
        return self.plan.wordings[example.wording].text_tokens + user + int(items[example.items].sum())
