from math import sqrt

import numpy as np
import pytest
from contracts import SavedRecommenderContract
from hypothesis import given
from hypothesis import strategies as st
from shops import checkerboard

from ed2rec.baselines import itemknn
from ed2rec.baselines.itemknn import ItemNeighbours
from ed2rec.data.dataset import Histories
from ed2rec.data.splits import leave_one_out
from ed2rec.evaluation.ranking import evaluate

LISTS = [[0, 1, 2], [0, 1], [1, 3], [2]]  # takers of items 0 to 3: 2, 3, 2, 1
LOGS = st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=8)


class TestItemNeighbours(SavedRecommenderContract):
    def make(self, dataset):
        return ItemNeighbours.fit(leave_one_out(dataset.histories).train, len(dataset.items), last=4)


def fitted(**options) -> ItemNeighbours:
    return ItemNeighbours.fit(Histories.from_lists(LISTS), 4, **{"last": 0, **options})


def test_similarity_is_the_cosine_of_the_takers_lowered_by_the_shrinkage():
    cosine = [
        [0, 2 / sqrt(2 * 3), 1 / sqrt(2 * 2), 0],
        [2 / sqrt(3 * 2), 0, 1 / sqrt(3 * 2), 1 / sqrt(3 * 1)],
        [1 / sqrt(2 * 2), 1 / sqrt(2 * 3), 0, 0],
        [0, 1 / sqrt(1 * 3), 0, 0],
    ]
    assert fitted(shrinkage=0).similarity.toarray() == pytest.approx(np.array(cosine))
    shrunk = fitted(shrinkage=5).similarity.toarray()
    assert shrunk[0].tolist() == pytest.approx([0, 2 / (sqrt(6) + 5), 1 / (2 + 5), 0])


def test_the_score_is_the_sum_over_the_history_or_its_last_items():
    history = Histories.from_lists([[3, 0, 2], [], [0, 0, 2]])
    whole = fitted(shrinkage=0).scores(history, None)
    one, half = 1 / sqrt(6), 1 / 2
    assert whole[0] == pytest.approx([half, 1 / sqrt(3) + 2 * one + one, half, 0])
    assert whole[1].tolist() == [0, 0, 0, 0]
    last = fitted(shrinkage=0, last=2).scores(history, None)
    assert last[0] == pytest.approx([half, 3 * one, half, 0])
    assert last[2] == pytest.approx(last[0])  # 0 stands twice in the whole history and once in its last two
    assert fitted(shrinkage=0).scores(history, None)[2] == pytest.approx(last[2])


def test_the_histories_stay_as_they_are():
    """Repeated items are found by sorting; a sorted log would have lost who came last."""
    train = Histories.from_lists([[2, 0, 1, 0]])
    model = ItemNeighbours.fit(train, 3)
    model.scores(train, None)
    assert train.flat.tolist() == [2, 0, 1, 0] and train.offsets.tolist() == [0, 4]


def test_each_item_keeps_its_nearest_and_of_equals_the_one_with_the_lower_number():
    model = ItemNeighbours.fit(Histories.from_lists([[2, 0, 1], [2, 3, 3]]), 5, neighbours=1, shrinkage=0)
    # 0 and 1 share all takers; 2 shares one of its two with 0, with 1 and with 3; nobody took 4.
    assert model.similarity.toarray().argmax(axis=1).tolist() == [1, 0, 0, 2, 0]
    assert np.diff(model.similarity.indptr).tolist() == [1, 1, 1, 1, 0]


@given(LOGS, st.integers(1, 4), st.sampled_from([0.0, 3.0]), st.integers(0, 3))
def test_scores_agree_with_three_loops(lists, neighbours, shrinkage, last):
    model = ItemNeighbours.fit(Histories.from_lists(lists), 7, neighbours=neighbours, shrinkage=shrinkage, last=last)
    takers = [{u for u, items in enumerate(lists) if j in items} for j in range(7)]
    expected = np.zeros((len(lists), 7))
    for u, items in enumerate(lists):
        for i in set(items[-last:] if last else items):
            pairs = []
            for j in range(7):
                shared = len(takers[i] & takers[j])
                if j != i and shared:
                    pairs.append((-np.float32(shared / (sqrt(len(takers[i]) * len(takers[j])) + shrinkage)), j))
            for similarity, j in sorted(pairs)[:neighbours]:
                expected[u, j] -= similarity
    np.testing.assert_allclose(model.scores(Histories.from_lists(lists), None), expected, rtol=1e-5, atol=1e-7)


def test_a_catalogue_of_many_pieces_has_the_neighbours_of_one_piece(monkeypatch):
    whole = fitted()
    monkeypatch.setattr(itemknn, "ROWS", 3)
    np.testing.assert_array_equal(fitted().similarity.toarray(), whole.similarity.toarray())


def test_on_the_checkerboard_every_test_item_is_first_among_the_new_ones():
    """Only items of one colour share takers; of a colour's six items the user took five."""
    dataset = checkerboard()
    split = leave_one_out(dataset.histories)
    result = evaluate(ItemNeighbours.fit(split.train, len(dataset.items), last=0), split.test, exclude_history=True)
    assert result.ranks.tolist() == [1] * len(dataset.users)


def test_a_training_without_any_item_scores_nothing():
    model = ItemNeighbours.fit(Histories.from_lists([[], []]), 3)
    assert model.scores(Histories.from_lists([[0, 1]]), None).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"shrinkage": -1.0}, {"last": -1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="neighbours >= 1"):
        fitted(**wrong)
