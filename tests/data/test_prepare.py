"""prepare as a whole: numbers, what is dropped, what is never lost."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ed2rec.data.dataset import Dataset
from ed2rec.data.prepare import assemble, prepare
from ed2rec.data.source import Source, details_from, items_from
from ed2rec.errors import DataError

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("vwxyz"), st.integers(0, 4)), min_size=1, max_size=30)


def source_of(rows) -> Source:
    log = pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}, orient="row")
    words = [f"{user} took {item} as number {n}" for n, (user, item, _) in enumerate(rows)]
    texts = pl.DataFrame({"row": range(len(rows)), "comment": words}, schema_overrides={"row": pl.UInt32})
    catalogue = pl.DataFrame({"item_id": ["z", "y", "q"], "title": ["Zed", "Why", "Queue"]})
    return Source("toy", (), log, items_from(catalogue), details=details_from(texts))


def by_hand(rows) -> dict[str, list[tuple[str, str]]]:
    """user → [(item, comment)], in time order, first occurrences only, words of the last two emptied."""
    logs: dict[str, list[tuple[int, int, str, str]]] = {}
    for n, (user, item, time) in enumerate(rows):
        logs.setdefault(user, []).append((time, n, item, f"{user} took {item} as number {n}"))
    result = {}
    for user, log in logs.items():
        seen: dict[str, str] = {}
        for _, _, item, words in sorted(log):
            seen.setdefault(item, words)
        kept = list(seen.items())
        result[user] = [(item, words if n < len(kept) - 2 else "") for n, (item, words) in enumerate(kept)]
    return result


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_every_interaction_lands_where_it_belongs(rows):
    dataset = assemble(source_of(rows), "csv", 0)
    log, expected = dataset.interactions, by_hand(rows)
    comments = log["comment"] if "comment" in log.columns else pl.Series([""] * len(log))
    found: dict[str, list[tuple[str, str]]] = {}
    for user, item, words in zip(log["user_id"], log["item_id"], comments, strict=True):
        found.setdefault(user, []).append((item, words))
    assert found == expected
    assert dataset.users["user_id"].gather(log["user"]).to_list() == log["user_id"].to_list()
    assert dataset.items["item_id"].gather(log["item"]).to_list() == log["item_id"].to_list()
    assert dataset.items["item_id"].to_list()[:3] == ["z", "y", "q"]


def test_numbers_are_the_same_every_time(tmp_path):
    rows = [("b", "x", 3), ("a", "y", 1), ("b", "y", 2), ("a", "x", 0)]
    first, second = (assemble(source_of(rows), "csv", 1) for _ in range(2))
    assert first.interactions.equals(second.interactions) and first.items.equals(second.items)
    assert first.users["user_id"].to_list() == ["b", "a"]
    assert first.items["item_id"].to_list() == ["y", "x"]


def log_file(tmp_path, text="user_id,item_id,timestamp\na,x,1\na,y,2\nb,x,1\n"):
    path = tmp_path / "log.csv"
    path.write_text(text)
    return path


def test_nothing_left_after_the_core_says_what_there_was(tmp_path):
    with pytest.raises(DataError, match=r"Nothing is left of log after the 5-core: its 2 users and 2 items have 3"):
        prepare(log_file(tmp_path), "csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failing_preparation_leaves_the_dataset_that_was_there(tmp_path):
    prepare(log_file(tmp_path), "csv", tmp_path / "out", k_core=0)
    with pytest.raises(DataError):
        prepare(log_file(tmp_path, "user_id,item_id,timestamp\na,x,soon\n"), "csv", tmp_path / "out", k_core=0)
    assert len(Dataset.load(tmp_path / "out").interactions) == 3


def test_facts_tell_source_checksums_and_counts(tmp_path):
    facts = prepare(log_file(tmp_path), "csv", tmp_path / "out", k_core=0).facts
    assert facts == Dataset.load(tmp_path / "out").facts
    assert facts["counts"] == {"users": 2, "items": 2, "interactions": 3}
    (file,) = facts["source"]["files"]
    assert file["name"] == "log.csv" and len(file["sha256"]) == 64 and file["bytes"] == 44


@pytest.mark.parametrize(
    ("source", "format", "k_core", "said"),
    [
        ("log.csv", "tsv", None, "formats are amazon, atomic, lcrec, csv, ml-100k"),
        ("log.csv", "csv", -1, "--k-core is -1"),
        ("nowhere.csv", "csv", None, "nowhere.csv does not exist"),
        ("nowhere", "amazon", None, "nowhere does not exist"),
        ("nowhere", "lcrec", None, "nowhere does not exist"),
        ("nowhere", "atomic", None, "nowhere does not exist"),
        ("nowhere", "ml-100k", None, "nowhere does not exist"),
    ],
)
def test_wrong_arguments_are_told(tmp_path, source, format, k_core, said):
    log_file(tmp_path)
    with pytest.raises(DataError) as told:
        prepare(tmp_path / source, format, tmp_path / "out", k_core)
    assert said in str(told.value) and "\n" not in str(told.value)
