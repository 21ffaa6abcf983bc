"""CSV logs with and without the tables beside them."""

import gzip

import pytest

from ed2rec.data.prepare import prepare
from ed2rec.errors import DataError

LOG = "timestamp,item_id,user_id,rating,comment\n" + (
    '3,x,anna,5,"Two\nlines, quoted"\n1,y,anna,4,\n2,z,anna,,ok\n1.0,x,ben,1,\n'
)


def test_columns_are_found_by_name_and_numbers_stay_whole(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    dataset = prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0)
    assert dataset.name == "log"
    assert dataset.interactions.select("user_id", "item_id", "timestamp").rows() == [
        ("anna", "y", 1), ("anna", "z", 2), ("anna", "x", 3), ("ben", "x", 1),
    ]  # fmt: skip
    assert dataset.interactions["rating"].to_list() == [4, None, 5, 1]


def test_a_rating_may_be_left_empty_however_that_is_written(tmp_path):
    (tmp_path / "log.csv").write_text(
        'user_id,item_id,timestamp,rating\na,v,1,\na,w,2,""\na,x,3," "\na,y,4, -1.5 \na,z,5,4e0\n'
    )
    dataset = prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0)
    assert dataset.interactions["rating"].to_list() == [None, None, None, -1.5, 4]


def test_fractions_of_a_second_are_kept(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\na,x,1.5\na,y,1.25\n")
    dataset = prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0)
    assert dataset.interactions["timestamp"].to_list() == [1.25, 1.5]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_words_stay_with_their_interaction(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("ed2rec.data.table.ROWS_AT_ONCE", at_once)
    rows = [f'u,i{n},{9 - n},"says, ""{n}"""' for n in range(5)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,comment\n" + "\n".join(rows))
    log = prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0).interactions
    assert log["item_id"].to_list() == ["i4", "i3", "i2", "i1", "i0"]
    assert log["comment"].to_list() == ['says, "4"', 'says, "3"', 'says, "2"', "", ""]


def test_items_and_users_beside_the_log_are_read(tmp_path):
    (tmp_path / "interactions.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text('item_id,title,categories,price\nz,Zed,"A,B",3\nx,<i>Ex</i>,,\n')
    (tmp_path / "users.csv").write_text("user_id,profile\nben,likes x\ncarl,absent\n")
    dataset = prepare(tmp_path, "csv", tmp_path / "out", k_core=1)
    assert dataset.items.select("item_id", "title", "categories").rows() == [
        ("z", "Zed", "A,B"),
        ("x", "Ex", ""),
        ("y", "", ""),
    ]
    assert dataset.users.rows() == [("ben", "likes x"), ("anna", "")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user,item,time\na,b,1\n", "lacks the columns user_id, item_id, timestamp; found: user, item, time"),
        ('user_id,item_id,timestamp,comment\na,b,1,"x\ny"\na,c,noon,\n', "line 4 has the timestamp 'noon'"),
        ("user_id,item_id,timestamp,rating\na,b,1,5\na,c,2,good\n", "line 3 has the rating 'good'; ratings must be"),
        ("user_id,item_id,timestamp,rating\na,b,1,inf\n", "line 2 has the rating 'inf'"),
        ("user_id,item_id,timestamp\na,b,1\na,,2\n", "line 3 has no item_id"),
        ("user_id,item_id,timestamp\na,b,1\na\n", "line 3 has no item_id"),
        ("user_id,item_id,timestamp\na,b,nan\n", "line 2 has the timestamp 'nan'"),
        ("user_id,item_id,timestamp\na,b,1,2,3\n", "line 2 has 5 fields, the first line 3; give every line"),
        ('user_id,item_id,timestamp,comment\na,b,1,"x\ny, z"\na,c,2,y, z\n', "line 4 has 5 fields, the first line 4"),
        ("user_id,item_id,timestamp,timestamp\na,b,1,2\n", "log.csv has the column timestamp twice"),
        ("user_id,item_id,timestamp,comment,comment\na,b,1,x,y\n", "log.csv has the column comment twice"),
        ("user_id,item_id,timestamp\n", "log.csv has no interactions; give a log with at least one"),
        ("", "is empty; expected rows of fields: fetch or export it again"),
    ],
)
def test_a_wrong_log_is_told_in_one_line(tmp_path, content, said):
    (tmp_path / "log.csv").write_text(content)
    with pytest.raises(DataError) as told:
        prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0)
    assert said in str(told.value) and "\n" not in str(told.value)


def test_a_row_with_too_many_fields_is_found_in_gzip_as_well(tmp_path):
    rows = [f"u,i{n},{n}" for n in range(9)]
    rows[6] += ",more"
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(("user_id,item_id,timestamp\n" + "\n".join(rows)).encode()))
    with pytest.raises(DataError, match=r"log.csv.gz, line 8 has 4 fields, the first line 3"):
        prepare(tmp_path / "log.csv.gz", "csv", tmp_path / "out", k_core=0)


def test_a_doubled_column_of_the_catalogue_is_told_and_columns_without_a_name_are_not_columns(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,,\na,x,1,,\n")
    assert prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0).items["item_id"].to_list() == ["x"]
    (tmp_path / "items.csv").write_text("item_id,title,title\nx,One,Two\n")
    with pytest.raises(DataError, match=r"items.csv has the column title twice; name each column once"):
        prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0)


def test_a_log_that_is_not_text_is_told(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"user_id,item_id,timestamp\n\xff\xfe\x00,b,1\n")
    with pytest.raises(DataError, match=r"log.csv"):
        prepare(tmp_path / "log.csv", "csv", tmp_path / "out", k_core=0)
