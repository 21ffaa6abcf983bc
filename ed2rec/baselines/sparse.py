"""Sparse tables of the models that count: which items a row has, and a table in a file without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ed2rec.data.dataset import Histories


def taken(flat: NDArray[np.int32], offsets: NDArray[np.int64], catalogue: int) -> sparse.csr_matrix:
    """(n, K) float32: 1 where the row has the item, however often."""
    shape = (len(offsets) - 1, catalogue)
    # A copy, because duplicates are found by sorting each row in place, and a history's order is not ours to change.
    table = sparse.csr_matrix((np.ones(len(flat), np.float32), flat.copy(), offsets.copy()), shape=shape)
    table.sum_duplicates()
    table.data[:] = 1
    return table


def latest(histories: Histories, last: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """flat and offsets of the last so many items of each row."""
    from_end = np.repeat(histories.offsets[1:], histories.lengths) - np.arange(len(histories.flat))
    return histories.flat[from_end <= last], np.concatenate([[0], np.cumsum(np.minimum(histories.lengths, last))])


def save_table(file: Path, table: sparse.csr_matrix, **more: NDArray[np.generic] | float) -> None:
    """more: other arrays and numbers of the model, by name."""
    parts: dict[str, Any] = {name: np.asarray(value) for name, value in more.items()}
    shape = np.array(table.shape)
    np.savez_compressed(file, data=table.data, indices=table.indices, indptr=table.indptr, shape=shape, **parts)


def load_table(file: Path) -> tuple[sparse.csr_matrix, dict[str, NDArray[np.generic]]]:
    """The table, and what was saved beside it."""
    with np.load(file, allow_pickle=False) as saved:
        parts = dict(saved)
    data, indices, indptr, shape = (parts.pop(name) for name in ("data", "indices", "indptr", "shape"))
    return sparse.csr_matrix((data, indices, indptr), shape=tuple(shape)), parts
