"""`ed2 bench prepare`: how fast raw reviews become a dataset folder, and with how much memory."""

import gzip
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak
from ed2rec.data.prepare import prepare
from ed2rec.environment import processor

CHUNK = 100_000  # reviews written at a time


def run(
    progress: Callable[[str, int, int, str], None] | None = None,
    reviews: int = 5_000_000,
    users: int = 400_000,
    items: int = 100_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Seconds, reviews per second and peak memory of `ed2 prepare --format amazon` on made-up reviews; minutes.

    Reviews and metadata are gzip files of JSON lines with the fields of Amazon 2018: popular items by Zipf's law, a
    summary and a comment of 40 words each. The peak is that of a fresh process, libraries included.
    """
    figures: dict[str, Any] = {
        "benchmark": "prepare",
        "hardware": {"processor": processor()},
        "setting": {"reviews": reviews, "users": users, "items": items, "k_core": 5},
    }
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "Made_up.json.gz"
        if progress:
            progress("preparing", 0, 2, "writing reviews")
        write_reviews(source, reviews, users, items, seed)
        figures["setting"]["gzip_mib"] = round(source.stat().st_size / 2**20, 1)
        if progress:
            progress("preparing", 1, 2, f"{reviews:,} reviews")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(_prepared, (source, Path(folder) / "dataset"))
    return figures | found | {"reviews_per_second": round(reviews / found["seconds"])}


def write_reviews(path: Path, reviews: int, users: int, items: int, seed: int = 0) -> None:
    """Reviews at `path`, and the items' metadata beside it."""
    random = np.random.default_rng(seed)
    words = np.array(["sturdy", "cable", "stand", "tone", "price", "quality", "works", "great", "loud", "small"])
    texts = [json.dumps(" ".join(row)) for row in words[random.integers(0, len(words), (1000, 40))]]
    share = 1 / np.arange(1, items + 1)
    ends = np.cumsum(share / share.sum())
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for start in range(0, reviews, CHUNK):
            count = min(CHUNK, reviews - start)
            user = random.integers(0, users, count)
            item = np.searchsorted(ends, random.random(count)).clip(max=items - 1)
            moment = random.integers(10**9, 2 * 10**9, count)
            text = random.integers(0, len(texts), count)
            for u, i, t, n in zip(*(column.tolist() for column in (user, item, moment, text)), strict=True):
                file.write(f'{{"overall": 5.0, "reviewerID": "U{u}", "asin": "I{i}", "unixReviewTime": {t}, '
                           f'"reviewText": {texts[n]}, "summary": "Review {n}"}}\n')  # fmt: skip
    with gzip.open(path.with_name(f"meta_{path.name}"), "wt", compresslevel=1, encoding="utf-8") as file:
        for i in range(items):
            file.write(f'{{"asin": "I{i}", "title": "Item {i}", "brand": "B{i % 999}", '
                       f'"description": [{texts[i % 1000]}]}}\n')  # fmt: skip


def _prepared(source: Path, out: Path) -> dict[str, Any]:
    start = time.perf_counter()
    counts = prepare(source, "amazon", out).facts["counts"]
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 1), "peak_gib": round(peak() / 2**30, 2), "kept": counts}
