"""What is told about training interactions: only theirs, with where it comes from."""

from dataclasses import replace

import numpy as np
import polars as pl
from small import shop

from ed2rec.data import told
from ed2rec.data.associated import associated_users
from ed2rec.data.dataset import Dataset


def little(**columns: list[str]) -> Dataset:
    """Two users: u0 took items 0, 1, 2 and u1 took 1, 0, at times that interleave."""
    log = pl.DataFrame(
        {
            "user_id": ["u0"] * 3 + ["u1"] * 2, "item_id": ["i0", "i1", "i2", "i1", "i0"],
            "user": pl.Series([0, 0, 0, 1, 1], dtype=pl.UInt32), "item": pl.Series([0, 1, 2, 1, 0], dtype=pl.UInt32),
            "timestamp": [10, 30, 50, 20, 40], **columns,
        }
    )  # fmt: skip
    items = pl.DataFrame(
        {
            "item_id": ["i0", "i1", "i2"], "title": ["Red steel pan", "Blue steel pan", ""],
            "description": ["To fry in", "", ""], "brand": ["Acme", "", "Acme"],
            "categories": ["Kitchen", "Kitchen", ""],
        }
    )  # fmt: skip
    users = pl.DataFrame({"user_id": ["u0", "u1"], "profile": ["Fries a lot", ""]})
    return Dataset("little", items, users, log, {})


def test_the_associated_users_of_an_item_stand_in_the_order_in_which_they_took_it():
    found = associated_users(little().interactions, 3)
    assert [row.tolist() for row in map(found.__getitem__, range(3))] == [[0, 1], [1, 0], [0]]


def test_an_item_nobody_took_has_an_empty_row_at_any_place():
    log = little().interactions.filter(pl.col("item") == 1)
    assert [row.tolist() for row in map(associated_users(log, 4).__getitem__, range(4))] == [[], [1, 0], [], []]


def test_only_the_first_interactions_of_each_user_are_told():
    log = told.training_log(little(), np.array([2, 1]))
    assert log.select("user", "item", "position").rows() == [(0, 0, 0), (0, 1, 1), (1, 1, 0)]


def test_a_comment_is_the_comment_or_the_summary_where_there_is_none():
    dataset = little(comment=["good", "", "", "", "late"], summary=["x", "fine", "", "", "y"])
    rows = told.comments(dataset, np.array([3, 1])).rows()
    assert rows == [(0, 0, 0, "good"), (0, 1, 1, "fine")]
    assert told.comments(little(), np.array([3, 2])).is_empty()


def test_a_query_is_the_log_s_or_a_substitute_that_says_what_it_is():
    dataset = little(query=["pan", "", "", "", "late"], summary=["s", "word " * 30, "", "", ""])
    rows = told.queries(dataset, np.array([3, 1])).select("item", "query", "provenance").rows()
    # "steel", "pan" and "kitchen" are in both titled items, "blue" only in one: all four fit, in the order of the text.
    expected = [(0, "pan", "query"), (1, " ".join(["word"] * 20), "summary"), (1, "blue steel pan kitchen", "title")]
    assert rows == expected, "item 2 has no title and no query"
    assert told.queries(dataset, np.array([3, 2]), substitutes=False)["query"].to_list() == ["pan", "late"]


def test_the_rarest_words_of_a_title_are_kept():
    dataset = little()
    titles = pl.Series(["the new large red pan of steel", "the new large blue pan of steel", ""])
    dataset = replace(dataset, items=dataset.items.with_columns(title=titles, categories=pl.lit("")))
    found = told.queries(dataset, np.array([2, 0]))["query"].to_list()
    assert [words.split()[-1] for words in found] != ["steel", "steel"]
    assert all({"red", "blue"} & set(words.split()) and len(words.split()) == 4 for words in found)


def test_a_preference_is_what_the_source_states_and_what_the_history_says():
    rows = told.preferences(little(), np.array([2, 1])).rows()
    assert [(row[0], row[1], row[3]) for row in rows] == [(0, 2, "profile and history"), (1, 1, "history")]
    assert rows[0][2].startswith("Fries a lot") and "Blue steel pan" in rows[0][2] and "Blue steel pan" in rows[1][2]
    stated = told.preferences(little(), np.array([2, 1]), substitutes=False).rows()
    assert stated == [(0, 2, "Fries a lot", "profile")]


def test_what_comes_later_changes_nothing_that_is_told():
    dataset = shop()
    until = dataset.histories.lengths - 2
    ends = dataset.histories.offsets[1:]
    late = np.sort(np.concatenate([ends - 1, ends - 2]))
    item = dataset.interactions["item"].to_numpy().copy()
    item[late] = (item[late] + 7) % len(dataset.items)
    other = dataset.interactions.with_columns(item=pl.Series(item, dtype=pl.UInt32), summary=pl.lit("else"))
    summary = np.where(np.isin(np.arange(len(item)), late), "else", dataset.interactions["summary"].to_numpy())
    other = other.with_columns(summary=pl.Series(summary.tolist()))
    for read in (told.comments, told.queries, told.preferences):
        assert read(dataset, until).equals(read(replace(dataset, interactions=other), until)), read.__name__
