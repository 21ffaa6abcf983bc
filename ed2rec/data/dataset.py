"""The dataset every other part works on: who took what and when, and what is written about items and users.

Strings are ids as the source has them; numbers are dense positions (row r of `items` is item number r), assigned
once in `prepare` and stored, so that a dataset means the same thing wherever it is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..errors import DataError, UnknownEntity
from .folders import check_replaceable, put_back, replace_folder

FORMAT_VERSION = 1
MARKER = "dataset.json"
TABLES = ("items.parquet", "users.parquet", "interactions.parquet")
ITEM_COLUMNS = ("item_id", "title", "description", "brand", "categories")
USER_COLUMNS = ("user_id", "profile")
LOG_COLUMNS = ("user_id", "item_id", "user", "item", "timestamp")
OPTIONAL_COLUMNS = ("rating", "comment", "summary", "query")


class Histories:
    """Ragged lists of item numbers: row i is `flat[offsets[i]:offsets[i + 1]]`.

    flat: (total,) int32, offsets: (n + 1,) int64, rising from 0 to total. Rows are views and must not be written to.
    """

    def __init__(self, flat: np.ndarray, offsets: np.ndarray):
        self.flat = np.ascontiguousarray(flat, dtype=np.int32)
        self.offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        rising = self.offsets.ndim == 1 and len(self.offsets) > 0 and bool((np.diff(self.offsets) >= 0).all())
        if not rising or self.offsets[0] != 0 or self.offsets[-1] != len(self.flat):
            raise ValueError("offsets must rise from 0 to len(flat)")

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | np.ndarray]) -> Histories:
        rows = [np.asarray(row, dtype=np.int32) for row in lists]
        flat = np.concatenate(rows) if rows else np.empty(0, np.int32)
        return cls(flat, np.cumsum([0, *map(len, rows)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        i %= len(self)
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64."""
        return np.diff(self.offsets)

    def checksum(self) -> str:
        """SHA-256 of who took what, in which order."""
        return hashlib.sha256(self.flat.tobytes() + self.offsets.tobytes()).hexdigest()

    def take(self, rows: np.ndarray) -> Histories:
        """The chosen rows, in that order."""
        return self.first(self.lengths[rows], rows)

    def first(self, counts: np.ndarray, rows: np.ndarray | None = None) -> Histories:
        """The first `counts[i]` entries of each row (of each of `rows`, where given); a count beyond the row is cut."""
        starts = self.offsets[:-1] if rows is None else self.offsets[:-1][rows]
        lengths = self.lengths if rows is None else self.lengths[rows]
        counts = np.clip(np.asarray(counts, np.int64), 0, lengths)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return Histories(self.flat[np.repeat(starts, counts) + within], offsets)


