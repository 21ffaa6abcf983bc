"""Histories and Dataset: what they hold, and that a folder comes back as it was saved or says what is wrong."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ed2rec.data.dataset import Dataset, Histories, check_target
from ed2rec.data.folders import replace_folder
from ed2rec.errors import DataError, UnknownEntity

LISTS = st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=8)


def small() -> Dataset:
    return Dataset(
        name="small",
        items=pl.DataFrame(
            {"item_id": ["x", "y"], "title": ["X", ""], "description": "", "brand": "", "categories": ["a,b", ""]}
        ),
        users=pl.DataFrame({"user_id": ["anna", "ben"], "profile": ["24 years old", ""]}),
        interactions=pl.DataFrame(
            {
                "user_id": ["anna", "anna", "ben"],
                "item_id": ["y", "x", "x"],
                "user": [0, 0, 1],
                "item": [1, 0, 0],
                "timestamp": [5, 6, 1],
                "summary": ["fine", "", ""],
            },
            schema_overrides={"user": pl.UInt32, "item": pl.UInt32},
        ),
        facts={"source": {"format": "csv"}},
    )


@given(LISTS)
def test_histories_give_back_the_lists_they_were_made_from(lists):
    histories = Histories.from_lists(lists)
    assert [row.tolist() for row in (histories[i] for i in range(len(histories)))] == lists
    assert histories.lengths.tolist() == [len(row) for row in lists]
    assert histories.flat.dtype == np.int32 and histories.offsets.dtype == np.int64


@given(LISTS, st.integers(0, 7))
def test_the_first_entries_are_those_of_a_slice(lists, count):
    firsts = Histories.from_lists(lists).first(np.full(len(lists), count))
    assert [firsts[i].tolist() for i in range(len(lists))] == [row[:count] for row in lists]


def test_rows_can_be_taken_in_any_order():
    taken = Histories.from_lists([[1], [2, 3], []]).take(np.array([2, 1, 1]))
    assert [taken[i].tolist() for i in range(3)] == [[], [2, 3], [2, 3]]


def test_a_row_that_does_not_exist_ends_a_loop():
    assert [row.tolist() for row in Histories.from_lists([[1], [2]])] == [[1], [2]]


def test_offsets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="offsets"):
        Histories(np.arange(3), np.array([0, 2]))


def test_histories_follow_the_interactions():
    histories = small().histories
    assert [histories[u].tolist() for u in range(2)] == [[1, 0], [0]]


def test_numbers_are_found_by_id_and_a_wrong_id_names_the_nearest():
    dataset = small()
    assert (dataset.user_number("ben"), dataset.item_number("y")) == (1, 1)
    with pytest.raises(UnknownEntity, match=r"no user 'ana'.*'anna'"):
        dataset.user_number("ana")


def test_a_saved_dataset_comes_back_as_it_was(tmp_path):
    small().save(tmp_path / "d")
    loaded = Dataset.load(tmp_path / "d")
    for table in ("items", "users", "interactions"):
        assert getattr(loaded, table).equals(getattr(small(), table))
    assert loaded.name == "small"
    assert loaded.facts["counts"] == {"users": 2, "items": 2, "interactions": 3}
    assert loaded.facts["source"] == {"format": "csv"}


def test_saving_again_replaces_the_dataset_and_leaves_nothing_else_behind(tmp_path):
    small().save(tmp_path / "d")
    small().save(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds other files"):
        small().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_dataset_json_of_somebody_else_or_a_file_beside_ours_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/dataset.json").write_text('{"name": "mine"}')
    with pytest.raises(DataError, match=r"holds other files than ours \(dataset.json\)"):
        small().save(tmp_path / "mine")
    small().save(tmp_path / "d")
    (tmp_path / "d/.DS_Store").touch()  # nobody's
    small().save(tmp_path / "d")
    (tmp_path / "d/orders.csv").write_text("order,item")
    with pytest.raises(DataError, match=r"holds other files than ours \(orders.csv\)"):
        small().save(tmp_path / "d")
    assert (tmp_path / "mine/dataset.json").exists() and (tmp_path / "d/orders.csv").exists()


def test_a_full_disk_costs_nothing_that_was_there(tmp_path, monkeypatch):
    small().save(tmp_path / "d")
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}

    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(DataError, match="No space left on device"):
        small().save(tmp_path / "d")
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_full_disk_under_a_copied_folder_is_one_short_line(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    for name in ("it's.bin", "b.bin"):
        (tmp_path / "model" / name).touch()

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    with (
        pytest.raises(DataError, match=r"e cannot be written \(No space left on device\); what was there is untouched"),
        replace_folder(tmp_path / "e", "export.json", lambda _: ()) as new,
    ):
        shutil.copytree(tmp_path / "model", new / "model", copy_function=full)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_rename_that_fails_brings_the_old_dataset_back(tmp_path, monkeypatch):
    small().save(tmp_path / "d")
    rename = __import__("os").rename

    def refuse(source, target):
        if Path(target).name == "d" and Path(source).name.startswith(".d.") and "old" not in str(source):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr("ed2rec.data.folders.os.rename", refuse)
    with pytest.raises(DataError, match="Input/output"):
        small().save(tmp_path / "d")
    assert Dataset.load(tmp_path / "d").name == "small"
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


DIES = """
import os, sys
from pathlib import Path
from ed2rec.data import folders
from ed2rec.data.dataset import Dataset
rename, left = os.rename, int(sys.argv[2])
def dies(source, target):
    global left
    left -= 1
    if not left:
        os._exit(9)
    rename(source, target)
