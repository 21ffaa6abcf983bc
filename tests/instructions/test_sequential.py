"""Histories → examples → rows → batches, against hand-written token lists and as properties."""

import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import ASKED, QUESTION
from worlds import WORDS, table_of, word_tokenizer

from ed2rec.data.dataset import Histories
from ed2rec.errors import DataError
from ed2rec.instructions.examples import ITEM, TEXT, USER, Example, IndexTokens, collate, lay_out, prompt
from ed2rec.instructions.packing import PackedBatches, pack
from ed2rec.instructions.sequential import SequentialPlan, before, sequential
from ed2rec.instructions.templates import SEQUENTIAL, Wording, task_wordings
from ed2rec.vocabulary import IndexVocabulary

TOKENIZER = word_tokenizer()
OPEN, CLOSED = task_wordings(TOKENIZER, SEQUENTIAL, (ASKED, QUESTION))
# Items 0 and 3 share their codes and have suffixes.
ITEMS = table_of([[0, 1], [2, 0], [1, 1], [0, 1], [2, 2]], (3, 3))
USERS = table_of([[1], [0], [2], [1]], (3,))
VOCABULARY = IndexVocabulary(len(WORDS), (3, 3), (3,), 4, 4)
INDEX = IndexTokens(VOCABULARY.token_ids("item", ITEMS), VOCABULARY.token_ids("user", USERS), VOCABULARY.unknown_user)
NAMES = dict(enumerate([*WORDS, *VOCABULARY.tokens()]))


def example(items: list[int], user: int = -1, first: int = 1, wording: Wording = OPEN) -> Example:
    return sequential(wording, user, np.array(items, np.int32), first)


def names(ids) -> str:
    return " ".join(NAMES[int(i)] for i in ids)


# One example as tokens.


def test_an_example_is_laid_out_as_written_by_hand():
    tokens = lay_out([example([1, 0, 2], user=0, first=1)], INDEX)
    assert names(tokens.ids) == (
        "<s> recommend a next item for user <ua_1> <up_0> history : <a_2> <b_0> <a_0> <b_1> <p_0> <a_1> <b_1>"
    )
    assert tokens.kind.tolist() == [TEXT] * 7 + [USER] * 2 + [TEXT] * 2 + [ITEM] * 7
    assert tokens.number.tolist() == [0] * 7 + [0, 0] + [0, 0] + [1, 1, 0, 0, 0, 2, 2]
    assert tokens.level.tolist() == [0] * 7 + [0, 1] + [0, 0] + [0, 1, 0, 1, 2, 0, 1]
    assert tokens.target.tolist() == [False] * 13 + [True] * 5


def test_a_question_behind_the_history_asks_for_the_last_item_only():
    tokens = lay_out([example([1, 0, 2], user=1, wording=CLOSED)], INDEX)
    assert names(tokens.ids) == (
        "<s> history in order : <a_2> <b_0> <a_0> <b_1> <p_0> , recommend a next item for the user <ua_0> : answer "
        "<a_1> <b_1>"
    )
    assert tokens.target.tolist() == [False] * (len(tokens.ids) - 2) + [True] * 2


@pytest.mark.parametrize(("user", "index"), [(-1, INDEX), (2, INDEX._replace(users=np.zeros((0, 0), np.int64)))])
def test_a_user_without_index_is_shown_as_unknown(user, index):
    tokens = lay_out([example([1, 2], user=user)], index)
    assert names(tokens.ids[7:8]) == "<ua_unk>" and tokens.kind[7] == TEXT


histories = st.lists(st.integers(0, len(ITEMS) - 1), max_size=6)


@given(histories, st.integers(-1, len(USERS) - 1), st.sampled_from([OPEN, CLOSED]), st.integers(0, len(ITEMS) - 1))
def test_a_prompt_is_the_beginning_of_what_is_trained_up_to_the_answer(history, user, wording, answer):
    trained = lay_out([example([*history, answer], user, len(history), wording)], INDEX)
    asked = prompt(wording, before(user, np.array(history, np.int64)), INDEX)
    assert trained.ids[: len(asked)].tolist() == asked.tolist()
    assert trained.ids[len(asked) :].tolist() == [i for i in INDEX.items[answer].tolist() if i >= 0]
    assert trained.target.tolist() == [False] * len(asked) + [True] * (len(trained.ids) - len(asked))


# Which examples an epoch has.


def plan_of(*lengths: int, **options) -> SequentialPlan:
    """Users whose k-th item is number k, so that an item says where in the history it stands."""
    return SequentialPlan(Histories.from_lists([range(length) for length in lengths]), [OPEN], **options)


def user_of(e: Example) -> int:
    return int(e.slots["user"].values[0])


def items_of(e: Example) -> list[int]:
    return [int(item) for slot in ("history", "item") if slot in e.slots for item in e.slots[slot].values]


def first_of(e: Example) -> int:
    return e.slots["history"].first


def supervised(examples: list[Example]) -> Counter:
    """(user or -1, target) → how often."""
    return Counter((user_of(e), int(item)) for e in examples for item in items_of(e)[first_of(e) :])


