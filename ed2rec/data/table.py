"""Delimited text: CSV logs, and what the readers of other delimited files share.

CSV: a log with the columns user_id, item_id, timestamp and any of rating, comment, summary, query; beside it, where
present, `items.csv` (or `<log>.items.csv`) with item_id and any of title, description, brand, categories, and
`users.csv` (or `<log>.users.csv`) with user_id and profile. A folder is read as its interactions.csv, or its only log.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from ..errors import DataError
from .jsonlines import unpacked
from .source import (
    TEXTS_OF_AN_INTERACTION,
    TEXTS_OF_AN_ITEM,
    Source,
    existing,
    items_from,
    nothing_about,
    only_file,
    typed_log,
    whole_timestamps,
)

ROWS_AT_ONCE = 50_000
CSV_SUFFIXES = (".csv.gz", ".csv")


def read(path: Path) -> Source:
    """A CSV file (plain or gzip) or the folder that holds it. Raises DataError for wrong columns, rows or numbers."""
    path = _log_path(existing(path))
    name = _stem(path)
    columns = header(path, ",")
    optional = [column for column in ("rating", *TEXTS_OF_AN_INTERACTION) if column in columns]
    hint = f"there may also be rating, {', '.join(TEXTS_OF_AN_INTERACTION)}"
    need(columns, ("user_id", "item_id", "timestamp"), str(path), hint)
    wanted = ["user_id", "item_id", "timestamp", *(column for column in optional if column == "rating")]
    raw = strings(path, ",", columns=wanted)
    items_path, users_path = _beside(path, "items"), _beside(path, "users")
    inputs = [file for file in (path, items_path, users_path) if file is not None]
    return Source(
        name=name,
        inputs=tuple(inputs),
        log=whole_timestamps(typed_log(raw, line_finder(path, ","))),
        items=items_from(_entities(items_path, "item_id", TEXTS_OF_AN_ITEM)),
        users=_entities(users_path, "user_id", ("profile",)),
        details=_details(path, [column for column in optional if column != "rating"]),
    )


def header(source: Path | bytes, separator: str) -> list[str]:
    return strings(source, separator, rows=0).columns


def once(columns: list[str], place: str) -> None:
    """Raises DataError for a name that is there twice."""
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{place} has the column {twice[0]} twice; name each column once.")


def need(columns: list[str], needed: tuple[str, ...], place: str, hint: str = "") -> None:
    """Raises DataError that says what was found and what is needed."""
    if missing := [column for column in needed if column not in columns]:
        found = ", ".join(columns[:12]) or "nothing"
        allowed = f"needed: {', '.join(needed)}" + (f"; {hint}" if hint else "")
        raise DataError(f"{place} lacks the columns {', '.join(missing)}; found: {found}; {allowed}.")


def strings(
    source: Path | bytes,
    separator: str,
    columns: list[str] | None = None,
    rows: int | None = None,
    has_header: bool = True,
    name: str = "the file",
) -> pl.DataFrame:
    """A delimited file (a path, or its bytes with a name for messages) as strings, nothing guessed.

    Only commas come with quotes.
    """
    place = place_of(source, name)
    try:
        scan = pl.scan_csv(
            io.BytesIO(source) if isinstance(source, bytes) else source,
            separator=separator,
            n_rows=rows,
            has_header=has_header,
            infer_schema=False,
            quote_char='"' if separator == "," else None,
        )
        table = scan.collect() if columns is None else _selected(scan, columns)
    except pl.exceptions.NoDataError:
        raise DataError(f"{place} is empty; expected rows of fields: fetch or export it again.") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        if (found := _longer_row(source, separator)) is not None:
            line, fields, first = found
            quotes = ', text with commas in "quotes"' if separator == "," else ""
            raise DataError(f"{place}, line {line} has {fields} fields, the first line {first}; give every "
                            f"line as many as the first{quotes}.") from None  # fmt: skip
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(f"{place} cannot be read as delimited text: {reason}. It must be UTF-8, whole, with as many "
                        "fields in every line as in the first.") from None  # fmt: skip
    if has_header and any("_duplicated_" in column for column in table.columns):  # so polars renames the second
        names = next((row for _, row in _rows(source, separator) if row), [])
        once([name for name in names if name], place)  # spreadsheets leave columns without a name
    return table


def _selected(scan: pl.LazyFrame, columns: list[str]) -> pl.DataFrame:
    """These columns, of rows that were read whole: polars takes a row with too many fields where it need not read all
    of them, and would drop the end of an unquoted text. In batches, because the other columns are most of the bytes."""
    batches = scan.collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True)
    return pl.concat(
        [pl.DataFrame(schema=dict.fromkeys(columns, pl.String)), *(part.select(columns) for part in batches)]
    )


def _longer_row(source: Path | bytes, separator: str) -> tuple[int, int, int] | None:
    """(line, its fields, fields of the first line) of the first row that has more; polars does not say which it is."""
    rows = ((line, len(row)) for line, row in _rows(source, separator) if row)
    try:
        _, first = next(rows, (0, 0))
        return next(((line, fields, first) for line, fields in rows if fields > first), None)
    except (OSError, EOFError, zlib.error, csv.Error):
        return None


def _rows(source: Path | bytes, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, row), read by Python: slower than polars, and it knows where it is."""
    with io.BytesIO(source) if isinstance(source, bytes) else unpacked(source) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        rows = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE)
        line = 1
        for row in rows:
            yield line, row
            line = rows.line_num + 1


