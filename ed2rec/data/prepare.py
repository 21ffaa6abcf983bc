"""source → first occurrences → k-core → numbers → cleaned texts → dataset folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..errors import DataError
from . import amazon, lcrec, movielens, recbole, table
from .dataset import ITEM_COLUMNS, USER_COLUMNS, Dataset, check_target
from .filters import k_core as core_of
from .filters import keep_first, late_positions
from .source import TEXTS_OF_AN_INTERACTION, Source
from .texts import clean_columns

# format: (its reader, its k-core where none is asked for). LC-Rec's data are a 5-core already.
FORMATS: dict[str, tuple[Callable[[Path], Source], int]] = {
    "amazon": (amazon.read, 5),
    "atomic": (recbole.read, 5),
    "lcrec": (lcrec.read, 0),
    "csv": (table.read, 5),
    "ml-100k": (movielens.read, 5),
}


def prepare(source: str | Path, format: str, out: str | Path, k_core: int | None = None) -> Dataset:
    """Reads a source, filters, numbers and cleans it, saves the dataset folder and returns the dataset.

    k_core: the least number of interactions of every user and item, after repeated items were dropped; None takes
    the format's default, 0 keeps everything, catalogue items that nobody has taken included. Raises DataError for
    anything wrong with the source or with `out`; a dataset that stood at `out` is replaced only by a finished one.
    """
    if format not in FORMATS:
        raise DataError(f"Unknown format {format!r}; the formats are {', '.join(FORMATS)}.")
    if k_core is not None and k_core < 0:
        raise DataError(f"--k-core is {k_core}; give 0 to keep everything, or the least number of interactions.")
    check_target(Path(out))
    reader, default = FORMATS[format]
    read = reader(Path(source))
    dataset = assemble(read, format, default if k_core is None else k_core)
    dataset.save(out)
    return dataset


def assemble(source: Source, format: str, k_core: int) -> Dataset:
    """The dataset of a source that has been read; see `prepare`."""
    if not len(source.log):
        raise DataError(f"{source.inputs[0]} has no interactions; give a log with at least one.")
    coded = _code(source.log)
    first = keep_first(coded.log)
    mask, dropped = core_of(first["user"].to_numpy(), first["item"].to_numpy(), k_core)
    kept = first.filter(pl.Series(mask))
    if not len(kept):
        raise DataError(
            f"Nothing is left of {source.name} after the {k_core}-core: its {len(coded.users)} users and "
            f"{len(coded.items)} items have {len(first)} interactions. Lower --k-core, or give more data."
        )
    everything = k_core == 0
    items, absent = _catalogue(source, coded.items.gather(kept["item"].unique().sort()), everything)
    users = _numbered(source.users, coded.users.gather(kept["user"].unique().sort()), "user_id", USER_COLUMNS)
    interactions = _number(kept, coded, users, items)
    if "rating" in source.log.columns:
        interactions = interactions.with_columns(source.log["rating"].gather(interactions["row"]))
    texts, refused = _texts(source, interactions)
    if len(texts.columns) > 1:
        interactions = pl.concat([interactions, _placed(texts, interactions["row"])], how="horizontal")
    interactions = interactions.drop("row")
    facts = {
        "source": {"format": format, "files": [_fingerprint(path) for path in source.inputs], **source.facts},
        "read": {"users": len(coded.users), "items": len(coded.items), "interactions": len(coded.log)},
        "dropped": {
            "repeated_items": len(coded.log) - len(first),
            "k_core": dropped.as_fact(),
            "texts_at_validation_and_test_positions": refused,
        },
        "items_absent_from_catalogue": absent,
        "items_without_text": len(items.filter(pl.all_horizontal(pl.col(column) == "" for column in ITEM_COLUMNS[1:]))),
    }
    dataset = Dataset(source.name, items, users, interactions, facts)
    return replace(dataset, facts=dataset.stored_facts())


@dataclass(frozen=True)
class _Coded:
    """The log in small integers: log has row, user, item, timestamp; users[c] and items[c] are the ids of code c."""

    log: pl.DataFrame
    users: pl.Series
    items: pl.Series


def _code(log: pl.DataFrame) -> _Coded:
    """Ids by first appearance. Filters then work on 20 bytes per interaction, whatever the ids and texts look like."""
    users, items = (log[column].unique(maintain_order=True) for column in ("user_id", "item_id"))
    coded = log.select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"),
        pl.col("user_id").cast(pl.Enum(users)).to_physical().cast(pl.UInt32).alias("user"),
        pl.col("item_id").cast(pl.Enum(items)).to_physical().cast(pl.UInt32).alias("item"),
        "timestamp",
    )
    return _Coded(coded, users, items)


def _catalogue(source: Source, ids: pl.Series, everything: bool) -> tuple[pl.DataFrame, int]:
    """Items numbered in the catalogue's order, then those the catalogue lacks; and how many it lacks."""
    found = source.items(None if everything else ids)
    wanted = pl.concat([found["item_id"], ids]).unique(maintain_order=True) if everything else ids
    items = _numbered(found, wanted, "item_id", ITEM_COLUMNS)
    return items, len(items) - found["item_id"].n_unique()


