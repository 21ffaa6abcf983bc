import numpy as np
import pytest
from contracts import SavedRecommenderContract
from shops import checkerboard

from ed2rec.baselines.textknn import TextNeighbours
from ed2rec.data.dataset import Histories
from ed2rec.data.splits import leave_one_out
from ed2rec.evaluation.ranking import evaluate


class TestTextNeighbours(SavedRecommenderContract):
    def make(self, dataset):
        return TextNeighbours.fit(dataset.items["title"].to_list())


def test_on_the_checkerboard_every_test_item_is_first_among_the_new_ones():
    """A user took five of the six items of a colour; the sixth is the only new item that reads like them."""
    dataset = checkerboard()
    model = TextNeighbours.fit(dataset.items["title"].to_list(), last=5)
    result = evaluate(model, leave_one_out(dataset.histories).test)
    assert result.ranks.tolist() == [1] * len(dataset.users)


def test_scores_are_sums_of_cosines_with_the_last_items():
    """Titles without a common word are orthogonal, equal titles are parallel: every cosine is 0 or 1."""
    model = TextNeighbours.fit(["red", "red", "blue", "blue", "green"], last=2)
    scores = model.scores(Histories.from_lists([[4, 0, 2]]), None)[0]
    penalty = 2 * 2 + 1
    assert scores == pytest.approx([1 - penalty, 1, 1 - penalty, 1, 0])  # item 4 has left the window of two


def test_the_history_itself_is_ranked_behind_everything_else():
    model = TextNeighbours.fit(["red one", "red two", "blue"], last=3)
    assert model.recommend(Histories.from_lists([[0]]), None, 3).items.tolist() == [[1, 2, 0]]


def test_items_without_text_score_nothing_and_break_nothing():
    for texts in (["", "", ""], ["red", "", "red"]):
        model = TextNeighbours.fit(texts)
        scores = model.scores(Histories.from_lists([[1], []]), None)
        assert scores[0, [0, 2]].tolist() == [0, 0] and scores[1].tolist() == [0, 0, 0]


def test_an_item_repeated_in_the_window_counts_once():
    model = TextNeighbours.fit(["red", "red", "blue"])
    np.testing.assert_array_equal(*(model.scores(Histories.from_lists([h]), None) for h in ([0, 0, 0], [0])))
