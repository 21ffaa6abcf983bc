"""How sure a number is: over users (paired bootstrap, paired t-test, Holm) and over seeds (Student's t)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
    """The mean of a - b over the same users. p: two-sided; of a bootstrap, at least 1 / (rounds + 1)."""

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
    d = _differences(a, b)
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


def paired_t_test(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Comparison:
    """Is model a better than model b, user by user, if mean differences are about normal?

        d_u = a_u - b_u;   t = mean(d) / (s_d / sqrt(n));   p = 2 P(T > |t|),  T Student's with n - 1 degrees of freedom

    a, b: (n,) one metric per user, same users in the same order, n >= 2. Interval: mean(d) ± t(n-1) s_d / sqrt(n).
    Where every user differs by the same, p is 1 for no difference and 0 for any other.
    """
    d = _differences(a, b)
    mean, spread = float(d.mean()), float(np.std(d, ddof=1))
    if np.ptp(d) == 0:
        return Comparison(Interval(mean, mean, mean), float(mean == 0))
    half = float(stats.t.ppf((1 + confidence) / 2, len(d) - 1)) * spread / np.sqrt(len(d))
    p = float(stats.ttest_rel(np.asarray(a, np.float64), np.asarray(b, np.float64)).pvalue)
    return Comparison(Interval(mean, float(mean - half), float(mean + half)), p)


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """p-values of m comparisons, raised so that any below alpha is a false alarm with probability alpha at most.

        p_(1) <= … <= p_(m);    adjusted p_(i) = max over j <= i of min(1, (m - j + 1) · p_(j))       (Holm 1979)

    p: (m,) in [0, 1], of any dependence. Returns (m,) in the order given; none is lower than before.
    """
    given = np.asarray(p, dtype=np.float64)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"p-values are a list of numbers between 0 and 1, got {p}")
    order = np.argsort(given, kind="stable")
    raised = np.minimum(1, (len(given) - np.arange(len(given))) * given[order])
    adjusted = np.empty(len(given))
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted


@dataclass(frozen=True)
class Lead:
    """The best model of a column beside the second. over_second: the t-test of these two; resampled: their bootstrap.
    p: of the t-tests after Holm, the largest over all models that the best is compared with."""

    best: str
    second: str
    over_second: Comparison
    resampled: Comparison
    p: float
    starred: bool


def lead(values: Mapping[str, ArrayLike], *, alpha: float = 0.01) -> Lead:
    """The `*` of the paper's Table 1: the best model is better than the second, and by more than chance.

        starred  <=>  max over the other models of Holm's p(best against other)  <  alpha

    values: model → (n,) one metric per user, the same users in the same order; at least two models. The paper stars an
    improvement of the best over the second at p < 0.01 and names no test: ours is the t-test paired over users. Its
    second is not known beforehand, so the best is tested against all others; with two models both are the same.
    """
    if len(values) < 2:
        raise ValueError(f"a lead needs at least two models, got {list(values)}")
    means = {name: float(np.mean(np.asarray(per_user, np.float64))) for name, per_user in values.items()}
    best, second, *rest = sorted(means, key=means.__getitem__, reverse=True)
    tests = [paired_t_test(values[best], values[other]) for other in (second, *rest)]
    p = float(holm([test.p for test in tests]).max())
    return Lead(best, second, tests[0], paired_bootstrap(values[best], values[second]), p, p < alpha)


def over_seeds(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """mean ± t(n-1) · s / sqrt(n)  over n runs that differ in the seed; infinitely wide for a single run."""
    if not len(values):
        raise ValueError("no values: give one metric per seed")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, -np.inf, np.inf)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - float(half), mean + float(half))


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2:
        raise ValueError(f"a paired comparison needs two equally long lists of at least 2 users, got {d.shape}")
    return d
