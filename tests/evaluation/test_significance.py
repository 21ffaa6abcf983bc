import numpy as np
import pytest

from ed2rec.evaluation.significance import over_seeds, paired_bootstrap


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
