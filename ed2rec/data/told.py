"""What is told about training interactions: the texts that the tasks of §2.4 ask for and show.

Every row belongs to one of the first `until[u]` interactions of its user u; with history length − 2 under leave-one-out
nothing here has seen a validation or test interaction. Amazon has no search queries and few profiles, so there are
substitutes, and a column `provenance` says for each text where it comes from:

    query       "query" the log has it · "summary" the first words of the review's summary · "title" the words of the
                item's title and categories that are rarest in the catalogue
    preference  "profile" the source states it · "history" put together from categories, brands and titles ·
                "profile and history" the stated text with the other behind it
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from .dataset import Dataset
from .texts import cut, user_texts

QUERY_WORDS = 20  # of a summary
TITLE_WORDS = 4  # of a title and its categories
PROFILE_CHARACTERS = 240


def training_log(dataset: Dataset, until: np.ndarray) -> pl.DataFrame:
    """The first until[u] interactions of every user u: user, item, position in the history, and the optional texts."""
    log = dataset.interactions
    users = log["user"].to_numpy()
    position = np.arange(len(log)) - dataset.histories.offsets[users]
    log = log.with_columns(pl.Series("position", position, dtype=pl.Int64))
    return log.filter(pl.Series(position < np.asarray(until)[users]))


def comments(dataset: Dataset, until: np.ndarray) -> pl.DataFrame:
    """(user, item, position, comment): a comment, or a review's summary where only that is known."""
    log = training_log(dataset, until)
    comment, summary = (pl.col(name) if name in log.columns else pl.lit("") for name in ("comment", "summary"))
    told = pl.when(comment != "").then(comment).otherwise(summary).alias("comment")
    return log.select("user", "item", "position", told).filter(pl.col("comment") != "")


def queries(dataset: Dataset, until: np.ndarray, substitutes: bool = True) -> pl.DataFrame:
    """(user, item, position, query, provenance)."""
    log = training_log(dataset, until)
    query, summary = (pl.col(name) if name in log.columns else pl.lit("") for name in ("query", "summary"))
    words = _rare_words(dataset.items)
    log = log.join(words, on="item", how="left", maintain_order="left")
    sources = [(query, "query")]
    if substitutes:
        short = summary.str.split(" ").list.head(QUERY_WORDS).list.join(" ")
        sources += [(short, "summary"), (pl.col("words").fill_null(""), "title")]
    text, provenance = pl.lit(""), pl.lit("")
    for found, name in reversed(sources):
        text = pl.when(found != "").then(found).otherwise(text)
        provenance = pl.when(found != "").then(pl.lit(name)).otherwise(provenance)
    told = log.select("user", "item", "position", text.alias("query"), provenance.alias("provenance"))
    return told.filter(pl.col("query") != "")


def preferences(dataset: Dataset, until: np.ndarray, substitutes: bool = True) -> pl.DataFrame:
    """(user, position, profile, provenance): what user u likes after the first until[u] interactions (position)."""
    stated = dataset.users["profile"]
    made = user_texts(dataset, until, PROFILE_CHARACTERS, parts=("likes", "brands", "titles"))
    texts = pl.Series("profile", made) if substitutes else cut(stated, PROFILE_CHARACTERS)
    origin = {True: "profile and history" if substitutes else "profile", False: "history"}
    told = pl.DataFrame(
        {
            "user": np.arange(len(dataset.users)),
            "position": np.asarray(until, dtype=np.int64),
            "profile": texts,
            "provenance": (stated != "").replace_strict(origin, return_dtype=pl.String),
        }
    )
    return told.filter(pl.col("profile") != "")


def described(dataset: Dataset) -> pl.DataFrame:
    """(item, title, description) of every item; "" = none."""
    return dataset.items.select("title", "description").with_row_index("item")


def _rare_words(items: pl.DataFrame) -> pl.DataFrame:
    """(item, words): the words of title and categories with the largest log(K / items having them), in text order."""
    text = (pl.col("title") + " " + pl.col("categories")).str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]{2,}")
    words = items.select(text.alias("word")).with_row_index("item").explode("word").drop_nulls()
    words = words.with_row_index("place").unique(["item", "word"], keep="first", maintain_order=True)
    holders = words.group_by("word").len("holders")
    rarity = (pl.lit(math.log(max(1, len(items)))) - pl.col("holders").log()).round(9).alias("rarity")
    ranked = words.join(holders.select("word", rarity), on="word").sort(
        "item", "rarity", "place", descending=[False, True, False]
    )
    chosen = ranked.group_by("item", maintain_order=True).head(TITLE_WORDS).sort("item", "place")
    return chosen.group_by("item", maintain_order=True).agg(pl.col("word").str.join(" ").alias("words"))
