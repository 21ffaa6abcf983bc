"""Suffixes and the separation of twins."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from ed2rec.errors import ConfigError
from ed2rec.indexers.collisions import bound, separate, suffixes

few_codes = arrays(np.int32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 3))


@given(few_codes)
def test_codes_with_suffix_are_unique_and_no_index_begins_another(codes):
    suffix = suffixes(codes, limit=1000)
    indices = [(*row, s) if s >= 0 else tuple(row) for row, s in zip(codes.tolist(), suffix.tolist(), strict=True)]
    assert len(set(indices)) == len(indices)
    full = set(indices)
    assert not any(index[:-1] in full for index in indices)


@given(few_codes)
def test_every_member_of_a_group_is_numbered_by_entity_number(codes):
    seen: Counter[tuple[int, ...]] = Counter()
    sizes = Counter(map(tuple, codes.tolist()))
    for row, suffix in zip(map(tuple, codes.tolist()), suffixes(codes, limit=1000), strict=True):
        assert suffix == (seen[row] if sizes[row] > 1 else -1)
        seen[row] += 1


def test_a_group_larger_than_the_suffix_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^5 entities share one index but the suffix has 4 codes; .*separate"):
        suffixes(np.zeros((5, 2), dtype=np.int32), limit=4)
    assert suffixes(np.zeros((4, 2), dtype=np.int32), limit=4).tolist() == [0, 1, 2, 3]


def test_the_best_fit_keeps_the_code_and_its_twin_takes_the_next_best_free_one():
    codes = np.array([[7, 1], [7, 1], [7, 0], [8, 1]])
    logits = np.array([[9.0, 5.0, 1.0, 4.0], [9.0, 6.0, 1.0, 4.0], [3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    # Entity 0 fits worse (5 < 6) and would like code 0 (9), which entity 2 has; 3 (4) is free and better than 2 (1).
    assert separate(codes, logits).tolist() == [[7, 3], [7, 1], [7, 0], [8, 1]]
    assert codes[0].tolist() == [7, 1]  # the argument is left alone


@given(few_codes, st.integers(0, 2**32 - 1))
def test_separation_keeps_prefixes_and_singles_and_makes_groups_as_small_as_can_be(codes, seed):
    logits = np.random.default_rng(seed).normal(size=(len(codes), 4))
    apart = separate(codes, logits)
    assert (apart[:, :-1] == codes[:, :-1]).all()
    before, after = Counter(map(tuple, codes.tolist())), Counter(map(tuple, apart.tolist()))
    for row, now in zip(codes.tolist(), apart.tolist(), strict=True):
        if before[tuple(row)] == 1:
            assert now == row
    by_prefix = Counter(tuple(row[:-1]) for row in codes.tolist())
    assert all(size <= -(-by_prefix[index[:-1]] // 4) for index, size in after.items())
    assert {row for row in before if before[row]} <= set(after)  # a contested code keeps one of its entities
    np.testing.assert_array_equal(separate(apart, logits), apart) if max(after.values()) == 1 else None


def test_surplus_is_assigned_at_the_greatest_sum_of_logits():
    logits = np.random.default_rng(0).normal(size=(5, 8))
    codes = np.zeros((5, 1), dtype=np.int32)
    apart = separate(codes, logits)[:, 0]
    keeper = logits[:, 0].argmax()
    surplus = [entity for entity in range(5) if entity != keeper]
    rows, columns = linear_sum_assignment(-logits[surplus, 1:])
    assert apart[keeper] == 0
    assert logits[surplus, apart[surplus]].sum() == pytest.approx(logits[surplus, 1:][rows, columns].sum())


def test_who_fits_worst_leaves_a_group_that_is_too_large_for_the_best_code_with_room():
    codes = np.array([[7, 1], [7, 1], [7, 1], [7, 0], [8, 1]])
    logits = np.array([[9.0, 5.0, 1.0], [9.0, 6.0, 1.0], [9.0, 4.0, 1.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert bound(codes, logits, limit=2).tolist() == [[7, 1], [7, 1], [7, 0], [7, 0], [8, 1]]
    assert bound(codes, logits, limit=1).tolist() == [[7, 2], [7, 1], [7, 1], [7, 0], [8, 1]]  # no room for one
    assert codes[2].tolist() == [7, 1]  # the argument is left alone


@given(few_codes, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_no_group_outgrows_the_limit_where_its_prefix_has_room_and_small_groups_keep_their_members(codes, limit, seed):
    logits = np.random.default_rng(seed).normal(size=(len(codes), 4))
    bounded = bound(codes, logits, limit)
    assert (bounded[:, :-1] == codes[:, :-1]).all()
    before, after = Counter(map(tuple, codes.tolist())), Counter(map(tuple, bounded.tolist()))
    by_prefix = Counter(tuple(row[:-1]) for row in codes.tolist())
    assert all(size <= limit for index, size in after.items() if by_prefix[index[:-1]] <= 4 * limit)
    stays = np.array([before[tuple(row)] <= limit for row in codes.tolist()])
    np.testing.assert_array_equal(bounded[stays], codes[stays])
    moved = (bounded != codes).any(1)
    for index in before:  # nobody leaves who fits better than one that stays
        here = (codes == index).all(1)
        has_room = by_prefix[index[:-1]] <= 4 * limit
        assert not (has_room and moved[here].any()) or (
            logits[here & moved, index[-1]].max() <= logits[here & ~moved, index[-1]].min()
        )
