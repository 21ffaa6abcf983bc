"""Metrics and ranks against two references that share no code with ours.

One is scikit-learn's; the other sorts the catalogue by its scores and follows the textbook: gains, discounts, the ideal
order and their quotient. What they must give is written as fractions.
"""

from fractions import Fraction
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from ed2rec.data.dataset import Histories
from ed2rec.data.splits import Cases
from ed2rec.evaluation.metrics import MISSED, REPORTED, hit_rate, ndcg, per_user
from ed2rec.evaluation.ranking import evaluate
from ed2rec.recommender import top_k

# Twelve items; the score of item j for user u. Targets then stand at ranks 1, 2, 5, 6, 10 and 12.
SCORES = np.array([np.roll(np.arange(12.0), turn) for turn in range(6)])
RANKS = [1, 2, 5, 6, 10, 12]
TARGETS = [int(np.argsort(-SCORES[user])[rank - 1]) for user, rank in enumerate(RANKS)]
HITS = {1: Fraction(1, 6), 5: Fraction(3, 6), 10: Fraction(5, 6)}
GAINS = {
    5: (1 + 1 / log2(3) + 1 / log2(6)) / 6,
    10: (1 + 1 / log2(3) + 1 / log2(6) + 1 / log2(7) + 1 / log2(11)) / 6,
}


class Table:
    """Scores every item of user u as row u says."""

    def scores(self, histories, users):
        return SCORES[users].astype(np.float32)

    def recommend(self, histories, users, k):
        return top_k(self.scores(histories, users), k)


def by_definition(scores: list[float], relevance: list[float], k: int) -> tuple[float, float]:
    """HR@k and NDCG@k of one user: sort, walk down, divide by what the ideal order gains."""
    order = sorted(range(len(scores)), key=lambda item: -scores[item])[:k]
    ideal = sorted(relevance, reverse=True)[:k]
    gained = sum((2 ** relevance[item] - 1) / log2(place + 2) for place, item in enumerate(order))
    possible = sum((2**value - 1) / log2(place + 2) for place, value in enumerate(ideal))
    return float(any(relevance[item] > 0 for item in order)), gained / possible


def relevance_of(target: int, catalogue: int) -> list[float]:
    return [float(item == target) for item in range(catalogue)]


@pytest.mark.parametrize("k", [1, 5, 10])
def test_hit_rates_are_these_fractions_by_ours_by_scikit_learn_and_by_definition(k):
    ours = hit_rate(RANKS, k).mean()
    theirs = top_k_accuracy_score(TARGETS, SCORES, k=k, labels=range(12))
    defined = np.mean([by_definition(list(s), relevance_of(t, 12), k)[0] for s, t in zip(SCORES, TARGETS, strict=True)])
    assert ours == pytest.approx(float(HITS[k])) == theirs == defined


@pytest.mark.parametrize("k", [5, 10])
def test_ndcg_is_these_fractions_by_ours_by_scikit_learn_and_by_definition(k):
    relevance = [relevance_of(target, 12) for target in TARGETS]
    defined = np.mean([by_definition(list(s), r, k)[1] for s, r in zip(SCORES, relevance, strict=True)])
    assert ndcg(RANKS, k).mean() == pytest.approx(GAINS[k])
    assert ndcg_score(relevance, SCORES, k=k) == pytest.approx(GAINS[k])
    assert defined == pytest.approx(GAINS[k])


def test_the_evaluator_reports_the_same_fractions_from_the_scores():
    cases = Cases(np.arange(6), Histories.from_lists([[]] * 6), np.array(TARGETS, np.int64))
    result = evaluate(Table(), cases)
    assert result.ranks.tolist() == RANKS
    assert result.metrics == pytest.approx({
        "HR@1": 1 / 6, "HR@5": 3 / 6, "HR@10": 5 / 6, "NDCG@5": GAINS[5], "NDCG@10": GAINS[10],
    })  # fmt: skip


@given(st.integers(2, 25), st.data())
def test_every_metric_of_every_order_agrees_with_both_references(catalogue, data):
    scores = [float(value) for value in data.draw(st.permutations(range(catalogue)))]
    target = data.draw(st.integers(0, catalogue - 1))
    relevance = relevance_of(target, catalogue)
    rank = sorted(scores, reverse=True).index(scores[target]) + 1
    for name in REPORTED:
        kind, _, k = name.partition("@")
        hit, gain = by_definition(scores, relevance, int(k))
        assert per_user([rank], name)[0] == pytest.approx(hit if kind == "HR" else gain)
        if kind == "NDCG":
            assert per_user([rank], name)[0] == pytest.approx(ndcg_score([relevance], [scores], k=int(k)))


def test_a_target_among_equals_counts_as_the_last_of_them_where_scikit_learn_takes_their_mean():
    """Four equals: ranks 1 to 4 are equally likely, ours is 4; so ours is never above scikit-learn's."""
    relevance, scores = [[0.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]]
    assert ndcg([4], 5)[0] == pytest.approx(1 / log2(5))
    assert ndcg_score(relevance, scores, k=5) == pytest.approx((1 + 1 / log2(3) + 1 / 2 + 1 / log2(5)) / 4)


def test_a_target_outside_the_list_gains_nothing_by_any_definition():
    scores = [float(20 - item) for item in range(20)]
    assert by_definition(scores, relevance_of(15, 20), 10) == (0, 0)
    assert ndcg_score([relevance_of(15, 20)], [scores], k=10) == 0
    assert ndcg([16], 10)[0] == ndcg([MISSED], 10)[0] == hit_rate([16], 10)[0] == 0
