"""What a dataset says about its items in names that items share (categories, brand, words of titles), as numbers to
embed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from ed2rec.data.dataset import Dataset
from ed2rec.errors import DataError

COMMON = 5  # items


@dataclass(frozen=True)
class Field:
    """One field of the items of a catalogue, such as their categories.

    values: (K, C) int64, C >= 1: row j holds the distinct values 0…count - 1 of item j from the left, then padding
    (the number `count`). An item that the dataset says nothing about has padding alone.
    """

    values: Tensor
    count: int


def item_fields(dataset: Dataset, model: str, titles: bool = False) -> list[Field]:
    """Categories, then brands, then, where asked for, the words of titles; a field that says nothing is left out.

    Words are runs of letters and digits in lower case, of `COMMON` items or more: fewer teach an embedding nothing.
    A name that all items with any share says nothing and is left out too: in a shop of one department that is the
    top-level category, which S³-Rec's authors drop by its place. Raises DataError if nothing remains; `model` is the
    name by which the user asked for it.
    """
    categories = dataset.items.select(item=pl.int_range(pl.len()), name=pl.col("categories").str.split(","))
    brands = dataset.items.select(item=pl.int_range(pl.len()), name=pl.col("brand"))  # may hold commas: "Fender, Inc."
    fields = [_field(categories.explode("name"), len(dataset.items)), _field(brands, len(dataset.items))]
    if titles:
        words = pl.col("title").str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")
        spoken = dataset.items.select(item=pl.int_range(pl.len()), name=words).explode("name")
        fields.append(_field(spoken, len(dataset.items), at_least=COMMON))
    if told := [field for field in fields if field.count]:
        return told
    raise DataError(
        f"{model} needs categories or brands, and dataset {dataset.name} has neither: prepare it from a source whose "
        "items have them and differ in them (an amazon log with its metadata, say), or train a model that reads item "
        "numbers alone, such as sasrec" + (", or fdsa with titles=true" if model == "fdsa" and not titles else "")
    )


def merged(fields: Sequence[Field]) -> Field:
    """All fields as one, whose values are those of the first, then those of the second, …: S³-Rec's attributes."""
    count = sum(field.count for field in fields)
    before, parts = 0, []
    for field in fields:
        parts.append((field.values + before).where(field.values < field.count, count))
        before += field.count
    return Field(torch.cat(parts, dim=1).sort(dim=1).values, count)  # sorted: the padding goes to the right


def _field(told: pl.DataFrame, catalogue: int, at_least: int = 1) -> Field:
    """told: item, name; one row per mention, "" and null meaning none. Values are numbered in the order of names; those
    of fewer items than at_least are left out."""
    told = told.with_columns(pl.col("name").str.strip_chars()).filter(pl.col("name") != "").unique(maintain_order=True)
    told = told.filter(pl.len().over("name") >= at_least)
    told = told.filter(pl.len().over("name") < told["item"].n_unique())
    names = told["name"].unique().sort()
    told = told.with_columns(
        value=pl.col("name").cast(pl.Enum(names)).to_physical().cast(pl.Int64),
        place=pl.int_range(pl.len()).over("item"),
    )
    values = torch.full((catalogue, 1 + (int(told["place"].max()) if len(told) else 0)), len(names))  # type: ignore[arg-type]
    item, place, value = (torch.from_numpy(told[name].to_numpy().copy()).long() for name in ("item", "place", "value"))
    values[item, place] = value
    return Field(values, len(names))
