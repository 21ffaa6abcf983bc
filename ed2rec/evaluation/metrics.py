"""Hit rate and NDCG of one target per user, from the target's rank, and the bound that ties them together.

A rank is 1 for the best item. MISSED stands for "not in the list"; it is beyond every k, so it needs no special case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MISSED = 2**31 - 1
"""The rank of a target that a list does not hold."""

REPORTED = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
"""The metrics of the protocol, in the order in which every table shows them."""


def hit_rate(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """HR@k of each user:  1 if rank <= k, else 0.

    ranks: (n,) integers >= 1, or MISSED. Returns (n,); the mean over users is the hit rate of the model. With one
    target per user this is also recall@k.
    """
    return (_checked(ranks, k) <= k).astype(np.float64)


def ndcg(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """NDCG@k of each user:  1 / log2(rank + 1) if rank <= k, else 0.

    ranks: (n,) integers >= 1, or MISSED. Returns (n,) in [0, 1]. There is one relevant item, so the ideal gain is
    1 / log2(2) = 1 and the quotient needs no division; NDCG@1 = HR@1.
    """
    found = _checked(ranks, k)
    return np.where(found <= k, 1.0 / np.log2(found + 1.0), 0.0)


def reported(ranks: ArrayLike) -> dict[str, float]:
    """The five metrics of the protocol, averaged over users. No users: all 0."""
    values = np.asarray(ranks, dtype=np.int64)
    if values.size == 0:
        return dict.fromkeys(REPORTED, 0.0)
    return {name: float(per_user(values, name).mean()) for name in REPORTED}


def per_user(ranks: ArrayLike, metric: str) -> NDArray[np.float64]:
    """The named metric, such as "NDCG@10", of each user: what a paired test compares."""
    kind, _, k = metric.partition("@")
    if kind not in ("HR", "NDCG") or not k.isdigit():
        raise ValueError(f"metric {metric!r} is not HR@k or NDCG@k")
    return hit_rate(ranks, int(k)) if kind == "HR" else ndcg(ranks, int(k))


def ndcg_bounds(row: Mapping[str, float], k: int) -> tuple[float, float]:
    """The least and the greatest NDCG@k that a row's hit rates allow.

        HR@1 + sum over cuts (a, b] of (HR@b - HR@a) / log2(b + 1)  <=  NDCG@k
        NDCG@k  <=  HR@1 + sum over cuts (a, b] of (HR@b - HR@a) / log2(a + 2)

    where the cuts are 1, 5 and, for k = 10, 10: a target ranked in (a, b] gains at most what rank a+1 gives and at
    least what rank b gives. Holds for every user, hence for every average of users, seeds or wordings.
    """
    if k not in (5, 10):
        raise ValueError(f"the protocol has cuts at 5 and 10, got k = {k}")
    low = high = row["HR@1"]
    for a, b in [(1, 5), (5, 10)][: 1 if k == 5 else 2]:
        share = row[f"HR@{b}"] - row[f"HR@{a}"]
        low += share / np.log2(b + 1)
        high += share / np.log2(a + 2)
    return float(low), float(high)


def bound_violations(row: Mapping[str, float], tolerance: float = 1e-9) -> list[str]:
    """What in a row of metrics contradicts itself, one sentence each; empty for every row that ranks can produce.

    tolerance: how far each *printed* number may be off; 0.5e-4 for a table rounded to four decimals. Each inequality
    compares one number with a convex combination of others, so it may be off by twice that.
    """
    slack = 2 * tolerance
    found = [
        f"HR@{a} = {row[f'HR@{a}']:.4f} is above HR@{b} = {row[f'HR@{b}']:.4f}"
        for a, b in [(1, 5), (5, 10)]
        if row[f"HR@{a}"] > row[f"HR@{b}"] + slack
    ]
    for k in (5, 10):
        low, high = ndcg_bounds(row, k)
        if not low - slack <= row[f"NDCG@{k}"] <= high + slack:
            found.append(f"NDCG@{k} = {row[f'NDCG@{k}']:.4f} is outside [{low:.4f}, {high:.4f}], what its HR allow")
    return found


def printed_violations(values: Sequence[float], digits: int = 4) -> list[str]:
    """What is impossible in a row of a published table; empty where it is within bounds, so that ours may be compared.

    values: the five metrics in the order of REPORTED, rounded to so many digits. A row that contradicts itself was
    measured by another protocol than one target per user, ranked once.
    """
    return bound_violations(dict(zip(REPORTED, values, strict=True)), tolerance=0.5 * 10**-digits)


def check_bound(row: Mapping[str, float]) -> None:
    """Raise ValueError when a row that we are about to report is impossible (a fault of ours, never of the user)."""
    if found := bound_violations(row):
        raise ValueError("impossible metrics: " + "; ".join(found))


def _checked(ranks: ArrayLike, k: int) -> NDArray[np.int64]:
    values = np.asarray(ranks, dtype=np.int64)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if values.size and values.min() < 1:
        raise ValueError(f"ranks start at 1, got {values.min()}")
    return values
