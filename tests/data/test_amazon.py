"""Three releases of one tiny shop come out the same."""

import gzip
import json

import pytest

from ed2rec.data.prepare import prepare
from ed2rec.errors import DataError

# user, item, seconds, stars, comment, summary; in file order, which is not time order
REVIEWS = [
    ("anna", "B1", 30, 5.0, "Nice &amp; loud", "good"),
    ("anna", "B2", 10, 4.0, "<b>Fine</b>", "ok"),
    ("anna", "B3", 20, 1.0, "", "bad"),
    ("ben", "B3", 5, 3.0, "First", "one"),
    ("ben", "B2", 5, 3.0, "Second, same second", "two"),
    ("ben", "B1", 5, 3.0, "Third", "three"),
    ("ben", "B3", 9, 2.0, "Again", "repeated"),
]
ITEMS_OUT = [
    ("B3", "Strings", "First. Second.", "Ernie", "Music,Guitar"),
    ("B1", "", "", "Fender", ""),
    ("B2", "", "", "", ""),
]


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_2014(folder):
    reviews = [
        {
            "reviewerID": u,
            "asin": i,
            "unixReviewTime": t,
            "overall": s,
            "reviewText": c,
            "summary": y,
            "helpful": [0, 1],
        }
        for u, i, t, s, c, y in REVIEWS
    ]
    (folder / "reviews_Shop_5.json.gz").write_bytes(gzip.compress(lines(reviews)))
    strings = {"asin": "B3", "title": "Strings", "description": "First. Second.", "brand": "Ernie",
               "categories": [["Music", "Guitar"], ["Music"]]}  # fmt: skip
    meta = [strings, {"asin": "B1", "brand": "Fender"}, {"asin": "B9", "title": "Nobody's"}]
    (folder / "meta_Shop.json.gz").write_bytes(gzip.compress("".join(f"{row!r}\n" for row in meta).encode()))


def write_2018(folder):
    reviews = [
        {
            "reviewerID": u,
            "asin": i,
            "unixReviewTime": t,
            "overall": s,
            "reviewText": c,
            "summary": y,
            "style": {"Size": "L"},
        }
        for u, i, t, s, c, y in REVIEWS
    ]
    (folder / "Shop_5.json").write_bytes(lines(reviews))
    meta = [
        {"asin": "B3", "title": "Strings", "description": ["First.", "Second."], "brand": "by\n    Ernie",
         "category": ["Music", "Guitar", "</span></span>", "16 ounces"]},
        {"asin": "B1", "title": "var aPageStart = (new Date()).getTime();", "description": [], "brand": "Fender"},
    ]  # fmt: skip
    (folder / "meta_Shop.json").write_bytes(lines(meta))


def write_2023(folder):
    reviews = [
        {"user_id": u, "asin": i + "v", "parent_asin": i, "timestamp": t * 1000, "rating": s, "text": c, "title": y}
        for u, i, t, s, c, y in REVIEWS
    ]
    (folder / "Shop.jsonl.gz").write_bytes(gzip.compress(lines(reviews)))
    meta = [
        {"parent_asin": "B3", "title": "Strings", "description": ["First.", "Second."], "store": "Ernie",
         "categories": ["Music", "Guitar"], "details": {"Weight": "1"}},
        {"parent_asin": "B1", "title": None, "description": [], "details": {"Brand": "Fender"}, "store": "Shop Ltd",
         "categories": []},
    ]  # fmt: skip
    (folder / "meta_Shop.jsonl.gz").write_bytes(gzip.compress(lines(meta)))


@pytest.mark.parametrize("write", [write_2014, write_2018, write_2023])
def test_each_release_gives_the_same_dataset(tmp_path, write):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw")
    dataset = prepare(tmp_path / "raw", "amazon", tmp_path / "out", k_core=2)
    assert dataset.items.rows() == ITEMS_OUT
    assert dataset.interactions["item_id"].to_list() == ["B2", "B3", "B1", "B3", "B2", "B1"]  # ties: file order
    assert dataset.interactions["rating"].to_list() == [4, 1, 5, 3, 3, 3]
    assert dataset.facts["dropped"]["repeated_items"] == 1
    assert dataset.facts["items_absent_from_catalogue"] == 1
    # Of each three the last two are for validation and test, so only the first keeps its words.
    assert dataset.interactions["comment"].to_list() == ["Fine", "", "", "First", "", ""]
    assert dataset.interactions["summary"].to_list() == ["ok", "", "", "one", "", ""]
    assert dataset.facts["dropped"]["texts_at_validation_and_test_positions"] == 4


