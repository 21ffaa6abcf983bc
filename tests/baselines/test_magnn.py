import math

import numpy as np
import pytest
import torch
from sequence_contract import CATALOGUE, POPULATION, SequenceModelContract, batch_of

from ed2rec.baselines.magnn import MAGNN, ItemGraph, sinusoids
from ed2rec.data.dataset import Histories

WIDTH, WINDOW, STEPS, HEADS, UNITS = 8, 3, 2, 4, 5


def sequences():
    random = np.random.default_rng(0)
    return [random.integers(0, CATALOGUE, size=size).tolist() for size in (8, 0, 1, 5, 7, 9, 6, 8, 2)]


def adjacency(lists, reach=3):
    """(K, K), pair by pair."""
    counts = torch.zeros(CATALOGUE, CATALOGUE)
    for history in lists:
        for t, item in enumerate(history):
            for later in history[t + 1 : t + 1 + reach]:
                counts[item, later] += 1
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def expected(model, history, u, edges):
    """The state after the last item of a history that is not empty, from the equations."""
    near, before = history[-WINDOW:], history[:-WINDOW]
    e = [model.items.weight[item] for item in near]
    h = e
    for _ in range(STEPS):
        heard = [sum(edges[i, k] * h[n] for n, k in enumerate(near)) for i in near]
        h = [torch.tanh(model.propagate.weight @ torch.cat([heard[n], h[n]])) for n in range(len(near))]
    short = sum(h) / len(near)
    z = torch.zeros(WIDTH)
    if before:
        x = []
        for t, item in enumerate(before):
            angles = [t / 10000 ** (2 * i / WIDTH) for i in range(WIDTH // 2)]
            place = [f(a) for a in angles for f in (math.sin, math.cos)]
            x.append(model.items.weight[item] + torch.tensor(place))
        logits = [model.attend(torch.tanh(model.attend_item(each) + model.attend_user(u))) for each in x]
        heads = []
        for c in range(HEADS):
            weight = torch.softmax(torch.stack([each[c] for each in logits]), dim=0)
            heads.append(torch.tanh(sum(w * each for w, each in zip(weight, x, strict=True))))
        z = sum(heads) / HEADS
    share = torch.softmax(torch.stack([z @ key for key in model.keys]), dim=0)
    long = z + sum(s * value for s, value in zip(share, model.values, strict=True))
    gate = torch.sigmoid(model.gate_short(short) + model.gate_long(long) + model.gate_user(u))
    return u + gate * short + (1 - gate) * long + model.relate(sum(e) / len(near))


class TestMAGNN(SequenceModelContract):
    def build(self, catalogue, population):
        graph = ItemGraph(catalogue, Histories.from_lists(sequences()))
        return MAGNN(catalogue, population, graph, width=WIDTH, window=WINDOW, steps=STEPS, heads=HEADS, units=UNITS)

    def fit(self, model, histories, epochs):
        """A row asks for all targets of a user, so an epoch has one step where other models have six."""
        super().fit(model, histories, 4 * epochs)

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        edges = adjacency(sequences())
        found = model.states(batch)
        for row in range(len(batch)):
            u = model.users.weight[batch.users[row]]
            for n in range(1, int(batch.lengths[row]) + 1):
                history = batch.items[row, :n].tolist()
                torch.testing.assert_close(found[row, n - 1], expected(model, history, u, edges), rtol=1e-4, atol=1e-5)

    def test_of_nobody_with_no_history_only_the_memory_speaks(self, model):
        """With z = 0 all units are read alike; the gate sees nothing else."""
        gate = torch.sigmoid(model.gate_long(model.values.mean(0)))
        torch.testing.assert_close(model.final(batch_of([[]]))[0], (1 - gate) * model.values.mean(0))

    def test_users_differ(self, model):
        found = model.final(batch_of([[1, 2, 3, 4]] * 2, [0, 1]))
        assert (found[0] - found[1]).abs().max() > 1e-4

    def test_the_graph_is_not_trained(self, model):
        assert not [name for name, _ in model.named_parameters() if name.startswith("graph")]

    def test_a_model_without_edges_takes_on_the_graph_that_was_saved(self, model, batch):
        other = MAGNN(CATALOGUE, POPULATION, ItemGraph(CATALOGUE), width=WIDTH, window=WINDOW, steps=STEPS,
                      heads=HEADS, units=UNITS).eval()  # fmt: skip
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other.states(batch), model.states(batch), rtol=0, atol=0)


def test_the_graph_of_two_sequences_as_fractions():
    """0 1 2 and 0 2 3, two items ahead: out of 0 go 1, 2 (twice) and 3; out of 1 goes 2, out of 2 goes 3."""
    graph = ItemGraph(4, Histories.from_lists([[0, 1, 2], [0, 2, 3]]), reach=2)
    edges = [[0, 1 / 4, 2 / 4, 1 / 4], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert graph(torch.arange(4)).tolist() == edges
    assert graph(torch.tensor([2, 4, 0, 3])).tolist() == [[0, 0, 0, 1], [0] * 4, [1 / 2, 0, 0, 1 / 4], [0] * 4]


@pytest.mark.parametrize("reach", [1, 3, 20])
def test_the_graph_is_that_of_a_count_pair_by_pair(reach):
    graph = ItemGraph(CATALOGUE, Histories.from_lists(sequences()), reach=reach)
    torch.testing.assert_close(graph(torch.arange(CATALOGUE)), adjacency(sequences(), reach))


def test_a_graph_of_nothing_has_no_edges():
    for train in (None, Histories.from_lists([]), Histories.from_lists([[], [3]])):
        assert not ItemGraph(4, train)(torch.tensor([[0, 3, 4], [3, 3, 3]])).any()


def test_sinusoids_of_an_odd_width():
    found = sinusoids(3, torch.zeros(5))
    for t in range(3):
        angles = [t / 10000 ** (i / 5) for i in (0, 2, 4)]
        row = [math.sin(angles[0]), math.cos(angles[0]), math.sin(angles[1]), math.cos(angles[1]), math.sin(angles[2])]
        assert found[t].tolist() == pytest.approx(row, abs=1e-6)
