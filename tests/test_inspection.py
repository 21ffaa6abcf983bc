import pytest
from shops import dataset_of
from worlds import table_of

from ed2rec import inspection, runs, workflow
from ed2rec.config import resolve
from ed2rec.errors import RunError, UnknownEntity

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