def _numbered(known: pl.DataFrame, ids: pl.Series, key: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """One row per id, in the order of `known` and then of `ids`; texts cleaned, "" where there is none."""
    described = known.unique(key, keep="first", maintain_order=True).filter(pl.col(key).is_in(ids.implode()))
    rest = ids.filter(~ids.is_in(described[key].implode())).alias(key).to_frame()
    rows = pl.concat([described, rest], how="diagonal")
    absent = [pl.lit(None, pl.String).alias(column) for column in columns if column not in rows.columns]
    return clean_columns(rows.with_columns(absent).select(columns))


def _number(kept: pl.DataFrame, coded: _Coded, users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """user_id, item_id, user, item (final numbers), timestamp, row; sorted by (user, timestamp, row)."""
    columns = []
    for kind, ids, entities in (("user", coded.users, users), ("item", coded.items, items)):
        key = f"{kind}_id"
        numbers = entities.select(key).with_row_index("number")
        of_code = ids.alias(key).to_frame().join(numbers, on=key, how="left", maintain_order="left")["number"]
        columns += [ids.gather(kept[kind]).alias(key), of_code.gather(kept[kind]).cast(pl.UInt32).alias(kind)]
    numbered = pl.DataFrame(columns).with_columns(kept["timestamp"], kept["row"]).sort("user", "timestamp", "row")
    return numbered.select("user_id", "item_id", "user", "item", "timestamp", "row")


def _texts(source: Source, interactions: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """row and what there is of comment, summary, query, cleaned; and how many rows had text at a late position.

    Piece by piece, and the late ones left out before anything is joined: texts are nearly all of the memory here.
    """
    late = interactions["row"].filter(late_positions(interactions["user"])).implode()
    pieces, refused = [], 0
    for piece in source.details(interactions["row"].sort()):
        columns = [name for name in TEXTS_OF_AN_INTERACTION if name in piece.columns]
        piece = piece.filter(pl.any_horizontal(pl.col(name).fill_null("") != "" for name in columns))
        early = piece.filter(~pl.col("row").is_in(late))
        refused += len(piece) - len(early)
        pieces.append(clean_columns(early.select("row", *columns)))
    texts = pl.concat(pieces, how="diagonal") if pieces else pl.DataFrame(schema={"row": pl.UInt32})
    some = [name for name in TEXTS_OF_AN_INTERACTION if name in texts.columns and (texts[name] != "").any()]
    return texts.select("row", *some), refused


def _placed(texts: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    """The texts of these rows, "" where a row has none. Gathering from one chunk copies no text; other ways do."""
    columns = texts.drop("row")
    nothing = pl.DataFrame({column: [""] for column in columns.columns}, schema=columns.schema)
    numbers = rows.to_numpy()
    place = np.zeros(numbers.max() + 1, dtype=np.uint32)  # 0 is the row of nothing
    place[texts["row"].to_numpy()] = np.arange(1, len(texts) + 1)
    return pl.concat([nothing, columns]).rechunk()[place[numbers]]


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": checksum}
