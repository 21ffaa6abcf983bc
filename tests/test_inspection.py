import dataclasses

import numpy as np
import polars as pl
import pytest
from shops import dataset_of
from worlds import table_of

from ed2rec import charts, inspection, runs, workflow
from ed2rec.config import resolve
from ed2rec.errors import ConfigError, DataError, RunError, UnknownEntity

GENERATOR = {"entities": 5, "colliding": 4, "kappa": [200.0, 120.5]}
CODES = [[0, 0], [0, 1], [0, 1], [1, 1], [2, 0]]


@pytest.fixture
def run(tmp_path):
    """A run with an item index of two levels; items 1 and 2 share their codes."""
    dataset = dataset_of([[0, 1, 2], [2, 3, 4]], list("abcde"))
    dataset.save(tmp_path / "shop")

    def write(folder):
        (folder / "index").mkdir()
        table_of(CODES, (3, 2)).save(folder / "index/items.parquet", dataset.items["item_id"].to_list())

    refresh = {"step": 5, "kind": "item", "churn": {"levels": [0.5, 0.25]}}
    refresh |= {"perplexity": [2.5, 2], "generator": GENERATOR}
    metrics = {"history": [refresh], "facts": {"generators": {"end": {"items": GENERATOR}}}}
    runs.save(tmp_path / "run", resolve(), metrics, write, workflow.reference(tmp_path / "shop", dataset))
    return tmp_path / "run"


def test_stats_count_codes_collisions_and_churn(run):
    stats = inspection.index_stats(run)
    items = stats["items"]
    assert "users" not in stats
    assert (items["sizes"], items["used"], items["colliding"], items["collision_rate"]) == ([3, 2], (3, 2), 2, 2 / 5)
    assert items["churn"] == [{"step": 5, "a": 0.5, "b": 0.25}]
    assert items["generator"] == GENERATOR and items["largest_group"] == 2
    assert items["refreshes"] == [{"step": 5, "perplexity": [2.5, 2], "generator": GENERATOR}]


def test_a_run_that_did_not_measure_its_generators_has_stats_all_the_same(run):
    (run / "metrics.json").write_text("{}")
    items = inspection.index_stats(run)["items"]
    assert (items["generator"], items["refreshes"], items["churn"], items["colliding"]) == ({}, [], [], 2)


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


def test_brands_stand_in_where_a_dataset_has_no_categories():
    assert inspection.telling_categories(["", ""], ["Acme", ""]) == ["Acme", ""]
    assert inspection.telling_categories(["Music,Drums", "Music,Pianos", ""], ["x"] * 3) == ["Drums", "Pianos", ""]


def catalogue(categories=("", "", "", "", ""), brands=("", "", "", "", "")):
    return pl.DataFrame({"categories": list(categories), "brand": list(brands)})


def test_categories_are_crossed_with_first_codes_the_most_frequent_first():
    """First codes are 0 0 0 1 2. "shop" and "tea" are in 4 and 3 of 4 items: neither tells them apart."""
    items = catalogue(["shop,tea", "shop, tea ,green", "shop,tea", "", "shop,cups"])
    crossed = inspection.categories_by_code(table_of(CODES, (3, 2)), items)
    # The last of a path that has no other; of as many, in order of their names.
    assert (crossed.by, crossed.categories, crossed.codes) == ("category", ["tea", "cups", "green"], ["<a_0>", "<a_2>"])
    assert crossed.counts.tolist() == [[2, 0], [0, 1], [1, 0]]


def test_the_most_frequent_categories_and_codes_are_shown_and_the_other_codes_together():
    table, items = table_of(CODES, (3, 2)), catalogue(["b", "b,a", "", "c", "a"])
    shares = inspection.first_codes(table, items, rows=2, codes=1)
    assert list(shares.names) == ["b", "a"] and list(shares.codes) == ["<a_0>", charts.OTHER]
    assert shares.counts.tolist() == [[2, 0], [0, 1]]
    whole = inspection.first_codes(table, items)
    assert list(whole.names) == ["b", "a", "c"] and list(whole.codes) == ["<a_0>", "<a_1>", "<a_2>"]
    assert whole.counts.sum() == 4  # each item that has a category, once


def test_a_category_of_every_item_is_shown_where_there_is_no_other():
    assert inspection.first_codes(table_of(CODES, (3, 2)), catalogue(["x"] * 5)).counts.tolist() == [[3, 1, 1]]


def test_brands_stand_in_for_categories_and_items_with_neither_are_refused():
    items = catalogue(brands=["Acme, Inc.", "", "Acme, Inc.", "", "Z"])
    shares = inspection.first_codes(table_of(CODES, (3, 2)), items)
    assert (shares.by, list(shares.names)) == ("brand", ["Acme, Inc.", "Z"])
    assert shares.counts.tolist() == [[2, 0], [0, 1]]  # of the items with a brand none has the code 1
    with pytest.raises(DataError, match="neither categories nor brands"):
        inspection.first_codes(table_of(CODES, (3, 2)), catalogue())


def test_the_picture_of_a_run_shows_its_first_codes_by_category(run, tmp_path):
    dataset = inspection.its_dataset(runs.open_run(run))
    items = dataset.items.with_columns(categories=pl.Series(["tea", "tea", "cups", "", "cups"]))
    dataclasses.replace(dataset, items=items).save(tmp_path / "with categories")
    shares = inspection.draw_first_codes(run, tmp_path / "p.svg", tmp_path / "with categories")
    assert (list(shares.names), shares.counts.tolist()) == (["cups", "tea"], [[1, 1], [2, 0]])
    assert "the first code of 4 of 4 items with a category" in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize(("name", "magic"), [("p.png", b"\x89PNG"), ("p.SVG", b"<?xml"), ("p.pdf", b"%PDF")])
def test_the_picture_is_a_file_of_the_kind_that_its_name_says(tmp_path, name, magic):
    shares = charts.CodeShares("category", ["$x$ _", "b" * 90], ["<a_1>", charts.OTHER], np.array([[1, 2], [3, 0]]))
    charts.draw_code_shares(tmp_path / name, shares, "first codes")
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_picture_of_another_kind_or_in_no_folder_is_refused(tmp_path):
    shares = charts.CodeShares("category", ["x"], ["<a_1>"], np.array([[1]]))
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg, \.pdf"):
        charts.draw_code_shares(tmp_path / "p.jpg", shares)
    with pytest.raises(ConfigError, match=r"cannot write .*No such folder"):
        charts.draw_code_shares(tmp_path / "absent/p.png", shares)
