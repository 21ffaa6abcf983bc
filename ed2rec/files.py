"""A file that is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polars.exceptions import ComputeError

from ed2rec.errors import ConfigError


def check_file(target: Path) -> None:
    """ConfigError if a file cannot be written there. Called before the work whose result it is meant to hold."""
    target = Path(os.path.abspath(target))
    reason = (
        "it is a folder" if target.is_dir()
        else "No such folder" if not target.parent.is_dir()
        else "" if os.access(target.parent, os.W_OK)
        else "Permission denied"
    )  # fmt: skip
    if reason:
        raise ConfigError(f"cannot write {target}: {reason}; choose another file")


@contextmanager
def replace_file(target: Path) -> Iterator[Path]:
    """Yields a fresh file beside `target`, which takes its place when the block ends well.

    Raises ConfigError where the disk refuses; what was at `target` is then unchanged.
    """
    target = Path(os.path.abspath(target))
    beside: Path | None = None
    try:
        check_file(target)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        beside = Path(name)
        beside.chmod(0o644)
        yield beside
        os.replace(beside, target)
    except (OSError, ComputeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"cannot write {target}: {reason}; choose another file or make room") from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)
