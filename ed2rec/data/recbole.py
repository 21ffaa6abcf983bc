"""RecBole's atomic files: `X.inter`, and where present `X.item` and `X.user`, tab-separated, each column `name:type`.

    X.inter   user_id:token  item_id:token  timestamp:float  rating:float …
    X.item    item_id:token  title:token_seq  categories:token_seq  brand:token …
    X.user    user_id:token  age:token  gender:token  occupation:token …

The types say how RecBole would load a column; here only names matter. Columns of X.item and X.user go by different
names in different datasets, so the usual ones are known (see the tuples below); others are left unread.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ..errors import DataError
from .source import (
    Source,
    details_from,
    existing,
    items_from,
    nothing_about,
    only_file,
    typed_log,
    whole_timestamps,
)
from .table import line_finder, need, once, place_of, strings

NAMES = {
    "title": ("title", "movie_title", "item_name", "name"),
    "description": ("description",),
    "brand": ("brand", "store", "artist"),
    "categories": ("categories", "category", "class", "genres", "genre", "tags"),
}
COMMENT_NAMES = {"comment": ("comment", "review_text", "review", "text"), "summary": ("summary",), "query": ("query",)}
NO_OCCUPATION = ("other", "none", "")


def read(path: Path) -> Source:
    """A folder with one X.inter, or that file. Raises DataError for wrong columns, rows or numbers."""
    log_path = only_file(path, "*.inter", "atomic log") if existing(path).is_dir() else path
    beside = [log_path.with_suffix(suffix) for suffix in (".item", ".user")]
    item_path, user_path = (file if file.is_file() else None for file in beside)
    return source_of(log_path, item_path, user_path, log_path.name.removesuffix(".inter"))


def source_of(log: Path | bytes, item: Path | bytes | None, user: Path | bytes | None, name: str) -> Source:
    """The files may also come as bytes, for readers that take them out of an archive."""
    place = f"{name}.inter" if isinstance(log, bytes) else str(log)
    raw = atomic(log, place)
    if "item_id_list" in raw.columns:
        raise DataError(f"{place} has one history per row (item_id_list); give the log of single interactions instead.")
    need(raw.columns, ("user_id", "item_id", "timestamp"), place)
    comments = [_first_of(raw, names, target) for target, names in COMMENT_NAMES.items()]
    texts = raw.select(expression for expression in comments if expression is not None).with_row_index("row")
    core = raw.select("user_id", "item_id", "timestamp", *(["rating"] if "rating" in raw.columns else []))
    return Source(
        name=name,
        inputs=tuple(file for file in (log, item, user) if isinstance(file, Path)),
        log=whole_timestamps(typed_log(core, line_finder(log, "\t", place))),
        items=items_from(_items(item, f"{name}.item")),
        users=_users(user, f"{name}.user"),
        details=details_from(texts),
    )


def atomic(source: Path | bytes, name: str) -> pl.DataFrame:
    """The table with its types taken off the column names: `item_id:token` becomes `item_id`."""
    table = strings(source, "\t", name=name)
    names = {column: column.partition(":")[0] for column in table.columns}
    once(list(names.values()), place_of(source, name))
    return table.rename(names)


def demographics(age: pl.Expr, gender: pl.Expr, occupation: pl.Expr) -> pl.Expr:
    """ "24 years old, male, technician", of what is known; "" where nothing is."""
    words = [
        pl.when(age.fill_null("") != "").then(age + " years old"),
        gender.replace_strict({"M": "male", "F": "female", "": None}, default=gender),
        pl.when(~occupation.fill_null("").is_in(NO_OCCUPATION)).then(occupation),
    ]
    return pl.concat_str(words, separator=", ", ignore_nulls=True).fill_null("")


def titled(title: pl.Expr, year: pl.Expr) -> pl.Expr:
    """ "Toy Story (1995)": the year belongs to the title, as it tells remakes apart."""
    return pl.when(year.str.contains(r"^\d{4}$").fill_null(False)).then(title + " (" + year + ")").otherwise(title)


def _items(source: Path | bytes | None, place: str) -> pl.DataFrame:
    if source is None:
        return nothing_about("item_id")
    table = atomic(source, place)
    need(table.columns, ("item_id",), place)
    texts = [_first_of(table, names, target) for target, names in NAMES.items()]
    items = table.select("item_id", *(text for text in texts if text is not None))
    if "title" in items.columns and "release_year" in table.columns:
        year = pl.lit(table["release_year"].str.strip_chars())
        items = items.with_columns(titled(pl.col("title"), year).alias("title"))
    if "categories" in items.columns:
        # A token sequence is separated by blanks; data with blanks inside a category separate them by commas.
        parted = pl.when(pl.col("categories").str.contains(",")).then(pl.col("categories"))
        blanks = pl.col("categories").str.strip_chars().str.replace_all(r"\s+", ",")
        items = items.with_columns(parted.otherwise(blanks).alias("categories"))
    return items


def _users(source: Path | bytes | None, place: str) -> pl.DataFrame:
    if source is None:
        return nothing_about("user_id")
    table = atomic(source, place)
    need(table.columns, ("user_id",), place)
    age, gender, job = (_first_of(table, names) for names in (("age",), ("gender", "sex"), ("occupation",)))
    none = pl.lit("")
    profile = demographics(*(none if expression is None else expression for expression in (age, gender, job)))
    return table.select("user_id", profile.alias("profile"))


def _first_of(table: pl.DataFrame, names: tuple[str, ...], target: str = "") -> pl.Expr | None:
    found = next((name for name in names if name in table.columns), None)
    return None if found is None else pl.col(found).alias(target or found)
