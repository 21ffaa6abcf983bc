"""Cleaning, and texts of items and users; above all that a user's text cannot see the future."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ed2rec.data.dataset import Dataset
from ed2rec.data.texts import clean, cut, item_texts, user_texts


def cleaned(text: str, limit: int = 100) -> str:
    return clean(pl.Series("t", [text], dtype=pl.String), limit)[0]


@pytest.mark.parametrize(
    ("dirty", "clean_text"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("<b>Bold</b> <a href='x'>link</a>", "Bold link"),
        ("&lt;br&gt;after an escaped tag", "after an escaped tag"),
        ("  a\n\n b\t c\u00a0d ", "a b c d"),
        ("I <3 this, a < b and c > d", "I <3 this, a < b and c > d"),
        ("<script>var x = 1;</script>kept<!-- gone -->", "kept"),
        ("<style type='x'>p {}</style>kept", "kept"),
        ("", ""),
        (None, ""),
    ],
)
def test_markup_and_blanks_go_and_words_stay(dirty, clean_text):
    assert cleaned(dirty) == clean_text


def test_a_long_text_is_cut_after_a_whole_word_and_not_dropped():
    assert cleaned("one two three", 9) == "one two"
    assert cleaned("one two three", 7) == "one two"
    assert cleaned("abcdefghij", 4) == "abcd"
    assert len(cleaned("word " * 5000, 2000)) == 1999


@given(st.text(max_size=60), st.integers(1, 30))
def test_a_cut_is_the_longest_beginning_of_whole_words(text, limit):
    text = " ".join(text.split())
    short = cut(pl.Series("t", [text]), limit)[0]
    assert len(short) <= limit and text.startswith(short)
    if len(text) <= limit:
        assert short == text
    elif " " in text[: limit + 1]:
        words = text.split(" ")
        fitting = [" ".join(words[:n]) for n in range(len(words)) if len(" ".join(words[:n])) <= limit]
        assert short == fitting[-1]


def shop(comments: list[str], sequence: list[int], profile: str = "") -> Dataset:
    """One user who takes `sequence` of six items, and one who takes the rest of the attention."""
    titles = [f"Title{i}" for i in range(6)]
    items = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(6)],
            "title": titles,
            "description": ["About it", "", "", "", "", ""],
            "brand": ["Brand0", "Brand0", "Brand1", "", "", ""],
            "categories": ["All,Red", "All,Red", "All,Blue", "All,Blue", "All", ""],
        }
    )
    log = pl.DataFrame(
        {
            "user_id": ["anna"] * len(sequence),
            "item_id": [f"i{i}" for i in sequence],
            "user": [0] * len(sequence),
            "item": sequence,
            "timestamp": list(range(len(sequence))),
            "comment": comments,
        },
        schema_overrides={"user": pl.UInt32, "item": pl.UInt32},
    )
    users = pl.DataFrame({"user_id": ["anna", "nobody"], "profile": [profile, ""]})
    return Dataset("shop", items, users, log, {})


def test_an_item_text_has_title_brand_categories_and_description_and_is_empty_without_any():
    texts = item_texts(shop(["", ""], [0, 1]))
    assert texts[0] == "Title0. By Brand0. All, Red. About it."
    assert texts[5] == "Title5."
    bare = shop([""], [0])
    empty = bare.items.with_columns(pl.lit("").alias(c) for c in ("title", "description", "brand", "categories"))
    assert item_texts(Dataset("d", empty, bare.users, bare.interactions, {})) == [""] * 6


def test_a_user_text_says_who_likes_what_and_what_came_last():
    dataset = shop(["", "lovely", "so so", ""], [0, 1, 2, 3], "24 years old, female")
    text, nobody = user_texts(dataset, np.array([3, 0]))
    # Red: 2 x log(6/2) > Blue: 1 x log(6/2) > All: 3 x log(6/5)
    assert text == (
        "24 years old, female. Likes Red, Blue, All. Brands: Brand0, Brand1. Recently: Title2; Title1; Title0. "
        "Says: so so; lovely."
    )
    assert nobody == ""


def test_a_category_that_every_item_has_says_nothing():
    dataset = shop(["", ""], [0, 1])
    everywhere = dataset.items.with_columns(pl.lit("All").alias("categories"))
    assert (
        "Likes"
        not in user_texts(Dataset("d", everywhere, dataset.users, dataset.interactions, {}), np.array([2, 0]))[0]
    )


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.permutations(range(6)), st.integers(0, 6))
def test_what_comes_after_until_changes_nothing(one, other, until):
    """Two users who agree up to `until` and on nothing later have the same text."""
    other = one[:until] + [item for item in other if item not in one[:until]]
    says = [f"opinion{i}" for i in one[:until]]
    texts = [
        user_texts(shop(says + [f"secret{tag}{n}" for n in range(6 - until)], sequence), np.array([until, 0]))
        for tag, sequence in (("a", one), ("b", other))
    ]
    assert texts[0] == texts[1]
    assert "secret" not in texts[0][0]


def test_until_must_have_one_number_per_user():
    with pytest.raises(ValueError, match="one number per user"):
        user_texts(shop([""], [0]), np.array([1]))
