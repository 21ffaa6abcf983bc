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
    reported,
)

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


# Table 1 of the paper: HR@1, HR@5, HR@10, NDCG@5, NDCG@10 on Instruments, Games and Arts.
TABLE_1 = """
FMLP-Rec 0.0480 0.0786 0.0988 0.0638 0.0704 0.0152 0.0571 0.0930 0.0361 0.0476 0.0310 0.0757 0.1046 0.0541 0.0634
Caser    0.0149 0.0543 0.0710 0.0355 0.0409 0.0085 0.0367 0.0617 0.0227 0.0307 0.0138 0.0379 0.0541 0.0262 0.0313
HGN      0.0523 0.0813 0.1048 0.0668 0.0744 0.0154 0.0517 0.0856 0.0333 0.0442 0.0300 0.0622 0.0875 0.0462 0.0544
GRU4Rec  0.0571 0.0821 0.1031 0.0698 0.0765 0.0176 0.0586 0.0964 0.0381 0.0502 0.0421 0.0749 0.0964 0.0590 0.0659
SR-GNN   0.0538 0.0805 0.1022 0.0673 0.0743 0.0154 0.0554 0.0900 0.0355 0.0466 0.0419 0.0720 0.0926 0.0574 0.0638
MA-GNN   0.0296 0.0545 0.0735 0.0497 0.0569 0.0121 0.0371 0.0610 0.0290 0.0384 0.0188 0.0403 0.0559 0.0353 0.0412
BERT4Rec 0.0435 0.0671 0.0822 0.0560 0.0608 0.0136 0.0482 0.0763 0.0311 0.0401 0.0337 0.0559 0.0713 0.0451 0.0500
SASRec   0.0503 0.0751 0.0947 0.0627 0.0690 0.0145 0.0581 0.0940 0.0365 0.0481 0.0225 0.0757 0.1016 0.0508 0.0592
FDSA     0.0520 0.0834 0.1046 0.0681 0.0750 0.0161 0.0644 0.1041 0.0404 0.0531 0.0451 0.0734 0.0933 0.0595 0.0660
S3-Rec   0.0367 0.0863 0.1136 0.0626 0.0714 0.0119 0.0606 0.1002 0.0364 0.0491 0.0245 0.0767 0.1051 0.0521 0.0612
P5-CID   0.0587 0.0827 0.1016 0.0708 0.0768 0.0177 0.0506 0.0803 0.0342 0.0437 0.0485 0.0724 0.0902 0.0607 0.0664
TIGER    0.0608 0.0863 0.1064 0.0738 0.0803 0.0188 0.0599 0.0939 0.0392 0.0501 0.0465 0.0788 0.1012 0.0631 0.0703
CLLM4Rec 0.0336 0.0666 0.0845 0.0516 0.0574 0.0142 0.0421 0.0650 0.0282 0.0355 0.0369 0.0724 0.0933 0.0555 0.0621
LC-Rec   0.0576 0.0817 0.1009 0.0698 0.0760 0.0165 0.0520 0.0835 0.0342 0.0443 0.0367 0.0637 0.0837 0.0504 0.0569
ED2      0.0714 0.1028 0.1281 0.0872 0.0947 0.0254 0.0704 0.1083 0.0480 0.0597 0.0639 0.1002 0.1260 0.0823 0.0906
"""


@pytest.mark.parametrize("line", TABLE_1.strip().splitlines(), ids=lambda line: line.split()[0])
def test_of_the_papers_table_1_only_the_row_of_ma_gnn_is_impossible(line):
    name, *values = line.split()
    for start in range(0, 15, 5):
        row = dict(zip(REPORTED, map(float, values[start : start + 5]), strict=True))
        assert bool(bound_violations(row, tolerance=0.5e-4)) == (name == "MA-GNN")


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
