"""Atomic files: typed headers, tabs, no quotes."""

import pytest

from ed2rec.data.prepare import prepare
from ed2rec.errors import DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\tx\t5\t20\nu1\ty\t3\t10\nu2\tx\t1\t5\n"
ITEM = "item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\n" + (
    'y\tSay "hi"\tRed Blue\tB\nx\tEx\tHome & Garden, Tools\t\n'
)


def test_log_catalogue_and_users_are_read(tmp_path):
    (tmp_path / "toy.inter").write_text(INTER)
    (tmp_path / "toy.item").write_text(ITEM)
    (tmp_path / "toy.user").write_text("user_id:token\tage:token\tgender:token\nu2\t30\tF\n")
    dataset = prepare(tmp_path, "atomic", tmp_path / "out", k_core=0)
    assert dataset.items.select("item_id", "title", "brand", "categories").rows() == [
        ("y", 'Say "hi"', "B", "Red,Blue"), ("x", "Ex", "", "Home & Garden, Tools"),
    ]  # fmt: skip
    assert dataset.users.rows() == [("u2", "30 years old, female"), ("u1", "")]
    assert dataset.interactions.select("user_id", "item_id").rows() == [("u2", "x"), ("u1", "y"), ("u1", "x")]


def test_the_log_alone_is_enough(tmp_path):
    (tmp_path / "toy.inter").write_text(INTER)
    dataset = prepare(tmp_path / "toy.inter", "atomic", tmp_path / "out", k_core=0)
    assert dataset.items["item_id"].to_list() == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user_id:token\titem_id:token\nu\tx\n", "lacks the columns timestamp; found: user_id, item_id"),
        ("user_id:token\titem_id_list:token_seq\titem_id:token\nu\tx y\tz\n", "one history per row"),
        ("user_id:token\titem_id:token\titem_id:float\nu\tx\t1\n", "has the column item_id twice"),
        ("user_id\titem_id\ttimestamp\ttimestamp\nu\tx\t1\t2\n", "has the column timestamp twice"),
        ("user_id:token\titem_id:token\ttimestamp:float\nu\tx\t1\nu\ty\t2\t3\n", "toy.inter, line 3 has 4 fields"),
        (INTER + "u3\tx\t1\tsoon\n", "toy.inter, line 5 has the timestamp 'soon'"),
        (INTER + "u3\tx\thigh\t30\n", "toy.inter, line 5 has the rating 'high'"),
    ],
)
def test_a_wrong_log_is_told(tmp_path, content, said):
    (tmp_path / "toy.inter").write_text(content)
    with pytest.raises(DataError) as told:
        prepare(tmp_path, "atomic", tmp_path / "out", k_core=0)
    assert said in str(told.value) and "\n" not in str(told.value)
