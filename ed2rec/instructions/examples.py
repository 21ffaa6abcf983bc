"""An example: a wording whose slots are filled. How it becomes tokens, and how several become one batch.

    <s> Recommend … user <ua_3><ub_9><uc_1><ud_7> who chose …: <a_1><b_8><c_2><d_5> <a_4><b_4><c_0><d_9><p_1> …
                                                               |------ item 1 ------| |-------- item 2 --------|

Every task has this one form (a history, users, an item, a text in the slots), so all of them share layout, packing and
loss. Rows hold several examples: segments keep them apart in attention, positions restart.
Shape letters: R rows, T tokens of a row.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ed2rec.instructions.templates import Wording

TEXT, ITEM, USER = 0, 1, 2  # what a token stands for
NOBODY = np.array([-1], np.int64)  # the numbers of a user slot whose user is unknown or dropped


class IndexTokens(NamedTuple):
    """Token ids of one moment's tables. items (K, M+1), users (J, M+1), (0, 0) without a user index; −1: no suffix."""

    items: np.ndarray
    users: np.ndarray
    unknown_user: int

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of every item's and of every user's index."""
        return (self.items >= 0).sum(1), (self.users >= 0).sum(1)


class Slot(NamedTuple):
    """What fills a slot: entities in their order, or a text. values[first:] are asked for, the rest is shown."""

    kind: int  # TEXT, ITEM or USER
    values: np.ndarray  # numbers of entities, −1 the unknown user; or the token ids of a text
    first: int

    @property
    def asked(self) -> np.ndarray:
        return self.values[self.first :]


def shown(kind: int, values: np.ndarray) -> Slot:
    """A slot that is only read."""
    return Slot(kind, values, len(values))


def asked(kind: int, values: np.ndarray) -> Slot:
    """A slot that is the answer. An answer in words ends with the end-of-sequence token."""
    return Slot(kind, values, 0)


class Example(NamedTuple):
    """wording: with a slot of `slots` for each of its own. task: number of the task, for the record."""

    wording: Wording
    slots: Mapping[str, Slot]
    task: int = 0


class Tokens(NamedTuple):
    """One laid-out sequence; all arrays (T,)."""

    ids: np.ndarray
    kind: np.ndarray  # TEXT, ITEM or USER
    number: np.ndarray  # of the entity
    level: np.ndarray  # of the index token
    target: np.ndarray  # bool: predicted from the tokens before it


class Batch(NamedTuple):
    """(R, T) each. `labels[r, t]` is the token id to be predicted AT position t (the next one), −100 for none, and
    `label_kind` (−1: none) and `label_level` say whose it is; `segment` numbers the examples of a row from 1, 0 is
    padding, and `task` their tasks, −1 where padding is."""

    input_ids: Tensor
    position_ids: Tensor
    segment: Tensor
    task: Tensor
    kind: Tensor
    number: Tensor
    level: Tensor
    labels: Tensor
    label_kind: Tensor
    label_level: Tensor

    @property
    def targets(self) -> int:
        """Supervised items."""
        return int(((self.label_kind == ITEM) & (self.label_level == 0)).sum())


def lay_out(example: Example, index: IndexTokens) -> Tokens:
    """One example as tokens."""
    pieces = [
        _words(part) if isinstance(part, np.ndarray) else _filled(example.slots[part], index)
        for part in example.wording.parts
    ]
    return Tokens(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def prompt(wording: Wording, slots: Mapping[str, Slot], index: IndexTokens) -> np.ndarray:
    """Token ids up to where the answer starts. slots: all but the answer's; a history that goes on is all of it."""
    parts = wording.parts if wording.open_ended else wording.parts[:-1]
    return lay_out(Example(Wording(wording.text, parts), slots), index).ids


def length_of(example: Example, items: np.ndarray, users: np.ndarray) -> int:
    """Tokens of the example where item k takes items[k] tokens and user j users[j]."""
    total = example.wording.text_tokens
    for slot in example.slots.values():
        if slot.kind == ITEM:
            total += int(items[slot.values].sum())
        elif slot.kind == USER and len(users):
            total += int(np.where(slot.values < 0, 1, users[slot.values]).sum())
        else:
            total += len(slot.values)
    return total


def _words(ids: np.ndarray, target: bool = False) -> tuple[np.ndarray, ...]:
    zero = np.zeros(len(ids), np.int64)
    return ids, zero, zero, zero, np.full(len(ids), target)


def _filled(slot: Slot, index: IndexTokens) -> tuple[np.ndarray, ...]:
    if slot.kind == TEXT:
        return _words(slot.values, slot.first == 0)
    if slot.kind == USER and (index.users.shape[1] == 0 or (slot.values < 0).any()):
        return _words(np.full(len(slot.values), index.unknown_user))
    rows = (index.items if slot.kind == ITEM else index.users)[slot.values]
    real = rows >= 0
    position, level = np.nonzero(real)
    kind = np.full(len(level), slot.kind)
    return rows[real], kind, slot.values[position].astype(np.int64), level, position >= slot.first


def collate(rows: Sequence[Sequence[tuple[Tokens, int]]], pad: int) -> Batch:
    """Rows of (laid-out example, its task) → one batch, padded at the end to the longest row."""
    width = max(sum(len(tokens.ids) for tokens, _ in row) for row in rows)
    arrays = {name: np.zeros((len(rows), width), np.int64) for name in Batch._fields}
    arrays["input_ids"][:] = pad
    arrays["labels"][:] = -100
    for name in ("task", "label_kind", "label_level"):
        arrays[name][:] = -1
    for r, row in enumerate(rows):
        start = 0
        for segment, (tokens, task) in enumerate(row, start=1):
            stop = start + len(tokens.ids)
            arrays["input_ids"][r, start:stop] = tokens.ids
            arrays["position_ids"][r, start:stop] = np.arange(stop - start)
            arrays["segment"][r, start:stop] = segment
            arrays["task"][r, start:stop] = task
            for name in ("kind", "number", "level"):
                arrays[name][r, start:stop] = getattr(tokens, name)
            target = tokens.target[1:]
            at = start + np.flatnonzero(target)
            arrays["labels"][r, at] = tokens.ids[1:][target]
            arrays["label_kind"][r, at] = tokens.kind[1:][target]
            arrays["label_level"][r, at] = tokens.level[1:][target]
            start = stop
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
