import torch
from sequence_contract import CATALOGUE, POPULATION, SequenceModelContract, batch_of

from ed2rec.baselines.hgn import HGN

WIDTH, WINDOW = 8, 3


class TestHGN(SequenceModelContract):
    def build(self, catalogue, population):
        return HGN(catalogue, population, width=WIDTH, window=WINDOW)

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        expected = []
        for row in range(len(batch)):
            history, user = batch.items[row, : batch.lengths[row]].tolist(), model.users.weight[batch.users[row]]
            weighted, weights, recent = torch.zeros(WIDTH), torch.zeros(()), torch.zeros(WIDTH)
            for back, item in enumerate(reversed(history[-WINDOW:])):
                e = model.items.weight[item]
                feature = model.feature.weight @ e + model.feature_user.weight @ user + model.feature.bias
                gated = e * torch.sigmoid(feature)
                instance = model.instance.weight[0] @ gated + model.instance_user.weight[back] @ user
                gate = torch.sigmoid(instance)
                weighted, weights, recent = weighted + gate * gated, weights + gate, recent + e
            expected.append(user + recent + (weighted / weights if history else 0))
        torch.testing.assert_close(model.final(batch), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_short_history_is_a_mean_of_its_own_items_not_of_padding():
    """With all gates 1/2 the mean of one item is half of it, whatever the window: 1/2 e + e."""
    model = HGN(CATALOGUE, POPULATION, width=8, window=5)
    with torch.no_grad():
        for linear in (model.feature, model.feature_user, model.instance, model.instance_user):
            for parameter in linear.parameters():
                parameter.zero_()
    torch.testing.assert_close(model.final(batch_of([[7]]))[0], 1.5 * model.items.weight[7])


def test_only_the_window_counts():
    model = HGN(CATALOGUE, POPULATION, width=8, window=3)
    long, short = model.final(batch_of([[11, 10, 9, 1, 2, 3], [1, 2, 3]], [2, 2]))
    torch.testing.assert_close(long, short)


def test_an_unknown_user_without_a_history_gets_the_items_biases():
    model = HGN(CATALOGUE, POPULATION, width=8, window=3)
    assert model.final(batch_of([[]])).tolist() == [[0] * 8]
