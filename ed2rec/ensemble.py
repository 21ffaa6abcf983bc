"""Several recommenders that answer with log-probabilities, as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ed2rec.data.dataset import Histories
from ed2rec.recommender import Recommendations, Recommender, top_k


class Ensemble:
    """Asks every member, such as one LLM in several wordings, and recommends by the mean probability:

        score(i) = log( 1/W * sum over members w of P_w(i) ),   P_w(i) = exp(score of i in w's list), 0 if not in it

    members: at least one, whose scores are log-probabilities. depth: how long a list is asked of each (k, if that is
    more); a member pads where it knows fewer.

    An item that a list does not hold counts with 0 there, so a score is the least that the lists show. Its true
    probability is not known: the last of the list bounds it only if the beam pruned nothing, and as a stand-in it
    would reward items for missing. Equal scores are in order of item number; the order of the members does not matter,
    and one member keeps its scores.
    """

    def __init__(self, members: Sequence[Recommender], depth: int = 20) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members, self.depth = list(members), depth

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        lists = [member.recommend(histories, users, max(k, self.depth)) for member in self.members]
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        for row in range(len(histories)):
            found, means = mean_of_lists([(answer.items[row], answer.scores[row]) for answer in lists])
            best = top_k(means[None], k)
            shown = best.items[0] >= 0
            items[row, shown] = found[best.items[0, shown]]
            scores[row] = best.scores[0]
        return Recommendations(items, scores)


def mean_of_lists(
    lists: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(items, log-probabilities) of each member, -1 for padding -> all items in them, rising, and their log of the mean
    probability. (n,) int64 and (n,) float32."""
    found = np.unique(np.concatenate([items[items >= 0] for items, _ in lists]))
    table = np.full((len(lists), len(found)), -np.inf)
    for row, (items, scores) in zip(table, lists, strict=True):
        row[np.searchsorted(found, items[items >= 0])] = scores[items >= 0]
    table.sort(axis=0)  # the same sum whatever the order of the members, to the last digit
    highest = table.max(axis=0)
    return found, (highest + np.log(np.exp(table - highest).mean(axis=0))).astype(np.float32)
