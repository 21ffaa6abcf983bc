"""MovieLens-100K, in either of the two forms it is handed around in, from a folder or straight from the archive.

    GroupLens   u.data (user, item, rating, timestamp), u.item (title with year, 19 genre flags, Latin-1), u.user
    RecBole     ml-100k.inter, ml-100k.item, ml-100k.user, as inside the wheel `recbole`

Both give titles with the year ("Toy Story (1995)"), genres as categories, and age, sex and occupation as profile.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import polars as pl

from ..errors import DataError
from .recbole import demographics, source_of
from .source import Source, existing, items_from, nothing_about, typed_log, whole_timestamps
from .table import strings

NAME = "ml-100k"
ATOMIC = ("ml-100k.inter", "ml-100k.item", "ml-100k.user")
GROUPLENS = ("u.data", "u.item", "u.user")
GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The order of the flags in u.item, after a first one for "unknown"."""


def read(path: Path) -> Source:
    """A folder, the file u.data or ml-100k.inter in it, GroupLens' zip or RecBole's wheel."""
    if existing(path).is_dir():
        files, inputs = _from_folder(path, (*ATOMIC, *GROUPLENS))
    elif zipfile.is_zipfile(path):
        files, inputs = _from_archive(path)
    elif path.name in (ATOMIC[0], GROUPLENS[0]):  # what was given is read, and not the other form beside it
        files, inputs = _from_folder(path.parent, ATOMIC if path.name == ATOMIC[0] else GROUPLENS)
    else:
        raise DataError(f"{path} is no zip and neither u.data nor ml-100k.inter; give one of these or the folder "
                        "that holds it, or get them: ed2 data fetch ml-100k --out FOLDER")  # fmt: skip
    if (log := files.get(ATOMIC[0])) is not None:
        return replace(source_of(log, files.get(ATOMIC[1]), files.get(ATOMIC[2]), NAME), inputs=inputs)
    if GROUPLENS[0] in files:
        return _grouplens(files, inputs)
    raise DataError(f"{path} holds neither ml-100k.inter nor u.data. Get them: ed2 data fetch ml-100k --out FOLDER")


def _from_folder(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, bytes], tuple[Path, ...]]:
    found = {
        name: next((file for file in (folder / name, folder / NAME / name) if file.is_file()), None) for name in names
    }
    there = {name: file for name, file in found.items() if file is not None}
    return {name: file.read_bytes() for name, file in there.items()}, tuple(there.values())


def _from_archive(archive: Path) -> tuple[dict[str, bytes], tuple[Path, ...]]:
    """Read in memory, so nothing in the archive can be written anywhere."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {name.rpartition("/")[2]: name for name in opened.namelist()}
            files = {name: opened.read(members[name]) for name in (*ATOMIC, *GROUPLENS) if name in members}
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise DataError(f"{archive} is a damaged archive ({error}). Fetch it again.") from None
    return files, (archive,)


def _grouplens(files: dict[str, bytes], inputs: tuple[Path, ...]) -> Source:
    log = _columns(files["u.data"], "u.data", "\t", ("user_id", "item_id", "rating", "timestamp"))
    return Source(
        name=NAME,
        inputs=inputs,
        log=whole_timestamps(typed_log(log, lambda row: f"u.data, line {row + 1}")),
        items=items_from(_movies(files["u.item"]) if "u.item" in files else nothing_about("item_id")),
        users=_people(files["u.user"]) if "u.user" in files else nothing_about("user_id"),
    )


def _movies(content: bytes) -> pl.DataFrame:
    fields = ("item_id", "title", "released", "video", "url", "unknown", *GENRES)
    table = _columns(content.decode("latin-1").encode(), "u.item", "|", fields)
    genres = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
    return table.select("item_id", "title", pl.concat_str(genres, separator=",", ignore_nulls=True).alias("categories"))


def _people(content: bytes) -> pl.DataFrame:
    table = _columns(content, "u.user", "|", ("user_id", "age", "gender", "occupation", "zip"))
    profile = demographics(pl.col("age"), pl.col("gender"), pl.col("occupation"))
    return table.select("user_id", profile.alias("profile"))


def _columns(content: bytes, name: str, separator: str, fields: tuple[str, ...]) -> pl.DataFrame:
    table = strings(content, separator, has_header=False, name=name)
    if len(table.columns) != len(fields):
        wanted = f"MovieLens-100K's has {len(fields)}: {', '.join(fields[:5])}…"
        raise DataError(f"{name} has {len(table.columns)} columns, {wanted}")
    return table.rename(dict(zip(table.columns, fields, strict=True)))
