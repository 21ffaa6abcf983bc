"""A look into a run's indices: how well the codebooks are used, and what shares an item's codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ed2rec.charts import OTHER, PALETTE, CodeShares, draw_code_shares
from ed2rec.errors import DataError, RunError
from ed2rec.indexers.contract import IndexTable
from ed2rec.runs import RunFolder, open_run
from ed2rec.workflow import its_dataset

LETTERS = "abcdefghijklmno"


def index_stats(run: Path) -> dict[str, Any]:
    """Per kind ("items", "users"), of the table that recommends: entities, sizes, codes used and perplexity per level,
    entities that collide before the suffix (colliding, collision_rate, largest_group), version; and as training logged
    it: churn [{"step": …, "a": share, …}] and refreshes [{"step", "perplexity", "generator"}, …].

    generator: the same counts of the generator's own codes at the end of training, before twins are moved apart and
    before margin and max_share hold anybody back, with kappa, the mean concentration per level. Empty for a run that
    did not measure it.
    """
    folder = open_run(run)
    churn = churn_of(folder.metrics)
    generators = folder.metrics.get("facts", {}).get("generators", {}).get("end", {})
    stats: dict[str, Any] = {"run": str(run), "model": folder.model}
    for kind in ("items", "users"):
        if kind == "users" and not _path(folder, kind).exists():
            continue  # a run without the user branch
        table = _table(folder, kind)
        health = table.health
        stats[kind] = {
            "sizes": list(table.sizes), **asdict(health), "collision_rate": health.collision_rate,
            "version": table.version, "generator": generators.get(kind, {}), "churn": churn.get(kind, []),
            "refreshes": _refreshes(folder.metrics, kind),
        }  # fmt: skip
    return stats


def _refreshes(metrics: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Per refresh: the step, the perplexity per level of the table it made, and the generator it asked."""
    entries = [entry for entry in metrics.get("history", []) if "generator" in entry and f"{entry['kind']}s" == kind]
    return [{name: entry[name] for name in ("step", "perplexity", "generator")} for entry in entries]