@dataclass(frozen=True)
class Dataset:
    """items: row r is item number r; item_id, title, description, brand, categories (comma-joined); "" = none.
    users: row r is user number r; user_id, profile; "" = none.
    interactions: sorted by (user number, time order); user_id, item_id, user and item (UInt32 numbers), timestamp,
        then what the source has of rating (Float32), comment, summary and query (String, "" = none).
    facts: what dataset.json holds: name, source and checksums, counts, what each filter dropped.
    """

    name: str
    items: pl.DataFrame
    users: pl.DataFrame
    interactions: pl.DataFrame
    facts: dict[str, Any]

    @cached_property
    def histories(self) -> Histories:
        """All interactions; row u belongs to user number u."""
        counts = np.bincount(self.interactions["user"].to_numpy(), minlength=len(self.users))
        return Histories(self.interactions["item"].to_numpy(), np.concatenate([[0], np.cumsum(counts)]))

    def checksum(self) -> str:
        """SHA-256 of all that stands in the tables, texts and times too."""
        read = hashlib.sha256()
        for column in (*self.items, *self.users, *self.interactions):
            read.update(f"{column.name} {column.dtype} {len(column)}".encode() + column.is_null().to_numpy().tobytes())
            if column.dtype == pl.String:
                texts = column.fill_null("")
                read.update(texts.str.len_bytes().to_numpy().tobytes() + "".join(texts.to_list()).encode())
            else:
                read.update(column.fill_null(0).to_numpy().tobytes())
        return read.hexdigest()

    def log_checksums(self, split: str = "leave-one-out") -> dict[str, str]:
        """SHA-256 of what a split (the setting) is made from. log: who took what, in which order; times: when, only
        where the split goes by it."""
        times = self.interactions["timestamp"].to_numpy().tobytes()
        by_time = {"times": hashlib.sha256(times).hexdigest()} if split == "global-time" else {}
        return {"log": self.histories.checksum(), **by_time}

    @cached_property
    def _numbers(self) -> dict[str, dict[str, int]]:
        return {
            "user": {name: number for number, name in enumerate(self.users["user_id"].to_list())},
            "item": {name: number for number, name in enumerate(self.items["item_id"].to_list())},
        }

    def user_number(self, user_id: str) -> int:
        """Raises UnknownEntity, naming the nearest id, for a user the dataset does not have."""
        return self._number("user", user_id)

    def item_number(self, item_id: str) -> int:
        """Raises UnknownEntity, naming the nearest id, for an item the dataset does not have."""
        return self._number("item", item_id)

    def _number(self, kind: str, name: str) -> int:
        known = self._numbers[kind]
        if name in known:
            return known[name]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"the nearest of its {len(known)} {kind} ids is {nearest[0]!r}" if nearest else f"it has no {kind}s"
        raise UnknownEntity(f"Dataset {self.name} has no {kind} {name!r}; {hint}.")

    def save(self, folder: str | Path) -> None:
        """Writes the folder whole or not at all; a dataset that was there is replaced, anything else is refused."""
        facts = self.stored_facts()
        with replace_folder(Path(folder), MARKER, _files) as beside:
            self.items.write_parquet(beside / "items.parquet")
            self.users.write_parquet(beside / "users.parquet")
            self.interactions.write_parquet(beside / "interactions.parquet")
            (beside / "dataset.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def stored_facts(self) -> dict[str, Any]:
        """`facts` with what dataset.json always says: format version, name, counts."""
        return {"format_version": FORMAT_VERSION, "name": self.name, "counts": self.counts(), **_without(self.facts)}

    def counts(self) -> dict[str, int]:
        """How many users, items and interactions."""
        return {"users": len(self.users), "items": len(self.items), "interactions": len(self.interactions)}

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """Raises DataError for a folder that is missing, half written, damaged or of another version."""
        folder = Path(folder)
        facts = _read_facts(folder)
        loaded = cls(
            name=str(facts.get("name", folder.name)),
            items=_read_table(folder / "items.parquet", ITEM_COLUMNS),
            users=_read_table(folder / "users.parquet", USER_COLUMNS),
            interactions=_read_table(folder / "interactions.parquet", LOG_COLUMNS, OPTIONAL_COLUMNS),
            facts=facts,
        )
        loaded._check(folder)
        return loaded

    def _check(self, folder: Path) -> None:
        expected, found = self.facts.get("counts"), self.counts()
        if expected != found:
            raise DataError(f"{folder} holds {found} but its dataset.json says {expected}. Run ed2 prepare again.")
        users, items = self.interactions["user"], self.interactions["item"]
        numbers_fit = len(users) == 0 or (users.max() < len(self.users) and items.max() < len(self.items))  # type: ignore[operator]
        if not numbers_fit or not users.is_sorted():
            raise DataError(f"{folder}/interactions.parquet is not sorted by user or names numbers beyond its tables. "
                            "Run ed2 prepare again.")  # fmt: skip


def check_target(folder: Path) -> None:
    """DataError if a dataset must not be written there: it is a file, or holds something that is not a dataset's."""
    check_replaceable(folder, MARKER, _files)


def _files(facts: Any) -> tuple[str, ...]:
    """The files beside a dataset.json of ours, of whatever version."""
    return TABLES if facts["format_version"] and facts["counts"] else ()


def _without(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("format_version", "name", "counts")}


def _read_facts(folder: Path) -> dict[str, Any]:
    put_back(folder)
    if not folder.is_dir():
        raise DataError(f"No dataset folder at {folder}. Make one: ed2 prepare SOURCE --format FORMAT --out {folder}")
    path = folder / "dataset.json"
    if not path.is_file() and (folder / "environment.json").is_file():
        raise DataError(f"{folder} is a run, not a dataset folder: give what ed2 prepare --out DATASET wrote.")
    if not path.is_file():
        raise DataError(f"{folder} is not a dataset folder: it has no dataset.json. Run ed2 prepare … --out {folder}.")
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({_one_line(error)}). Run ed2 prepare again.") from None
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        readable = f"this ed2rec reads {FORMAT_VERSION}"
        raise DataError(f"{path} is of format version {version}, {readable}. Run ed2 prepare again.")
    return facts


def _read_table(path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is missing, so the dataset is incomplete. Run ed2 prepare again.")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} is not readable Parquet ({_one_line(error)}). Run ed2 prepare again.") from None
    if missing := [name for name in needed if name not in table.columns]:
        raise DataError(f"{path} lacks the columns {', '.join(missing)} (it has {', '.join(table.columns)}). "
                        "Run ed2 prepare again.")  # fmt: skip
    wrong = [f"{name} is {dtype}" for name, dtype in table.schema.items() if not _fits(name, dtype)]
    if wrong:
        raise DataError(f"{path} has columns of another type: {', '.join(wrong)}. Run ed2 prepare again.")
    return table.select(*needed, *(name for name in optional if name in table.columns))


def _fits(name: str, dtype: pl.DataType) -> bool:
    if name in ("user", "item"):
        return dtype == pl.UInt32
    if name in ("timestamp", "rating"):
        return dtype.is_numeric()
    known = {*ITEM_COLUMNS, *USER_COLUMNS, *LOG_COLUMNS, *OPTIONAL_COLUMNS}
    return name not in known or dtype == pl.String


def _one_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
