import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ed2rec.errors import ConfigError
from ed2rec.recommender import Recommendations, check_k, top_k

# Few distinct values, so that ties are the rule.
SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.integers(1, 9)),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]),
)


@given(SCORES, st.integers(1, 12))
def test_top_k_equals_sorting_everything_by_score_and_then_number(scores, k):
    best = top_k(scores, k)
    for row, items, values in zip(scores, best.items, best.scores, strict=True):
        expected = sorted((n for n in range(len(row)) if row[n] > -np.inf), key=lambda n: (-row[n], n))[:k]
        assert items.tolist() == expected + [-1] * (k - len(expected))
        assert values.tolist() == [row[n] for n in expected] + [-np.inf] * (k - len(expected))


def test_top_k_refuses_an_empty_list():
    with pytest.raises(ValueError, match="at least 1"):
        top_k(np.zeros((1, 3), np.float32), 0)


def test_recommendations_refuse_arrays_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        Recommendations(np.zeros((1, 2), np.int64), np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("k", [0, -1, 2228])
def test_k_outside_the_catalogue_is_refused_in_one_line_that_says_what_is_allowed(k):
    with pytest.raises(ConfigError, match=f"k = {k}, .* 2,227 items: choose k between 1 and 2,227"):
        check_k(k, 2227)


def test_k_inside_the_catalogue_passes():
    assert (check_k(1, 5), check_k(5, 5)) == (1, 5)
