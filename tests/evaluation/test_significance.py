import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ed2rec.evaluation.significance import holm, lead, over_seeds, paired_bootstrap, paired_t_test


def test_equal_models_do_not_differ():
    values = np.random.default_rng(0).random(200)
    result = paired_bootstrap(values, values)
    assert (result.difference.mean, result.difference.low, result.difference.high, result.p) == (0, 0, 0, 1)


def test_a_model_that_is_better_for_everybody_is_surely_better():
    values = np.random.default_rng(0).random(200)
    result = paired_bootstrap(values + 0.1, values, rounds=999)
    assert result.difference.mean == pytest.approx(0.1) and result.difference.low == pytest.approx(0.1)
    assert result.p == pytest.approx(2 / 1000)


def test_swapping_the_models_mirrors_the_interval():
    a, b = np.random.default_rng(1).random((2, 300)).round(1)
    forward, backward = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert forward.difference.mean == pytest.approx(-backward.difference.mean)
    assert forward.difference.low == pytest.approx(-backward.difference.high, abs=0.005)
    assert forward.p == pytest.approx(backward.p, abs=0.02)


def test_the_bootstrap_interval_is_the_normal_one_for_many_users():
    d = np.random.default_rng(2).normal(0.03, 1, 1000)
    result = paired_bootstrap(d, np.zeros(1000), rounds=2000)
    half = 1.96 * d.std() / np.sqrt(1000)
    assert result.difference.low == pytest.approx(d.mean() - half, abs=0.1 * half)
    assert result.difference.high == pytest.approx(d.mean() + half, abs=0.1 * half)


def test_three_seeds_use_students_t():
    interval = over_seeds([1.0, 2.0, 3.0])
    half = 4.302652729911275 * 1.0 / np.sqrt(3)  # the 97.5 % quantile for 2 degrees of freedom; s = 1
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2.0, 2 - half, 2 + half))


def test_one_seed_says_nothing_about_the_spread():
    interval = over_seeds([0.3])
    assert interval.mean == 0.3 and np.isinf(interval.low) and np.isinf(interval.high)


def test_lists_of_different_users_are_refused():
    with pytest.raises(ValueError):
        paired_bootstrap([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least 2 users"):
        paired_bootstrap([1], [1])
    with pytest.raises(ValueError, match="no values"):
        over_seeds([])


# Paired t-test, Holm's correction, the star.


def test_the_t_test_by_hand():
    # d = 1, 2, 3, 4, 5: mean 3, s² = 10/4, t = 3 / sqrt(10/4/5) = 3·sqrt 2, four degrees of freedom.
    result = paired_t_test([2, 4, 6, 8, 10], [1, 2, 3, 4, 5])
    t = 3 * np.sqrt(2)
    # Student's distribution with four degrees of freedom: P(T <= t) = 1/2 + 3/4 (x - x³/3),  x = t / sqrt(4 + t²).
    x = t / np.sqrt(4 + t**2)
    assert result.p == pytest.approx(2 * (1 / 2 - (3 / 4) * (x - x**3 / 3)))
    half = 2.7764451051977987 * np.sqrt(10 / 4 / 5)  # the 97.5 % quantile for four degrees of freedom
    assert (result.difference.mean, result.difference.low, result.difference.high) == pytest.approx(
        (3, 3 - half, 3 + half)
    )


def test_the_t_test_is_scipys_and_agrees_with_the_bootstrap_for_many_users():
    a, b = np.random.default_rng(3).random((2, 800))
    a = a + 0.03
    result, other = paired_t_test(a, b), paired_bootstrap(a, b, rounds=4000)
    assert result.p == stats.ttest_rel(a, b).pvalue
    assert result.p == pytest.approx(other.p, abs=0.02)
    assert result.difference.low == pytest.approx(other.difference.low, abs=0.003)


def test_the_same_difference_for_everybody_needs_no_distribution():
    equal, ahead = paired_t_test([1, 2, 4], [1, 2, 4]), paired_t_test([2, 3, 5], [1, 2, 4])
    assert (equal.p, equal.difference.mean) == (1, 0)
    assert (ahead.p, ahead.difference.low, ahead.difference.high) == (0, 1, 1)


def test_holm_by_hand():
    # 1, 2, 3, 4 hundredths times 4, 3, 2, 1 are 4, 6, 6, 4 hundredths; the last is raised to the one before it.
    assert holm([4 / 100, 1 / 100, 3 / 100, 2 / 100]) == pytest.approx([6 / 100, 4 / 100, 6 / 100, 6 / 100])
    assert holm([1 / 2, 9 / 10]) == pytest.approx([1, 1])
    assert holm([3 / 100]) == pytest.approx([3 / 100]) and holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p):
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_stepping_down_rejects(p, alpha):
    """Going up from the smallest p, stop at the first that is not below alpha / (how many are left)."""
    rejected = set()
    for step, index in enumerate(np.argsort(p, kind="stable").tolist()):
        if (len(p) - step) * p[index] >= alpha:
            break
        rejected.add(index)
    assert {index for index, value in enumerate(holm(p)) if value < alpha} == rejected


def test_p_values_outside_their_range_are_refused():
    for wrong in ([-0.1], [1.1], [float("nan")]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(wrong)


def test_a_clear_lead_is_starred_and_a_hair_is_not():
    noise = np.random.default_rng(4).normal(0, 1, (3, 500))
    far = lead({"low": noise[0], "ours": noise[1] + 1, "other": noise[2]})
    assert far.best == "ours" and far.starred and far.p < 1e-6
    near = lead({"ours": noise[1] + 0.05, "other": noise[2]})
    assert not near.starred and near.p > 0.01


def test_with_two_models_the_star_is_the_papers_rule():
    a, b = np.random.default_rng(5).normal(0, 1, (2, 300))
    a = a + 0.3
    found = lead({"b": b, "a": a})
    assert (found.best, found.second) == ("a", "b")
    assert found.p == paired_t_test(a, b).p == found.over_second.p and found.starred == (found.p < 0.01)


def test_more_models_make_a_star_harder_to_get():
    """The same lead over each of m models: Holm's largest p is m times the single one."""
    a, b = np.random.default_rng(6).normal(0, 1, (2, 300))
    a = a + 0.155
    single = lead({"a": a, "b": b})
    crowd = lead({"a": a, **{f"b{n}": b for n in range(6)}})
    assert crowd.p == pytest.approx(6 * single.p)
    assert single.starred and not crowd.starred


def test_models_that_are_level_have_no_star_and_one_model_has_no_lead():
    values = np.arange(10) / 10
    assert lead({"a": values, "b": values}).p == 1 and not lead({"a": values, "b": values}).starred
    with pytest.raises(ValueError, match="at least two models"):
        lead({"a": values})
