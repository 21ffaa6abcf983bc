import torch
from sequence_contract import SequenceModelContract, batch_of

from ed2rec.baselines.gru4rec import GRU4Rec


class TestGRU4Rec(SequenceModelContract):
    def build(self, catalogue, population):
        return GRU4Rec(catalogue, width=8, hidden=12, layers=1, dropout=0.1)

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        """r, z = σ(W e + U h);  n = tanh(W e + r ⊙ U h);  h ← (1 - z) ⊙ n + z ⊙ h, from h = 0."""
        w, u = model.gru.weight_ih_l0, model.gru.weight_hh_l0
        expected = []
        for row in range(len(batch)):
            h = torch.zeros(12)
            for item in batch.items[row, : batch.lengths[row]].tolist():
                from_item, from_past = (w @ model.items.weight[item]).chunk(3), (u @ h).chunk(3)
                reset, keep = (torch.sigmoid(a + b) for a, b in zip(from_item[:2], from_past[:2], strict=True))
                h = (1 - keep) * torch.tanh(from_item[2] + reset * from_past[2]) + keep * h
            expected.append(model.project(h))
        torch.testing.assert_close(model.final(batch), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_padding_row_stays_zero():
    model = GRU4Rec(12, width=8, hidden=12, layers=1, dropout=0.0)
    assert model.items.weight[-1].tolist() == [0] * 8
    assert model.final(batch_of([[]])).tolist() == [model.project.bias.tolist()]
