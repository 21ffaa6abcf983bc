"""MovieLens-100K in its two forms: four people and films of our own making come out the same."""

import zipfile

import pytest

from ed2rec.data.movielens import GENRES
from ed2rec.data.prepare import prepare
from ed2rec.errors import DataError


def flags(*names: str) -> str:
    return "|".join(["0"] + ["1" if genre in names else "0" for genre in GENRES])


GROUPLENS = {
    "u.data": b"1\t2\t5\t100\n1\t1\t3\t50\n2\t1\t4\t70\n",
    "u.item": (
        f"1|Caf\u00e9 (1995)|01-Jan-1995||http://x|{flags('Drama', 'Comedy')}\n"
        f"2|Space (1996)|01-Jan-1996||http://y|{flags('Sci-Fi')}\n"
    ).encode("latin-1"),
    "u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n",
}
ATOMIC = {
    "ml-100k.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    b"1\t2\t5\t100\n1\t1\t3\t50\n2\t1\t4\t70\n",
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tCaf\u00e9\t1995\tComedy Drama\n2\tSpace\t1996\tSci-Fi\n"
    ).encode(),
    "ml-100k.user": b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    b"1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n",
}


def as_folder(path, files):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)


def as_zip(path, files, inside):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{inside}/{name}", content)


@pytest.mark.parametrize("form", ["folder", "nested", "file", "zip", "wheel", "atomic folder"])
def test_every_form_gives_the_same_dataset(tmp_path, form):
    source = tmp_path / "source"
    if form in ("folder", "file"):
        as_folder(source, GROUPLENS)
    elif form == "nested":
        as_folder(source / "ml-100k", GROUPLENS)
    elif form == "zip":
        as_zip(source, GROUPLENS, "ml-100k")
    elif form == "wheel":
        as_zip(source, ATOMIC, "recbole/dataset_example/ml-100k")
    else:
        as_folder(source, ATOMIC)
    dataset = prepare(source / "u.data" if form == "file" else source, "ml-100k", tmp_path / "out", k_core=0)
    assert dataset.items.select("item_id", "title", "categories").rows() == [
        ("1", "Café (1995)", "Comedy,Drama"), ("2", "Space (1996)", "Sci-Fi"),
    ]  # fmt: skip
    assert dataset.users.rows() == [("1", "24 years old, male, technician"), ("2", "53 years old, female")]
    assert dataset.interactions.select("user_id", "item_id", "timestamp", "rating").rows() == [
        ("1", "1", 50, 3.0), ("1", "2", 100, 5.0), ("2", "1", 70, 4.0),
    ]  # fmt: skip


def test_a_folder_without_the_files_says_how_to_get_them(tmp_path):
    with pytest.raises(DataError, match="ed2 data fetch ml-100k"):
        prepare(tmp_path, "ml-100k", tmp_path / "out")


@pytest.mark.parametrize("name", ["ml-100k.zip", "u.item", "ratings.csv"])
def test_a_file_that_is_none_of_the_forms_is_named_and_nothing_beside_it_is_read(tmp_path, name):
    as_folder(tmp_path / "x", GROUPLENS)
    (tmp_path / "x" / name).write_text("text")
    with pytest.raises(DataError, match=f"x/{name} is no zip and neither u.data nor ml-100k.inter; give one of these"):
        prepare(tmp_path / "x" / name, "ml-100k", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["u.data", "ml-100k.inter"])
def test_the_form_of_the_given_file_is_read_where_both_stand_beside_one_another(tmp_path, given):
    as_folder(tmp_path / "x", {**GROUPLENS, **ATOMIC})
    dataset = prepare(tmp_path / "x" / given, "ml-100k", tmp_path / "out", k_core=0)
    assert dataset.facts["source"]["files"][0]["name"] == given


def test_a_member_that_is_empty_is_told_by_its_name(tmp_path):
    as_zip(tmp_path / "ml.zip", {**GROUPLENS, "u.item": b""}, "ml-100k")
    with pytest.raises(DataError, match=r"^u.item is empty; expected rows of fields"):
        prepare(tmp_path / "ml.zip", "ml-100k", tmp_path / "out")


def test_a_damaged_archive_is_told(tmp_path):
    as_zip(tmp_path / "ml.zip", {"u.data": GROUPLENS["u.data"] * 100}, "ml-100k")
    content = bytearray((tmp_path / "ml.zip").read_bytes())
    content[60] ^= 0xFF
    (tmp_path / "ml.zip").write_bytes(content)
    with pytest.raises(DataError, match="damaged archive"):
        prepare(tmp_path / "ml.zip", "ml-100k", tmp_path / "out")
