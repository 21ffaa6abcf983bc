"""What every reader hands to `prepare`: texts as the source has them, nothing filtered, nothing numbered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import DataError

TEXTS_OF_AN_INTERACTION = ("comment", "summary", "query")
TEXTS_OF_AN_ITEM = ("title", "description", "brand", "categories")


def nothing_about(key: str) -> pl.DataFrame:
    """The catalogue or user table of a source that has none."""
    return pl.DataFrame(schema={key: pl.String})


def no_details(rows: pl.Series) -> Iterator[pl.DataFrame]:
    """For sources whose interactions carry no text."""
    return iter(())


@dataclass(frozen=True)
class Source:
    """One source, read.

    log: row i is the i-th interaction of the source: user_id, item_id (String, never empty), timestamp, rating?.
    items(wanted): item_id and some of title, description, brand, categories, in the catalogue's order; only the
        wanted ids where a series of ids is given. Called once it is known what the filters leave.
    users: user_id and profile?.
    details(rows): frames of row (UInt32) and some of comment, summary, query for these rows of the log, in pieces,
        so that millions of reviews are never in memory together.
    facts: what a reader of dataset.json should know about this source.
    """

    name: str
    inputs: tuple[Path, ...]
    log: pl.DataFrame
    items: Callable[[pl.Series | None], pl.DataFrame]
    users: pl.DataFrame = field(default_factory=lambda: nothing_about("user_id"))
    details: Callable[[pl.Series], Iterator[pl.DataFrame]] = no_details
    facts: dict[str, Any] = field(default_factory=dict)


def items_from(catalogue: pl.DataFrame) -> Callable[[pl.Series | None], pl.DataFrame]:
    """`Source.items` of a catalogue that is in memory already."""

    def items(wanted: pl.Series | None) -> pl.DataFrame:
        return catalogue if wanted is None else catalogue.filter(pl.col("item_id").is_in(wanted.implode()))

    return items


def details_from(texts: pl.DataFrame) -> Callable[[pl.Series], Iterator[pl.DataFrame]]:
    """`Source.details` of texts (with a column `row`) that are in memory already."""

    def details(rows: pl.Series) -> Iterator[pl.DataFrame]:
        if len(texts.columns) > 1:
            yield texts.filter(pl.col("row").is_in(rows.implode()))

    return details


def typed_log(raw: pl.DataFrame, place: Callable[[int], str]) -> pl.DataFrame:
    """String columns user_id, item_id, timestamp, rating? → ids that are there, finite Float64 timestamps, ratings.

    `place(row)` says where a row stands ("reviews.json.gz, line 17"); it is asked only to say what is wrong there.
    A rating may be absent or empty, which is null.
    """
    for column in ("user_id", "item_id"):
        absent = raw[column].is_null() | (raw[column] == "")
        if absent.any():
            needed = "every interaction needs a user_id, an item_id and a timestamp"
            raise DataError(f"{place(_first(absent))} has no {column}; {needed}.")
    timestamps = raw["timestamp"].str.strip_chars().cast(pl.Float64, strict=False)
    wrong = ~timestamps.is_finite().fill_null(False)
    if wrong.any():
        row = _first(wrong)
        given = raw["timestamp"][row]
        found = "has no timestamp" if given is None else f"has the timestamp {given[:40]!r}"
        raise DataError(f"{place(row)} {found}; timestamps must be numbers, such as seconds since 1970.")
    log = raw.select("user_id", "item_id").with_columns(timestamps.alias("timestamp"))
    if "rating" in raw.columns:
        given = raw["rating"].str.strip_chars()
        ratings = given.cast(pl.Float32, strict=False)
        wrong = (given != "").fill_null(False) & ~ratings.is_finite().fill_null(False)
        if wrong.any():
            row = _first(wrong)
            found = f"has the rating {raw['rating'][row][:40]!r}"
            raise DataError(f"{place(row)} {found}; ratings must be numbers: mend it, or leave it empty.")
        log = log.with_columns(ratings.alias("rating"))
    return log


def whole_timestamps(log: pl.DataFrame) -> pl.DataFrame:
    """Int64 timestamps where all of them are whole numbers, which they nearly always are."""
    timestamps = log["timestamp"]
    whole = (timestamps == timestamps.floor()).all() and (timestamps.abs() < 2**53).all()
    return log.with_columns(pl.col("timestamp").cast(pl.Int64)) if whole else log


def existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path} does not exist. Give the file or folder that holds the source.")
    return path


def only_file(folder: Path, pattern: str, what: str, without: tuple[str, ...] = ()) -> Path:
    """The one file of `folder` that matches; DataError that lists what is there when there is none or several."""
    matching = (path for path in folder.glob(pattern) if path.is_file())
    found = sorted(path for path in matching if not any(path.match(other) for other in without))
    if len(found) == 1:
        return found[0]
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{folder} has no {what} ({pattern}); it holds {there}.")
    names = ", ".join(path.name for path in found[:8])
    raise DataError(f"{folder} has {len(found)} {what}s: {names}. Give one of them by its path.")


def _first(mask: pl.Series) -> int:
    return int(mask.arg_true()[0])
