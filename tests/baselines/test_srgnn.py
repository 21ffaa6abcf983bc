from itertools import pairwise

import numpy as np
import pytest
import torch
from sequence_contract import CATALOGUE, SequenceModelContract, batch_of, padded

from ed2rec.baselines.srgnn import SRGNN, session_graphs


def graph(history):
    """Distinct items, and the two adjacencies, edge by edge."""
    nodes = sorted(set(history))
    steps = set(pairwise(history))
    incoming, outgoing = (np.zeros((len(nodes), len(nodes))) for _ in range(2))
    for a, b in steps:
        incoming[nodes.index(b), nodes.index(a)] = 1 / sum(to == b for _, to in steps)
        outgoing[nodes.index(a), nodes.index(b)] = 1 / sum(start == a for start, _ in steps)
    return nodes, torch.tensor(incoming).float(), torch.tensor(outgoing).float()


class TestSRGNN(SequenceModelContract):
    def build(self, catalogue, population):
        return SRGNN(catalogue, width=8, steps=1)

    @pytest.mark.parametrize("steps", [1, 3])
    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch, steps):
        model.steps = steps
        for row in range(len(batch)):
            history = batch.items[row, : batch.lengths[row]].tolist()
            if not history:
                continue
            nodes, incoming, outgoing = graph(history)
            h = [model.items.weight[item] for item in nodes]
            for _ in range(steps):
                h = [self.updated(model, h, n, incoming, outgoing) for n in range(len(nodes))]
            last = h[nodes.index(history[-1])]
            total = torch.zeros(8)
            for item in history:
                each = h[nodes.index(item)]
                total += model.attend(torch.sigmoid(model.from_last(last) + model.from_each(each))) * each
            expected = model.merge(torch.cat([total, last]))
            torch.testing.assert_close(model.states(batch)[row], expected, rtol=1e-4, atol=1e-5)

    def updated(self, model, h, n, incoming, outgoing):
        """r, z = σ(W a + U h);  c = tanh(W a + r ⊙ U h);  h ← (1 - z) ⊙ c + z ⊙ h."""
        a = [sum(weight * linear(other) for weight, other in zip(row, h, strict=True)) + bias
             for row, linear, bias in ((incoming[n], model.from_in, model.bias_in),
                                       (outgoing[n], model.from_out, model.bias_out))]  # fmt: skip
        cell = model.cell
        heard = (cell.weight_ih @ torch.cat(a) + cell.bias_ih).chunk(3)
        own = (cell.weight_hh @ h[n] + cell.bias_hh).chunk(3)
        reset, keep = torch.sigmoid(heard[0] + own[0]), torch.sigmoid(heard[1] + own[1])
        return (1 - keep) * torch.tanh(heard[2] + reset * own[2]) + keep * h[n]

    def test_an_empty_history_has_no_node_to_hear_from(self, model):
        assert model.states(batch_of([[]])).tolist() == [model.merge.bias.tolist()]

    def test_another_order_of_the_same_items_is_another_state(self, model):
        found = model.states(batch_of([[1, 2, 3, 4], [2, 1, 3, 4]]))
        assert (found[0] - found[1]).abs().max() > 1e-4


def test_the_papers_session_as_fractions():
    """v1 → v2 → v3 → v2 → v4: its Figure 2."""
    found = session_graphs(torch.tensor([[1, 2, 3, 2, 4]]), CATALOGUE)
    assert found.nodes.tolist() == [[1, 2, 3, 4, CATALOGUE]]
    assert found.place.tolist() == [[0, 1, 2, 1, 3]]
    incoming = [[0, 0, 0, 0], [1 / 2, 0, 1 / 2, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    outgoing = [[0, 1, 0, 0], [0, 0, 1 / 2, 1 / 2], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert found.incoming[0, :4, :4].tolist() == incoming and found.outgoing[0, :4, :4].tolist() == outgoing


def test_a_step_walked_twice_counts_once():
    """5 → 0 → 5 → 0 → 7 → 7: out of 0 go two edges, into 0 comes one."""
    found = session_graphs(torch.tensor([[5, 0, 5, 0, 7, 7]]), CATALOGUE)
    assert found.nodes[0, :3].tolist() == [0, 5, 7]
    assert found.incoming[0, :3, :3].tolist() == [[0, 1, 0], [1, 0, 0], [1 / 2, 0, 1 / 2]]
    assert found.outgoing[0, :3, :3].tolist() == [[0, 1 / 2, 1 / 2], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("more", [0, 3])
def test_graphs_of_a_batch_are_those_of_each_history(more):
    random = np.random.default_rng(0)
    lists = [random.integers(0, 5, size=size).tolist() for size in (6, 0, 1, 2, 5, 6, 3)]
    batch = padded(batch_of(lists), more)
    found = session_graphs(batch.items, CATALOGUE)
    for row, history in enumerate(lists):
        nodes, incoming, outgoing = graph(history)
        n = len(nodes)
        assert found.nodes[row].tolist() == nodes + [CATALOGUE] * (batch.items.shape[1] - n)
        assert [nodes[place] for place in found.place[row, : len(history)].tolist()] == history
        for got, expected in ((found.incoming[row], incoming), (found.outgoing[row], outgoing)):
            torch.testing.assert_close(got[:n, :n], expected)
            assert not got[n:].any() and not got[:, n:].any(), "padding has an edge"
