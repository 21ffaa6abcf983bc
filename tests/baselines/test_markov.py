from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from contracts import SavedRecommenderContract
from hypothesis import given
from hypothesis import strategies as st
from shops import dataset_of

from ed2rec.baselines.markov import Markov
from ed2rec.data.dataset import Histories
from ed2rec.data.splits import leave_one_out
from ed2rec.evaluation.ranking import evaluate

LOGS = st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=8)


class TestMarkov(SavedRecommenderContract):
    def make(self, dataset):
        return Markov.fit(leave_one_out(dataset.histories).train, len(dataset.items))


def test_the_score_is_the_smoothed_probability_of_the_next_item():
    """0 is followed by 1 twice and by 2 once; of seven interactions 0 has 3, 1 has 2, 2 has 1, 3 has 1."""
    model = Markov.fit(Histories.from_lists([[0, 1], [0, 1], [3, 0, 2]]), 5, smoothing=2)
    scores = model.scores(Histories.from_lists([[1, 0], [4], []]), None)
    p = np.array([3 / 7, 2 / 7, 1 / 7, 1 / 7, 0])
    steps = np.array([0, 2, 1, 0, 0])
    assert scores[0] == pytest.approx((steps + 2 * p) / (3 + 2))
    assert scores[1] == pytest.approx(p)  # nothing ever followed item 4
    assert scores[2] == pytest.approx(p)


def test_a_step_from_one_user_to_the_next_is_none():
    model = Markov.fit(Histories.from_lists([[], [0, 1], [], [2], [1, 2]]), 3)
    assert model.transitions.toarray().tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


@given(LOGS, st.sampled_from([0.5, 10.0]))
def test_scores_agree_with_counting_in_plain_python(lists, smoothing):
    model = Markov.fit(Histories.from_lists(lists), 5, smoothing=smoothing)
    steps = Counter((a, b) for items in lists for a, b in pairwise(items))
    taken = Counter(item for items in lists for item in items)
    scores = model.scores(Histories.from_lists([[i] for i in range(5)]), None)
    for i in range(5):
        left = sum(count for (a, _), count in steps.items() if a == i)
        for j in range(5):
            prior = taken[j] / max(1, sum(taken.values()))
            assert scores[i, j] == pytest.approx((steps[i, j] + smoothing * prior) / (left + smoothing), abs=1e-6)
    assert scores.sum(axis=1) == pytest.approx([1.0 if taken else 0.0] * 5)


def test_on_a_circle_the_next_item_is_always_first():
    """Everybody walks the same circle of eight items from a start of their own, so the last item says the next."""
    dataset = dataset_of([[(start + n) % 8 for n in range(6)] for start in range(8)], list("abcdefgh"))
    split = leave_one_out(dataset.histories)
    assert evaluate(Markov.fit(split.train, 8), split.test).ranks.tolist() == [1] * 8


def test_a_prior_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        Markov.fit(Histories.from_lists([[0, 1]]), 2, smoothing=0)
