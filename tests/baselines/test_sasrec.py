import math

import torch
from sequence_contract import LONGEST, SequenceModelContract
from torch.nn import functional as F

from ed2rec.baselines.sasrec import SASRec


def block(layer, x, heads):
    """One post-norm block over (T, width), position by position and head by head."""
    q, k, v = (part.chunk(heads, dim=1) for part in layer.attend(x).chunk(3, dim=1))
    rows = []
    for t in range(len(x)):
        mixed = []
        for h in range(heads):
            weight = torch.softmax(k[h][: t + 1] @ q[h][t] / math.sqrt(q[h].shape[1]), dim=0)
            mixed.append(weight @ v[h][: t + 1])
        y = layer.norm_1(x[t] + layer.project(torch.cat(mixed)))
        rows.append(layer.norm_2(y + layer.down(F.gelu(layer.up(y)))))
    return torch.stack(rows)


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
                x = block(layer, x, heads=2)
            torch.testing.assert_close(model.states(batch)[row, : len(history)], x, rtol=1e-4, atol=1e-5)
