"""Expected values are written as unevaluated fractions; two references: scikit-learn, and counting by hand."""

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from ed2rec.evaluation.metrics import (
    MISSED,
    REPORTED,
    bound_violations,
    check_bound,
    hit_rate,
    ndcg,
    ndcg_bounds,
    per_user,
    printed_violations,
    reported,
)
from experiments.report import paper

RANKS = st.lists(st.one_of(st.integers(1, 30), st.just(MISSED)), min_size=1, max_size=40)


def test_hit_rate_counts_ranks_up_to_k():
    assert hit_rate([1, 5, 6, 10, 11, MISSED], 5).tolist() == [1, 1, 0, 0, 0, 0]
    assert hit_rate([1, 5, 6, 10, 11, MISSED], 10).mean() == 4 / 6


def test_ndcg_discounts_by_the_logarithm_of_the_rank():
    values = ndcg([1, 2, 3, 5, 6, MISSED], 5)
    assert values.tolist() == [1 / log2(2), 1 / log2(3), 1 / log2(4), 1 / log2(6), 0, 0]
    assert values.mean() == pytest.approx((1 + 1 / log2(3) + 1 / 2 + 1 / log2(6)) / 6)


def test_the_protocol_reports_five_numbers_in_its_order():
    row = reported([1, 2, 7, MISSED])
    assert tuple(row) == REPORTED
    assert row == pytest.approx({
        "HR@1": 1 / 4, "HR@5": 2 / 4, "HR@10": 3 / 4,
        "NDCG@5": (1 + 1 / log2(3)) / 4, "NDCG@10": (1 + 1 / log2(3) + 1 / log2(8)) / 4,
    })  # fmt: skip


def test_no_users_are_zeros_and_not_an_error():
    assert reported([]) == dict.fromkeys(REPORTED, 0.0)


@given(RANKS)
def test_ndcg_at_1_is_the_hit_rate_at_1(ranks):
    np.testing.assert_array_equal(ndcg(ranks, 1), hit_rate(ranks, 1))


@given(st.integers(2, 25), st.data())
def test_ndcg_agrees_with_scikit_learn(catalogue, data):
    scores = np.array(data.draw(st.permutations(range(catalogue))), dtype=float)
    target = data.draw(st.integers(0, catalogue - 1))
    relevance = np.eye(catalogue)[target]
    rank = 1 + int((scores > scores[target]).sum())
    for k in (1, 5, 10):
        assert ndcg([rank], k)[0] == pytest.approx(ndcg_score([relevance], [scores], k=k))


@given(RANKS, st.sampled_from([1, 3, 5, 10]))
def test_metrics_agree_with_counting_in_plain_python(ranks, k):
    hits = gain = 0.0
    for rank in ranks:
        for place in range(1, k + 1):
            if place == rank:
                hits += 1
                gain += 1 / log2(place + 1)
    assert hit_rate(ranks, k).sum() == hits
    assert ndcg(ranks, k).sum() == pytest.approx(gain)


@given(RANKS, st.randoms())
def test_the_order_of_users_does_not_matter(ranks, random):
    shuffled = list(ranks)
    random.shuffle(shuffled)
    assert reported(shuffled) == pytest.approx(reported(ranks))


@given(RANKS)
def test_a_better_rank_never_lowers_a_metric(ranks):
    better = [max(1, rank - 1) for rank in ranks]
    assert all(new >= old for new, old in zip(reported(better).values(), reported(ranks).values(), strict=True))


@given(RANKS)
def test_every_row_that_ranks_can_produce_keeps_the_bound(ranks):
    check_bound(reported(ranks))


@given(st.lists(RANKS, min_size=2, max_size=4))
def test_an_average_of_rows_keeps_the_bound(runs):
    rows = [reported(ranks) for ranks in runs]
    check_bound({name: float(np.mean([row[name] for row in rows])) for name in REPORTED})


def test_the_bound_is_reached_by_the_best_and_the_worst_places():
    best, worst = reported([1, 2, 6, MISSED]), reported([1, 5, 10, MISSED])
    for k in (5, 10):
        assert best[f"NDCG@{k}"] == pytest.approx(ndcg_bounds(best, k)[1])
        assert worst[f"NDCG@{k}"] == pytest.approx(ndcg_bounds(worst, k)[0])


@pytest.mark.parametrize("dataset", ["Instruments", "Games", "Arts"])
def test_of_the_papers_table_1_only_the_row_of_ma_gnn_is_impossible(dataset):
    rows = {name: values for name, values in paper()["table1"][dataset].items() if name != "Improvement %"}
    assert len(rows) == 15
    assert [name for name, values in rows.items() if printed_violations(values)] == ["MA-GNN"]
    assert all("outside" in reason for reason in printed_violations(rows["MA-GNN"]))


def test_rounding_alone_is_no_reason_to_refuse_a_row():
    # Ranks 1 and 5 of three users: HR@5 = 2/3, NDCG@5 = (1 + 1/log2(6)) / 3 = 0.46228…, the least that these allow.
    assert printed_violations([0.333, 0.667, 0.667, 0.462, 0.462], digits=3) == []
    assert printed_violations([0.333, 0.667, 0.667, 0.462, 0.462], digits=4)


def test_the_bound_of_ma_gnn_on_instruments_is_the_one_we_published():
    row = {"HR@1": 0.0296, "HR@5": 0.0545, "HR@10": 0.0735, "NDCG@5": 0.0497, "NDCG@10": 0.0569}
    assert ndcg_bounds(row, 5) == pytest.approx((0.0392, 0.0453), abs=1e-4)


def test_an_impossible_row_is_a_fault_of_ours_and_says_which_number():
    with pytest.raises(ValueError, match=r"NDCG@5 = 0\.5000 is outside \[0\.1000, 0\.1000\]"):
        check_bound({"HR@1": 0.1, "HR@5": 0.1, "HR@10": 0.1, "NDCG@5": 0.5, "NDCG@10": 0.1})
    assert "above" in bound_violations({"HR@1": 0.3, "HR@5": 0.1, "HR@10": 0.1, "NDCG@5": 0.3, "NDCG@10": 0.3})[0]


def test_ranks_below_1_and_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match="start at 1, got 0"):
        ndcg([1, 0], 5)
    with pytest.raises(ValueError, match="k must be at least 1"):
        hit_rate([1], 0)
    with pytest.raises(ValueError, match="'MRR@10' is not"):
        per_user([1], "MRR@10")
    with pytest.raises(ValueError, match="got k = 3"):
        ndcg_bounds(reported([1]), 3)
