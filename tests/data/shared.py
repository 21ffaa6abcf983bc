"""Where the shared real data are, if anywhere: $ED2_SHARED_DATA, else shared/data beside the checkout."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("ED2_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def shared(name: str) -> Path:
    """The folder `name` (games, instruments, industrial, raw); skips the test, with the reason, where it is absent."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set ED2_SHARED_DATA")
    return folder
