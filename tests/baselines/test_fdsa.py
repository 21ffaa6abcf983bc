import pytest
import torch
from reference import BRANDS, CATEGORIES, block
from sequence_contract import CATALOGUE, LONGEST, SequenceModelContract, batch_of

from ed2rec.baselines.fdsa import FDSA
from ed2rec.baselines.features import Field


def small(catalogue=CATALOGUE, fields=(CATEGORIES, BRANDS), dropout=0.1):
    return FDSA(catalogue, fields, width=8, layers=2, heads=2, inner=16, dropout=dropout, longest=LONGEST)


def feature(model, item):
    """f of one item, field by field and value by value."""
    means, logits = [], []
    for table, field in zip(model.fields, (CATEGORIES, BRANDS), strict=True):
        values = [int(v) for v in field.values[item] if v < field.count]
        if values:
            means.append(sum(table.table.weight[v] for v in values) / len(values))
            first, _, second = model.weigh
            logits.append(second.weight[0] @ torch.relu(first.weight @ means[-1] + first.bias))
    if not means:
        return torch.zeros(8)
    weights = torch.softmax(torch.stack(logits), dim=0)
    return sum(w * m for w, m in zip(weights, means, strict=True))


class TestFDSA(SequenceModelContract):
    def build(self, catalogue, population):
        return small(catalogue)

    @pytest.fixture
    def sharp(self, model):
        """The weights of the fields far from equal, so that their parity proves something."""
        with torch.no_grad():
            for layer in (model.weigh[0], model.weigh[2]):
                layer.weight.normal_(0, 1)
        return model

    def test_the_feature_of_an_item_is_its_fields_means_weighed_by_attention(self, sharp):
        found = sharp.features(torch.arange(CATALOGUE + 1)[None])[0]
        for item in range(CATALOGUE):
            torch.testing.assert_close(found[item], feature(sharp, item))
        assert found[2].tolist() == found[CATALOGUE].tolist() == [0.0] * 8

    def test_states_are_those_of_a_loop_over_the_equations(self, sharp, batch):
        for row in range(len(batch)):
            history = batch.items[row, : batch.lengths[row]]
            if not len(history):
                continue
            place = sharp.positions.weight[: len(history)]
            x = sharp.norm(sharp.items(history) + place)
            y = sharp.norm(torch.stack([feature(sharp, int(item)) for item in history]) + place)
            for of_items, of_features in zip(sharp.over_items.blocks, sharp.over_features.blocks, strict=True):
                x, y = block(of_items, x, 2, causal=True), block(of_features, y, 2, causal=True)
            expected = sharp.norm(torch.cat([x, y], dim=1) @ sharp.fuse.weight.T + sharp.fuse.bias)
            torch.testing.assert_close(sharp.states(batch)[row, : len(history)], expected, rtol=1e-4, atol=1e-5)


class TestFDSAWithOneField(SequenceModelContract):
    def build(self, catalogue, population):
        return small(catalogue, [CATEGORIES])

    def test_its_weight_is_one(self, model):
        item = torch.tensor([[3]])
        torch.testing.assert_close(model.features(item)[0, 0], model.fields[0].table.weight[[0, 3, 4]].mean(0))


def test_what_is_said_of_the_items_reaches_the_state():
    """Items 0 and 6 are told alike: with their vectors made alike too, nothing tells them apart."""
    torch.manual_seed(0)
    model = small(dropout=0.0).eval()
    with torch.no_grad():
        model.items.weight[[1, 6]] = model.items.weight[0].clone()
    zero, like, unlike = (model.final(batch_of([[5, item]])) for item in (0, 6, 1))
    torch.testing.assert_close(zero, like)
    assert not torch.allclose(zero, unlike, atol=1e-4)


def test_a_model_is_rebuilt_from_its_own_weights():
    state = small().state_dict()
    fields = [Field(state[f"fields.{n}.values"][:-1], len(state[f"fields.{n}.table.weight"]) - 1) for n in range(2)]
    again = small(fields=fields)
    again.load_state_dict(state)
    assert torch.equal(again.fields[1].values[:-1], BRANDS.values)