def churn_of(metrics: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """The churn of every refresh from a run's metrics: kind -> [{"step": …, "a": share that moved, "b": …}]."""
    found: dict[str, list[dict[str, float]]] = {}
    for entry in metrics.get("history", []):
        if "churn" in entry:
            levels = dict(zip(LETTERS, entry["churn"]["levels"], strict=False))
            found.setdefault(f"{entry['kind']}s", []).append({"step": entry["step"], **levels})
    return found


def show_item(run: Path, item_id: str, dataset_folder: Path | None = None, limit: int = 10) -> dict[str, Any]:
    """The item's index, and the items that share the longest prefix of it (at least one code), the nearest first."""
    folder = open_run(run)
    dataset = its_dataset(folder, dataset_folder)
    number = dataset.item_number(item_id)
    table = _table(folder, "items", dataset.items["item_id"].to_list())
    shared = np.cumprod(table.codes == table.codes[number], axis=1).sum(axis=1)
    shared[number] = 0
    nearest = [int(item) for item in np.argsort(-shared, kind="stable")[:limit] if shared[item] > 0]

    def card(item: int) -> dict[str, Any]:
        item_id, title, categories = dataset.items.select("item_id", "title", "categories").row(item)
        return {"item_id": item_id, "title": title, "categories": categories, "index": spell(table, item)}

    neighbours = [{**card(item), "shared": int(shared[item])} for item in nearest]
    return {**card(number), "version": table.version, "neighbours": neighbours}


def spell(table: IndexTable, item: int) -> str:
    """The item's index as index tokens: <a_17><b_3><c_250><d_9>, with <p_0> where it has a suffix."""
    tokens = [f"<{letter}_{code}>" for letter, code in zip(LETTERS, table.codes[item], strict=False)]
    return "".join(tokens) + (f"<p_{table.suffix[item]}>" if table.suffix[item] >= 0 else "")


def code_counts(table: IndexTable) -> list[np.ndarray]:
    """For every level, how many entities carry each code."""
    return [np.bincount(column, minlength=size) for column, size in zip(table.codes.T, table.sizes, strict=True)]


def tables(folder: RunFolder) -> dict[str, IndexTable]:
    """The run's index tables by kind; empty for a model that has none."""
    return {kind: _table(folder, kind) for kind in ("items", "users") if _path(folder, kind).exists()}


def _table(folder: RunFolder, kind: str, ids: list[str] | None = None) -> IndexTable:
    path = _path(folder, kind)
    if not path.exists():
        raise RunError(f"{folder.path} is a {folder.model} run and has no index; train one with --model ed2")
    return IndexTable.load(path, ids)


def _path(folder: RunFolder, kind: str) -> Path:
    return folder.path / "index" / f"{kind}.parquet"


# Figure 4: what the first code stands for.


@dataclass(frozen=True)
class Crossing:
    """How many items of each category carry each first code. counts: (categories, codes), both the most frequent first.
    by: what the categories are ("category", "brand")."""

    categories: list[str]
    codes: list[str]
    counts: np.ndarray
    by: str = "category"


def categories_by_code(table: IndexTable, items: pl.DataFrame) -> Crossing:
    """All items that have a category, by the one that tells them apart (`telling_categories`) and by first code.

    items: row r is item number r. Brands stand in where no item has a category. Raises DataError where the items have
    neither.
    """
    categories, brands = (items[column].fill_null("").to_list() for column in ("categories", "brand"))
    labels = np.array(telling_categories(categories, brands))
    known = labels != ""
    if not known.any():
        raise DataError("the items have neither categories nor brands, so there is nothing to count their codes by")
    rows, row = _ranked(labels[known])
    columns, column = _ranked(table.codes[known, 0])
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    np.add.at(counts, (row, column), 1)
    by = "category" if any(map(_nested, categories)) else "brand"
    return Crossing(rows, [f"<{LETTERS[0]}_{code}>" for code in columns], counts, by)


def telling_categories(categories: Sequence[str], brands: Sequence[str]) -> list[str]:
    """One label an item: of its categories ("Musical Instruments,Keyboards,Pianos") the first that at most half of the
    items with categories have, for the root says nothing; its brand where no item has categories; "" where unknown.

    One, because then counts are items, and purity and information can be had from them. Of categories that are not
    nested (genres of a film) it is the one that is named first.
    """
    paths = [_nested(text) for text in categories]
    if not any(paths):
        return [brand.strip() for brand in brands]
    shared = Counter(part for path in paths for part in set(path))
    most = sum(map(bool, paths)) / 2
    return [next((part for part in path if shared[part] <= most), path[-1] if path else "") for path in paths]


def shares_of(crossing: Crossing, rows: int = 12, codes: int = 6) -> CodeShares:
    """What a picture has room for: the `rows` most frequent categories, and a column for each of the `codes` most used
    codes; the other codes share the last one."""
    columns, counts = crossing.codes, crossing.counts[:rows]
    if len(columns) > codes:
        columns = [*columns[:codes], OTHER]
        counts = np.column_stack([counts[:, :codes], counts[:, codes:].sum(axis=1)])
    return CodeShares(crossing.by, crossing.categories[:rows], columns, counts)


def first_codes(table: IndexTable, items: pl.DataFrame, rows: int = 12, codes: int = 6) -> CodeShares:
    """`shares_of` the `categories_by_code` of a table."""
    return shares_of(categories_by_code(table, items), rows, codes)


def draw(crossing: Crossing, file: Path, name: str) -> CodeShares:
    """The picture as a PNG, SVG or PDF file; returns what it shows. name: of the dataset. Raises ConfigError for
    another ending."""
    shares = shares_of(crossing, codes=len(PALETTE))
    shown, known = shares.counts.sum(), crossing.counts.sum()
    draw_code_shares(file, shares, f"{name}: the first code of {shown:,} of {known:,} items with a {crossing.by}")
    return shares


def draw_first_codes(run: Path, file: Path, dataset_folder: Path | None = None) -> CodeShares:
    """Figure 4 of a run (`draw`)."""
    folder = open_run(run)
    items = its_dataset(folder, dataset_folder).items
    table = _table(folder, "items", items["item_id"].to_list())
    return draw(categories_by_code(table, items), file, folder.dataset["name"])


def _nested(categories: str) -> list[str]:
    return [part.strip() for part in categories.split(",") if part.strip()]


def _ranked(labels: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The labels, the most frequent first and then in order, and the place of each entry among them."""
    names, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return names[order].tolist(), np.argsort(order)[place]
