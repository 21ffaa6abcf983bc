"""LC-Rec's JSON (Zheng et al., 2023): `X.inter.json`, `X.item.json` and, where present, `X.review.json`, `X.user.json`.

    X.inter.json   {"user": [item, item, …]}                                     in time order
    X.item.json    {"item": {"title", "description", "brand", "categories"}}     categories joined by commas
    X.review.json  {"(user, item)": {"review", "summary"}}
    X.user.json    {"user_explicit_preference": {"user": [sentence, …]},
                    "user_vague_intention": {"train": {"user": {"item", "querys": [sentence, …]}}, "test": …}}

There are no times, so the position in a user's list serves as timestamp. Explicit preferences were written from the
items before the last three and become the profile. Intentions were written from the review of one item and become
the query of that interaction; those under "test" describe the test item itself and are not even read. Reviews are
passed on with their interaction: `prepare` refuses those at validation and test positions, for every format alike.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from ..errors import DataError
from .jsonlines import loads
from .source import TEXTS_OF_AN_ITEM, Source, details_from, existing, items_from, only_file, whole_timestamps

REVIEW_SCHEMA = {"user_id": pl.String, "item_id": pl.String, "comment": pl.String, "summary": pl.String}
QUERY_SCHEMA = {"user_id": pl.String, "item_id": pl.String, "query": pl.String}


def read(path: Path) -> Source:
    """A folder with one X.inter.json, or that file. Raises DataError for anything unreadable or of another shape."""
    log_path = only_file(path, "*.inter.json", "LC-Rec log") if existing(path).is_dir() else path
    name = log_path.name.removesuffix(".inter.json")
    beside = [log_path.with_name(f"{name}.{kind}.json") for kind in ("item", "review", "user")]
    item_path, review_path, user_path = beside
    if not item_path.is_file():
        raise DataError(f"{item_path} is missing: LC-Rec data need the catalogue beside {log_path.name}.")

    log = _read_log(log_path)
    facts: dict[str, Any] = {"timestamps": "positions in the user's list"}
    users = log.select("user_id").unique(maintain_order=True)
    texts = log.with_row_index("row").select("row", "user_id", "item_id")
    inputs = [log_path, item_path]
    if review_path.is_file():
        inputs.append(review_path)
        reviews = _read_reviews(review_path)
        texts = texts.join(reviews, on=["user_id", "item_id"], how="left", maintain_order="left")
        facts["reviews"] = {"read": len(reviews), "of_no_interaction": len(reviews) - texts["comment"].count()}
    if user_path.is_file():
        inputs.append(user_path)
        profiles, queries, test_intentions = _read_users(user_path)
        users = users.join(profiles, on="user_id", how="left", maintain_order="left")
        texts = texts.join(queries, on=["user_id", "item_id"], how="left", maintain_order="left")
        facts["intentions"] = {"read": len(queries), "of_test_items_refused": test_intentions}
    return Source(
        name=name,
        inputs=tuple(inputs),
        log=log,
        items=items_from(_read_items(item_path)),
        users=users,
        details=details_from(texts.drop("user_id", "item_id")),
        facts=facts,
    )


def _read_log(path: Path) -> pl.DataFrame:
    lists = _read_object(path, '{"user": [item, item, …]}')
    for user, items in lists.items():
        if not user or not isinstance(items, list) or not all(map(_is_id, items)):
            raise DataError(f'{path}: user {user!r} does not have a list of item ids; expected {{"user": [item, …]}}.')
    log = pl.DataFrame(
        {"user_id": list(lists), "item_id": [[str(item) for item in items] for items in lists.values()]},
        schema={"user_id": pl.String, "item_id": pl.List(pl.String)},
    )
    log = log.with_columns(pl.int_ranges(pl.col("item_id").list.len()).cast(pl.List(pl.Float64)).alias("timestamp"))
    return whole_timestamps(log.filter(pl.col("item_id").list.len() > 0).explode("item_id", "timestamp"))


def _is_id(item: Any) -> bool:
    return isinstance(item, int | str) and not isinstance(item, bool) and item != ""


def _read_items(path: Path) -> pl.DataFrame:
    items = _read_object(path, '{"item": {"title", "description", "brand", "categories"}}')
    for item, texts in items.items():
        if not isinstance(texts, dict):
            raise DataError(f"{path}: item {item!r} is {type(texts).__name__}, not an object with a title.")
    columns = {column: [_text(texts.get(column)) for texts in items.values()] for column in TEXTS_OF_AN_ITEM}
    schema = dict.fromkeys(("item_id", *TEXTS_OF_AN_ITEM), pl.String)
    return pl.DataFrame({"item_id": list(items), **columns}, schema=schema)


def _read_reviews(path: Path) -> pl.DataFrame:
    rows = []
    for key, review in _read_object(path, '{"(user, item)": {"review", "summary"}}').items():
        user, comma, item = key.strip().removeprefix("(").removesuffix(")").partition(",")
        if not comma or not isinstance(review, dict):
            form = '"(user, item)": {"review", "summary"}'
            raise DataError(f"{path}: the entry {key[:60]!r} is not of the form {form}.")
        rows.append((user.strip(" '\""), item.strip(" '\""), _text(review.get("review")), _text(review.get("summary"))))
    return pl.DataFrame(rows, schema=REVIEW_SCHEMA, orient="row").unique(["user_id", "item_id"], keep="first")


def _read_users(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Profiles (user_id, profile), queries (user_id, item_id, query), and how many intentions tell of test items."""
    content = _read_object(path, '{"user_explicit_preference", "user_vague_intention"}')
    try:
        stated, intentions = (content.get(part, {}) for part in ("user_explicit_preference", "user_vague_intention"))
        preferences = [(user, _text(sentences)) for user, sentences in stated.items()]
        train = intentions.get("train", {})
        queries = [(user, str(entry["item"]), _text(entry.get("querys"))) for user, entry in train.items()]
        test_intentions = len(intentions.get("test", {}))
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not of LC-Rec's form ({type(error).__name__}: {error}).") from None
    profiles = pl.DataFrame(preferences, schema={"user_id": pl.String, "profile": pl.String}, orient="row")
    return profiles, pl.DataFrame(queries, schema=QUERY_SCHEMA, orient="row"), test_intentions


def _read_object(path: Path, form: str) -> dict[str, Any]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(found)) < len(found):
            twice = Counter(key for key, _ in found).most_common(1)[0][0]
            raise DataError(f"{path} has the key {twice[:60]!r} twice in one object; only the last would be read: "
                            "join them, or remove one.")  # fmt: skip
        return dict(found)

    try:
        content = loads(path.read_bytes(), pairs)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); expected {form}.") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; expected {form}.")
    return content


def _text(value: Any) -> str:
    """A string as it is, a list of strings joined by spaces, and nothing for anything else."""
    if isinstance(value, list):
        return " ".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""
