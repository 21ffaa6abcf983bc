import torch
from sequence_contract import CATALOGUE, SequenceModelContract, batch_of

from ed2rec.baselines.narm import NARM


class TestNARM(SequenceModelContract):
    def build(self, catalogue, population):
        return NARM(catalogue, width=8, hidden=12, layers=1, dropout=0.1, dropout_context=0.1)

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        expected = []
        for row in range(len(batch)):
            states = _recurrent(model, batch.items[row, : batch.lengths[row]].tolist())
            local = torch.zeros(12)
            for h in states:
                energy = torch.sigmoid(model.last.weight @ states[-1] + model.each.weight @ h)
                local = local + (model.weight.weight[0] @ energy) * h
            last = states[-1] if states else torch.zeros(12)
            expected.append(model.decode.weight @ torch.cat([local, last]))
        torch.testing.assert_close(model.final(batch), torch.stack(expected), rtol=1e-4, atol=1e-5)


def _recurrent(model, history):
    """r, z = σ(W e + U h);  n = tanh(W e + r ⊙ U h);  h ← (1 - z) ⊙ n + z ⊙ h, from h = 0."""
    states, h = [], torch.zeros(12)
    for item in history:
        from_item = (model.gru.weight_ih_l0 @ model.items.weight[item]).chunk(3)
        from_past = (model.gru.weight_hh_l0 @ h).chunk(3)
        reset, keep = (torch.sigmoid(a + b) for a, b in zip(from_item[:2], from_past[:2], strict=True))
        h = (1 - keep) * torch.tanh(from_item[2] + reset * from_past[2]) + keep * h
        states.append(h)
    return states


def test_with_constant_attention_the_context_is_a_sum_of_the_states_so_far():
    """A1 = A2 = 0 makes every weight σ(0) Σ v = 1/2 Σ v; with v = 1/6 each, 12 wide, that is 1."""
    model = NARM(CATALOGUE, width=12, hidden=12, layers=1, dropout=0.0, dropout_context=0.0)
    with torch.no_grad():
        model.last.weight.zero_()
        model.each.weight.zero_()
        model.weight.weight.fill_(1 / 6)
        model.decode.weight.copy_(torch.cat([torch.eye(12), torch.zeros(12, 12)], dim=1))
    states = torch.stack(_recurrent(model, [3, 1, 4]))
    torch.testing.assert_close(model.states(batch_of([[3, 1, 4]]))[0], states.cumsum(0))


def test_an_empty_history_has_the_state_zero():
    model = NARM(CATALOGUE, width=8, hidden=12, layers=1, dropout=0.0, dropout_context=0.0)
    assert model.final(batch_of([[]])).tolist() == [[0] * 8]
