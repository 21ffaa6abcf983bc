"""A folder that is written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polars.exceptions import PolarsError

from ..errors import DataError


@contextmanager
def replace_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yields a fresh folder beside `target`; when the block ends well it takes target's place, else it is removed.

    What stood at `target` is replaced only if it is empty or holds `marker`, the file by which we know our own
    folders; a mistyped --out must not cost anybody their files. Raises DataError for that, and where the disk refuses.
    """
    target = Path(os.path.realpath(target))  # "." has no name, and a link must stay a link
    check_replaceable(target, marker)
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


def check_replaceable(target: Path, marker: str) -> None:
    """Raises DataError where `target` holds something that is not ours. Called early, before hours of work."""
    if target.is_dir():
        if any(target.iterdir()) and not (target / marker).is_file():
            raise DataError(f"{target} holds other files and no {marker}; it is left alone. Choose another --out.")
    elif target.exists() or target.is_symlink():
        raise DataError(f"{target} is a file, not a folder; it is left alone. Choose another --out.")


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
