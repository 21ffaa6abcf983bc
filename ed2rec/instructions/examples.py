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
    """Laid-out examples behind one another; arrays (T,) but for `lengths`, the tokens of each example."""

    ids: np.ndarray
    kind: np.ndarray  # TEXT, ITEM or USER
    number: np.ndarray  # of the entity
    level: np.ndarray  # of the index token
    target: np.ndarray  # bool: predicted from the tokens before it
    lengths: np.ndarray


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


def lay_out(examples: Sequence[Example], index: IndexTokens) -> Tokens:
    """Examples as tokens, all at once: one by one they would take longer than a GPU's step."""
    pieces, owners = [], []
    for owner, example in enumerate(examples):
        for part in example.wording.parts:
            pieces.append(_words(part) if isinstance(part, np.ndarray) else _filled(example.slots[part], index))
            owners.append(owner)
    values, kind, of_example, wanted = _values(pieces, owners)
    ids = np.full((len(values), max(1, index.items.shape[1], index.users.shape[1])), -1, np.int64)
    ids[kind == TEXT, 0] = values[kind == TEXT]
    for of, table in ((ITEM, index.items), (USER, index.users)):
        ids[kind == of, : table.shape[1]] = table[values[kind == of]]
    value, level = np.nonzero(ids >= 0)  # a value is one word, or the tokens of an entity's index
    number = np.where(kind == TEXT, 0, values)
    lengths = np.bincount(of_example[value], minlength=len(examples))
    return Tokens(ids[value, level], kind[value], number[value], level, wanted[value], lengths)


def prompts(wording: Wording, slots: Sequence[Mapping[str, Slot]], index: IndexTokens) -> list[np.ndarray]:
    """Token ids up to where the answer starts. slots: all but the answer's; a history that goes on is all of it."""
    parts = wording.parts if wording.open_ended else wording.parts[:-1]
    asking = Wording(wording.text, parts)
    tokens = lay_out([Example(asking, filled) for filled in slots], index)
    return np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1]) if slots else []


def prompt(wording: Wording, slots: Mapping[str, Slot], index: IndexTokens) -> np.ndarray:
    """One of `prompts`."""
    return prompts(wording, [slots], index)[0]


def lengths_of(examples: Sequence[Example], items: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Tokens of each example where item k takes items[k] tokens and user j users[j]."""
    slots = [slot for example in examples for slot in example.slots.values()]
    owners = [number for number, example in enumerate(examples) for _ in example.slots]
    values, kind, owner, _ = _values(slots, owners)
    takes = np.ones(len(values), np.int64)
    takes[kind == ITEM] = items[values[kind == ITEM]]
    if len(users):
        known = (kind == USER) & (values >= 0)
        takes[known] = users[values[known]]
    words = np.array([example.wording.text_tokens for example in examples], np.int64)
    return words + np.bincount(owner, weights=takes, minlength=len(examples)).astype(np.int64)


def _values(slots: Sequence[Slot], owners: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What fills the slots, behind one another; of each value its kind, its slot's owner and if it is asked for."""
    counts = np.array([len(slot.values) for slot in slots], np.int64)
    values = np.concatenate([slot.values for slot in slots]).astype(np.int64) if slots else np.zeros(0, np.int64)
    place = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    kind, owner, first = (
        np.repeat(np.array(of, np.int64), counts)
        for of in ([slot.kind for slot in slots], owners, [slot.first for slot in slots])
    )
    return values, kind, owner, place >= first


def _words(ids: np.ndarray) -> Slot:
    return Slot(TEXT, ids, len(ids))


def _filled(slot: Slot, index: IndexTokens) -> Slot:
    """The slot; words in its place where a user has no index to show."""
    if slot.kind == USER and (index.users.shape[1] == 0 or (slot.values < 0).any()):
        return _words(np.full(len(slot.values), index.unknown_user))
    return slot


def collate(rows: Sequence[Sequence[Example]], index: IndexTokens, pad: int) -> Batch:
    """Rows of examples → one batch, padded at the end to the longest row."""
    examples = [example for row in rows for example in row]
    row = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    tokens = lay_out(examples, index)
    lengths = tokens.lengths
    first = np.cumsum([0, *map(len, rows)])[row]  # example of each example's row
    before = np.cumsum(lengths) - lengths  # tokens of earlier examples, of all rows and then of their own
    start = before - before[first]
    segment = np.arange(len(examples)) - first + 1
    position = np.arange(len(tokens.ids)) - np.repeat(before, lengths)
    width = int((start + lengths).max())
    at = np.repeat(row * width + start, lengths) + position
    predicted = np.flatnonzero(tokens.target & (position > 0))  # at the place before
    task = np.array([example.task for example in examples])
    read = {
        "input_ids": tokens.ids,
        "position_ids": position,
        "segment": np.repeat(segment, lengths),
        "task": np.repeat(task, lengths),
        "kind": tokens.kind,
        "number": tokens.number,
        "level": tokens.level,
    }
    labels = {"labels": tokens.ids, "label_kind": tokens.kind, "label_level": tokens.level}
    nothing = {"input_ids": pad, "task": -1, "labels": -100, "label_kind": -1, "label_level": -1}
    columns = {name: np.full(len(rows) * width, nothing.get(name, 0), np.int64) for name in Batch._fields}
    for name, values in read.items():
        columns[name][at] = values
    for name, values in labels.items():
        columns[name][at[predicted] - 1] = values[predicted]
    return Batch(**{name: torch.from_numpy(column.reshape(len(rows), width)) for name, column in columns.items()})
