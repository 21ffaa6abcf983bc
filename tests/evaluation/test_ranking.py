import json
from math import log2

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ed2rec.data.dataset import Histories
from ed2rec.data.splits import Cases
from ed2rec.evaluation.metrics import MISSED, REPORTED, reported
from ed2rec.evaluation.ranking import evaluate, evaluate_wordings
from ed2rec.recommender import Recommendations, top_k

INF = np.inf


class Table:
    """Scores every item of user u as row u says: a Scorer with known scores."""

    def __init__(self, scores):
        self.table = np.array(scores, dtype=np.float32)

    def scores(self, histories, users):
        return self.table[users]

    def recommend(self, histories, users, k):
        return top_k(self.table[users], k)


class Lists:
    """The same scores behind `recommend` only, as a generative recommender has them."""

    def __init__(self, scores):
        self.inner = Table(scores)

    def recommend(self, histories, users, k):
        return self.inner.recommend(histories, users, k)


class Fixed:
    def __init__(self, items, scores):
        self.items, self.best = np.array(items, np.int64), np.array(scores, np.float32)

    def recommend(self, histories, users, k):
        return Recommendations(self.items[users], self.best[users])


def cases_of(targets, histories=None):
    lists = histories or [[] for _ in targets]
    return Cases(np.arange(len(targets)), Histories.from_lists(lists), np.array(targets, np.int64))


def test_the_rank_is_one_more_than_the_number_of_better_items():
    result = evaluate(Table([[3, 2, 1, 0]] * 4), cases_of([0, 1, 2, 3]))
    assert result.ranks.tolist() == [1, 2, 3, 4]


def test_ties_count_against_the_target_whatever_its_number():
    result = evaluate(Table([[1, 1, 1, 0]] * 3), cases_of([0, 1, 2]))
    assert result.ranks.tolist() == [3, 3, 3]
    assert result.top.items[:, :3].tolist() == [[1, 2, 0], [0, 2, 1], [0, 1, 2]]  # the target after its equals


def test_a_model_that_knows_nothing_gets_nothing():
    result = evaluate(Table(np.zeros((2, 50))), cases_of([0, 7]))
    assert result.ranks.tolist() == [50, 50]
    assert set(result.metrics.values()) == {0.0}
    assert not (result.top.items == result.targets[:, None]).any()


def test_an_item_that_cannot_be_recommended_is_a_miss():
    assert evaluate(Table([[-INF, 1, 2]]), cases_of([0])).ranks.tolist() == [MISSED]


def test_a_target_outside_the_list_is_a_miss_for_a_recommender_of_lists():
    scores = [np.arange(30.0)[::-1]]
    assert evaluate(Lists(scores), cases_of([9])).ranks.tolist() == [10]
    assert evaluate(Lists(scores), cases_of([10])).ranks.tolist() == [MISSED]
    assert evaluate(Table(scores), cases_of([10])).ranks.tolist() == [11]


def test_history_items_compete_unless_they_are_excluded():
    for kind in (Table, Lists):
        model = kind([np.arange(30.0)[::-1]])
        cases = cases_of([2], [[0, 1]])
        assert evaluate(model, cases).ranks.tolist() == [3]
        excluded = evaluate(model, cases, exclude_history=True)
        assert excluded.ranks.tolist() == [1]
        assert excluded.top.items.tolist() == [list(range(2, 12))]


@st.composite
def worlds(draw):
    """Integer scores with many ties, targets, histories that may hold anything but the target."""
    users, items = draw(st.integers(1, 6)), draw(st.integers(2, 16))
    scores = draw(st.lists(st.lists(st.integers(0, 4), min_size=items, max_size=items), min_size=users, max_size=users))
    targets = draw(st.lists(st.integers(0, items - 1), min_size=users, max_size=users))
    histories = [[n for n in draw(st.lists(st.integers(0, items - 1), max_size=3)) if n != t] for t in targets]
    return scores, cases_of(targets, histories)


@given(worlds(), st.booleans(), st.integers(1, 4))
def test_ranks_equal_counting_by_hand_in_any_batch_size(world, exclude, batch):
    scores, cases = world
    result = evaluate(Table(scores), cases, exclude_history=exclude, batch=batch)
    for user, target in enumerate(cases.targets.tolist()):
        seen = set(cases.histories[user].tolist()) if exclude else set()
        others = [n for n in range(len(scores[user])) if n != target and n not in seen]
        assert result.ranks[user] == 1 + sum(scores[user][n] >= scores[user][target] for n in others)


@given(worlds(), st.booleans())
def test_a_list_of_the_whole_catalogue_ranks_as_its_scores_do(world, exclude):
    scores, cases = world
    by_score, by_list = (evaluate(kind(scores), cases, k=16, exclude_history=exclude) for kind in (Table, Lists))
    np.testing.assert_array_equal(by_score.ranks, by_list.ranks)


@pytest.mark.parametrize("batch", [1, 2, 256])
def test_how_much_is_asked_for_without_the_history_is_each_user_s_own(batch):
    """A wider list is a wider beam, so a neighbour with a long history must not widen a user's."""
    asked = {}

    class Noting(Lists):
        def recommend(self, histories, users, k):
            asked.update(dict.fromkeys(users.tolist(), k))
            return super().recommend(histories, users, k)

    lists = [[], [0], [0, 1, 2], list(range(4)), list(range(5))]
    evaluate(Noting(np.zeros((5, 30))), cases_of([9] * 5, lists), exclude_history=True, batch=batch)
    assert asked == {0: 11, 1: 11, 2: 14, 3: 14, 4: 18}


