"""Tiny datasets whose right answers are known by construction. Nothing is read from disk."""

from dataclasses import replace

import numpy as np
import polars as pl

from ed2rec.data.dataset import Dataset, Histories


def dataset_of(lists: list[list[int]], titles: list[str], name: str = "shop") -> Dataset:
    """A dataset of these histories (item numbers) and titles; ids are "u0", "u1", … and "i0", "i1", …"""
    histories = Histories.from_lists(lists)
    user = np.repeat(np.arange(len(lists), dtype=np.uint32), histories.lengths)
    item = histories.flat.astype(np.uint32)
    none = [""] * len(titles)
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles, "description": none,
                          "brand": none, "categories": none})  # fmt: skip
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(len(lists))], "profile": [""] * len(lists)})
    interactions = pl.DataFrame({
        "user_id": [f"u{n}" for n in user], "item_id": [f"i{n}" for n in item], "user": user, "item": item,
        "timestamp": np.arange(len(user)),
    })  # fmt: skip
    counts = {"users": len(users), "items": len(items), "interactions": len(interactions)}
    return Dataset(name, items, users, interactions, {"counts": counts})


def checkerboard(colours: int = 3, per_colour: int = 6, users_per_colour: int = 6) -> Dataset:
    """Every user takes all items of one colour, and every item of a colour is somebody's last one.

    Item n has colour n % colours and the title "colour-C item-N". A model that understands colours, from behaviour or
    from text, ranks the test item of every user first among the items that the user does not have yet.
    """
    lists, titles = [], [f"colour-{n % colours} item-{n}" for n in range(colours * per_colour)]
    for user in range(colours * users_per_colour):
        own = [n for n in range(colours * per_colour) if n % colours == user % colours]
        turn = (user // colours) % per_colour
        lists.append(own[turn:] + own[:turn])
    return dataset_of(lists, titles)


def told(dataset: Dataset, groups: int = 3) -> Dataset:
    """The same shop, which says more of its items: item n is in categories "all" and "kind n % groups", its brand is
    "maker n % 2"."""
    items = range(len(dataset.items))
    more = {"categories": [f"all,kind {n % groups}" for n in items], "brand": [f"maker {n % 2}" for n in items]}
    return replace(dataset, items=dataset.items.with_columns(pl.Series(name, texts) for name, texts in more.items()))


def ring(users: int = 24, items: int = 12, length: int = 7) -> Dataset:
    """Every user walks round a ring of items from a place of their own: item n is followed by n + 1."""
    lists = [[(user * 5 + step) % items for step in range(length)] for user in range(users)]
    return dataset_of(lists, [f"item-{n}" for n in range(items)], name="ring")
