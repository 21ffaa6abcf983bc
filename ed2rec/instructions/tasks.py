"""The high-order tasks (§2.4, App. D) and the alignment of items with their texts, beside the sequential task.

    user co-purchase        item, users who took it          →  another user who did
    implicit preference     user, item (and history)         →  the comment       user, query (and history)  →  item
    explicit preference     user (and history)               →  what the user likes, in words
    alignment               item → title, description        title (and description) → item

A task is rows of plain values (who, what, which text) and wordings; an example is a row put into a wording. All tasks
share form, packing and loss with the sequential one (Eq. 7). Rows are made from training interactions only (data/told,
data/associated), so no example can show a later one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerFast

from ed2rec.data.dataset import Histories
from ed2rec.instructions.examples import ITEM, TEXT, USER, Example, Slot, asked, lengths_of, shown
from ed2rec.instructions.sequential import SequentialPlan
from ed2rec.instructions.templates import Wording

Fill = Callable[[int, Wording, np.random.Generator], Mapping[str, Slot]]
SEQUENTIAL_TASKS = ("sequential", "similarity")  # what SequentialPlan draws; its examples are numbered so
SHOWN_USERS = 10  # of an item at most


@dataclass(frozen=True)
class Task:
    """fill(row, wording, random): what fills the slots of the wording for this row, 0 <= row < rows."""

    name: str
    wordings: Sequence[Wording]
    rows: int
    fill: Fill

    def stream(self, random: np.random.Generator, number: int) -> Iterator[Example]:
        """Every row once, in random order, each in a wording drawn uniformly."""
        for row in random.permutation(self.rows):
            wording = self.wordings[int(random.integers(len(self.wordings)))]
            yield Example(wording, self.fill(int(row), wording, random), number)


def copurchase(
    buyers: Histories, answers: Histories, wordings: Sequence[Wording], shown_users: int = SHOWN_USERS
) -> Task:
    """The users of A_k, up to `shown_users` of them in their order, and another one to be named. One row per item that
    has two users and an answer; who is shown and who is asked for is drawn anew every time.

    buyers, answers: row k is A_k, and those of A_k who may be asked for.
    """
    items = np.flatnonzero((buyers.lengths >= 2) & (answers.lengths >= 1))

    def fill(row: int, wording: Wording, random: np.random.Generator) -> Mapping[str, Slot]:
        item = items[row]
        answer = random.choice(answers[item])
        others = buyers[item][buyers[item] != answer].astype(np.int64)
        drawn = np.sort(random.permutation(len(others))[:shown_users])
        return {
            "item": shown(ITEM, np.array([item])),
            "users": shown(USER, others[drawn]),
            "user": asked(USER, np.array([answer], np.int64)),
        }

    return Task("copurchase", wordings, len(items), fill)


def from_rows(
    name: str,
    rows: pl.DataFrame,
    wordings: Sequence[Wording],
    read: Callable[[Sequence[str]], list[np.ndarray]],
    histories: Histories,
    max_history: int = 20,
) -> Task:
    """A task whose examples are the rows of a table: columns user and item (numbers), texts by the name of their slot,
    and position, before which the user's history is shown where the wording has a slot for it.

    read: texts → token ids. An answer in words ends with the end-of-sequence token (`read_texts`).
    """
    answer = wordings[0].slots[-1]
    columns = [column for column in rows.columns if column in ("user", "item", "position")]
    numbers = {column: rows[column].to_numpy().astype(np.int64) for column in columns}
    texts = {slot: read(rows[slot].to_list()) for slot in wordings[0].slots if slot not in ("user", "item", "history")}

    def fill(row: int, wording: Wording, random: np.random.Generator) -> Mapping[str, Slot]:
        slots: dict[str, Slot] = {}
        for slot in wording.slots:
            put = asked if slot == answer else shown
            if slot == "history":
                before = histories[int(numbers["user"][row])][: numbers["position"][row]]
                slots[slot] = put(ITEM, before[-max_history:])
            elif slot in texts:
                ids = texts[slot][row]
                slots[slot] = put(TEXT, ids if slot == answer else ids[:-1])
            else:
                slots[slot] = put(USER if slot == "user" else ITEM, numbers[slot][row : row + 1])
        return slots

    return Task(name, wordings, len(rows), fill)


def read_texts(tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """Texts → token ids, cut to `max_tokens`, each closed by the end-of-sequence token."""
    end = tokenizer.eos_token_id

    def read(texts: Sequence[str]) -> list[np.ndarray]:
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return []
        found = tokenizer(distinct, add_special_tokens=False, truncation=True, max_length=max_tokens)["input_ids"]
        ids = {text: np.array([*row, end], np.int64) for text, row in zip(distinct, found, strict=True)}
        return [ids[text] for text in texts]

    return read


KEPT = 0.98  # of the tokens of real histories: suffixes of later tables changed 0.8 % of them where it was measured


@dataclass(frozen=True)
class Mixture:
    """The sequential plan and other tasks beside it: which examples an epoch has.

    With S tokens of real histories, of which KEPT count, W of the similarity task's walks and K of the other tasks:

        K <= share (S + W + K)  and  K <= S;  W <= S - K

    so that the sequential task keeps at least half (methods.md 5.37), whatever there is of the rest. Each other task
    gets the same part of K, or as much as it has. share: 0 … 0.5; lengths: tokens of every item's and every user's
    index in the first tables, by which all is reckoned: later ones give suffixes to other items.
    """

    main: SequentialPlan
    tasks: Sequence[Task]
    share: float
    lengths: tuple[np.ndarray, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers that examples carry."""
        return (*SEQUENTIAL_TASKS, *(task.name for task in self.tasks))

    def draw(self, random: np.random.Generator) -> list[Example]:
        drawn = self.main.draw(random)
        histories = [example for example in drawn if example.task == 0]
        walks = [example for example in drawn if example.task == 1]
        most, lengths = KEPT * self._lengths(histories).sum(), self._lengths(walks)
        walked = lengths.sum()
        # Where walks abound they fill what the tasks leave of the other half, which is then 2 S · share for the tasks.
        others = self._others(min(self.share / (1 - self.share) * (most + walked), 2 * self.share * most), random)
        room = most - self._lengths(others).sum()
        if walked > room:
            order = random.permutation(len(walks))
            kept = int(np.searchsorted(np.cumsum(lengths[order]), room, side="right"))
            walks = [walks[i] for i in order[:kept]]
        return histories + walks + others

    def _others(self, room: float, random: np.random.Generator) -> list[Example]:
        """Examples of the other tasks, of the one with fewest tokens next, as long as they fit."""
        found: list[Example] = []
        spent = {number: 0 for number in range(len(self.tasks))}
        streams = {
            number: task.stream(random, len(SEQUENTIAL_TASKS) + number) for number, task in enumerate(self.tasks)
        }
        while streams:
            number = min(streams, key=spent.__getitem__)
            example = next(streams[number], None)
            length = self._lengths([example])[0] if example else 0
            if example is None or sum(spent.values()) + length > room:
                del streams[number]
                continue
            spent[number] += length
            found.append(example)
        return found

    def _lengths(self, examples: Sequence[Example]) -> np.ndarray:
        return lengths_of(examples, *self.lengths)
