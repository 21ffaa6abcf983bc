"""Leave-one-out on lists that one can check by eye."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ed2rec.data.dataset import Histories
from ed2rec.data.splits import leave_one_out
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
