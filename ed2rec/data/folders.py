"""A folder that is written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polars.exceptions import PolarsError

from ..errors import DataError

Files = Callable[[Any], Iterable[str]]
"""From what a marker says to the files that were written with it, as paths within the folder. It may raise KeyError or
TypeError for a marker that is not ours: the names of markers are common ones."""
LITTER = (".DS_Store", "Thumbs.db")  # what file managers leave in folders that they have shown


@contextmanager
def replace_folder(target: Path, marker: str, files: Files) -> Iterator[Path]:
    """Yields a fresh folder beside `target`; when the block ends well it takes target's place, else it is removed.

    What stood at `target` is replaced only if it is empty or wholly ours (`first_stranger`); a mistyped --out must
    not cost anybody their files. Raises DataError for that, and where the disk refuses.
    """
    target = Path(os.path.realpath(target))  # "." has no name, and a link must stay a link
    check_replaceable(target, marker, files)
    beside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        beside.chmod(0o777 & ~_umask())
        yield beside
        _swap(beside, target)
    except (OSError, PolarsError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        raise DataError(f"{target} cannot be written ({reason}); what was there is untouched. "
                        "Free some space or choose another --out.") from error  # fmt: skip
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def check_replaceable(target: Path, marker: str, files: Files) -> None:
    """Raises DataError where `target` holds something that is not ours. Called early, before hours of work."""
    if target.is_dir():
        if stranger := first_stranger(target, marker, files):
            raise DataError(f"{target} holds other files than ours ({stranger}); it is left alone. "
                            "Choose another --out.")  # fmt: skip
    elif target.exists() or target.is_symlink():
        raise DataError(f"{target} is a file, not a folder; it is left alone. Choose another --out.")


def first_stranger(folder: Path, marker: str, files: Files) -> str | None:
    """A file in `folder` that we did not write, as a path within it; None where all are ours or there are none.

    Ours are the file `marker`, if it is one that `files` understands, and those that `files` reads from it.
    """
    try:
        said = json.loads((folder / marker).read_text("utf-8"))
        ours = {marker, *files(said)}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    for where, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        for name in sorted([*names, *links]):
            path = Path(where, name).relative_to(folder).as_posix()
            if path not in ours and name not in LITTER:
                return path
    return None


def _swap(beside: Path, target: Path) -> None:
    """A folder cannot be renamed over a full one, so the old one steps aside first and comes back if that fails."""
    if not target.exists():
        os.rename(beside, target)
        return
    shelf = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, shelf / target.name)
    try:
        os.rename(beside, target)
    except BaseException:
        os.rename(shelf / target.name, target)
        shelf.rmdir()
        raise
    shutil.rmtree(shelf, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
