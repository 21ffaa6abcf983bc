import math

import pytest
import torch
from sequence_contract import CATALOGUE, POPULATION, SequenceModelContract, batch_of

from ed2rec.baselines import losses
from ed2rec.baselines.attrec import AttRec, time_signal
from ed2rec.data.dataset import Histories

WIDTH, WINDOW, OMEGA = 8, 4, 0.3


class TestAttRec(SequenceModelContract):
    def build(self, catalogue, population):
        return AttRec(catalogue, population, width=WIDTH, window=WINDOW, omega=OMEGA, dropout=0.1)

    def test_intents_are_those_of_a_loop_over_the_equations(self, model, batch):
        intents = batch.last(model.intent(batch))
        for row in range(len(batch)):
            expected = _intent(model, batch.items[row, : batch.lengths[row]].tolist())
            torch.testing.assert_close(intents[row], expected, rtol=1e-4, atol=1e-5)

    def test_scores_differ_as_the_distances_do(self, model, batch):
        """Up to a constant per history, so differences between items are compared."""
        table, bias = model.output()
        scores = model.final(batch) @ table.T + bias
        for row in range(len(batch)):
            user = model.users.weight[batch.users[row]]
            intent = _intent(model, batch.items[row, : batch.lengths[row]].tolist())
            distances = torch.stack([
                OMEGA * (user - model.tastes.weight[j]).square().sum()
                + (1 - OMEGA) * (model.items.weight[j] - intent).square().sum() for j in range(batch.catalogue)
            ])  # fmt: skip
            torch.testing.assert_close(scores[row] - scores[row, 0], distances[0] - distances, rtol=1e-4, atol=1e-4)

    # An intent is a mean of items, so that what stands before the window is as near to it as what follows.
    test_it_learns_that_each_item_is_followed_by_the_next = None

    def test_it_learns_which_items_go_together(self):
        """Histories hold items of one colour (number mod 3); so do the four best, asked for a user nobody knows."""
        torch.manual_seed(0)
        model = self.build(CATALOGUE, POPULATION)
        turns = [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]
        lists = [[3 * place + user % 3 for place in turns[user % 4]] for user in range(POPULATION)]
        self.fit(model, Histories.from_lists(lists), epochs=120)
        table, bias = model.output()
        best = (model.final(batch_of([[0, 6], [4, 10], [2, 11]])) @ table.T + bias).topk(4).indices
        assert (best % 3).tolist() == [[0] * 4, [1] * 4, [2] * 4]

    def test_the_papers_loss_trains_every_parameter_too(self, model, monkeypatch):
        def hinge(model, batch, draw):
            states, targets, _ = model.supervised(batch, draw)
            negatives = torch.randint(batch.catalogue, (len(targets), 1), generator=draw)
            positive, negative = (losses.sampled_scores(states, *model.output(), items)
                                  for items in (targets[:, None], negatives))  # fmt: skip
            return losses.hinge(positive, negative)

        monkeypatch.setattr(self, "loss", hinge)
        self.test_every_parameter_learns(model)


def _intent(model, history):
    """m of one history: attention row by row, without the diagonal, then the mean of the rows."""
    recent = history[-WINDOW:]
    if not recent:
        return torch.zeros(WIDTH)
    rows = [model.items.weight[item] for item in recent]
    # The latest item stands in the last place of the window.
    signed = [x + _signal(WINDOW - len(recent) + place) for place, x in enumerate(rows)]
    query, key = ([torch.relu(linear.weight @ x) for x in signed] for linear in (model.query, model.key))
    total = torch.zeros(WIDTH)
    for place in range(len(rows)):
        others = [o for o in range(len(rows)) if o != place] or [place]
        weights = torch.stack([query[place] @ key[o] / math.sqrt(WIDTH) for o in others]).exp()
        total = total + sum(w * rows[o] for w, o in zip(weights / weights.sum(), others, strict=True))
    return total / len(rows)


def _signal(place):
    angles = [place / 10000 ** (2 * i / WIDTH) for i in range(WIDTH // 2)]
    return torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)])


@pytest.mark.parametrize("width", [1, 7, 8])
def test_the_first_place_is_signalled_by_sin_0_and_cos_0(width):
    signal = time_signal(3, width)
    assert signal.shape == (3, width) and signal[0].tolist() == [place % 2 for place in range(width)]
    assert signal[2, 0].item() == pytest.approx(math.sin(2))


def test_a_single_item_is_the_intent_itself():
    model = AttRec(CATALOGUE, POPULATION, width=8, window=3, omega=0.5, dropout=0.0)
    torch.testing.assert_close(model.intent(batch_of([[7]]))[0, 0], model.items.weight[7])


def test_two_items_attend_to_each_other_and_their_mean_is_the_intent():
    model = AttRec(CATALOGUE, POPULATION, width=8, window=3, omega=0.5, dropout=0.0)
    torch.testing.assert_close(model.intent(batch_of([[7, 2]]))[0, 1], model.items.weight[[7, 2]].mean(0))
