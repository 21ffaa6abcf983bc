"""A file that is written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polars.exceptions import ComputeError

from ed2rec.errors import ConfigError


def check_file(target: Path) -> None:
    """ConfigError if a file cannot be written there. Called before the work whose result it is meant to hold."""
    target = _place(target)
    reason = (
        "it is a folder" if target.is_dir()
        else "" if _is_device(target) and os.access(target, os.W_OK)
        else "Permission denied" if _is_device(target)
        else "No such folder" if not target.parent.is_dir()
        else "" if os.access(target.parent, os.W_OK)
        else "Permission denied"
    )  # fmt: skip
    if reason:
        raise ConfigError(f"cannot write {target}: {reason}; choose another file")


@contextmanager
def replace_file(target: Path) -> Iterator[Path]:
    """Yields a fresh file beside `target`, which takes its place when the block ends well.

    A link stays, and what it points to is replaced. A device or pipe stays as well, and the finished file is written
    into it. Raises ConfigError where the disk refuses; what was at `target` is then unchanged.
    """
    target = _place(target)
    device = _is_device(target)
    beside: Path | None = None
    try:
        check_file(target)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=None if device else target.parent)
        os.close(handle)
        beside = Path(name)
        beside.chmod(0o644)
        yield beside
        if device:
            with beside.open("rb") as finished, target.open("ab") as sink:  # stdout may be a file: do not cut it
                shutil.copyfileobj(finished, sink)
        else:
            os.replace(beside, target)
    except (OSError, ComputeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"cannot write {target}: {reason}; choose another file or make room") from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def _place(target: Path) -> Path:
    """Where the file really is. A device keeps its name: what /dev/stdout leads to may have none."""
    target = Path(os.path.abspath(target))
    return target if _is_device(target) else Path(os.path.realpath(target))


def _is_device(target: Path) -> bool:
    """Whether there is something that takes bytes and is no file that could be replaced: a device, a pipe, or an open
    file by its number (/dev/stdout), even where a regular file is behind it."""
    if target.is_symlink() and target.parts[1:2] in (("dev",), ("proc",)):
        return True
    return target.exists() and not target.is_file() and not target.is_dir()
