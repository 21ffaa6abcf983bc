"""How sure a number is: over users (paired bootstrap) and over seeds (Student's t)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval, low <= mean <= high up to rounding."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Comparison:
    """The mean of a - b over the same users. p: two-sided bootstrap p-value, at least 1 / (rounds + 1)."""

    difference: Interval
    p: float


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, *, rounds: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Is model a better than model b, user by user?

        d_u = a_u - b_u;  resample users with replacement;  the interval holds the middle `confidence` of mean(d*)

    a, b: (n,) one metric per user (`metrics.per_user`), same users in the same order, n >= 2. The p-value is
    2 · min(P(mean d* <= 0), P(mean d* >= 0)) with the observed sample counted once, at most 1.
    """
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2:
        raise ValueError(f"a paired comparison needs two equally long lists of at least 2 users, got {d.shape}")
    # The mean of a resample depends only on how often each distinct difference is drawn: few values, so it is cheap.
    values, counts = np.unique(d, return_counts=True)
    generator, at_once = np.random.default_rng(seed), max(1, 2_000_000 // len(values))
    means = np.concatenate([
        generator.multinomial(len(d), counts / len(d), size=min(at_once, rounds - done)) @ values / len(d)
        for done in range(0, rounds, at_once)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    return Comparison(Interval(float(d.mean()), float(low), float(high)), min(1.0, 2 * (tail + 1) / (rounds + 1)))


def over_seeds(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """mean ± t(n-1) · s / sqrt(n)  over n runs that differ in the seed; infinitely wide for a single run."""
    if not len(values):
        raise ValueError("no values: give one metric per seed")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, -np.inf, np.inf)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - float(half), mean + float(half))
