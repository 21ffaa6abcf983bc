"""JSON lines, plain or gzip, in pieces of whole lines, with the line number of whatever is wrong.

Polars parses a piece many times faster than Python does but cannot say where it failed; so a piece that it refuses
is read again line by line, which also accepts what Amazon's 2014 metadata are: Python literals, one dict a line.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from ..errors import DataError

PIECE = 32 * 2**20  # bytes; big enough for polars' parser to pay, small enough that a few copies do not matter


@dataclass(frozen=True)
class Piece:
    """Whole lines of a file; `line` is the number of the first, from 1."""

    path: Path
    line: int
    content: bytes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(line number, line), blank lines left out."""
        for number, text in enumerate(self.content.split(b"\n"), self.line):
            if text.strip():
                yield number, text

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line number, object). Raises DataError that names the line which holds none."""
        for number, text in self.lines():
            yield number, parse(text, f"{self.path}, line {number}")

    def table(self, fields: list[str]) -> pl.DataFrame:
        """One row per object, the fields as strings, null where an object lacks one."""
        schema = dict.fromkeys(fields, pl.String)
        try:
            return pl.read_ndjson(io.BytesIO(self.content), schema=schema)
        except pl.exceptions.PolarsError:
            rows = [[as_string(found.get(field)) for field in fields] for _, found in self.objects()]
            return pl.DataFrame(rows, schema=schema, orient="row")

    def place(self, row: int) -> str:
        """Where row `row` of `table` stands."""
        number = next(number for at, (number, _) in enumerate(self.lines()) if at == row)
        return f"{self.path}, line {number}"


def pieces(path: Path, size: int = PIECE) -> Iterator[Piece]:
    """The file as pieces of about `size` bytes. Gzip is told by its first bytes, not by the name.

    Raises DataError for a file that is missing or unreadable, and for a gzip that is damaged or cut short.
    """
    line, rest = 1, b""
    try:
        with unpacked(path) as file:
            while block := file.read(size):
                whole, newline, after = block.rpartition(b"\n")
                if not newline:
                    rest += block
                    continue
                piece = Piece(path, line, rest + whole + newline)
                yield piece
                line, rest = line + piece.content.count(b"\n"), after
    except EOFError:
        raise DataError(f"{path} is a gzip cut short after {_whole_lines(path):,} whole lines; "
                        "fetch or copy it again.") from None  # fmt: skip
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip (after about line {_whole_lines(path):,}: {error}); "
                        "fetch it again.") from None  # fmt: skip
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from None
    if rest.strip():
        yield Piece(path, line, rest)


def first_object(path: Path) -> dict[str, Any]:
    """The first line's object, to see which fields a file has. Raises DataError if the file has no line."""
    for piece in pieces(path, size=2**16):
        for _, found in piece.objects():
            return found
    raise DataError(f"{path} is empty; expected one JSON object a line: fetch or export it again.")


def loads(text: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """JSON, with "?" for half of a surrogate pair: an escape may be an emoji cut in two, which UTF-8 cannot hold.

    pairs: makes an object of its keys and values, where a dict, which keeps the last of equal keys, will not do.
    """
    found = json.loads(text, object_pairs_hook=pairs)
    if b"\\ud" in text.lower():
        found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"), object_pairs_hook=pairs)
    return found


def parse(text: bytes, place: str) -> dict[str, Any]:
    """One line: a JSON object, or a Python dict of literals (never evaluated)."""
    try:
        found = loads(text)
    except (ValueError, RecursionError) as error:
        found = _literal(text)
        if found is None:
            raise DataError(f"{place}: not a JSON object ({str(error)[:80]}); mend or remove that line.") from None
    if not isinstance(found, dict):
        raise DataError(f"{place}: a {type(found).__name__}, not a JSON object; mend or remove that line.")
    return found


def _literal(text: bytes) -> Any:
    if not text.lstrip().startswith(b"{'"):
        return None
    try:
        return ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def unpacked(path: Path) -> BinaryIO:
    """The file's bytes, those inside where it is a gzip."""
    file = path.open("rb")
    if file.peek(2)[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    return file


def _whole_lines(path: Path) -> int:
    """How many lines a broken gzip still gives. Block by block: a `read` that fails keeps what it had unpacked."""
    lines = 0
    try:
        with unpacked(path) as file:
            while block := file.read1(2**16):  # type: ignore[attr-defined]
                lines += block.count(b"\n")
    except (EOFError, OSError, zlib.error):
        pass
    return lines


def as_string(value: Any) -> str | None:
    """As polars has it: a whole number without ".0", whatever is no string as JSON."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)
