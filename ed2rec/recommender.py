"""The one interface of everything that recommends: histories in, ranked item numbers out.

Models, baselines, the evaluator and the server meet here and nowhere else. Users and items are *numbers* (dense
positions in the dataset's tables); turning ids into numbers and back is the dataset's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ed2rec.data.dataset import Histories
from ed2rec.errors import ConfigError


@dataclass(frozen=True)
class Recommendations:
    """The best k items for each of n histories, best first.

    items: (n, k) int64 item numbers without repetition in a row, -1 where fewer than k items could be recommended.
    scores: (n, k) float32, not increasing along a row, -inf exactly where items is -1. The scale is the model's own
    (log-probability, cosine, count): compare scores within a row only.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.items.ndim != 2 or self.items.shape != self.scores.shape:
            raise ValueError(f"items and scores must both be (n, k), got {self.items.shape} and {self.scores.shape}")

    def __len__(self) -> int:
        return len(self.items)


class Recommender(Protocol):
    """Anything that can rank items for a history. Deterministic; one row does not depend on the others."""

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        """histories: n item lists in time order, possibly empty. users: (n,) user numbers, -1 where the user is not
        known, None when nobody is. k >= 1; k beyond the catalogue pads with -1."""
        ...


@runtime_checkable
class Scorer(Recommender, Protocol):
    """A recommender that can score every item of the catalogue, so that every target has an exact rank."""

    def scores(self, histories: Histories, users: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """(n, items): higher is better, -inf for an item that must not be recommended, never NaN."""
        ...


def top_k(scores: NDArray[np.float32], k: int) -> Recommendations:
    """The k best columns of each row; equal scores in order of item number, -inf never recommended.

    scores: (n, items). Returns (n, k), padded with -1 when k exceeds the number of finite scores.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    n, catalogue = scores.shape
    items = np.full((n, k), -1, dtype=np.int64)
    best = np.full((n, k), -np.inf, dtype=np.float32)
    for row in range(n):
        # Everything at or above the k-th score, so that ties at the cut are resolved by number and not by partition.
        cut = np.partition(scores[row], catalogue - k)[catalogue - k] if k < catalogue else -np.inf
        candidates = np.flatnonzero((scores[row] >= cut) & (scores[row] > -np.inf))
        chosen = candidates[np.argsort(-scores[row, candidates], kind="stable")[:k]]
        items[row, : len(chosen)] = chosen
        best[row, : len(chosen)] = scores[row, chosen]
    return Recommendations(items, best)


def check_k(k: int, catalogue: int) -> int:
    """k, if a catalogue of that many items can fill it; ConfigError otherwise."""
    if not 1 <= k <= catalogue:
        raise ConfigError(f"k = {k}, but the catalogue has {catalogue:,} items: choose k between 1 and {catalogue:,}")
    return k
