import pytest
import torch
from sequence_contract import CATALOGUE, POPULATION, SequenceModelContract, batch_of

from ed2rec.baselines.caser import Caser

WIDTH, WINDOW, VERTICAL, HORIZONTAL = 8, 3, 2, 5


class TestCaser(SequenceModelContract):
    def build(self, catalogue, population):
        return Caser(catalogue, population, width=WIDTH, window=WINDOW, vertical=VERTICAL, horizontal=HORIZONTAL,
                     dropout=0.1)  # fmt: skip

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        for row in range(len(batch)):
            history, user = batch.items[row, : batch.lengths[row]].tolist(), model.users.weight[batch.users[row]]
            expected = torch.cat([_query(model, history), user])
            torch.testing.assert_close(model.final(batch)[row], expected, rtol=1e-4, atol=1e-5)


def _query(model, history):
    """z of one history, filter by filter and place by place."""
    recent = [model.items.weight[item] for item in history[-WINDOW:]]
    image = torch.stack([torch.zeros(WIDTH)] * (WINDOW - len(recent)) + recent)
    # A vertical filter gives one value per column; the columns stand together, each with all its filters.
    vertical = [image[:, column] @ model.vertical.weight[n] + model.vertical.bias[n]
                for column in range(WIDTH) for n in range(VERTICAL)]  # fmt: skip
    horizontal = []
    for height, filters in enumerate(model.horizontal, start=1):
        for weight, bias in zip(filters.weight, filters.bias, strict=True):  # weight: (WIDTH, height)
            places = [(image[s : s + height] * weight.T).sum() + bias for s in range(WINDOW - height + 1)]
            horizontal.append(max(torch.relu(place) for place in places))
    return torch.relu(model.mix(torch.stack(vertical + horizontal)))


@pytest.mark.parametrize("window", [1, 5])
def test_only_the_window_counts(window):
    model = Caser(CATALOGUE, POPULATION, width=8, window=window, vertical=2, horizontal=3, dropout=0.0)
    long, short = model.final(batch_of([[11, 10, 9, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]))
    torch.testing.assert_close(long, short)


def test_users_of_one_history_differ_in_their_own_half_only():
    model = Caser(CATALOGUE, POPULATION, width=8, window=3, vertical=2, horizontal=3, dropout=0.0)
    one, other = model.final(batch_of([[1, 2, 3], [1, 2, 3]], [0, 1]))
    torch.testing.assert_close(one[:8], other[:8])
    assert one[8:].tolist() == model.users.weight[0].tolist() != other[8:].tolist()
