"""Several lists of log-probabilities as one, checked by hand."""

from itertools import permutations
from math import log

import numpy as np
import pytest
from contracts import RecommenderContract
from hypothesis import given
from hypothesis import strategies as st

from ed2rec.data.dataset import Dataset, Histories
from ed2rec.data.splits import Cases
from ed2rec.ensemble import Ensemble
from ed2rec.evaluation.ranking import evaluate
from ed2rec.recommender import Recommendations, top_k

NOBODY = Histories.from_lists([[]])


class Beam:
    """Answers everybody with the likeliest items of {item: probability}, and remembers how many were asked for."""

    def __init__(self, probabilities: dict[int, float]) -> None:
        self.ranked = sorted(probabilities.items(), key=lambda pair: (-pair[1], pair[0]))

    def recommend(self, histories: Histories, users: object, k: int) -> Recommendations:
        self.asked = k
        items = np.full((len(histories), k), -1, np.int64)
        scores = np.full((len(histories), k), -np.inf, np.float32)
        for place, (item, probability) in enumerate(self.ranked[:k]):
            items[:, place], scores[:, place] = item, log(probability)
        return Recommendations(items, scores)


def answer(*members: Beam, k: int = 4, depth: int = 20) -> dict[int, float]:
    """Recommended items in order, with their probabilities."""
    best = Ensemble(members, depth).recommend(NOBODY, None, k)
    return {item: float(np.exp(score)) for item, score in zip(best.items[0].tolist(), best.scores[0], strict=True)}


def test_probabilities_are_averaged_not_their_logarithms():
    found = answer(Beam({0: 1 / 2, 1: 1 / 4, 2: 1 / 8}), Beam({0: 1 / 8, 1: 1 / 4, 2: 1 / 2}), k=3)
    # items 0 and 2: (1/2 + 1/8) / 2 = 5/16, in order of number; item 1: 1/4. Geometric means are 1/4 for all three.
    assert list(found) == [0, 2, 1] and list(found.values()) == pytest.approx([5 / 16, 5 / 16, 1 / 4])


def test_an_item_that_a_list_does_not_hold_counts_with_nothing_there():
    found = answer(Beam({0: 0.5, 1: 0.3}), Beam({2: 0.4, 0: 0.1}))
    assert list(found) == [0, 2, 1, -1]
    assert list(found.values()) == pytest.approx([0.6 / 2, 0.4 / 2, 0.3 / 2, 0])


def test_items_beyond_k_still_help_when_another_list_has_them():
    """Third in both lists, item 2 is the likeliest on average; a list of k = 2 would not have shown it."""
    one, other = Beam({0: 0.31, 1: 0.3, 2: 0.29}), Beam({3: 0.31, 4: 0.3, 2: 0.29})
    assert list(answer(one, other, k=2)) == [2, 0]
    assert list(answer(one, other, k=2, depth=2)) == [0, 3]
    assert one.asked == 2
    answer(one, other, k=30)
    assert one.asked == 30, "a longer list is asked for where the depth does not fill it"


# Thousandths, each once in a list: probabilities that float32 tells apart, so that only one order is right.
thousandths = st.lists(st.integers(1, 1000), max_size=8, unique=True)
beams = st.builds(
    lambda items, shares: Beam({item: share / 1000 for item, share in zip(items, shares, strict=False)}),
    st.permutations(range(13)), thousandths,
)  # fmt: skip


@given(st.lists(beams, min_size=1, max_size=4))
def test_the_order_of_the_members_changes_nothing(members):
    answers = [Ensemble(order).recommend(NOBODY, None, 6) for order in permutations(members)]
    for other in answers[1:]:
        np.testing.assert_array_equal(other.items, answers[0].items)
        np.testing.assert_array_equal(other.scores, answers[0].scores)


@given(beams, st.integers(1, 4))
def test_an_ensemble_of_one_or_of_its_copies_answers_like_the_one(beam, copies):
    alone, together = beam.recommend(NOBODY, None, 6), Ensemble([beam] * copies).recommend(NOBODY, None, 6)
    np.testing.assert_array_equal(together.items, alone.items)
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-6, atol=1e-6)
    if copies == 1:
        np.testing.assert_array_equal(together.scores, alone.scores)


def test_ties_count_against_the_target():
    cases = Cases(np.array([0]), NOBODY, np.array([0]))
    tied = Ensemble([Beam({0: 0.5, 1: 0.25}), Beam({1: 0.5, 0: 0.25})])
    assert evaluate(tied, cases).ranks.tolist() == [2]


def test_somebody_must_answer():
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])


class ByNumber:
    """Log-probabilities that depend on the last item and on the wording."""

    def __init__(self, items: int, shift: int) -> None:
        self.items, self.shift = items, shift

    def recommend(self, histories: Histories, users: object, k: int) -> Recommendations:
        last = [row[-1] if len(row) else 0 for row in histories]
        logits = -np.array([(np.arange(self.items) - n * self.shift) % self.items for n in last], float)
        logits = logits.reshape(len(histories), self.items)
        return top_k((logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32), k)


class TestAnEnsembleIsARecommender(RecommenderContract):
    def make(self, dataset: Dataset) -> Ensemble:
        return Ensemble([ByNumber(len(dataset.items), shift) for shift in (1, 5)], depth=10)
