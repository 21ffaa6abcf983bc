"""Texts: cleaned once when a dataset is prepared, and put together into one text per item and one per user."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from .dataset import Dataset

if TYPE_CHECKING:
    from scipy import sparse

# Characters kept of each field. A longer text is cut, never dropped (LC-Rec empties what reaches 2,000 characters).
LIMITS = {
    "title": 300, "brand": 100, "categories": 300, "description": 2000,
    "comment": 500, "summary": 300, "query": 300, "profile": 1000,
}  # fmt: skip
# How a user text introduces what it tells.
LABELS = {"likes": "Likes ", "brands": "Brands: ", "titles": "Recently: ", "queries": "Looks for: ", "says": "Says: "}
SCRIPT = r"(?is)<(?:script|style)\b.*?</(?:script|style)\s*>"
TAG = r"(?s)</?[a-zA-Z][^<>]*>|<!--.*?-->|<![^<>]*>"  # "<3" and "a < b" are not tags
BLANK = r"[\s\p{Cc}\x{200B}\x{FEFF}]+"


def clean(texts: pl.Series, limit: int) -> pl.Series:
    """HTML entities resolved, then tags removed, blanks collapsed, cut at a word boundary to `limit` characters."""
    texts = _unescape(texts.fill_null(""))
    plain = texts.str.replace_all(SCRIPT, " ").str.replace_all(TAG, " ")
    return cut(plain.str.replace_all(BLANK, " ").str.strip_chars(), limit)


def clean_columns(table: pl.DataFrame) -> pl.DataFrame:
    """Cleans every column that is a text field (the keys of LIMITS); null becomes ""."""
    return table.with_columns(clean(table[column], LIMITS[column]) for column in table.columns if column in LIMITS)


def cut(texts: pl.Series, limit: int) -> pl.Series:
    """The longest beginning of at most `limit` characters that ends with a whole word; a longer word is cut."""
    name = texts.name
    text = pl.col(name)
    head = text.str.slice(0, limit + 1)  # one more, so that a word which ends exactly at the limit stays
    words = head.str.replace(r"\s+\S*$", "")
    shorter = pl.when(words.str.len_chars() <= limit).then(words).otherwise(text.str.slice(0, limit))
    whole = pl.when(text.str.len_chars() <= limit).then(text).otherwise(shorter)
    # A slice keeps the whole text alive; joining with "" copies what is left and lets the rest go.
    return texts.to_frame().select((whole + "").alias(name)).to_series()


def _unescape(texts: pl.Series) -> pl.Series:
    escaped = texts.str.contains("&", literal=True)
    if not escaped.any():
        return texts
    rows = escaped.arg_true()
    return texts.scatter(rows, [html.unescape(text) for text in texts.gather(rows)])


def tfidf(texts: Sequence[str]) -> sparse.csr_matrix | None:
    """(K, words) float32 TF-IDF with logarithmic counts (Salton & Buckley 1988), rows of length 1, or 0 without a word.

    None where no text has a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # a second, which most commands need not wait

    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, token_pattern=r"(?u)\b\w+\b")
    if not any(re.search(r"\w", text) for text in texts):
        return None
    return vectorizer.fit_transform(texts).tocsr()


def item_texts(dataset: Dataset, max_characters: int = 600) -> list[str]:
    """One text per item, row r of item number r: title, brand, categories and description, as sentences.

    "" where the catalogue has no text at all. Cut at a word boundary; what comes last is lost first.
    """
    categories = pl.col("categories").str.replace_all(r"\s*,\s*", ", ")
    brand = pl.when(pl.col("brand") != "").then("By " + pl.col("brand")).otherwise(pl.lit(""))
    return _sentences(dataset.items, [pl.col("title"), brand, categories, pl.col("description")], max_characters)


