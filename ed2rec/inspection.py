"""A look into a run's indices: how well the codebooks are used, and what shares an item's codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ed2rec.charts import OTHER, CodeShares, draw_code_shares
from ed2rec.errors import ConfigError, DataError, RunError
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


def first_codes(table: IndexTable, items: pl.DataFrame, rows: int = 12, codes: int = 6) -> CodeShares:
    """How the first code divides the items (Figure 4): counts of items by category and code.

    rows: the most frequent categories; an item counts in each of its own. A category that more than half of the items
    carry is left out where there are others: it is the shop itself. Brands stand in where no item has a category.
    codes: the most used ones over all items have a column each, the others share the last one.
    Raises DataError where the items have neither categories nor brands.
    """
    by, lists = "category", items["categories"].str.split(",")
    if not _named(table, lists).height:
        by, lists = "brand", items.select(pl.concat_list("brand"))["brand"]
    names = _named(table, lists)
    if not names.height:
        raise DataError("the items have neither categories nor brands, so there is nothing to draw their codes by")
    frequent = names.group_by("name").len().sort("len", "name", descending=[True, False])
    telling = frequent.filter(pl.col("len") <= len(items) / 2)
    shown = (telling if len(telling) else frequent)["name"].head(rows).to_list()
    used = np.bincount(table.codes[:, 0], minlength=table.sizes[0])
    chosen = [int(code) for code in np.argsort(-used, kind="stable")[:codes] if used[code]]
    counts = np.zeros((len(shown), table.sizes[0]), dtype=np.int64)
    names = names.filter(pl.col("name").is_in(shown))
    np.add.at(counts, (np.array([shown.index(name) for name in names["name"]]), names["code"].to_numpy()), 1)
    columns, labels = counts[:, chosen], [f"<{LETTERS[0]}_{code}>" for code in chosen]
    if len(chosen) < np.count_nonzero(used):
        columns = np.column_stack([columns, counts.sum(1) - columns.sum(1)])
        labels.append(OTHER)
    return CodeShares(by, shown, labels, columns)


def _named(table: IndexTable, lists: pl.Series) -> pl.DataFrame:
    """(item, first code, name), a row for each name of an item. lists: of names, row r is item number r."""
    named = pl.DataFrame({"item": np.arange(len(lists)), "code": table.codes[:, 0], "name": lists}).explode("name")
    return named.with_columns(pl.col("name").str.strip_chars()).filter(pl.col("name") != "").unique()


def draw_first_codes(run: Path, file: Path, dataset_folder: Path | None = None) -> CodeShares:
    """Figure 4 of a run as a PNG, SVG or PDF file; returns what it shows. Raises ConfigError for another ending."""
    folder = open_run(run)
    items = its_dataset(folder, dataset_folder).items
    shares = first_codes(_table(folder, "items", items["item_id"].to_list()), items, codes=9)
    draw_code_shares(file, shares, f"{folder.dataset['name']}: the first code of {len(items):,} items")
    return shares


def code_counts(table: IndexTable) -> list[np.ndarray]:
    """For every level, how many entities carry each code."""
    return [np.bincount(column, minlength=size) for column, size in zip(table.codes.T, table.sizes, strict=True)]


@dataclass(frozen=True)
class Crossing:
    """How many items of each category carry each code. counts: (categories, codes), both the most frequent first; the
    rest of either stands last, as "others"."""

    categories: list[str]
    codes: list[str]
    counts: np.ndarray


def categories_by_code(
    run: Path, dataset_folder: Path | None = None, level: int = 0, categories: int = 12, codes: int = 12
) -> Crossing:
    """The run's items by category and by their code of one level (0: the first). categories, codes: how many of each
    are told apart. Items without category (or brand, where the dataset has no categories) are left out."""
    folder = open_run(run)
    dataset = its_dataset(folder, dataset_folder)
    table = _table(folder, "items", dataset.items["item_id"].to_list())
    if not 0 <= level < table.levels:
        raise ConfigError(f"level {level}, but the index has levels 0 to {table.levels - 1}")
    labels = np.array(telling_categories(dataset.items["categories"].to_list(), dataset.items["brand"].to_list()))
    known = labels != ""
    rows, row = _most(labels[known], categories)
    letter = LETTERS[level]
    columns, column = _most(np.array([f"{letter}_{code}" for code in table.codes[known, level]]), codes)
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    np.add.at(counts, (row, column), 1)
    return Crossing(rows, columns, counts)


def telling_categories(categories: Sequence[str], brands: Sequence[str]) -> list[str]:
    """One label an item: of its categories ("Musical Instruments,Keyboards,Pianos") the first that at most half of the
    items with categories have, for the root says nothing; its brand where no item has categories; "" where unknown."""
    paths = [[part.strip() for part in text.split(",") if part.strip()] for text in categories]
    if not any(paths):
        return list(brands)
    shared = Counter(part for path in paths for part in set(path))
    most = sum(map(bool, paths)) / 2
    return [next((part for part in path if shared[part] <= most), path[-1] if path else "") for path in paths]


def _most(labels: np.ndarray, limit: int) -> tuple[list[str], np.ndarray]:
    """The most frequent labels, then "others" where there are more; and the place of every label among them."""
    ranked = [name for name, _ in sorted(Counter(labels.tolist()).items(), key=lambda pair: (-pair[1], pair[0]))]
    kept = ranked if len(ranked) <= limit else [*ranked[:limit], "others"]
    place = {name: min(number, limit) for number, name in enumerate(ranked)}
    return kept, np.array([place[name] for name in labels.tolist()], dtype=np.int64)


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
