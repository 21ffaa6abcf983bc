"""A made-up shop and the settings of a model so small that every experiment runs in seconds: `--toy`."""

import numpy as np
import polars as pl

from ed2rec.data.dataset import Dataset

SHELVES = {
    "Fruit": "apple pear plum sweet ripe juicy orchard", "Tools": "hammer saw drill steel heavy workshop iron",
    "Music": "guitar piano drum string melody stage tune",
}  # fmt: skip
# On top of the defaults; no --preset applies to the toy unless it is given.
SETTINGS = (
    "backbone.hidden=16", "backbone.heads=2", "backbone.layers=1", "backbone.intermediate=32",
    "backbone.vocabulary=300", "indexer.items=[4, 4, 4]", "indexer.users=[4, 4]", "indexer.code_width=8",
    "indexer.warmup_epochs=2", "indexer.lr=0.01", "encoding.layer=-1", "data.max_history=5",
    "training.batch_tokens=512", "training.epochs=6", "training.frozen_tail=0.4", "training.lr=0.003",
    "training.refreshes=2",
    "training.margin=0", "training.max_share=0.4", "training.checkpoints=1", "training.validations=1",
    "training.bf16=false", "training.device=cpu", "decoding.beam=5",
)  # fmt: skip


def shop(users: int = 24, per_shelf: int = 5, length: int = 7) -> Dataset:
    """Users who mostly stay with one shelf; titles and summaries are words of the item's shelf."""
    generator = np.random.default_rng(0)
    words = [text.split() for text in SHELVES.values()]
    shelf = np.repeat(np.arange(len(words)), per_shelf)
    rows = []
    for user in range(users):
        liking = np.where(shelf == user % len(words), 6.0, 1.0)
        count = 4 + int(generator.integers(length - 3))
        taken = generator.choice(len(shelf), size=count, replace=False, p=liking / liking.sum())
        rows += [(f"u{user}", f"i{item}", user, int(item), " ".join(words[shelf[item]][:2])) for item in taken]
    log = pl.DataFrame(rows, ["user_id", "item_id", "user", "item", "summary"], orient="row").with_columns(
        pl.col("user", "item").cast(pl.UInt32), timestamp=pl.int_range(len(rows))
    )
    items = pl.DataFrame({
        "item_id": [f"i{n}" for n in range(len(shelf))],
        "title": [" ".join(generator.choice(words[s], 3, replace=False)) for s in shelf],
        "description": "", "brand": "",
        "categories": [f"Shop,{list(SHELVES)[s]}" for s in shelf],
    })  # fmt: skip
    people = pl.DataFrame({"user_id": [f"u{n}" for n in range(users)], "profile": [""] * users})
    counts = {"users": users, "items": len(items), "interactions": len(log)}
    return Dataset("toy", items, people, log, {"counts": counts})