dataset = Dataset.load(sys.argv[1])
os.rename = dies
dataset.save(sys.argv[1])
"""


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_process_that_dies_at_any_rename_of_a_replacement_leaves_a_dataset(tmp_path, at):
    small().save(tmp_path / "d")
    assert subprocess.run([sys.executable, "-c", DIES, tmp_path / "d", str(at)], check=False).returncode == 9
    assert (tmp_path / "d").exists() == (at != 2)
    assert Dataset.load(tmp_path / "d").histories.flat.tolist() == [1, 0, 0]
    small().save(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_replacement_that_stopped_between_its_renames_is_undone_before_the_next_write(tmp_path):
    small().save(tmp_path / "disk/d")
    (tmp_path / "d").symlink_to(tmp_path / "disk/d")
    (tmp_path / "disk/d").rename(tmp_path / "disk/.d.old")
    check_target(tmp_path / "disk/d")
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["d"]
    (tmp_path / "disk/d").rename(tmp_path / "disk/.d.old")
    assert Dataset.load(tmp_path / "d").name == "small"


def test_what_was_written_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    small().save(tmp_path / "d")
    fsync, rename, done = os.fsync, os.rename, []
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_ino), fsync(handle)))
    monkeypatch.setattr(os, "rename", lambda source, target: (done.append("rename"), rename(source, target)))
    small().save(tmp_path / "d")
    before = set(done[: done.index("rename")])
    assert before >= {path.stat().st_ino for path in [tmp_path / "d", *(tmp_path / "d").iterdir()]}
    assert tmp_path.stat().st_ino in done[done.index("rename") :]


def spoil(folder: Path, how: str) -> None:
    facts = json.loads((folder / "dataset.json").read_text())
    if how == "no facts":
        (folder / "dataset.json").unlink()
    elif how == "broken facts":
        (folder / "dataset.json").write_text('{"format_version": 1')
    elif how == "other version":
        (folder / "dataset.json").write_text(json.dumps({**facts, "format_version": 99}))
    elif how == "other counts":
        (folder / "dataset.json").write_text(
            json.dumps({**facts, "counts": {"users": 3, "items": 2, "interactions": 3}})
        )
    elif how == "no users":
        (folder / "users.parquet").unlink()
    elif how == "cut short":
        (folder / "interactions.parquet").write_bytes((folder / "interactions.parquet").read_bytes()[:100])
    elif how == "lost column":
        pl.read_parquet(folder / "items.parquet").drop("brand").write_parquet(folder / "items.parquet")
    elif how == "other type":
        table = pl.read_parquet(folder / "interactions.parquet").cast({"item": pl.String})
        table.write_parquet(folder / "interactions.parquet")
    elif how == "number too high":
        table = pl.read_parquet(folder / "interactions.parquet").with_columns(pl.lit(7, pl.UInt32).alias("item"))
        table.write_parquet(folder / "interactions.parquet")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no facts", "no dataset.json"),
        ("broken facts", "dataset.json cannot be read"),
        ("other version", "format version 99, this ed2rec reads 1"),
        ("other counts", "dataset.json says"),
        ("no users", "users.parquet is missing"),
        ("cut short", "not readable Parquet"),
        ("lost column", "lacks the columns brand"),
        ("other type", "item is String"),
        ("number too high", "beyond its tables"),
    ],
)
def test_a_spoilt_folder_is_told_in_one_line(tmp_path, how, said):
    small().save(tmp_path / "d")
    spoil(tmp_path / "d", how)
    with pytest.raises(DataError) as told:
        Dataset.load(tmp_path / "d")
    assert said in str(told.value) and "ed2 prepare" in str(told.value) and "\n" not in str(told.value)


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="ed2 prepare"):
        Dataset.load(tmp_path / "nowhere")


def test_the_checksum_is_that_of_the_tables_wherever_they_lie_and_of_every_text_in_them(tmp_path):
    base = small()
    base.save(tmp_path / "small")
    assert Dataset.load(tmp_path / "small").checksum() == base.checksum() == small().checksum()
    others = [
        replace(base, **{table: getattr(base, table).with_columns(pl.Series(column, values))})
        for table, column, values in [
            ("items", "title", ["X", "Y"]), ("items", "title", ["", "X"]), ("items", "description", ["", "long"]),
            ("users", "profile", ["", "24 years old"]), ("interactions", "summary", ["", "fine", ""]),
            ("interactions", "summary", ["fine", None, ""]), ("interactions", "timestamp", [5, 7, 1]),
        ]
    ]  # fmt: skip
    assert len({dataset.checksum() for dataset in (base, *others)}) == 1 + len(others)
    by_time = [dataset.log_checksums("global-time") == base.log_checksums("global-time") for dataset in others]
    assert by_time == [True] * 6 + [False]
    assert all(dataset.log_checksums() == {"log": base.histories.checksum()} for dataset in others)
