"""Who took what, read from the item's side: the associated user collection of the paper (§2.4).

    A_k = {u_j | v_k in S_j}

S_j is what is handed in. As printed it is the user's whole sequence, whose last item is the test target; training hands
in the training part.
"""

import numpy as np
import polars as pl

from .dataset import Histories


def associated_users(log: pl.DataFrame, items: int) -> Histories:
    """A_k as row k, `items` rows: the users (numbers) who took item k, in the order in which they did, equal times in
    order of user number. log: user, item (numbers) and timestamp, one row an interaction."""
    ordered = log.sort("item", "timestamp", "user")
    counts = np.bincount(ordered["item"].to_numpy(), minlength=items)
    return Histories(ordered["user"].to_numpy(), np.concatenate([[0], np.cumsum(counts)]))
