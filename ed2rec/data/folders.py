"""A folder that is written whole or not at all, and never at the cost of the one before it.

Two places beside a folder are ours: `.NAME.new`, which is being written or thrown away and is swept by the next write,
and `.NAME.old`, where what is replaced waits, whole, between two renames. Whoever reads or writes next puts that back
if the machine stopped there. One writer per folder at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
    target = place(target)
    check_replaceable(target, marker, files)
    try:
        new = fresh(target)
        yield new
        swap(new, target)
    except (OSError, PolarsError) as error:
        raise DataError(f"{target} cannot be written ({_reason(error)}); what was there is untouched. "
                        "Free some space or choose another --out.") from error  # fmt: skip
    finally:
        shutil.rmtree(beside(target, "new"), ignore_errors=True)


def check_replaceable(target: Path, marker: str, files: Files) -> None:
    """Raises DataError where `target` holds something that is not ours. Called early, before hours of work."""
    put_back(target)
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


def _reason(error: OSError | PolarsError) -> str:
    """What the system says, whoever wrote: copytree lists (from, to, text) of every file, polars has text only."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return re.sub(r"""^\[\w+ \d+\] |: ['"].*""", "", error.args[0][0][2])
    return getattr(error, "strerror", None) or str(error).strip().split("\n")[0]


def place(folder: Path) -> Path:
    """Where a folder really is: what is renamed must be the folder, not a link to it, and on the folder's own disk."""
    return Path(os.path.realpath(folder))


def beside(folder: Path, what: str) -> Path:
    return folder.parent / f".{folder.name}.{what}"


def fresh(folder: Path) -> Path:
    """An empty folder for what shall take the place of `folder`. What interrupted writes left is swept."""
    put_back(folder)
    new = beside(folder, "new")
    shutil.rmtree(new, ignore_errors=True)
    _discard_old(folder)
    new.mkdir(parents=True)
    return new


def swap(new: Path, folder: Path) -> None:
    """Rename cannot replace a full folder: the old one steps aside, and comes back if the new one cannot move in."""
    for path in (new, *new.rglob("*")):  # or a crash may leave empty files behind the rename that makes them visible
        _flush(path)
    if folder.exists():
        os.rename(folder, beside(folder, "old"))
    try:
        os.rename(new, folder)
    except BaseException:
        put_back(folder)
        raise
    _flush(folder.parent)
    _discard_old(folder)


def put_back(folder: Path) -> None:
    """Undo a replacement that stopped between its two renames."""
    folder = place(folder)
    old = beside(folder, "old")
    if not os.path.lexists(folder) and old.is_dir():
        with suppress(OSError):  # another reader was faster, or none may write here
            os.rename(old, folder)


def _flush(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard_old(folder: Path) -> None:
    """Under the other name while it goes: half of a folder must not be put back."""
    old, new = beside(folder, "old"), beside(folder, "new")
    if folder.exists() and old.is_dir():
        with suppress(OSError):  # the next write will sweep it
            os.rename(old, new)
            shutil.rmtree(new)