def user_texts(
    dataset: Dataset, until: np.ndarray, max_characters: int = 600, parts: Collection[str] = tuple(LABELS)
) -> list[str]:
    """One text per user, from the demographics and the first `until[u]` interactions of user u, and nothing later.

    until: (users,) whole numbers >= 0; for training, history length - 2 under leave-one-out. Says who the user is
    (users.profile), which categories and brands stand out (counted, categories weighted by log(K / items that have
    them), so that the one every item has says nothing), the five most recent titles, newest first, and the three
    most recent queries and summaries (or comments, where an interaction has no summary). "" where nothing is known.
    parts: which of LABELS it tells, besides who the user is.
    """
    until = np.asarray(until)
    if until.shape != (len(dataset.users),):
        raise ValueError(f"until has shape {until.shape}; expected one number per user, ({len(dataset.users)},)")
    seen = _seen(dataset, until)
    found = {
        "likes": _standing_out(seen, dataset.items["categories"], 4),
        "brands": _most_frequent(seen, 2),
        "titles": _most_recent(seen, pl.col("title"), 5),
        "queries": _most_recent(seen, _column(seen, "query"), 3),
        "says": _most_recent(seen, _spoken(seen), 3),
    }
    table = dataset.users.select("profile").with_row_index("user")
    for name, part in found.items():
        table = table.join(part.rename({"text": name}), on="user", how="left", maintain_order="left")
    texts = [(pl.lit(label) + pl.col(name)).fill_null("") for name, label in LABELS.items() if name in parts]
    return _sentences(table, [pl.col("profile"), *texts], max_characters)


def _seen(dataset: Dataset, until: np.ndarray) -> pl.DataFrame:
    """The interactions before `until`, each with its item's texts and its `age`: 0 for the user's most recent one."""
    log = dataset.interactions
    users = log["user"].to_numpy()
    position = np.arange(len(log)) - dataset.histories.offsets[users]
    limit = np.minimum(until, dataset.histories.lengths)[users]
    log = log.with_columns(pl.Series("age", limit - 1 - position, dtype=pl.Int64)).filter(pl.col("age") >= 0)
    items = dataset.items.select("title", "brand", "categories").with_row_index("item")
    return log.join(items, on="item", how="left", maintain_order="left")


def _column(table: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in table.columns else pl.lit("")


def _spoken(seen: pl.DataFrame) -> pl.Expr:
    summary, comment = _column(seen, "summary"), _column(seen, "comment")
    return pl.when(summary != "").then(summary).otherwise(comment.str.slice(0, 200))


def _standing_out(seen: pl.DataFrame, catalogue: pl.Series, count: int) -> pl.DataFrame:
    """(user, text): the categories with the largest  times × log(K / items that have it)  > 0; ties by name."""
    spread = _split(catalogue.to_frame("categories").with_row_index("item"), "item").unique()
    holders = spread.group_by("category").agg(pl.len().alias("holders"))
    weight = (pl.lit(math.log(max(1, len(catalogue)))) - pl.col("holders").log()).alias("weight")
    scores = (
        _split(seen.select("user", "categories"), "user")
        .group_by("user", "category")
        .agg(pl.len().alias("times"))
        .join(holders.with_columns(weight), on="category")
        .with_columns((pl.col("times") * pl.col("weight")).round(9).alias("score"))
        .filter(pl.col("score") > 0)
        .sort("user", "score", "category", descending=[False, True, False])
    )
    return scores.group_by("user", maintain_order=True).agg(pl.col("category").head(count).str.join(", ").alias("text"))


def _split(table: pl.DataFrame, key: str) -> pl.DataFrame:
    """(key, category), one row per comma-separated category."""
    parts = table.select(key, pl.col("categories").str.split(",").alias("category")).explode("category")
    return parts.with_columns(pl.col("category").str.strip_chars()).filter(pl.col("category") != "")


def _most_frequent(seen: pl.DataFrame, count: int) -> pl.DataFrame:
    """(user, text): the brands taken most often; ties by name."""
    counts = seen.filter(pl.col("brand") != "").group_by("user", "brand").len()
    ordered = counts.sort("user", "len", "brand", descending=[False, True, False])
    return ordered.group_by("user", maintain_order=True).agg(pl.col("brand").head(count).str.join(", ").alias("text"))


def _most_recent(seen: pl.DataFrame, text: pl.Expr, count: int) -> pl.DataFrame:
    """(user, text): the most recent texts that are not empty, newest first."""
    found = seen.select("user", "age", text.alias("text")).filter(pl.col("text") != "").sort("user", "age")
    return found.group_by("user", maintain_order=True).agg(pl.col("text").head(count).str.join("; "))


def _sentences(table: pl.DataFrame, parts: list[pl.Expr], limit: int) -> list[str]:
    """Each part that is not empty, closed by a full stop unless it ends with one of .!?…, joined by spaces."""
    ends = r"[.!?…]$"
    closed = [pl.when(part.str.contains(ends)).then(part).when(part != "").then(part + ".") for part in parts]
    joined = pl.concat_str(closed, separator=" ", ignore_nulls=True).fill_null("")
    return cut(table.select(joined.alias("text")).to_series(), limit).to_list()
