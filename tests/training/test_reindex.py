"""The index made anew from texts and behaviour: what it reads, where it may look, and what the LLM keeps."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from small import joint_world, shop, small_settings
from worlds import table_of

from ed2rec.data.dataset import Histories
from ed2rec.indexers.behaviour import Behaviour
from ed2rec.indexers.fitting import fit
from ed2rec.instructions.packing import PackedBatches
from ed2rec.instructions.sequential import SequentialPlan
from ed2rec.training.parts import build_parts
from ed2rec.training.pipeline import train_ed2
from ed2rec.training.reindex import Reindex
from ed2rec.training.rows import carry_rows

# Behaviour.


def observed(items: list[int], states: list[list[float]], catalogue: int = 4) -> Behaviour:
    found = Behaviour.nothing(catalogue, len(states[0]))
    found.observe(torch.tensor(items), torch.tensor(states))
    return found


def test_states_are_averaged_centred_and_shrunk_by_hand():
    found = observed([0, 0, 2], [[4.0, 0.0], [8.0, 0.0], [0.0, 3.0]])
    # Means (6, 0) and (0, 3); their mean (3, 3/2); item 0 keeps 2/(2 + 2) of (3, -3/2), item 2 1/3 of (-3, 3/2).
    expected = [[3 / 2, -3 / 4], [0, 0], [-1, 1 / 2], [0, 0]]
    torch.testing.assert_close(found.centred(), torch.tensor(expected))


def test_observations_add_up_in_any_order():
    items, states = torch.tensor([0, 1, 0, 3]), torch.randn(4, 5)
    whole, parts = Behaviour.nothing(4, 5), Behaviour.nothing(4, 5)
    whole.observe(items, states)
    for row in (3, 0, 2, 1):
        parts.observe(items[row : row + 1], states[row : row + 1])
    torch.testing.assert_close(whole.total, parts.total)
    torch.testing.assert_close(whole.count, parts.count)


def test_the_mean_state_of_a_code_weighs_its_items_by_how_often_they_are_asked_for():
    found = observed([0, 0, 2], [[4.0, 0.0], [8.0, 0.0], [0.0, 3.0]])
    # All states: (4, 1). Code 1 carries items 0 and 2: (4, 1) again; code 0 item 1, never asked for; code 2 item 3.
    assert found.by_code(np.array([1, 0, 1, 2]), 4).abs().max() < 1e-6
    apart = found.by_code(np.array([1, 0, 0, 2]), 3)
    torch.testing.assert_close(apart[1], torch.tensor([6.0 - 4.0, 0.0 - 1.0]))


def test_texts_and_behaviour_weigh_alike_and_what_nobody_took_has_texts_alone():
    torch.manual_seed(0)
    found = Behaviour.nothing(300, 8)
    items = torch.randint(0, 250, (4000,))
    found.observe(items, torch.randn(250, 8)[items] * 7 + 3)
    texts = torch.randn(300, 20)
    joined = found.beside(texts)
    text, view = joined[:250].split([20, 8], dim=1)
    assert joined.square().mean() == pytest.approx(1)
    assert float(text.square().sum() / view.square().sum()) == pytest.approx(1, rel=0.1)
    assert (joined[250:, 20:] == 0).all() and (joined[250:, :20] != 0).all()
    assert (found.beside(texts, weight=0)[:, 20:] == 0).all()


def test_before_anything_is_known_only_texts_are_read():
    texts = torch.randn(5, 3)
    joined = Behaviour.nothing(5, 7).beside(texts)
    assert joined.shape == (5, 10) and (joined[:, 3:] == 0).all()
    torch.testing.assert_close(joined[:, :3] / joined[:, :3].norm(), texts / texts.norm())


# The index anew.


def groups_world(lora: int = 0):
    """Items 0-4 are taken together, in any order, and so are 5-9 and 10-14; texts say nothing."""
    world = joint_world(users=False, lora=lora, dropout=0.0)
    random = np.random.default_rng(0)
    lists = [group * 5 + random.permutation(5) for group in range(3) for _ in range(60)]
    plan = SequentialPlan(Histories.from_lists(lists), world.asked[:1], has_users=False)
    return world, PackedBatches(plan, world.model.index_tokens, 2, batch_tokens=256)


def reindex_of(world, batches, weight: float = 1.0) -> Reindex:
    model = world.model
    texts = torch.zeros(15, 8)
    model.items.indexer = type(model.items.indexer)(8 + model.llm.config.hidden_size, (), 6, model.items.table.sizes)
    return Reindex(model, texts, weight, batches.epoch, lambda q, x: fit(q, x, epochs=5, batch=15), True)


def test_items_that_are_asked_for_alike_get_like_codes_whatever_their_texts_say():
    world, batches = groups_world()
    optimiser = torch.optim.AdamW(world.model.llm.parameters(), lr=3e-3)
    world.model.freeze_index()
    for step in range(60):
        optimiser.zero_grad()
        world.model.train()(batches[step]).loss.backward()
        optimiser.step()
    churn = reindex_of(world, batches)()
    first = world.model.items.table.codes[:, 0]
    assert world.model.items.table.version == 1 and churn.codes > 0.5
    together = [[first[a] == first[b] for b in range(15) if a != b and a // 5 == b // 5] for a in range(15)]
    apart = [[first[a] == first[b] for b in range(15) if a // 5 != b // 5] for a in range(15)]
    assert np.mean(together) > 0.8 and np.mean(apart) < 0.2, first


def test_it_reads_all_training_positions_once_and_changes_nothing_but_index_and_rows():
    world, batches = groups_world()
    model = world.model.train()
    seen = []
    ask = model.asked_from
    model.asked_from = lambda batch: seen.append(ask(batch)) or seen[-1]
    before = {name: weight.clone() for name, weight in model.llm.named_parameters()}
    reindex_of(world, batches)()
    asked = torch.cat([items for items, _ in seen])
    asked_for = Counter(int(item) for history in batches.plan.histories for item in history[1:])
    assert Counter(asked.tolist()) == asked_for, "every item of every history but the first"
    assert model.training and not any(states.requires_grad for _, states in seen)
    rows = model.vocabulary.slice_of("item", 0).start, model.vocabulary.slice_of("item", 2).stop
    for name, weight in model.llm.named_parameters():
        if weight.shape[0] == len(model.llm.get_input_embeddings().weight):
            changed = torch.nonzero((weight != before[name]).any(1)).flatten().tolist()
            assert changed and min(changed) >= rows[0] and max(changed) < rows[1]
        else:
            assert torch.equal(weight, before[name])


@pytest.mark.parametrize("llm", ["llama", "llama-tied"])
def test_rows_are_carried_over_to_the_new_codes_with_the_norm_they_had(llm):
    world = joint_world(users=False, llm=llm)
    model, vocabulary = world.model.llm, world.model.vocabulary
    before = world.model.items.table
    after = replace(table_of(before.codes[:, ::1] * 0 + np.arange(15)[:, None] % [3, 2, 3], before.sizes), version=1)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    ids = torch.as_tensor(vocabulary.token_ids("item", before)[:, :3])
    meaning = embedding.detach()[ids].sum(1)
    level = vocabulary.slice_of("item", 0)
    norm = embedding.detach()[level].norm(dim=1).mean()
    behaviour = observed([0, 1, 2], torch.randn(3, 32).tolist(), 15)
    carry_rows(model, vocabulary, "item", before, after, behaviour)
    rows = embedding.detach()[level]
    assert rows.norm(dim=1).mean() == pytest.approx(float(norm), rel=1e-4)
    means = torch.stack([meaning[after.codes[:, 0] == code].mean(0) for code in range(3)]) - meaning.mean(0)
    assert torch.nn.functional.cosine_similarity(rows, means).min() > 0.9
    if llm == "llama":
        states = behaviour.by_code(after.codes[:, 0], 3)
        assert torch.nn.functional.cosine_similarity(head.detach()[level], states).min() > 0.999


def changed(which: int):
    """The shop with other held-out items: which = 1 the test item, 2 the validation item."""
    dataset = shop()
    rows = dataset.histories.offsets[1:] - which
    item = dataset.interactions["item"].to_numpy().copy()
    item[rows] = (item[rows] + 4) % len(dataset.items)
    return replace(dataset, interactions=dataset.interactions.with_columns(item=pl.Series(item, dtype=pl.UInt32)))


@pytest.mark.parametrize("which", [1, 2])
def test_behaviour_is_that_of_training_interactions(which):
    """Other held-out items lead to the very same index."""
    tables = []
    for dataset in (shop(), changed(which)):
        torch.manual_seed(0)
        parts = build_parts(dataset, small_settings(), lambda *_: None)
        assert parts.anew is not None
        parts.anew()
        tables.append(parts.model.items.table.codes)
    np.testing.assert_array_equal(*tables)


def test_the_setting_and_a_static_index_leave_behaviour_out(tmp_path):
    for override in ("indexer.behaviour=0", "training.refreshes=0", "training.fixed_start=0", "indexer.lr=0"):
        parts = build_parts(shop(), small_settings(override), lambda *_: None)
        assert parts.anew is None and parts.model.items.embeddings.shape[1] == 16
    trained = train_ed2(shop(), small_settings(), tmp_path / "w", False, lambda *_: None)
    first = next(entry for entry in trained.metrics["history"] if "churn" in entry)
    assert first["kind"] == "item" and first["churn"]["codes"] > 0.3
