"""Text neighbours: recommends what reads like the last items of the history; no training, and hard to beat on text.

TF-IDF (Salton & Buckley 1988), cosine, summed over the last few items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ed2rec.baselines.sparse import latest, load_table, save_table, taken
from ed2rec.data.dataset import Histories
from ed2rec.data.texts import tfidf
from ed2rec.recommender import Recommendations, top_k

FILE = "textknn.npz"


@dataclass(frozen=True)
class TextNeighbours:
    """score(j) = sum over the last L history items i of cos(tfidf_i, tfidf_j), and less than any other for those i.

    tfidf: (K, words) CSR float32 with rows of length 1 (0 where an item has no text, which then scores 0 throughout).
    last: L >= 1. An item is its own nearest neighbour, which says nothing about what comes next: the last L items are
    ranked behind everything else, by subtracting more than any score can be. Older history items are not touched.
    """

    tfidf: sparse.csr_matrix
    last: int = 3

    @classmethod
    def fit(cls, texts: Sequence[str], last: int = 3) -> TextNeighbours:
        """texts: one per item, "" where there is none."""
        counted = tfidf(texts)
        return cls(sparse.csr_matrix((len(texts), 1), dtype=np.float32) if counted is None else counted, last)

    def scores(self, histories: Histories, users: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """(n, K) in [-2L, L]; an empty history scores 0 everywhere."""
        recent = taken(*latest(histories, self.last), self.tfidf.shape[0])
        scores = np.asarray(((recent @ self.tfidf) @ self.tfidf.T).todense(), dtype=np.float32)
        scores[recent.nonzero()] -= 2 * self.last + 1
        return scores

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        return top_k(self.scores(histories, users), k)

    def save(self, folder: Path) -> None:
        save_table(folder / FILE, self.tfidf, last=self.last)

    @classmethod
    def load(cls, folder: Path) -> TextNeighbours:
        tfidf, more = load_table(folder / FILE)
        return cls(tfidf, int(more["last"]))