def test_reviews_without_metadata_are_enough(tmp_path):
    write_2018(tmp_path)
    (tmp_path / "meta_Shop.json").unlink()
    dataset = prepare(tmp_path / "Shop_5.json", "amazon", tmp_path / "out", k_core=2)
    assert dataset.facts["items_without_text"] == len(dataset.items) == 3


def test_with_no_k_core_the_catalogue_keeps_what_nobody_took(tmp_path):
    write_2014(tmp_path)
    dataset = prepare(tmp_path, "amazon", tmp_path / "out", k_core=0)
    assert dataset.items["item_id"].to_list() == ["B3", "B1", "B9", "B2"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"reviewerID": "a", "asin": "B", "unixReviewTime": "May"}', "line 3 has the timestamp 'May'"),
        ('{"reviewerID": "a", "asin": "B", "unixReviewTime": 3, "overall": "A"}', "line 3 has the rating 'A'"),
        ('{"reviewerID": "a", "asin": "B", "unixReviewTime": null}', "line 3 has no timestamp"),
        ('{"reviewerID": "a", "asin": "B", "unixReviewTime": 1e999}', "line 3"),
        ('{"reviewerID": "a", "unixReviewTime": 1}', "line 3 has no item_id"),
        ('{"reviewerID": "", "asin": "B", "unixReviewTime": 1}', "line 3 has no user_id"),
        ('{"reviewerID": "a", "asin": "B", "unixRev', "line 3: not a JSON object"),
    ],
)
def test_a_wrong_review_is_named_by_its_line(tmp_path, line, said):
    good = '{"reviewerID": "a", "asin": "B", "unixReviewTime": 1}'
    (tmp_path / "Shop.json").write_text("\n".join([good, "", line, good]))
    with pytest.raises(DataError) as told:
        prepare(tmp_path / "Shop.json", "amazon", tmp_path / "out")
    assert "Shop.json, " in str(told.value) and said in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_other_files_are_told_by_what_they_have_and_what_is_needed(tmp_path):
    (tmp_path / "meta_Shop.json").write_text('{"asin": "B1", "title": "T"}')
    with pytest.raises(DataError, match=r"its first line has asin, title; needed: reviewerID or user_id"):
        prepare(tmp_path / "meta_Shop.json", "amazon", tmp_path / "out")
    with pytest.raises(DataError, match="no Amazon reviews file"):
        prepare(tmp_path, "amazon", tmp_path / "out")
    for name in ("A.json", "B.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"2 Amazon reviews files: A.json, B.json"):
        prepare(tmp_path, "amazon", tmp_path / "out")


def test_bad_metadata_are_named_by_their_line(tmp_path):
    write_2018(tmp_path)
    with (tmp_path / "meta_Shop.json").open("a") as file:
        file.write('{"title": "nobody"}\n')
    with pytest.raises(DataError, match=r"meta_Shop.json, line 3 has neither asin"):
        prepare(tmp_path / "Shop_5.json", "amazon", tmp_path / "out", k_core=2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"asin": ["i1"], "title": "x"}', "has the item id ['i1']; an id is a string or a number"),
        ('{"parent_asin": {"id": 1}, "title": "x"}', "has the item id {'id': 1}; an id is"),
        ('{"asin": "", "parent_asin": null}', "has neither asin nor parent_asin; give it one, or remove that line"),
    ],
)
def test_metadata_whose_id_is_no_id_are_named_by_their_line(tmp_path, line, said):
    write_2018(tmp_path)
    with (tmp_path / "meta_Shop.json").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as told:
        prepare(tmp_path / "Shop_5.json", "amazon", tmp_path / "out", k_core=2)
    assert f"meta_Shop.json, line 3 {said}" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("packed", [json.dumps, repr], ids=["JSON", "Python literals"])
@pytest.mark.parametrize("ids", [[0, 1, 2], [0.0, 1.0, 2.0], ["0", "1", "2"], [True, False, 0.5]])
def test_ids_that_are_numbers_find_their_texts(tmp_path, ids, packed):
    """Numbers in reviews and metadata are the same strings, whichever parser has read them."""
    reviews = [{"reviewerID": 7, "asin": item, "unixReviewTime": time} for time, item in enumerate(ids)]
    meta = [{"asin": item, "title": f"title {place}"} for place, item in enumerate(ids)]
    (tmp_path / "Shop.json").write_bytes(lines(reviews))
    (tmp_path / "meta_Shop.json").write_text("".join(f"{packed(row)}\n" for row in meta))
    dataset = prepare(tmp_path / "Shop.json", "amazon", tmp_path / "out", k_core=1)
    assert dataset.items["title"].to_list() == ["title 0", "title 1", "title 2"]
    assert dataset.users["user_id"].to_list() == ["7"] and dataset.facts["items_without_text"] == 0
