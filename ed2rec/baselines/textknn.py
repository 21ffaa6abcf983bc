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
from sklearn.feature_extraction.text import TfidfVectorizer

from ed2rec.data.dataset import Histories
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
        if not any(text.strip() for text in texts):
            return cls(sparse.csr_matrix((len(texts), 1), dtype=np.float32), last)
        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, token_pattern=r"(?u)\b\w+\b")
        return cls(vectorizer.fit_transform(texts).tocsr(), last)

    def scores(self, histories: Histories, users: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """(n, K) in [-L-1, L]; an empty history scores 0 everywhere."""
        recent = [np.unique(np.asarray(histories[row])[-self.last :]) for row in range(len(histories))]
        counts = [len(items) for items in recent]
        chosen = sparse.csr_matrix(
            (np.ones(sum(counts), np.float32), np.concatenate([np.empty(0, np.int64), *recent]).astype(np.int64),
             np.concatenate([[0], np.cumsum(counts)])),
            shape=(len(recent), self.tfidf.shape[0]),
        )  # fmt: skip
        scores = np.asarray(((chosen @ self.tfidf) @ self.tfidf.T).todense(), dtype=np.float32)
        for row, items in enumerate(recent):
            scores[row, items] -= 2 * self.last + 1
        return scores

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        return top_k(self.scores(histories, users), k)

    def save(self, folder: Path) -> None:
        table = self.tfidf
        parts = {"data": table.data, "indices": table.indices, "indptr": table.indptr, "shape": np.array(table.shape)}
        np.savez_compressed(folder / FILE, last=np.array(self.last), **parts)

    @classmethod
    def load(cls, folder: Path) -> TextNeighbours:
        with np.load(folder / FILE, allow_pickle=False) as saved:
            table = sparse.csr_matrix((saved["data"], saved["indices"], saved["indptr"]), shape=tuple(saved["shape"]))
            return cls(table, int(saved["last"]))
