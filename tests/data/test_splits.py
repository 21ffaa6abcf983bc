"""Leave-one-out and the split at one moment, on lists that one can check by eye."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shops import dataset_of

from ed2rec.data.dataset import Histories
from ed2rec.data.splits import global_time, leave_one_out, times_of
from ed2rec.errors import DataError


@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=9), max_size=6))
def test_the_last_item_is_tested_and_the_one_before_validated(lists):
    split = leave_one_out(Histories.from_lists(lists))
    rows = range(len(lists))
    assert [split.train[u].tolist() for u in rows] == [items[:-2] for items in lists]
    assert [split.valid.histories[u].tolist() for u in rows] == [items[:-2] for items in lists]
    assert [split.test.histories[u].tolist() for u in rows] == [items[:-1] for items in lists]
    assert split.valid.targets.tolist() == [items[-2] for items in lists]
    assert split.test.targets.tolist() == [items[-1] for items in lists]
    assert split.test.users.tolist() == split.valid.users.tolist() == list(rows)
    assert split.test.targets.dtype == split.test.users.dtype == np.int64


def test_a_user_with_two_items_is_named_with_how_many_there_are():
    histories = Histories.from_lists([[1, 2, 3], [1, 2], [], [4, 5, 6]])
    with pytest.raises(DataError, match=r"User 'ben' has 2 item.*2 of 4 users.*--k-core 3"):
        leave_one_out(histories, ["anna", "ben", "carl", "dora"])
    with pytest.raises(DataError, match="User number 1"):
        leave_one_out(histories)


# One moment for everybody.


def test_everybody_is_cut_at_the_same_two_moments():
    """Times 1 to 10. Three quarters on is 8 (7.75 and up), so 8, 9, 10 are the test period; of 1 … 7 it is 6 (5.5)."""
    histories = Histories.from_lists([[10, 11, 12, 13], [20, 21, 22], [30], [40, 41]])
    times = np.array([1, 2, 6, 8, 3, 5, 9, 10, 4, 7])
    split = global_time(histories, times, quantile=0.75, valid_quantile=0.75)
    assert (split.valid_from, split.test_from) == (6, 8)
    assert [split.train[u].tolist() for u in range(4)] == [[10, 11], [20, 21], [], [40]]
    assert split.valid.users.tolist() == [0, 3] and split.valid.targets.tolist() == [12, 41]
    assert [split.valid.histories[n].tolist() for n in range(2)] == [[10, 11], [40]]
    # User 2 comes only after the cut and user 3 does not come back: neither is asked.
    assert split.test.users.tolist() == [0, 1] and split.test.targets.tolist() == [13, 22]
    assert [split.test.histories[n].tolist() for n in range(2)] == [[10, 11, 12], [20, 21]]


def test_what_happens_at_the_moment_itself_is_after_it():
    histories = Histories.from_lists([[0, 1, 2, 3], [4, 5, 6, 7]])
    split = global_time(histories, np.array([1, 2, 3, 3, 1, 2, 3, 3]), quantile=0.6, valid_quantile=0.9)
    assert split.test_from == 3 and split.test.targets.tolist() == [2, 6]
    assert split.valid_from == 2 and split.valid.targets.tolist() == [1, 5]


LOGS = st.lists(st.lists(st.integers(0, 30), max_size=8).map(sorted), min_size=1, max_size=8)


@given(LOGS, st.floats(0.3, 0.95), st.floats(0.3, 0.95))
def test_no_training_row_holds_anything_from_after_the_moment(rows, quantile, valid_quantile):
    """Every item is its own interaction, so that its time can be looked up."""
    times = np.array([time for row in rows for time in row])
    offsets = np.cumsum([0, *map(len, rows)])
    try:
        split = global_time(Histories(np.arange(len(times)), offsets), times, quantile=quantile,
                            valid_quantile=valid_quantile)  # fmt: skip
    except DataError as told:
        assert "\n" not in str(told)
        return
    assert split.valid_from < split.test_from and len(split.train) == len(rows)
    assert (times[split.train.flat] < split.valid_from).all()
    assert len(split.train.flat) == (times < split.valid_from).sum()
    for cases, begin, end in (
        (split.valid, split.valid_from, split.test_from),
        (split.test, split.test_from, np.inf),
    ):
        assert ((times[cases.targets] >= begin) & (times[cases.targets] < end)).all()
        assert (times[cases.histories.flat] < begin).all() and (cases.histories.lengths > 0).all()
        for n, user in enumerate(cases.users):
            assert cases.targets[n] == cases.histories[n][-1] + 1  # the very next one of this user
            assert offsets[user] == cases.histories[n][0] and cases.targets[n] < offsets[user + 1]


def test_positions_are_no_times_and_the_dataset_says_so():
    dataset = dataset_of([[0, 1, 2]], ["a", "b", "c"])
    assert times_of(dataset).tolist() == [0, 1, 2]
    positions = replace(dataset, facts={"source": {"timestamps": "positions in the user's list"}})
    with pytest.raises(DataError, match=r"shop has no times \(its timestamps are positions.*leave-one-out") as told:
        times_of(positions)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("times", "quantile", "said"),
    [
        ([1, 1, 1, 1], 0.9, "at one time"),
        ([1, 2, 3, 4], 1.0, "between 0 and 1"),
        ([3, 4, 1, 2], 0.5, "in the test period"),
    ],
)
def test_a_split_that_leaves_nobody_is_told(times, quantile, said):
    with pytest.raises(DataError, match=said):
        global_time(Histories.from_lists([[0, 1], [2, 3]]), np.array(times), quantile=quantile)


def test_times_that_are_not_those_of_the_histories_are_a_fault_of_ours():
    for times in ([1, 2, 3], [2, 1, 3, 4]):
        with pytest.raises(ValueError, match="in time order"):
            global_time(Histories.from_lists([[0, 1], [2, 3]]), np.array(times))
