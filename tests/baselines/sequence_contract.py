"""Promises of the learned baselines, tested once and inherited by every member in three lines.

class TestGRU4Rec(SequenceModelContract):
    def build(self, catalogue, population):
        return GRU4Rec(catalogue, width=8, hidden=12, layers=1, dropout=0.1)
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ed2rec.baselines import losses
from ed2rec.baselines.contract import SequenceModel, TiedModel
from ed2rec.baselines.sequences import Sequences, Training, of_histories
from ed2rec.data.dataset import Histories

CATALOGUE, POPULATION = 12, 16
LONGEST = 9
"""No batch is wider, padding included: for models that count positions."""


def batch_of(lists: list[list[int]], users: list[int] | None = None) -> Sequences:
    """Histories (item numbers) to recommend from; users: -1 where not known."""
    known = None if users is None else np.array(users, dtype=np.int64)
    return of_histories(Histories.from_lists(lists), known, catalogue=CATALOGUE, population=POPULATION, longest=LONGEST)


def padded(batch: Sequences, columns: int) -> Sequences:
    """The same batch with more padding behind it."""
    more = batch.items.new_full((len(batch), columns), batch.catalogue)
    return replace(batch, items=torch.cat([batch.items, more], dim=1))


class SequenceModelContract:
    """What trainer and scorer rely on. Members define `build(catalogue, population)`, which returns a small model for
    histories of up to LONGEST items, and may override `loss`, where some parameters are not trained by softmax."""

    def build(self, catalogue: int, population: int) -> SequenceModel:
        raise NotImplementedError

    def loss(self, model: SequenceModel, batch: Sequences, draw: torch.Generator) -> Tensor:
        states, targets, _ = model.supervised(batch, draw)
        return losses.softmax(states, *model.output(), targets)

    def fit(self, model: SequenceModel, histories: Histories, epochs: int) -> None:
        """Adam on the training targets of these histories."""
        training = Training(histories, catalogue=CATALOGUE, longest=LONGEST, whole_rows=model.every_position,
                            batch=16, seed=0)  # fmt: skip
        torch.manual_seed(0)
        draw = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        model.train()
        for epoch in range(epochs):
            for batch in training.epoch(epoch):
                optimiser.zero_grad()
                self.loss(model, batch, draw).backward()
                optimiser.step()
        model.eval()

    @pytest.fixture
    def model(self) -> SequenceModel:
        """Random weights, wider than they start, so that no difference hides behind small numbers."""
        torch.manual_seed(0)
        model = self.build(CATALOGUE, POPULATION).eval()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.Embedding):
                    module.weight.mul_(0.5 / module.weight.std())
        return model

    @pytest.fixture
    def batch(self) -> Sequences:
        """Histories of 0 to 7 items of known and unknown users, an item repeated here and there."""
        return batch_of([[3, 1, 4, 1, 5, 9, 2], [], [6], [5, 3, 5], [8, 9, 7, 9], []], [0, 1, 2, -1, 3, -1])

    def test_a_state_per_history_and_a_row_per_item(self, model, batch):
        states, (table, bias) = model.states(batch), model.output()
        width = table.shape[1]
        assert states.shape == ((*batch.items.shape, width) if model.every_position else (len(batch), width))
        assert table.shape == (CATALOGUE, width) and (bias is None or bias.shape == (CATALOGUE,))
        assert model.final(batch).shape == (len(batch), width)

    def test_the_same_batch_gets_the_same_states(self, model, batch):
        torch.testing.assert_close(model.states(batch), model.states(batch), rtol=0, atol=0)

    def test_more_padding_changes_no_state(self, model, batch):
        wider = padded(batch, LONGEST - batch.items.shape[1])
        torch.testing.assert_close(model.final(wider), model.final(batch), rtol=1e-4, atol=1e-5)
        if model.every_position:
            found = model.states(wider)[:, : batch.items.shape[1]]
            torch.testing.assert_close(found[batch.real], model.states(batch)[batch.real], rtol=1e-4, atol=1e-5)

    def test_a_history_alone_has_the_state_it_has_in_a_crowd(self, model, batch):
        together = model.final(batch)
        for row in range(len(batch)):
            width = max(1, int(batch.lengths[row]))
            alone = replace(batch, items=batch.items[row : row + 1, :width], lengths=batch.lengths[row : row + 1],
                            users=batch.users[row : row + 1])  # fmt: skip
            torch.testing.assert_close(model.final(alone)[0], together[row], rtol=1e-4, atol=1e-5)

    def test_the_history_matters(self, model):
        found = model.final(batch_of([[0, 1], [0, 2], [0]], [4, 4, 4]))
        assert (found[0] - found[1]).abs().max() > 1e-4 and (found[0] - found[2]).abs().max() > 1e-4

    def test_a_later_item_leaves_earlier_states_as_they_are(self, model):
        if not model.every_position:
            pytest.skip("a state after the last item only")
        histories, users = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]], [0, 1]
        before = model.states(batch_of(histories, users))
        for place in range(8):
            changed = model.states(batch_of([[*h[:place], (h[place] + 4) % CATALOGUE, *h[place + 1 :]]
                                             for h in histories], users))  # fmt: skip
            torch.testing.assert_close(changed[:, :place], before[:, :place], rtol=1e-4, atol=1e-5)
            assert (changed[:, place] - before[:, place]).abs().max() > 1e-4

    def test_a_state_on_the_way_is_that_of_the_history_so_far(self, model):
        if not model.every_position:
            pytest.skip("a state after the last item only")
        history = [3, 1, 4, 1, 5, 9, 2, 6]
        prefixes = [history[: n + 1] for n in range(len(history))]
        found = model.final(batch_of(prefixes, [2] * len(prefixes)))
        torch.testing.assert_close(found, model.states(batch_of([history], [2]))[0], rtol=1e-4, atol=1e-5)

    def test_unknown_users_and_empty_histories_have_finite_states(self, model, batch):
        for some in (batch, batch_of([[], []], [-1, 0]), batch_of([[1, 2], []])):
            table, bias = model.output()
            scores = model.final(some) @ table.T + (0 if bias is None else bias)
            assert scores.isfinite().all()

    def test_training_with_an_unknown_user_and_an_empty_history_gives_finite_gradients(self, model, batch):
        model.train()
        model.final(batch).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_every_parameter_learns(self, model):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        random = np.random.default_rng(0)
        lists = [random.permutation(CATALOGUE)[: 3 + user % 7].tolist() for user in range(POPULATION)]
        self.fit(model, Histories.from_lists(lists), epochs=3)
        still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
        assert not still, f"never trained: {still}"
        assert all(p.isfinite().all() for p in model.parameters())

    def test_one_that_is_tied_may_have_a_table_of_its_own(self, model, batch):
        """The states stay, the scores come from the new table, and both tables learn."""
        if not isinstance(model, TiedModel):
            pytest.skip("its scores do not come from the item embeddings alone")
        before, tied = model.final(batch), model.output()[0]
        assert torch.equal(tied, model.items.weight[:-1])
        model.untie()
        assert torch.equal(model.final(batch), before) and (model.output()[0] - tied).abs().max() > 0.01
        self.test_every_parameter_learns(model)

    def test_it_learns_that_each_item_is_followed_by_the_next(self):
        """On a ring the last items say which one follows. Guessing would find one in twelve."""
        torch.manual_seed(0)
        model = self.build(CATALOGUE, POPULATION)
        ring = [[(user + step) % CATALOGUE for step in range(7)] for user in range(POPULATION)]
        self.fit(model, Histories.from_lists(ring), epochs=120)
        batch = batch_of([history[1:] for history in ring], list(range(POPULATION)))
        table, bias = model.output()
        best = (model.final(batch) @ table.T + (0 if bias is None else bias)).argmax(1)
        found = best == torch.tensor([(history[-1] + 1) % CATALOGUE for history in ring])
        assert found.float().mean() >= 0.75
