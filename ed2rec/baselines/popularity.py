"""Popularity: the same list for everybody, the floor that every recommender has to clear."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ed2rec.data.dataset import Histories
from ed2rec.recommender import Recommendations, top_k

FILE = "popularity.parquet"


@dataclass(frozen=True)
class Popularity:
    """score(j) = the number of training interactions with item j; the history plays no part.

    counts: (K,) int64. Fitted on training interactions only, and the same counts serve validation and test.
    """

    counts: NDArray[np.int64]

    @classmethod
    def fit(cls, train: Histories, catalogue: int) -> Popularity:
        """train: every user's training items. catalogue: K, so that items nobody took count 0."""
        return cls(np.bincount(train.flat, minlength=catalogue).astype(np.int64))

    def scores(self, histories: Histories, users: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """(n, K): the counts, once per history (a read-only view)."""
        return np.broadcast_to(self.counts.astype(np.float32), (len(histories), len(self.counts)))

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        """The k most popular items, equal counts in order of item number."""
        first = top_k(self.counts.astype(np.float32)[None], k)
        n = len(histories)
        return Recommendations(np.repeat(first.items, n, axis=0), np.repeat(first.scores, n, axis=0))

    def save(self, folder: Path) -> None:
        pl.DataFrame({"count": self.counts}).write_parquet(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Popularity:
        return cls(pl.read_parquet(folder / FILE)["count"].to_numpy())
