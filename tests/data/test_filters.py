"""Filters against what they mean, written out slowly."""

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ed2rec.data.filters import k_core, keep_first, late_positions

PAIRS = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40).map(sorted)


def core_by_definition(pairs: list[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    """Drops one too rare user or item at a time, so in another order than the code under test."""
    left = set(pairs)
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        rare = [("u", u) for u, n in users.items() if n < k] + [("i", i) for i, n in items.items() if n < k]
        if not rare:
            return left
        kind, number = rare[-1]
        left = {pair for pair in left if pair[0 if kind == "u" else 1] != number}


@given(PAIRS, st.integers(0, 4))
def test_the_k_core_is_the_one_of_the_definition(pairs, k):
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    mask, dropped = k_core(users, items, k)
    kept = {pair for pair, keep in zip(pairs, mask, strict=True) if keep}
    assert kept == core_by_definition(pairs, k)
    assert dropped.interactions == len(pairs) - len(kept)
    assert dropped.users == len({u for u, _ in pairs}) - len({u for u, _ in kept})
    assert dropped.items == len({i for _, i in pairs}) - len({i for _, i in kept})


def test_a_chain_reaction_takes_everything():
    """Users and items in a path: each end falls, which makes the next one an end."""
    users, items = np.array([0, 1, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 2, 2])
    mask, dropped = k_core(users, items, 2)
    assert not mask.any()
    assert dropped.rounds > 1 and dropped.users == 4 and dropped.items == 3


def test_a_repeated_item_counts_where_it_came_first_in_time_and_then_in_the_file():
    log = pl.DataFrame(
        {"user": [0, 0, 0, 0, 1], "item": [7, 8, 7, 8, 7], "timestamp": [3, 2, 1, 2, 5], "row": [0, 1, 2, 3, 4]}
    )
    assert keep_first(log).rows() == [(0, 7, 1, 2), (0, 8, 2, 1), (1, 7, 5, 4)]


def test_the_last_two_of_every_user_are_late():
    late = late_positions(pl.Series([0, 0, 0, 1, 2, 2]))
    assert late.to_list() == [False, True, True, True, True, True]
