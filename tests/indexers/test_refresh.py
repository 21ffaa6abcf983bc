"""Churn control."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ed2rec.indexers.refresh import build, refresh
from ed2rec.indexers.variational import VariationalQuantiser

ENTITIES = 120


def moved_quantiser(seed: int, separate: bool, noise: float = 0.3, sizes: tuple[int, ...] = (6, 6, 6)):
    """A table, and the quantiser after its codewords have moved."""
    torch.manual_seed(seed)
    x = torch.randn(ENTITIES, 8)
    quantiser = VariationalQuantiser(8, code_width=4, sizes=sizes)
    quantiser.initialise(x)
    table = build(quantiser, x, separate=separate)
    moved = copy.deepcopy(quantiser)
    with torch.no_grad():
        for level in moved.levels:
            level.codewords += noise * level.codewords.std() * torch.randn_like(level.codewords)
    return moved, x, table


cases = given(st.integers(0, 10_000), st.floats(0, 3), st.floats(0, 1), st.booleans())


@settings(max_examples=30, deadline=None)
@cases
def test_no_more_than_the_budget_moves_and_churn_says_what_did(seed, margin, max_share, separate):
    quantiser, x, table = moved_quantiser(seed, separate)
    new, churn = refresh(quantiser, x, table, margin, max_share, separate)
    changed = new.codes != table.codes
    assert changed.any(1).sum() <= max_share * ENTITIES + 1e-6
    assert churn.levels == pytest.approx(changed.mean(0))
    assert churn.codes == pytest.approx(changed.any(1).mean())
    assert churn.suffix == pytest.approx((new.suffix != table.suffix).mean())
    assert churn.codes <= churn.wanted and churn.codes <= churn.total <= churn.codes + churn.suffix + 1e-12
    assert new.version == table.version + 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 3), st.floats(0, 1))
def test_separated_tables_stay_free_of_collisions(seed, margin, max_share):
    """The last level has room for everybody, even if all were to have one prefix."""
    quantiser, x, table = moved_quantiser(seed, separate=True, sizes=(3, 3, ENTITIES))
    new, _ = refresh(quantiser, x, table, margin, max_share)
    assert table.health.colliding == new.health.colliding == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_an_infinite_margin_or_no_budget_changes_nothing(seed, separate):
    quantiser, x, table = moved_quantiser(seed, separate)
    for options in ({"margin": math.inf, "max_share": 1.0}, {"margin": 0.0, "max_share": 0.0}):
        new, churn = refresh(quantiser, x, table, separate=separate, **options)
        np.testing.assert_array_equal(new.codes, table.codes)
        np.testing.assert_array_equal(new.suffix, table.suffix)
        assert churn.total == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_no_margin_and_no_limit_is_a_plain_recomputation(seed):
    quantiser, x, table = moved_quantiser(seed, separate=False)
    new, _ = refresh(quantiser, x, table, margin=0.0, max_share=1.0, separate=False)
    plain = build(quantiser, x, separate=False)
    np.testing.assert_array_equal(new.codes, plain.codes)
    np.testing.assert_array_equal(new.suffix, plain.suffix)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_an_indexer_that_has_not_moved_leaves_its_own_table_alone(seed, separate):
    """Twins that were moved apart prefer the code of their twin; that must not count as a reason to move."""
    quantiser, x, table = moved_quantiser(seed, separate, noise=0.0)
    for margin in (0.0, 1.0):
        _, churn = refresh(quantiser, x, table, margin, 1.0, separate)
        assert churn.total == 0 or (separate and table.health.colliding > 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 2))
def test_a_code_changes_only_if_another_is_better_by_the_margin(seed, margin):
    quantiser, x, table = moved_quantiser(seed, separate=False)
    new, _ = refresh(quantiser, x, table, margin, 1.0, separate=False)
    z = quantiser(x, torch.as_tensor(new.codes).long(), sample=False)
    for m, logits in enumerate(z.logits):
        old, now = (torch.as_tensor(t.codes[:, m]).long()[:, None] for t in (table, new))
        gain = (logits.gather(1, now) - logits.gather(1, old)).squeeze(1)
        best = (logits.max(1, keepdim=True).values - logits.gather(1, old)).squeeze(1)
        moved = (now != old).squeeze(1)
        assert (gain[moved] > margin - 1e-4).all() and (best[~moved] <= margin + 1e-4).all()


def test_those_with_the_greatest_gain_move_first():
    quantiser, x, table = moved_quantiser(0, separate=False)
    everyone, _ = refresh(quantiser, x, table, 0.0, 1.0, separate=False)
    few, _ = refresh(quantiser, x, table, 0.0, 0.1, separate=False)
    _, logits = quantiser.walk(x, torch.as_tensor(table.codes).long(), [0.0] * 3)
    rows = np.arange(ENTITIES)
    gain = sum(level.numpy()[rows, new] - level.numpy()[rows, old]
               for level, new, old in zip(logits, everyone.codes.T, table.codes.T, strict=True))  # fmt: skip
    moved = (few.codes != table.codes).any(1)
    waiting = (everyone.codes != table.codes).any(1) & ~moved
    assert moved.sum() == 12 and gain[moved].min() >= gain[waiting].max()


def test_nobody_joins_a_group_that_the_suffix_cannot_number():
    quantiser, x, table = moved_quantiser(0, separate=False)
    limit = table.health.largest_group
    with torch.no_grad():
        for level in quantiser.levels:
            level.codewords.zero_()[0] = 1e-3  # one path that everybody wants
    new, churn = refresh(quantiser, x + 1, table, 0.0, 1.0, separate=False, limit=limit)
    assert new.health.largest_group == limit and churn.wanted > churn.codes


def test_a_first_table_has_no_group_that_the_suffix_cannot_number():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(10, 0)
    quantiser = VariationalQuantiser(8, code_width=8, sizes=(4, 4))
    quantiser.initialise(x)
    free, limited = build(quantiser, x, separate=False), build(quantiser, x, separate=False, limit=4)
    assert free.health.largest_group >= 10 and limited.health.largest_group == 4
    np.testing.assert_array_equal(limited.codes[:, 0], free.codes[:, 0])


def test_a_level_can_be_frozen_alone():
    quantiser, x, table = moved_quantiser(1, separate=False)
    new, churn = refresh(quantiser, x, table, [math.inf, 0.0, 0.0], 1.0, separate=False)
    assert churn.levels[0] == 0 and churn.levels[1] > 0
    np.testing.assert_array_equal(new.codes[:, 0], table.codes[:, 0])


def test_twins_get_indices_of_their_own_and_keep_them():
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    quantiser = VariationalQuantiser(8, code_width=8, sizes=(8, 32))
    quantiser.initialise(x)
    assert build(quantiser, x, separate=False).health.colliding == 60
    table = build(quantiser, x)
    assert table.health.colliding == 0 and (table.suffix == -1).all()
    assert refresh(quantiser, x, table, 0.0, 1.0)[1].total == 0
