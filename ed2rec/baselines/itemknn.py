"""Item neighbours: recommends what the takers of the history's items also took (Deshpande & Karypis 2004).

No training, no order, no text; on sparse logs it stands beside many a neural model (Dacrema et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ed2rec.baselines.sparse import latest, load_table, save_table, taken
from ed2rec.data.dataset import Histories
from ed2rec.recommender import Recommendations, top_k

FILE = "itemknn.npz"
ROWS = 1024
"""Items whose neighbours are looked for at a time: co-occurrences of a whole catalogue need not fit in memory."""


@dataclass(frozen=True)
class ItemNeighbours:
    """score(j) = sum over the last L history items i, each once, of s_ij, where j is among the N nearest of i.

        s_ij = |U_i ∩ U_j| / (sqrt(|U_i| |U_j|) + shrinkage),    U_i the users who took i in training,    s_ii = 0

    similarity: (K, K) CSR float32, row i has the at most N nearest items of i, s in (0, 1]. last: L, 0 for the whole
    history. History items are not taken out of the ranking: they score what the other history items give them.
    """

    similarity: sparse.csr_matrix
    last: int = 5

    @classmethod
    def fit(
        cls, train: Histories, catalogue: int, *, neighbours: int = 100, shrinkage: float = 50.0, last: int = 5
    ) -> ItemNeighbours:
        """train: every user's training items. catalogue: K. neighbours: N >= 1; among equally near items the lower
        number stays. shrinkage >= 0: how much a similarity that few users speak for is lowered."""
        if neighbours < 1 or shrinkage < 0 or last < 0:
            raise ValueError(f"neighbours >= 1, shrinkage >= 0, last >= 0; got {neighbours}, {shrinkage}, {last}")
        rows = taken(train.flat, train.offsets, catalogue)
        takers, norm = rows.T.tocsr(), np.sqrt(np.asarray(rows.sum(axis=0), np.float64).ravel())
        parts = [
            _nearest(takers[low : low + ROWS] @ rows, low, norm, neighbours, shrinkage)
            for low in range(0, catalogue, ROWS)
        ]
        empty = sparse.csr_matrix((0, catalogue), dtype=np.float32)
        return cls(sparse.vstack([empty, *parts], format="csr", dtype=np.float32), last)

    def scores(self, histories: Histories, users: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """(n, K) in [0, L]; an empty history scores 0 everywhere."""
        flat, offsets = latest(histories, self.last) if self.last else (histories.flat, histories.offsets)
        return (taken(flat, offsets, self.similarity.shape[0]) @ self.similarity).toarray()

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        return top_k(self.scores(histories, users), k)

    def save(self, folder: Path) -> None:
        save_table(folder / FILE, self.similarity, last=self.last)

    @classmethod
    def load(cls, folder: Path) -> ItemNeighbours:
        similarity, more = load_table(folder / FILE)
        return cls(similarity, int(more["last"]))


def _nearest(
    common: sparse.csr_matrix, first: int, norm: NDArray[np.float64], neighbours: int, shrinkage: float
) -> sparse.csr_matrix:
    """Similarities of the items first, first + 1, … to their nearest; common: how many users each shares with each."""
    pairs = common.tocoo()
    row, column = pairs.row, pairs.col
    similarity = pairs.data / (norm[row + first] * norm[column] + shrinkage)
    other = row + first != column
    row, column, similarity = row[other], column[other], similarity[other].astype(np.float32)
    order = np.lexsort((column, -similarity, row))
    row, column, similarity = row[order], column[order], similarity[order]
    start = np.searchsorted(row, row)  # of the row that an entry stands in
    kept = np.arange(len(row)) - start < neighbours
    return sparse.csr_matrix((similarity[kept], (row[kept], column[kept])), shape=common.shape)
