import math

import pytest
import torch
from reference import BRANDS, CATEGORIES, block
from sequence_contract import CATALOGUE, LONGEST, SequenceModelContract

from ed2rec.baselines.features import Field, merged
from ed2rec.baselines.masking import hidden_at_random, last_of, training_rows
from ed2rec.baselines.s3rec import S3Rec, foreign_segments, not_in_row, pairwise
from ed2rec.baselines.sequences import Training
from ed2rec.data.dataset import Histories

ATTRIBUTES = merged([CATEGORIES, BRANDS])
NAMES = ["AAP", "MIP", "MAP", "SP"]


def small(catalogue=CATALOGUE, attributes=ATTRIBUTES, dropout=0.1, masked=0.3):
    torch.manual_seed(0)
    return S3Rec(catalogue, attributes, width=8, layers=2, heads=2, inner=16, dropout=dropout, longest=LONGEST,
                 masked=masked)  # fmt: skip


def training(lists):
    made = Training(Histories.from_lists(lists), catalogue=CATALOGUE, longest=LONGEST, whole_rows=True, batch=64,
                    seed=0)  # fmt: skip
    (batch,) = made.epoch(0)
    return batch


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


RING = [[(user + step) % CATALOGUE for step in range(7)] for user in range(16)]


class TestS3Rec(SequenceModelContract):
    def build(self, catalogue, population):
        return small(catalogue)

    def loss(self, model, batch, draw):
        return super().loss(model, batch, draw) + 0.1 * model.pretraining_loss(batch, draw)

    def test_states_are_those_of_a_loop_over_the_equations(self, model, batch):
        for row in range(len(batch)):
            history = batch.items[row, : batch.lengths[row]]
            if not len(history):
                continue
            x = model.norm(model.items(history) + model.positions.weight[: len(history)])
            for layer in model.blocks:
                x = block(layer, x, heads=2, causal=True)
            torch.testing.assert_close(model.states(batch)[row, : len(history)], x, rtol=1e-4, atol=1e-5)


def attribute_loss(model, name, state, item):
    """The binary cross-entropies of all attributes of one item, one by one."""
    own = {int(v) for v in ATTRIBUTES.values[item] if v < ATTRIBUTES.count}
    if not own:
        return 0.0
    total, context = 0.0, model.project[name](state)
    for number in range(ATTRIBUTES.count):
        p = torch.sigmoid(context @ model.attributes.weight[number])
        total -= torch.log(p if number in own else 1 - p)
    return total


def pair_loss(context, positive, negative):
    return -torch.log(torch.sigmoid(context @ positive - context @ negative))


def test_the_four_losses_are_those_of_a_loop_over_positions_and_attributes():
    """The draws are repeated with a generator of the same seed; a row alone gives the states, one pass at a time."""
    model = small(dropout=0.0).eval()
    batch = training([[3, 1, 4, 5, 9], [2, 6, 8], [7, 0]])
    with torch.no_grad():
        for table in (model.items, model.attributes):
            table.weight[:-1].normal_(0, 0.7)
        found = model.pretraining_losses(batch, draw())
        rows, random = training_rows(batch, LONGEST), draw()
        hidden, cut, negatives = repeated_draws(rows, random)
        expected, at = dict.fromkeys(NAMES, 0.0), 0
        for r in range(3):
            n = int((rows[r] < CATALOGUE).sum())
            row, inside = rows[r, :n], cut.inside[r, :n]

            def encode(items, where):
                return model._both_sides(items[None], where[None])[0]

            states = encode(row, hidden[r, :n])
            for t in range(n):
                if hidden[r, t]:
                    expected["MAP"] += attribute_loss(model, "MAP", states[t], row[t]) / 3
                    vectors = model.items.weight[row[t]], model.items.weight[negatives[at]]
                    expected["MIP"] += pair_loss(model.project["MIP"](states[t]), *vectors) / 3
                    at += 1
                else:
                    expected["AAP"] += attribute_loss(model, "AAP", states[t], row[t]) / 3
            context = model.project["SP"](encode(row, inside)[-1])
            own, foreign = encode(row, ~inside)[-1], encode(cut.foreign[r, :n], ~inside)[-1]
            expected["SP"] += pair_loss(context, own, foreign) / 3
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )
    weighed = 0.2 * found["AAP"] + found["MIP"] + found["MAP"] + 0.5 * found["SP"]
    torch.testing.assert_close(model.pretraining_loss(batch, draw()), weighed)


def repeated_draws(rows, random):
    real = rows < CATALOGUE
    hidden = hidden_at_random(real, 0.3, random) | last_of(real)
    cut = foreign_segments(rows, real, random)
    return hidden, cut, not_in_row(rows, hidden, CATALOGUE, random)


