"""One file from the network: over HTTP, or as a wheel through the user's own pip."""

from __future__ import annotations

import http.client
import importlib.util
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str, int, int], None]
"""progress(what, bytes so far, bytes in all or 0)."""
SECONDS_WITHOUT_A_BYTE = 60
SECONDS_FOR_PIP = 900
BLOCK = 2**20


class Unavailable(Exception):
    """This origin did not give the file; another may. Never leaves `fetch`."""


def silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""


def download(url: str, folder: Path, progress: Progress = silent) -> Path:
    """The file at `url`, into `folder` under its own name. Raises Unavailable if it does not come whole.

    What the disk refuses stays an OSError: no other origin would help.
    """
    name = url.rpartition("/")[2]
    target = folder / name
    request = urllib.request.Request(url, headers={"User-Agent": "ed2rec"})
    try:
        answer = urllib.request.urlopen(request, timeout=SECONDS_WITHOUT_A_BYTE)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(_reason(error)) from None
    with answer, target.open("wb") as file:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while block := _next(answer):
            file.write(block)
            done += len(block)
            progress(name, done, total)
    if total and done != total:
        raise Unavailable(f"{done} bytes came of {total}")
    return target


def _next(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(_reason(error)) from None


def download_wheel(requirement: str, folder: Path, progress: Progress = silent) -> Path:
    """The wheel of "name==version", into `folder`, from whichever index the user's pip is set up for.

    Nothing is built, installed or run: wheels only, no dependencies. Raises Unavailable if pip does not deliver.
    """
    if importlib.util.find_spec("pip") is None:
        raise Unavailable("this Python has no pip; python -m ensurepip adds it")
    progress(requirement, 0, 0)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_FOR_PIP, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"pip: {_reason(error)}") from None
    wheels = list(folder.glob("*.whl"))
    if ended.returncode or len(wheels) != 1:
        lines = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise Unavailable(f"pip: {lines[-1].strip()[:200]}")
    progress(requirement, wheels[0].stat().st_size, wheels[0].stat().st_size)
    return wheels[0]


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    return str(reason).strip().split("\n")[0] or type(error).__name__
