"""LC-Rec's files, with the words that must not come through."""

import json

import pytest

from ed2rec.data.prepare import prepare
from ed2rec.errors import DataError

INTER = {"0": [0, 1, 2, 3], "1": [3, 0, 2]}
ITEM = {
    "0": {"title": "Zero", "description": "", "brand": "A", "categories": "X,Y"},
    "1": {"title": "One", "description": "", "brand": "", "categories": ""},
    "3": {"title": "", "description": "", "brand": "", "categories": ""},
    "4": {"title": "Never taken", "description": "", "brand": "", "categories": ""},
}
REVIEW = {
    "(0, 0)": {"review": "early words", "summary": "early"},
    "(0, 2)": {"review": "SECRET of validation", "summary": "SECRET"},
    "(1, 2)": {"review": "SECRET of test", "summary": "SECRET"},
    "(1, 1)": {"review": "of no interaction", "summary": "none"},
}
USER = {
    "user_explicit_preference": {"0": ["Likes Y.", "Long.", "Short."]},
    "user_vague_intention": {
        "train": {"0": {"item": 1, "inters": "", "querys": ["I want one.", "It is one."]}},
        "test": {"0": {"item": 3, "inters": "", "querys": ["SECRET", "SECRET"]}},
    },
}


def write(folder, **files):
    for kind, content in {"inter": INTER, "item": ITEM, **files}.items():
        (folder / f"Toy.{kind}.json").write_text(json.dumps(content))
    return folder


def test_item_numbers_are_the_order_of_the_catalogue_and_all_of_it_is_kept(tmp_path):
    dataset = prepare(write(tmp_path), "lcrec", tmp_path / "out")
    assert dataset.name == "Toy"
    assert dataset.items["item_id"].to_list() == ["0", "1", "3", "4", "2"]  # "2" has interactions and no entry
    assert dataset.users["user_id"].to_list() == ["0", "1"]
    assert dataset.interactions["item_id"].to_list() == ["0", "1", "2", "3", "3", "0", "2"]
    assert dataset.interactions["timestamp"].to_list() == [0, 1, 2, 3, 0, 1, 2]
    assert dataset.facts["dropped"]["k_core"]["k"] == 0
    assert "comment" not in dataset.interactions.columns


def test_words_about_validation_and_test_items_are_refused_and_counted(tmp_path):
    dataset = prepare(write(tmp_path, review=REVIEW, user=USER), "lcrec", tmp_path / "out")
    assert dataset.interactions["comment"].to_list() == ["early words", "", "", "", "", "", ""]
    assert dataset.interactions["query"].to_list() == ["", "I want one. It is one.", "", "", "", "", ""]
    assert dataset.users["profile"].to_list() == ["Likes Y. Long. Short.", ""]
    assert dataset.facts["dropped"]["texts_at_validation_and_test_positions"] == 2
    assert dataset.facts["source"]["reviews"] == {"read": 4, "of_no_interaction": 1}
    assert dataset.facts["source"]["intentions"] == {"read": 1, "of_test_items_refused": 1}
    for file in (tmp_path / "out").iterdir():
        assert b"SECRET" not in file.read_bytes()


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("inter", '{"0": [1,\n2', "Toy.inter.json, line 2: not JSON"),
        ("inter", "[1]", "holds a list"),
        ("inter", '{"0": 7}', "user '0'"),
        ("inter", '{"0": [[1]]}', "user '0'"),
        ("inter", '{"0": [true]}', "user '0'"),
        ("inter", '{"": [1]}', "user ''"),
        ("inter", "[" * 100_000, "cannot be read (maximum recursion"),
        ("inter", "{}", "Toy.inter.json has no interactions; give"),
        ("inter", '{"a": [1, 2], "b": [3], "a": [4, 5]}', "Toy.inter.json has the key 'a' twice"),
        ("inter", r'{"a\ud83d": [1, 2], "a\ud83e": [4, 5]}', "has the key 'a?' twice"),
        ("item", '{"0": {"title": "Zero", "title": "Nought"}}', "Toy.item.json has the key 'title' twice"),
        ("item", '{"0": "Zero"}', "item '0' is str"),
        ("review", '{"0 1": {}}', "'0 1'"),
        ("user", '{"user_vague_intention": {"train": {"0": {}}}}', "not of LC-Rec's form"),
    ],
)
def test_files_of_another_shape_are_told(tmp_path, kind, content, said):
    write(tmp_path)
    (tmp_path / f"Toy.{kind}.json").write_text(content)
    with pytest.raises(DataError) as told:
        prepare(tmp_path, "lcrec", tmp_path / "out")
    assert said in str(told.value) and "\n" not in str(told.value)


def test_a_missing_catalogue_is_told(tmp_path):
    write(tmp_path)
    (tmp_path / "Toy.item.json").unlink()
    with pytest.raises(DataError, match=r"Toy.item.json is missing"):
        prepare(tmp_path, "lcrec", tmp_path / "out")


def test_half_of_an_emoji_becomes_a_question_mark(tmp_path):
    titles = {"0": {"title": "Cut \ud83d"}, "1": {"title": "Whole \U0001f600"}}
    write(tmp_path, item={**ITEM, **titles}, inter={"a\ud83d": [0, 1, 3]})
    dataset = prepare(tmp_path, "lcrec", tmp_path / "out")
    assert dataset.items["title"].to_list()[:2] == ["Cut ?", "Whole \U0001f600"]
    assert dataset.users["user_id"].to_list() == ["a?"]
