"""The sequential task: histories → examples (§2.2.3).

Dense: one example per window of a history; every item but the first is a target, predicted from all before it.
One per prefix: as most codes train, each target costs its whole history again; kept as a switch to compare with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ed2rec.data.dataset import Histories
from ed2rec.instructions.examples import ITEM, NOBODY, USER, Example, Slot, asked, shown
from ed2rec.instructions.neighbours import walks
from ed2rec.instructions.templates import Wording

WALK = 4  # steps of a walk of the similarity task: about as long as a short history


def sequential(wording: Wording, user: int, items: np.ndarray, first: int, task: int = 0) -> Example:
    """User `user` (−1: dropped or unknown) took `items`, of which items[first:] are targets. A wording that asks behind
    the history asks for the last item only."""
    if wording.open_ended:
        return Example(wording, {"user": who(user), "history": Slot(ITEM, items, first)}, task)
    return Example(wording, before(user, items[:-1]) | {"item": asked(ITEM, items[-1:])}, task)


def before(user: int, history: np.ndarray) -> dict[str, Slot]:
    """What a prompt for the next item shows."""
    return {"user": who(user), "history": shown(ITEM, history)}


def who(user: int) -> Slot:
    return shown(USER, NOBODY if user < 0 else np.array([user], np.int64))


@dataclass(frozen=True)
class SequentialPlan:
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
                known = user if self.has_users and random.random() >= self.user_dropout else -1
                reads = 0 if known < 0 or self.user_reads is None else int(self.user_reads[user])
                if reads >= stop:  # the user index knows every target of this window: show it as unknown
                    known, reads = -1, 0
                wording = self.wordings[int(random.integers(len(self.wordings)))]
                examples.append(sequential(wording, known, items[start:stop], max(first, reads) - start))
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
            sequential(self.wordings[int(kind)], -1, walk, 1 if self.dense else len(walk) - 1, task=1)
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
