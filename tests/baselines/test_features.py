from dataclasses import replace

import polars as pl
import pytest
from shops import dataset_of

from ed2rec.baselines.build import sequence_model, stamp_of
from ed2rec.baselines.features import Field, item_fields, merged
from ed2rec.config import resolve
from ed2rec.data.splits import leave_one_out
from ed2rec.errors import DataError


def shop(categories: list[str], brands: list[str]):
    dataset = dataset_of([[0, 1, 2]], [f"item {n}" for n in range(len(brands))], name="music")
    dataset.items.replace_column(3, pl.Series("brand", brands))
    dataset.items.replace_column(4, pl.Series("categories", categories))
    return dataset


def test_categories_and_brands_are_numbered_by_name_and_padded_on_the_right():
    """Names in order: Amps 0, Bass 1, Guitars 2; Fender, Inc. 0, Ibanez 1. "Music" is in every item that has any."""
    dataset = shop(
        ["Music,Guitars, Bass ", "Music,Amps", "", "Music", "Music,Amps,Amps,,Guitars"],
        ["Ibanez", "Fender, Inc.", "", " Ibanez", ""],
    )
    categories, brands = item_fields(dataset, "fdsa")
    assert categories.values.tolist() == [[2, 1], [0, 3], [3, 3], [3, 3], [0, 2]] and categories.count == 3
    assert brands.values.tolist() == [[1], [0], [2], [1], [2]] and brands.count == 2


@pytest.mark.parametrize(
    ("categories", "brands", "width"), [(["a", "b", ""], ["", "", ""], 1), (["", "", ""], ["a", "b", "a"], 1)]
)
def test_a_field_that_says_nothing_is_left_out(categories, brands, width):
    (field,) = item_fields(shop(categories, brands), "fdsa")
    assert field.values.shape == (3, width) and field.count == 2


def test_words_of_titles_are_a_third_field_where_five_items_or_more_share_them_and_not_all():
    """Of seven titles "guitar" is in all, "blue" in two, "red" and "6" in five; "RED, red" is one word."""
    titles = ["Red guitar 6", "RED, red guitar", "red guitar (6)", "red-guitar 6", "a red guitar", "blue guitar 6",
              "Blue guitar: 6"]  # fmt: skip
    dataset = shop([""] * 7, ["Ibanez", "Fender", *[""] * 5])
    dataset.items.replace_column(1, pl.Series("title", titles))
    assert dataset.items.columns[1] == "title" and len(item_fields(dataset, "fdsa")) == 1
    brands, words = item_fields(dataset, "fdsa", titles=True)
    assert brands.count == 2 and words.count == 2
    assert words.values.sort().values.tolist() == [[0, 1], [1, 2], [0, 1], [0, 1], [1, 2], [0, 2], [0, 2]]


@pytest.mark.parametrize("categories", [["", "", ""], ["Music", "Music", ""]])
def test_a_dataset_without_either_is_refused_in_one_line(categories):
    with pytest.raises(DataError, match=r"^s3rec needs categories or brands, and dataset music has neither: .+$"):
        item_fields(shop(categories, ["", "", ""]), "s3rec")


def test_merged_fields_number_their_values_one_after_the_other():
    """Values 0, 1, 2 of the first keep their numbers, 0 and 1 of the second become 3 and 4, padding is 5."""
    dataset = shop(["x,Guitars,Bass", "x,Amps", "x"], ["", "Fender", "Ibanez"])
    both = merged(item_fields(dataset, "s3rec"))
    assert both.values.tolist() == [[1, 2, 5], [0, 3, 5], [4, 5, 5]] and both.count == 5


def test_one_field_merged_is_that_field():
    (field,) = item_fields(shop(["a,b", "b,c", "", "a"], [""] * 4), "s3rec")
    alone = merged([field])
    assert isinstance(alone, Field) and alone.count == field.count == 3
    assert alone.values.tolist() == field.values.tolist() == [[0, 1], [1, 2], [3, 3], [0, 3]]


def test_a_training_is_not_gone_on_with_when_what_is_said_of_the_items_has_changed():
    """Only where the model reads it."""
    shops = [shop(["Music,Guitars", "Music,Amps", "Music"], brands) for brands in (["", "x", "y"], ["", "x", "x"])]
    for model, differ in (("fdsa", True), ("s3rec", True), ("sasrec", False)):
        settings, stamps = resolve(model), set()
        for dataset in shops:
            untrained = sequence_model(dataset, leave_one_out(dataset.histories), settings)
            stamps.add(stamp_of(settings, dataset, untrained))
        assert len(stamps) == (2 if differ else 1)


def test_a_training_by_time_is_not_gone_on_with_when_the_times_have_changed():
    base = shop(["Music"], [""])
    moved = replace(base, interactions=base.interactions.with_columns(timestamp=pl.col("timestamp") + 7))
    for split, differ in (("global-time", True), ("leave-one-out", False)):
        settings = resolve("sasrec", extra={"split": split})
        model = sequence_model(base, leave_one_out(base.histories), settings)
        assert (stamp_of(settings, base, model) != stamp_of(settings, moved, model)) == differ
