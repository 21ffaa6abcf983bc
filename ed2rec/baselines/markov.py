"""Last item: what followed it in training, and popularity where little is known of it (Rendle et al. 2010, unfactored).

The floor for whatever claims to read order: one step of it, counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ed2rec.baselines.sparse import load_table, save_table
from ed2rec.data.dataset import Histories
from ed2rec.recommender import Recommendations, top_k

FILE = "markov.npz"


@dataclass(frozen=True)
class Markov:
    """score(j) = P(j | i),  i the last item of the history:

        P(j | i) = (c_ij + smoothing · p_j) / (c_i + smoothing),    c_i = Σ_j c_ij,    p_j = n_j / Σ_k n_k

    c_ij: how often j came directly after i in a training sequence; n_j: how often j was taken in training. The prior
    is Dirichlet's: `smoothing` imagined steps that follow popularity. While smoothing · max p < 1, counts decide and
    popularity orders equal counts. An empty history is answered by p alone.

    transitions: (K, K) CSR of c, counts: (K,) int64 of n, smoothing > 0.
    """

    transitions: sparse.csr_matrix
    counts: NDArray[np.int64]
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        if not self.smoothing > 0:
            raise ValueError(f"smoothing must be above 0, got {self.smoothing}")

    @classmethod
    def fit(cls, train: Histories, catalogue: int, *, smoothing: float = 1.0) -> Markov:
        """train: every user's training items in time order. catalogue: K."""
        inside = np.ones(len(train.flat), bool)  # not the first item of a row: the one before it is another user's
        inside[train.offsets[:-1][train.lengths > 0]] = False
        after = np.flatnonzero(inside)
        ones = np.ones(len(after), np.float32)
        steps = sparse.coo_matrix((ones, (train.flat[after - 1], train.flat[after])), shape=(catalogue, catalogue))
        return cls(steps.tocsr(), np.bincount(train.flat, minlength=catalogue).astype(np.int64), smoothing)

    def scores(self, histories: Histories, users: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """(n, K) in [0, 1], each row summing to 1; all 0 where nothing was ever taken."""
        known = histories.lengths > 0
        last = histories.flat[histories.offsets[1:][known] - 1]
        popularity = self.counts / max(1, self.counts.sum())
        found = np.tile(popularity, (len(histories), 1))
        steps = self.transitions[last].toarray().astype(np.float64)
        seen = steps.sum(axis=1, keepdims=True)
        found[known] = (steps + self.smoothing * popularity) / (seen + self.smoothing)
        return found.astype(np.float32)

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        return top_k(self.scores(histories, users), k)

    def save(self, folder: Path) -> None:
        save_table(folder / FILE, self.transitions, counts=self.counts, smoothing=self.smoothing)

    @classmethod
    def load(cls, folder: Path) -> Markov:
        transitions, more = load_table(folder / FILE)
        return cls(transitions, more["counts"].astype(np.int64), float(more["smoothing"]))
