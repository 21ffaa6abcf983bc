import dataclasses

import numpy as np
import polars as pl
import pytest
from shops import dataset_of
from worlds import table_of

from ed2rec import figures, inspection, runs, workflow
from ed2rec.config import resolve
from ed2rec.errors import ConfigError, RunError, UnknownEntity

CODES = [[0, 0], [0, 1], [0, 1], [1, 1], [2, 0]]


@pytest.fixture
def run(tmp_path):
    """A run with an item index of two levels; items 1 and 2 share their codes."""
    dataset = dataset_of([[0, 1, 2], [2, 3, 4]], list("abcde"))
    dataset.save(tmp_path / "shop")

    def write(folder):
        (folder / "index").mkdir()
        table_of(CODES, (3, 2)).save(folder / "index/items.parquet", dataset.items["item_id"].to_list())

    metrics = {"history": [{"step": 5, "kind": "item", "churn": {"levels": [0.5, 0.25]}}]}
    runs.save(tmp_path / "run", resolve(), metrics, write, workflow.reference(tmp_path / "shop", dataset))
    return tmp_path / "run"


def test_stats_count_codes_collisions_and_churn(run):
    stats = inspection.index_stats(run)
    items = stats["items"]
    assert "users" not in stats
    assert (items["sizes"], items["used"], items["colliding"], items["collision_rate"]) == ([3, 2], (3, 2), 2, 2 / 5)
    assert items["churn"] == [{"step": 5, "a": 0.5, "b": 0.25}]


def test_an_item_is_shown_with_those_that_share_the_longest_prefix(run):
    shown = inspection.show_item(run, "i1")
    assert (shown["title"], shown["index"]) == ("b", "<a_0><b_1><p_0>")
    assert [(n["item_id"], n["index"], n["shared"]) for n in shown["neighbours"]] == [
        ("i2", "<a_0><b_1><p_1>", 2), ("i0", "<a_0><b_0>", 1),
    ]  # fmt: skip
    assert inspection.show_item(run, "i4")["neighbours"] == []


def test_unknown_items_and_runs_without_index_are_refused(run, tmp_path):
    with pytest.raises(UnknownEntity, match="'i9'"):
        inspection.show_item(run, "i9")
    workflow.train(tmp_path / "shop", tmp_path / "popular", resolve(extra={"model": "popularity"}))
    with pytest.raises(RunError, match="popularity run and has no index"):
        inspection.index_stats(tmp_path / "popular")
    assert inspection.tables(runs.open_run(tmp_path / "popular")) == {}


def test_code_counts_add_up_to_the_entities():
    counts = inspection.code_counts(table_of(CODES, (3, 2)))
    assert [count.tolist() for count in counts] == [[3, 1, 1], [2, 3]]


def test_categories_are_crossed_with_first_codes_the_most_frequent_first(run, tmp_path):
    dataset = inspection.its_dataset(runs.open_run(run))
    categories = ["Shop,Tea", "Shop,Tea,Green", "Shop,Tea", "", "Shop,Cups"]
    items = dataset.items.with_columns(categories=pl.Series(categories))
    dataclasses.replace(dataset, items=items).save(tmp_path / "with categories")
    crossed = inspection.categories_by_code(run, tmp_path / "with categories")
    # "Shop" and "Tea" are in 4 and 3 of 4 items: neither tells them apart, so the last of a path that has no other.
    assert crossed.categories == ["Tea", "Cups", "Green"] and crossed.codes == ["a_0", "a_2"]
    assert crossed.counts.tolist() == [[2, 0], [0, 1], [1, 0]]
    few = inspection.categories_by_code(run, tmp_path / "with categories", level=1, categories=1)
    assert few.categories == ["Tea", "others"] and few.counts.sum() == 4
    with pytest.raises(ConfigError, match="levels 0 to 1"):
        inspection.categories_by_code(run, tmp_path / "with categories", level=2)


def test_brands_stand_in_where_a_dataset_has_no_categories():
    assert inspection.telling_categories(["", ""], ["Acme", ""]) == ["Acme", ""]
    assert inspection.telling_categories(["Music,Drums", "Music,Pianos", ""], ["x"] * 3) == ["Drums", "Pianos", ""]


def test_the_picture_of_categories_has_a_piece_for_every_code(tmp_path):
    crossing = inspection.Crossing(["Tea", "Cups"], ["a_0", "a_2"], np.array([[2, 1], [0, 1]]))
    figure = figures.categories(crossing, "shop")
    pieces = [bar.get_width() for bar in figure.axes[0].patches]
    assert pieces == [0, 2, 1, 1] and len(figure.legends[0].get_texts()) == 2
