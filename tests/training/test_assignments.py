"""Which tasks a dataset allows, and what is said of the others."""

import numpy as np
import polars as pl
import pytest
from small import shop
from worlds import word_tokenizer

from ed2rec.data.splits import leave_one_out
from ed2rec.errors import ConfigError
from ed2rec.instructions.templates import FORMS, WORDINGS
from ed2rec.training.assignments import build_tasks, gather


def material(use="auto", **options):
    dataset = shop()
    return gather(dataset, leave_one_out(dataset.histories).train, use, **({"users": True} | options))


def test_what_the_dataset_has_no_texts_for_is_off_with_a_reason():
    found = material()
    assert set(found.rows) == {"copurchase", "comment", "query", "preference", "title", "find"}
    assert found.off == {
        "description": "no item has a description", "find-described": "no item has a title and a description"
    }  # fmt: skip
    facts = found.facts()
    assert facts["on"]["query"]["provenance"] == {"summary": len(found.rows["query"])}
    assert facts["on"]["preference"]["provenance"] == {"history": 30} and facts["off"] == found.off


def test_without_a_user_index_nothing_is_asked_about_users():
    found = material(users=False)
    assert set(found.rows) == {"title", "find"} and "user index" in found.off["preference"]


def test_alignment_leaves_the_high_order_tasks_out_and_allows_what_cannot_be_had():
    found = material("alignment")
    assert set(found.rows) == {"title", "find"} and set(found.off) == {"description", "find-described"}


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (("title", "description"), "asks for description, but no item has a description"),
        (("titles",), "names 'titles'; there are: copurchase, comment"),
    ],
)
def test_a_task_that_is_named_and_cannot_be_had_is_an_error(use, says):
    with pytest.raises(ConfigError, match=says) as error:
        material(use)
    assert "\n" not in str(error.value)


def test_what_the_user_index_reads_is_not_asked_for_beside_it():
    dataset = shop()
    train = leave_one_out(dataset.histories).train
    reads = (train.lengths + 1) // 2
    found = material(reads=reads)
    for task in ("comment", "query"):
        rows = found.rows[task]
        assert len(rows) and (rows["position"].to_numpy() >= reads[rows["user"].to_numpy()]).all()
    log = found.rows["copurchase"]
    assert (log["later"].to_numpy() == (log["position"].to_numpy() >= reads[log["user"].to_numpy()])).all()
    tokenizer = word_tokenizer()
    plain = {task: texts[:1] for task, texts in WORDINGS.items()}
    tasks = {task.name: task for task in build_tasks(found, tokenizer, plain, train, len(dataset.items))}
    late = {(int(user), int(item)) for user in range(len(train)) for item in train[user][reads[user] :]}
    for example in tasks["copurchase"].stream(np.random.default_rng(0), 2):
        assert (int(example.slots["user"].values[0]), int(example.slots["item"].values[0])) in late


def test_every_task_makes_examples_of_its_own_form():
    dataset = shop()
    train = leave_one_out(dataset.histories).train
    items = dataset.items.with_columns(description=pl.lit("sweet and ripe"))
    dataset = type(dataset)("shop", items, dataset.users, dataset.interactions, {})
    found = gather(dataset, train, "auto", users=True)
    assert not found.off
    tasks = build_tasks(found, word_tokenizer(), WORDINGS, train, len(items))
    assert [task.name for task in tasks] == list(FORMS)
    for number, task in enumerate(tasks):
        example = next(task.stream(np.random.default_rng(0), number))
        needs = FORMS[task.name].needs
        assert set(needs) <= set(example.slots) and len(example.slots[needs[-1]].asked) >= 1
        assert not any(len(example.slots[slot].asked) for slot in needs[:-1])


def test_what_people_wrote_is_handed_to_the_vocabulary_and_what_was_made_up_is_not():
    texts = material().texts()
    assert set(texts) == set(shop().interactions["summary"].to_list()), "comments and queries, both from summaries here"
