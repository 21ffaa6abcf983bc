import torch
from reference import block
from sequence_contract import LONGEST, SequenceModelContract

from ed2rec.baselines.sasrec import SASRec


class TestSASRec(SequenceModelContract):
    def build(self, catalogue, population):
        return SASRec(catalogue, width=8, layers=2, heads=2, inner=16, dropout=0.1, longest=LONGEST)

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        for row in range(len(batch)):
            history = batch.items[row, : batch.lengths[row]]
            if not len(history):
                continue
            x = model.norm(model.items(history) + model.positions(torch.arange(len(history))))
            for layer in model.blocks.blocks:
                x = block(layer, x, heads=2, causal=True)
            torch.testing.assert_close(model.states(batch)[row, : len(history)], x, rtol=1e-4, atol=1e-5)