lengths = st.lists(st.integers(0, 30), min_size=1, max_size=5)


@given(lengths, st.integers(1, 12), st.booleans(), st.integers(0, 2**32))
def test_every_target_is_supervised_exactly_once_after_what_precedes_it(lengths, max_history, dense, seed):
    plan = plan_of(*lengths, max_history=max_history, user_dropout=0.0, dense=dense)
    examples = plan.draw(np.random.default_rng(seed))
    expected = Counter((user, target) for user, length in enumerate(lengths) for target in range(1, length))
    assert supervised(examples) == expected
    for e in examples:
        items = items_of(e)
        start = items[0]
        assert items == list(range(start, start + len(items))), "consecutive items of the history"
        assert 1 <= first_of(e) < len(items) <= max_history + 1
        if not dense:
            assert first_of(e) == len(items) - 1
            assert start == max(0, items[-1] - max_history), "the longest context that is allowed"


def test_windows_of_a_long_history_move_from_epoch_to_epoch():
    plan = plan_of(30, max_history=7)
    cuts = {tuple(items_of(e)[0] for e in plan.draw(np.random.default_rng(seed))) for seed in range(30)}
    assert len(cuts) == 7, "each position of the first cut"
    assert {start for cut in cuts for start in cut} == set(range(29)), "every position may be a window's first"


@given(lengths, st.integers(0, 2**32), st.booleans())
def test_no_item_that_the_user_index_was_made_from_is_a_target_beside_it(lengths, seed, dense):
    reads = (np.array(lengths) + 1) // 2
    plan = plan_of(*lengths, max_history=4, user_dropout=0.3, user_reads=reads, dense=dense)
    for e in plan.draw(np.random.default_rng(seed)):
        assert 1 <= first_of(e) < len(items_of(e))
        if user_of(e) >= 0:
            assert min(items_of(e)[first_of(e) :]) >= reads[user_of(e)]


def test_what_the_user_index_knows_is_learned_without_it():
    """10 items, 5 of them read, windows of 4 targets: all are learned, the later ones beside the index."""
    examples = plan_of(10, max_history=3, user_dropout=0.0, user_reads=np.array([5])).draw(np.random.default_rng(0))
    unknown, known = (supervised([e for e in examples if user_of(e) == user]) for user in (-1, 0))
    assert set(known) == {(0, item) for item in range(5, 10)}
    assert {item for _, item in unknown} <= set(range(1, 5)) and len(unknown) >= 2


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.3, 0.25, 0.35), (1.0, 1, 1)])
def test_the_user_is_dropped_as_often_as_asked(share, low, high):
    examples = plan_of(*[3] * 2000, user_dropout=share).draw(np.random.default_rng(0))
    assert low <= np.mean([user_of(e) < 0 for e in examples]) <= high


def test_without_a_user_branch_nobody_is_shown():
    assert {user_of(e) for e in plan_of(3, 4, has_users=False, user_dropout=0.0).draw(np.random.default_rng(0))} == {-1}


def test_wordings_are_drawn_alike():
    plan = replace(plan_of(*[2] * 2000), wordings=[OPEN, CLOSED])
    assert 0.45 < np.mean([e.wording is OPEN for e in plan.draw(np.random.default_rng(0))]) < 0.55


# Rows.


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 80), st.integers(1, 8))
def test_every_example_is_packed_once_and_no_row_is_too_long(sizes, width, open_rows):
    rows = pack(sizes, width, open_rows)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(row and (len(row) == 1 or sum(sizes[i] for i in row) <= width) for row in rows)


def test_packing_fills_rows():
    sizes = np.random.default_rng(0).integers(10, 60, 1000)
    assert sizes.sum() / (128 * len(pack(sizes, 128))) > 0.95


def test_a_label_stands_one_position_before_its_token_and_padding_says_nothing():
    examples = [[example([1, 0], user=0), example([2, 4])], [example([3, 1, 2], user=2, wording=CLOSED)]]
    rows = [[each._replace(task=4 + place) for place, each in enumerate(row)] for row in examples]
    batch = collate(rows, INDEX, pad=2)
    assert batch.targets == 3
    for r, row in enumerate(rows):
        start = 0
        for segment, each in enumerate(row, start=1):
            tokens = lay_out([each], INDEX)
            stop = start + len(tokens.ids)
            assert batch.input_ids[r, start:stop].tolist() == tokens.ids.tolist()
            assert batch.position_ids[r, start:stop].tolist() == list(range(stop - start))
            assert batch.segment[r, start:stop].unique().tolist() == [segment]
            assert batch.task[r, start:stop].unique().tolist() == [3 + segment]
            for place in range(start, stop):
                target = place + 1 < stop and tokens.target[place + 1 - start]
                assert batch.labels[r, place] == (tokens.ids[place + 1 - start] if target else -100)
                assert batch.label_level[r, place] == (tokens.level[place + 1 - start] if target else -1)
                assert batch.label_kind[r, place] == (tokens.kind[place + 1 - start] if target else -1)
            start = stop
        padding = slice(start, None)
        assert (batch.input_ids[r, padding] == 2).all() and (batch.labels[r, padding] == -100).all()
        assert (batch.segment[r, padding] == 0).all() and (batch.kind[r, padding] == TEXT).all()
        for name in ("task", "label_kind", "label_level"):
            assert (getattr(batch, name)[r, padding] == -1).all()