def test_users_of_like_histories_are_asked_for_together_and_everybody_keeps_his_row():
    calls = []

    class Counting(Lists):
        def recommend(self, histories, users, k):
            calls.append(len(users))
            return super().recommend(histories, users, k)

    scores = np.random.default_rng(0).random((40, 30))
    lists = [list(range([1, 2, 3, 6][user % 4])) for user in range(40)]
    cases = cases_of([9 + user % 7 for user in range(40)], lists)
    together = evaluate(Counting(scores), cases, exclude_history=True, batch=10)
    assert calls == [10] * 4
    alone = evaluate(Counting(scores), cases, exclude_history=True, batch=1)
    assert together.ranks.tolist() == alone.ranks.tolist()
    assert together.top.items.tolist() == alone.top.items.tolist()


@given(worlds(), st.booleans())
def test_anyone_can_recompute_the_metrics_from_the_rankings_alone(world, as_lists):
    scores, cases = world
    result = evaluate((Lists if as_lists else Table)(scores), cases)
    users = [f"u{n}" for n in range(len(scores))]
    items = [f"i{n}" for n in range(len(scores[0]))]
    frame = result.rankings(users, items)
    hits = frame.filter(pl.col("item_id") == pl.col("target_id"))
    ranks = dict(zip(hits["user_id"], hits["rank"], strict=True))
    assert reported([ranks.get(user, MISSED) for user in users]) == pytest.approx(result.metrics)


def test_rankings_have_the_columns_of_the_format_and_no_padding():
    frame = evaluate(Table([[3, 2, -INF]]), cases_of([1])).rankings(["anna"], ["x", "y", "z"])
    assert frame.columns == ["user_id", "rank", "item_id", "score", "target_id"]
    assert frame.rows() == [("anna", 1, "x", 3.0, "y"), ("anna", 2, "y", 2.0, "y")]


def test_the_row_is_the_json_object_of_the_command_line():
    row = evaluate(Table([[3, 2, 1]]), cases_of([1])).row("shop", "test", "table")
    names = ["dataset", "split", "users", "model", *REPORTED, "per_instruction", "seconds"]
    assert list(json.loads(json.dumps(row))) == names
    assert row["HR@5"] == 1 and row["NDCG@10"] == pytest.approx(1 / log2(3)) and row["per_instruction"] == []


def test_several_wordings_are_averaged_and_each_is_reported():
    good, bad = Table([[1.0, 0.0]]), Table([[0.0, 1.0]])
    result = evaluate_wordings([("please", good), ("now", bad)], cases_of([0]))
    assert result.metrics["HR@1"] == 1 / 2
    assert result.metrics["NDCG@5"] == pytest.approx((1 + 1 / log2(3)) / 2)
    assert [(row["instruction"], row["HR@1"]) for row in result.per_instruction] == [("please", 1.0), ("now", 0.0)]
    assert result.top.items[0, 0] == 0


def test_the_spread_over_wordings_is_the_sample_standard_deviation_and_one_wording_has_none():
    good, bad = Table([[1.0, 0.0]]), Table([[0.0, 1.0]])
    row = evaluate_wordings([("a", good), ("b", good), ("c", bad)], cases_of([0])).row("shop", "test", "table")
    assert list(row) == ["dataset", "split", "users", "model", *REPORTED, "std", "per_instruction", "seconds"]
    # HR@1 is 1, 1, 0 with mean 2/3: squares 1/9 + 1/9 + 4/9 = 6/9, over n - 1 = 2 that is 1/3
    gain = (1 - 1 / log2(3)) / 3**0.5
    expected = {"HR@1": 1 / 3**0.5, "HR@5": 0, "HR@10": 0, "NDCG@5": gain, "NDCG@10": gain}
    assert row["std"] == pytest.approx(expected)
    assert "std" not in evaluate_wordings([("a", good)], cases_of([0])).row("shop", "test", "table")


def test_progress_ends_at_the_number_of_users():
    seen = []
    evaluate(Table(np.eye(5)), cases_of([0] * 5), batch=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_no_users_give_an_empty_evaluation():
    result = evaluate(Table(np.eye(2)), cases_of([]))
    assert len(result.ranks) == 0 and set(result.metrics.values()) == {0.0}
    assert result.rankings(["a"], ["b"]).is_empty()


@pytest.mark.parametrize(
    ("items", "scores", "fault"),
    [
        ([[0, 0, *range(2, 10)]], [np.arange(10)[::-1]], "an item twice"),
        ([range(10)], [np.arange(10)], "increase"),
        ([range(10)], [[np.nan] * 10], "NaN"),
        ([range(9)], [np.arange(9)[::-1]], "9 columns, asked for 10"),
    ],
)
def test_a_list_that_breaks_the_contract_would_inflate_the_metrics_and_is_refused(items, scores, fault):
    with pytest.raises(ValueError, match=fault):
        evaluate(Fixed([list(row) for row in items], scores), cases_of([0]))


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        evaluate(Table([[np.nan, 1.0]]), cases_of([0]))


def test_lists_shorter_than_the_protocol_are_refused():
    with pytest.raises(ValueError, match="at least 10"):
        evaluate(Table([[1.0]]), cases_of([0]), k=5)
