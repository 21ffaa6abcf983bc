from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ed2rec.baselines.sequences import Training, of_histories
from ed2rec.data.dataset import Histories

CATALOGUE = 9
LISTS = st.lists(st.lists(st.integers(0, CATALOGUE - 1), max_size=12), min_size=1, max_size=8)


def training(lists, *, longest=4, every_position=True, batch=2, seed=0):
    return Training(Histories.from_lists(lists), catalogue=CATALOGUE, longest=longest, whole_rows=every_position,
                    batch=batch, seed=seed)  # fmt: skip


def questions(batches):
    """Every (user, what the model reads, what is asked for) of these batches, one by one."""
    for batch in batches:
        for row in range(len(batch)):
            for place in range(int(batch.lengths[row])):
                if (target := int(batch.targets[row, place])) < CATALOGUE:
                    yield int(batch.users[row]), tuple(batch.items[row, : place + 1].tolist()), target


@given(LISTS, st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_every_target_is_asked_for_exactly_once_per_epoch(lists, longest, batch, every_position):
    """With what stands directly before it, beginning at most `longest` items back."""
    data = training(lists, longest=longest, batch=batch, every_position=every_position)
    batches = list(data.epoch(3))
    found = list(questions(batches))
    expected = Counter((user, target) for user, items in enumerate(lists) for target in items[1:])
    assert Counter((user, target) for user, _, target in found) == expected
    assert data.targets == len(found) and len(data) == len(batches)
    for user, read, target in found:
        whole = (*read, target)
        assert any(tuple(lists[user][at : at + len(whole)]) == whole for at in range(len(lists[user])))
        assert 1 <= len(read) <= longest


@given(LISTS, st.booleans())
def test_rows_are_padded_behind_and_never_wider_than_their_longest(lists, every_position):
    for batch in training(lists, every_position=every_position).epoch(0):
        assert batch.items.shape == batch.targets.shape and batch.items.shape[1] == batch.lengths.max()
        assert torch.equal(batch.real, torch.arange(batch.items.shape[1]) < batch.lengths[:, None])
        assert (batch.targets[~batch.real] == CATALOGUE).all()
        assert ((batch.targets < CATALOGUE).sum(1) == 1).all() or every_position


def test_a_long_history_becomes_windows_of_which_the_last_has_as_much_context_as_fits():
    """Eight items, seven targets, three positions: targets 1-3, 4-6 and then 7, before which items 4-6 are read."""
    data = training([[0, 1, 2, 3, 4, 5, 6, 7]], longest=3)
    rows = {tuple(batch.items[r].tolist()): tuple(batch.targets[r].tolist())
            for batch in data.epoch(0) for r in range(len(batch))}  # fmt: skip
    assert rows == {(0, 1, 2): (1, 2, 3), (3, 4, 5): (4, 5, 6), (4, 5, 6): (CATALOGUE, CATALOGUE, 7)}


def test_without_states_at_every_position_each_target_has_its_own_row_of_the_latest_items():
    data = training([[0, 1, 2, 3], [8]], longest=2, every_position=False)
    assert sorted(questions(data.epoch(0))) == [(0, (0,), 1), (0, (0, 1), 2), (0, (1, 2), 3)]


@pytest.mark.parametrize("every_position", [True, False])
def test_users_with_one_item_or_none_ask_for_nothing(every_position):
    data = training([[3], [], [1, 2], []], every_position=every_position)
    assert list(questions(data.epoch(0))) == [(2, (1,), 2)]
    nothing = training([[3], []], every_position=every_position)
    assert (len(nothing), nothing.targets, list(nothing.epoch(0))) == (0, 0, [])


def told(data, number):
    return [(b.users.tolist(), b.items.tolist(), b.targets.tolist()) for b in data.epoch(number)]


def test_an_epoch_follows_from_the_seed_and_its_number():
    lists = [[(user + step) % CATALOGUE for step in range(2 + user % 5)] for user in range(20)]
    first = told(training(lists, seed=1), 4)
    assert told(training(lists, seed=1), 4) == first
    assert told(training(lists, seed=1), 5) != first != told(training(lists, seed=2), 4)


def test_histories_of_about_equal_length_share_a_batch():
    """Sorted, sixty-four rows of one to eight items need no padding; as they come, every batch would have some."""
    lists = [[0] * (2 + user % 8) for user in range(64)]
    assert all(batch.real.all() for batch in training(lists, longest=8, batch=4).epoch(0))


def test_to_recommend_the_latest_items_are_read_and_unknown_users_have_a_number_of_their_own():
    batch = of_histories(Histories.from_lists([[0, 1, 2, 3], [], [5]]), np.array([1, -1, 0]),
                         catalogue=CATALOGUE, population=2, longest=3)  # fmt: skip
    assert batch.items.tolist() == [[1, 2, 3], [9, 9, 9], [5, 9, 9]]
    assert batch.lengths.tolist() == [3, 0, 1] and batch.users.tolist() == [1, 2, 0] and batch.targets is None
    anybody = of_histories(Histories.from_lists([[1]]), None, catalogue=CATALOGUE, population=2, longest=3)
    assert anybody.users.tolist() == [2]


@pytest.mark.parametrize("lists", [[], [[]], [[], []]])
def test_empty_histories_are_one_column_of_padding(lists):
    batch = of_histories(Histories.from_lists(lists), None, catalogue=CATALOGUE, population=2, longest=3)
    assert batch.items.tolist() == [[9]] * len(lists) and batch.lengths.tolist() == [0] * len(lists)
    assert batch.last(torch.zeros(len(lists), 1, 4)).shape == (len(lists), 4)


def test_the_last_state_is_that_of_the_last_item_and_of_the_first_column_without_items():
    batch = of_histories(Histories.from_lists([[0, 1, 2], [], [5]]), None, catalogue=CATALOGUE, population=2, longest=3)
    states = torch.arange(9.0).view(3, 3, 1)
    assert batch.last(states).flatten().tolist() == [2.0, 3.0, 6.0]


def test_to_left_puts_the_padding_in_front():
    batch = of_histories(Histories.from_lists([[0, 1, 2], [], [5]]), None, catalogue=CATALOGUE, population=2, longest=3)
    assert batch.to_left(2).tolist() == [[1, 2], [9, 9], [9, 5]]
    assert batch.to_left(5).tolist() == [[9, 9, 0, 1, 2], [9] * 5, [9, 9, 9, 9, 5]]


def test_a_batch_moves_as_a_whole():
    batch = next(training([[1, 2, 3]]).epoch(0)).to(torch.device("meta"))
    assert {value.device.type for value in (batch.items, batch.lengths, batch.users, batch.targets)} == {"meta"}