def test_in_pretraining_the_hidden_items_are_not_read_and_both_sides_are():
    model = small(dropout=0.0).eval()
    rows = torch.tensor([[3, 1, 4, 5, 9]])
    hidden = torch.tensor([[False, True, False, False, True]])
    base = model._both_sides(rows, hidden)
    torch.testing.assert_close(model._both_sides(torch.tensor([[3, 7, 4, 5, 2]]), hidden), base, rtol=0, atol=0)
    later = model._both_sides(torch.tensor([[3, 1, 4, 8, 9]]), hidden)
    assert ((later - base).abs().amax(-1) > 1e-5).all()
    wider = model._both_sides(torch.tensor([[3, 1, 4, 5, 9, CATALOGUE]]), torch.nn.functional.pad(hidden, (0, 1)))
    torch.testing.assert_close(wider[:, :5], base)


def test_each_pretraining_loss_falls():
    """On the ring a hidden item follows from its neighbours, and so do its attributes and segment."""
    model = small(dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch, random, course = training(RING), draw(), []
    for _ in range(150):
        found = model.pretraining_losses(batch, random)
        optimiser.zero_grad()
        sum(model.WEIGHTS[name] * found[name] for name in NAMES).backward()
        optimiser.step()
        course.append([float(found[name].detach()) for name in NAMES])
    start, end = (torch.tensor(part).mean(0) for part in (course[:5], course[-10:]))
    assert (end < torch.tensor([0.1, 0.7, 0.7, 0.8]) * start).all(), (start, end)


def test_the_pairwise_losses_are_not_bounded_as_behind_two_sigmoids():
    """Difference 20: - log σ(20) is nothing; of scores squashed before, the loss is never below log(1 + 1/e)."""
    loss = float(pairwise(torch.tensor([10.0]), torch.tensor([-10.0])))
    assert loss == pytest.approx(math.exp(-20), rel=1e-3) and loss < math.log(1 + 1 / math.e)
    assert float(pairwise(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))) == pytest.approx(2 * math.log(2))


def test_a_segment_is_at_most_half_of_its_row_and_the_foreign_one_comes_from_elsewhere_in_the_batch():
    """Every item of this batch is there once, so that where an item came from can be told."""
    rows = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 12, 12], [8, 9, 12, 12, 12]])
    real, random, sizes, seen = rows < CATALOGUE, draw(), set(), set()
    for _ in range(300):
        inside, foreign = foreign_segments(rows, real, random)
        assert not (inside & ~real).any() and torch.equal(foreign[~inside], rows[~inside])
        for r in range(3):
            where = inside[r].nonzero().flatten().tolist()
            assert where == list(range(where[0], where[-1] + 1))
            sizes.add((r, len(where)))
            taken, own = foreign[r, where].tolist(), rows[r, where].tolist()
            assert not set(taken) & set(own)
            assert taken == [(taken[0] + step) % 10 for step in range(len(taken))]
            seen |= set(taken)
    assert sizes == {(0, 1), (0, 2), (1, 1), (2, 1)} and seen == set(range(10))


def test_pretraining_reads_training_items_only():
    """Items 10 and 11 are in no training sequence: no row, and no foreign segment, ever holds them."""
    batch, random = training([[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]), draw()
    rows = training_rows(batch, LONGEST)
    for _ in range(50):
        assert not torch.isin(foreign_segments(rows, rows < CATALOGUE, random).foreign, torch.tensor([10, 11])).any()


def test_a_single_row_of_two_items_can_be_pretrained_on():
    """The smallest training batch there is."""
    model = small()
    loss = model.pretraining_loss(training([[3, 8]]), draw())
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_negatives_are_not_in_the_row():
    rows = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 12], [7, 8, 12, 12, 12, 12, 12, 12]])
    where = (rows < CATALOGUE).repeat(100, 1)
    found = not_in_row(rows.repeat(100, 1), where, CATALOGUE, draw())
    owner = where.nonzero()[:, 0] % 2
    assert not torch.isin(found[owner == 0], torch.arange(7)).float().mean() > 0.02
    assert set(found[owner == 1].tolist()) == {0, 1, 2, 3, 4, 5, 6, 9, 10, 11}


def test_an_item_without_attributes_is_no_evidence_against_them():
    bare = Field(torch.full((CATALOGUE, 1), 4), 4)
    with torch.no_grad():
        found = small(attributes=bare).pretraining_losses(training(RING), draw())
    assert float(found["AAP"]) == float(found["MAP"]) == 0 < float(found["MIP"])
