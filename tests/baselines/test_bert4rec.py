import numpy as np
import pytest
import torch
from reference import block
from sequence_contract import CATALOGUE, LONGEST, SequenceModelContract, batch_of
from torch.nn import functional as F

from ed2rec.baselines.bert4rec import BERT4Rec
from ed2rec.baselines.masking import hidden_at_random, last_of, training_rows
from ed2rec.baselines.sequences import Training
from ed2rec.data.dataset import Histories


def training(lists, longest=LONGEST, whole_rows=False):
    """All training rows in one batch."""
    made = Training(Histories.from_lists(lists), catalogue=CATALOGUE, longest=longest, whole_rows=whole_rows,
                    batch=64, seed=0)  # fmt: skip
    (batch,) = made.epoch(0)
    return batch


def small(longest=LONGEST, masked=0.3, only_last=0.5, dropout=0.1):
    torch.manual_seed(0)
    return BERT4Rec(CATALOGUE, width=8, layers=2, heads=2, inner=16, dropout=dropout, longest=longest, masked=masked,
                    only_last=only_last)  # fmt: skip


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


class TestBERT4Rec(SequenceModelContract):
    def build(self, catalogue, population):
        """Mostly asked for the last item, so that the contract's 60 epochs are enough."""
        return BERT4Rec(catalogue, width=16, layers=2, heads=2, inner=32, dropout=0.0, longest=LONGEST, masked=0.3,
                        only_last=0.8)  # fmt: skip

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        for row in range(len(batch)):
            history = batch.items[row, : batch.lengths[row]]
            x = torch.cat([model.items(history), model.hidden[None]]) + model.positions.weight[: len(history) + 1]
            x = model.norm(x)
            for layer in model.blocks.blocks:
                x = block(layer, x, heads=2, causal=False)
            expected = model.head_norm(F.gelu(model.head(x[-1])))
            torch.testing.assert_close(model.states(batch)[row], expected, rtol=1e-4, atol=1e-5)


def test_a_row_is_the_whole_training_sequence_cut_to_the_latest_items():
    lists = [[3, 1, 4, 5, 9], [2, 6]]
    assert sorted(training_rows(training(lists, whole_rows=True), 9).tolist()) == [[2, 6] + [12] * 3, lists[0]]
    assert sorted(training_rows(training(lists, whole_rows=True), 3).tolist()) == [[2, 6, 12], [4, 5, 9]]
    prefixes = sorted(training_rows(training(lists), 9).tolist())
    assert prefixes == [[2, 6, 12, 12, 12], lists[0], [3, 1, 4, 5, 12], [3, 1, 4, 12, 12], [3, 1, 12, 12, 12]]


def test_a_long_history_in_windows_shows_each_window_with_its_last_target():
    """Seven items through windows of three: inputs 0-2 and 3-5, each with the target behind its last one."""
    rows = training_rows(training([[0, 1, 2, 3, 4, 5, 6]], longest=3, whole_rows=True), 3)
    assert sorted(rows.tolist()) == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("whole_rows", [False, True])
def test_only_hidden_positions_are_asked_for_and_their_items_are_not_read(whole_rows):
    """Whatever stands at the hidden positions, the states there stay the same; the targets are what stood there."""
    model = small(dropout=0.0).train()
    batch = training([[3, 1, 4, 5, 9], [2, 6, 8]], whole_rows=whole_rows)
    states, targets, users = model.supervised(batch, draw())
    rows = training_rows(batch, LONGEST)
    hidden = model.hide(rows < CATALOGUE, draw())
    assert targets.tolist() == rows[hidden].tolist() and len(states) == len(users) == int(hidden.sum())
    assert users.tolist() == [int(u) for u, row in zip(batch.users, hidden, strict=True) for _ in range(int(row.sum()))]
    other = rows.where(~hidden, (rows + 5) % CATALOGUE)
    torch.testing.assert_close(model._guess(other, hidden, CATALOGUE), states, rtol=0, atol=0)
    seen = rows.where(hidden | (rows == CATALOGUE), (rows + 5) % CATALOGUE)
    assert not torch.allclose(model._guess(seen, hidden, CATALOGUE), states)


def test_the_share_of_hidden_items_is_as_asked_and_no_row_is_without():
    real = torch.ones(4000, 20, dtype=torch.bool)
    real[:, 15:] = False
    hidden = hidden_at_random(real, 0.3, draw())
    assert not hidden[:, 15:].any() and bool(hidden.any(1).all())
    assert float(hidden[:, :15].float().mean()) == pytest.approx(0.3 + 0.7**15 / 15, abs=0.01)
    assert hidden_at_random(real, 0.0, draw()).sum(1).tolist() == [1] * 4000
    assert torch.equal(hidden_at_random(real, 1.0, draw()), real)
    assert not hidden_at_random(torch.zeros(2, 3, dtype=torch.bool), 0.5, draw()).any()


def test_with_only_last_one_each_row_hides_its_last_item_and_with_a_half_about_half_do():
    real = torch.arange(6) < torch.tensor([[6], [3], [1]]).repeat(2000, 1)
    assert torch.equal(small(only_last=1.0).hide(real, draw()), last_of(real))
    assert last_of(real)[:3].float().argmax(1).tolist() == [5, 2, 0] and last_of(real).sum(1).unique().tolist() == [1]
    model = small(only_last=0.5, masked=1.0)
    alone = (model.hide(real, draw()).sum(1) == 1)[real.sum(1) > 1]
    assert float(alone.float().mean()) == pytest.approx(0.5, abs=0.03)


def test_every_training_item_is_asked_for_the_last_one_too():
    model, lists = small(), [[3, 1, 4, 5, 9], [2, 6, 8]]
    random, asked = draw(), set()
    for _ in range(60):
        _, targets, users = model.supervised(training(lists, whole_rows=True), random)
        asked |= set(zip(users.tolist(), targets.tolist(), strict=True))
    assert asked == {(user, item) for user, items in enumerate(lists) for item in items}


def test_the_hidden_item_takes_the_place_of_the_oldest_in_a_full_window():
    model = small(longest=4).eval()
    long, short = batch_of([[9, 8, 1, 2, 3]]), batch_of([[1, 2, 3]])
    torch.testing.assert_close(model.final(long), model.final(short))


def test_the_same_generator_hides_the_same_items_and_its_state_moves_on():
    model, batch, random = small(), training([np.arange(9).tolist()] * 8), draw(5)
    first = model.supervised(batch, random)[1].tolist()
    assert model.supervised(batch, draw(5))[1].tolist() == first != model.supervised(batch, random)[1].tolist()


def test_it_trains_on_one_row_per_prefix_so_that_each_item_is_the_next_one_once_an_epoch():
    lists = [[3, 1, 4, 5, 9], [2, 6, 8], [7]]
    made = Training(Histories.from_lists(lists), catalogue=CATALOGUE, longest=LONGEST,
                    whole_rows=BERT4Rec.every_position, batch=64, seed=0)  # fmt: skip
    (batch,) = made.epoch(0)
    ends = training_rows(batch, LONGEST)[last_of(training_rows(batch, LONGEST) < CATALOGUE)]
    assert sorted(zip(batch.users.tolist(), ends.tolist(), strict=True)) == [
        (0, 1), (0, 4), (0, 5), (0, 9), (1, 6), (1, 8),
    ]  # fmt: skip
