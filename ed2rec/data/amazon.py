"""Amazon reviews as released in 2014, 2018 and 2023 (McAuley lab): JSON lines, plain or gzip.

                 2014, 2018                            2023
    reviews      reviewerID, asin, unixReviewTime,     user_id, parent_asin, timestamp (ms),
                 overall, reviewText, summary          rating, text, title
    metadata     asin, title, description, brand,      parent_asin, title, description (list), store, details.Brand,
                 categories (2014: list of lists;      categories (list), main_category
                 2018: `category`, a list)

2014 metadata are Python literals instead of JSON. Metadata stand beside the reviews as `meta_<Category>….json(l)(.gz)`
and may be absent. Reviews are read twice: first who, what and when; then, for what the filters left, the texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import DataError
from .jsonlines import as_string, first_object, pieces
from .source import TEXTS_OF_AN_ITEM, Source, existing, only_file, typed_log, whole_timestamps

# our column: the names it goes by, the better one first (parent_asin is what 2023 metadata are keyed by)
NEEDED = {
    "user_id": ("reviewerID", "user_id"),
    "item_id": ("parent_asin", "asin"),
    "timestamp": ("unixReviewTime", "timestamp"),
}
RATING = ("overall", "rating")
SUFFIX = re.compile(r"\.jsonl?(\.gz)?$")


def read(path: Path) -> Source:
    """A reviews file, or a folder with one (and its metadata). Raises DataError for whatever cannot be read."""
    others = ("meta_*", "fetched.json")
    in_folder = existing(path).is_dir()
    reviews = only_file(path, "*.json*", "Amazon reviews file", without=others) if in_folder else path
    category = SUFFIX.sub("", reviews.name)
    metadata = _metadata_beside(reviews, category)
    sample = first_object(reviews)
    fields = {column: _field(sample, names, reviews) for column, names in NEEDED.items()}
    return Source(
        name=category,
        inputs=(reviews,) if metadata is None else (reviews, metadata),
        log=_read_log(reviews, fields),
        items=lambda wanted: _read_metadata(metadata, wanted),
        details=lambda rows: _read_texts(reviews, rows, of_2023="reviewText" not in sample and "text" in sample),
        facts={"metadata": metadata is not None},
    )


def _metadata_beside(reviews: Path, category: str) -> Path | None:
    """`meta_X.json.gz` for reviews named X, X_5 or reviews_X_5."""
    plain = re.sub(r"^reviews_|_\d+$", "", category)
    for name in dict.fromkeys((category, plain, re.sub(r"_\d+$", "", category))):
        for suffix in (".json.gz", ".jsonl.gz", ".json", ".jsonl"):
            if (file := reviews.with_name(f"meta_{name}{suffix}")).is_file():
                return file
    return None


def _field(sample: dict[str, Any], names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in sample:
            return name
    needed = "; ".join(" or ".join(alternatives) for alternatives in NEEDED.values())
    found = ", ".join(list(sample)[:10]) or "nothing"
    raise DataError(f"{path} is not a file of Amazon reviews: its first line has {found}; needed: {needed}.")


def _read_log(reviews: Path, fields: dict[str, str]) -> pl.DataFrame:
    logs = []
    for piece in pieces(reviews):
        table = piece.table([*fields.values(), *RATING])
        raw = table.select(
            *(pl.col(field).alias(column) for column, field in fields.items()), pl.coalesce(RATING).alias("rating")
        )
        logs.append(typed_log(raw, piece.place))
    return whole_timestamps(pl.concat(logs))


def _read_texts(reviews: Path, rows: pl.Series, of_2023: bool) -> Iterator[pl.DataFrame]:
    """comment and summary of the wanted rows. `rows` is sorted, so every piece takes its share of it once."""
    comment, summary = ("text", "title") if of_2023 else ("reviewText", "summary")
    start = 0
    for piece in pieces(reviews):
        table = piece.table([comment, summary]).rename({comment: "comment", summary: "summary"})
        low, high = int(rows.search_sorted(start)), int(rows.search_sorted(start + len(table)))
        mine = rows.slice(low, high - low).alias("row")
        yield table[mine - start].with_columns(mine)
        start += len(table)


def _read_metadata(metadata: Path | None, wanted: pl.Series | None) -> pl.DataFrame:
    schema = dict.fromkeys(("item_id", *TEXTS_OF_AN_ITEM), pl.String)
    ids = None if wanted is None else set(wanted)
    rows = []
    for piece in () if metadata is None else pieces(metadata):
        for number, found in piece.objects():
            item = _item_id(found, f"{metadata}, line {number}")
            if ids is None or item in ids:
                description = " ".join(_strings(found.get("description")))
                rows.append((item, _title(found), description, _brand(found), _categories(found)))
    return pl.DataFrame(rows, schema=schema, orient="row")


def _item_id(found: dict[str, Any], place: str) -> str:
    """A string, as in the log: the number 7 here is the item "7" there. 0 is an id; "" and null are none."""
    given = next((found[name] for name in NEEDED["item_id"] if found.get(name) not in (None, "")), None)
    if given is None:
        raise DataError(f"{place} has neither asin nor parent_asin; give it one, or remove that line.")
    if not isinstance(given, str | int | float):
        raise DataError(f"{place} has the item id {given!r:.40}; an id is a string or a number: mend or remove that "
                        "line.")  # fmt: skip
    return str(as_string(given))


def _title(found: dict[str, Any]) -> str:
    """In 2018 some titles are a scrap of the page's script."""
    title = " ".join(_strings(found.get("title")))
    return "" if "getTime()" in title else title


def _brand(found: dict[str, Any]) -> str:
    details = found.get("details")
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except ValueError:
            details = None
    of_details = details.get("Brand") if isinstance(details, dict) else None
    candidates = (found.get("brand"), of_details, found.get("store"))
    brand = next((name for name in candidates if isinstance(name, str) and name.strip()), "")
    brand = re.sub(r"^\s*by\s*\n\s*", "", brand)
    return re.sub(r"^Visit Amazon's (.+) Page$", r"\1", brand.strip())


def _categories(found: dict[str, Any]) -> str:
    """Each name once, in order; what follows a scrap of HTML in 2018 is product detail, not a category."""
    names: list[str] = []
    for name in _strings(found.get("categories") or found.get("category") or found.get("main_category")):
        if "</span>" in name:
            break
        if name.strip() and name.strip() not in names:
            names.append(name.strip())
    return ",".join(names)


def _strings(value: Any) -> list[str]:
    """The strings in a string, a list of strings or a list of lists of strings."""
    if isinstance(value, list):
        return [part for inner in value for part in _strings(inner)]
    return [value] if isinstance(value, str) else []