# Batches by number.


def batches_of(lengths=(9,) * 40, dense: bool = True, index=lambda: INDEX, **options) -> PackedBatches:
    generator = np.random.default_rng(0)
    lists = [generator.integers(0, len(ITEMS), length) for length in lengths]
    asked = [OPEN] if dense else [OPEN, CLOSED]
    plan = SequentialPlan(Histories.from_lists(lists), asked, dense=dense, has_users=False)
    return PackedBatches(plan, index, 2, **({"batch_tokens": 512} | options))


def segments(batch) -> list[tuple[int, ...]]:
    """The examples of a batch, as token ids."""
    found = []
    for ids, segment in zip(batch.input_ids, batch.segment, strict=True):
        found += [tuple(ids[segment == number].tolist()) for number in range(1, int(segment.max()) + 1)]
    return found


def equal(one, other) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("packed", [True, False])
def test_the_batch_of_a_step_depends_on_seed_and_step_alone(packed):
    first, second = batches_of(packed=packed), batches_of(packed=packed)
    steps = range(2 * first.steps_per_epoch)
    forward = [first[step] for step in steps]
    assert all(equal(forward[step], second[step]) for step in reversed(steps))
    other = batches_of(packed=packed, seed=1)
    assert not any(equal(forward[step], other[step]) for step in steps)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_holds_every_example_once_and_the_next_one_in_another_order(packed, dense):
    batches = batches_of(packed=packed, dense=dense)
    assert batches.steps_per_epoch > 2
    epochs = []
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        epochs.append([found for step in steps for found in segments(batches[step])])
        targets = sum(batches[step].targets for step in steps)
        assert targets == 40 * 8
    assert len(epochs[0]) == len(epochs[1]) == (40 if dense else 320)
    assert epochs[0] != epochs[1]


def test_batches_have_about_the_tokens_that_were_asked_for():
    for wanted in (256, 512, 1024):
        batches = batches_of(batch_tokens=wanted)
        sizes = [batches[step].input_ids.numel() for step in range(batches.steps_per_epoch)]
        assert 0.5 * wanted < np.mean(sizes) < 1.5 * wanted


def test_a_refreshed_table_shows_in_the_next_batch_and_leaves_the_rows_as_they_were():
    """Also where it makes indices longer: a training that is resumed in the midst of an epoch starts with the first
    table, reads the latest from its checkpoint, and must pack the rows of this epoch as it would without a stop."""
    straight, resumed = [INDEX], [INDEX]
    options = {"lengths": [*range(2, 12)] * 4, "batch_tokens": 256}
    batches, again = (batches_of(index=lambda now=now: now[0], **options) for now in (straight, resumed))
    step = batches.steps_per_epoch + 1
    before = batches[step]
    moved = table_of([[1, 0], [1, 0], [0, 2], [2, 1], [1, 0]], (3, 3))
    straight[0] = resumed[0] = INDEX._replace(items=VOCABULARY.token_ids("item", moved))
    after = batches[step]
    shown = [batch.number[(batch.kind == ITEM) & (batch.level == 0)].tolist() for batch in (before, after)]
    assert shown[0] == shown[1] and not equal(before, after)
    assert equal(after, again[step])


def test_batches_that_are_made_ahead_are_the_same_also_when_the_table_moves_or_a_training_goes_on():
    now = [INDEX]
    plain, ahead = batches_of(index=lambda: now[0]), batches_of(index=lambda: now[0], ahead=True)
    ahead.steps = plain.steps = 3 * plain.steps_per_epoch
    start, made = plain.steps_per_epoch - 2, []
    make = ahead._make
    ahead._make = lambda step, index: made.append((step, threading.current_thread())) or make(step, index)
    for step in range(start, plain.steps):
        if step == start + 4:
            moved = table_of([[1, 0], [1, 0], [0, 2], [2, 1], [1, 0]], (3, 3))
            now[0] = INDEX._replace(items=VOCABULARY.token_ids("item", moved))
        assert equal(ahead[step], plain[step])
    here = [step for step, thread in made if thread is threading.current_thread()]
    assert here == [start, start + 4], "the first one, and the first of the new table"
    assert [step for step, thread in made if thread is not threading.current_thread()] == [
        *range(start + 1, plain.steps)
    ]


def test_a_log_in_which_nobody_has_two_items_to_learn_from_is_refused():
    with pytest.raises(DataError, match="no user has two items to train on"):
        batches_of(lengths=(1, 1, 1))


def test_an_epoch_has_no_more_steps_than_rows_so_that_none_comes_twice():
    batches = batches_of(batch_tokens=64)
    assert batches.steps_per_epoch == len(batches._rows)
    seen = sum(batch.targets for batch in batches.epoch())
    assert seen == sum(len(example.slots["history"].asked) for example in batches._examples)