def place_of(source: Path | bytes, name: str = "the file") -> str:
    return name if isinstance(source, bytes) else str(source)


def line_finder(source: Path | bytes, separator: str, name: str = "") -> Callable[[int], str]:
    """row → "file, line n", counting the header and the line breaks inside quoted cells."""

    def place(row: int) -> str:
        before = strings(source, separator, rows=row) if row else pl.DataFrame()
        breaks = sum(int(before[column].str.count_matches("\n").sum()) for column in before.columns)
        return f"{name or place_of(source)}, line {row + 2 + breaks}"

    return place


def _entities(path: Path | None, key: str, texts: tuple[str, ...]) -> pl.DataFrame:
    """The key and those of the text columns that the file has."""
    if path is None:
        return nothing_about(key)
    table = strings(path, ",")
    need(table.columns, (key,), str(path), f"there may also be {', '.join(texts)}")
    unnamed = table[key].is_null() | (table[key] == "")
    if unnamed.any():
        raise DataError(f"{line_finder(path, ',')(int(unnamed.arg_true()[0]))} has no {key}.")
    return table.select(key, *(column for column in texts if column in table.columns))


def _details(path: Path, columns: list[str]) -> Callable[[pl.Series], Iterator[pl.DataFrame]]:
    def details(rows: pl.Series) -> Iterator[pl.DataFrame]:
        if not columns:
            return
        scan = pl.scan_csv(path, infer_schema=False, row_index_name="row").select("row", *columns)
        for batch in scan.collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True):
            if not len(batch):
                continue
            low, high = rows.search_sorted(pl.Series([batch["row"][0], batch["row"][-1] + 1]))
            mine = rows.slice(int(low), int(high) - int(low))
            yield batch[mine - batch["row"][0]]

    return details


def _log_path(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("interactions.csv", "interactions.csv.gz"):
        if (path / name).is_file():
            return path / name
    return only_file(path, "*.csv*", "CSV log", without=("items.csv*", "users.csv*", "*.items.csv*", "*.users.csv*"))


def _stem(path: Path) -> str:
    for suffix in CSV_SUFFIXES:
        if path.name.endswith(suffix):
            stem = path.name.removesuffix(suffix)
            return path.resolve().parent.name if stem == "interactions" else stem
    return path.stem


def _beside(path: Path, kind: str) -> Path | None:
    stem = path.name.removesuffix(".gz").removesuffix(".csv")
    candidates = [path.with_name(f"{name}.csv{gz}") for name in (f"{stem}.{kind}", kind) for gz in ("", ".gz")]
    return next((file for file in candidates if file.is_file()), None)
