"""JSON lines: the same rows whatever the piece size, and errors that name file and line."""

import gzip
import json
import zlib

import pytest

from ed2rec.data.jsonlines import first_object, parse, pieces
from ed2rec.errors import DataError

ROWS = [{"id": f"r{n}", "text": f"line {n} " + "é" * n} for n in range(50)]
CONTENT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def rows_of(path, size):
    return [row for piece in pieces(path, size) for row in piece.table(["id", "text"]).to_dicts()]


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_do_not_depend_on_piece_size_or_packing(tmp_path, size, packed):
    path = tmp_path / "rows.json"  # the name says nothing about gzip, the first bytes do
    path.write_bytes(gzip.compress(CONTENT) if packed else CONTENT)
    assert rows_of(path, size) == ROWS


def test_a_last_line_without_line_break_and_blank_lines_do_not_matter(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'{"id": "a"}\n\n  \r\n{"id": "b"}')
    assert [row["id"] for row in rows_of(path, 5)] == ["a", "b"]


@pytest.mark.parametrize("size", [16, 10**6])
@pytest.mark.parametrize(
    "bad", ['{"id": "x"', "garbage", '{"id": "x"} {"id": "y"}', "[1, 2]", '"text"', '{"id": \x00}']
)
def test_a_bad_line_is_named_by_its_number(tmp_path, bad, size):
    lines = [json.dumps(row) for row in ROWS]
    lines[16] = bad
    path = tmp_path / "rows.json"
    path.write_text("\n".join([*lines[:3], "", *lines[3:]]))  # the blank line counts
    with pytest.raises(DataError, match=r"rows.json, line 18\b"):
        rows_of(path, size)


@pytest.mark.parametrize("size", [64, 10**6])
@pytest.mark.parametrize("whole", [0, 1, 30, 50])
def test_a_gzip_cut_short_is_told_with_the_lines_that_are_whole(tmp_path, whole, size):
    """Wherever it was cut, and however much is read at once."""
    packer = zlib.compressobj(wbits=31)
    lines = CONTENT.splitlines(keepends=True)
    packed = packer.compress(b"".join(lines[:whole]) + b'{"id": "r') + packer.flush(zlib.Z_SYNC_FLUSH)
    path = tmp_path / "rows.json.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match=f"rows.json.gz is a gzip cut short after {whole} whole lines; fetch"):
        rows_of(path, size)


def test_a_gzip_without_its_last_bytes_is_told(tmp_path):
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(CONTENT)[:-20])
    with pytest.raises(DataError, match=r"cut short after \d\d whole lines"):
        rows_of(path, 64)


def test_a_gzip_with_a_flipped_bit_is_told(tmp_path):
    packed = bytearray(gzip.compress(CONTENT))
    packed[len(packed) // 2] ^= 0x10
    path = tmp_path / "rows.json.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"rows.json.gz.*(damaged|cut short|not a JSON)"):
        rows_of(path, 64)


def test_python_literals_are_read_and_never_run(tmp_path):
    assert parse(b"{'asin': 'B1', 'title': \"It's\", 'categories': [['A', 'B']]}", "x")["title"] == "It's"
    marker = tmp_path / "ran"
    with pytest.raises(DataError):
        parse(f"{{'asin': open({str(marker)!r}, 'w')}}".encode(), "x")
    assert not marker.exists()


def test_a_missing_and_an_empty_file_are_told(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        first_object(tmp_path / "none.json")
    (tmp_path / "empty.json").touch()
    with pytest.raises(DataError, match="is empty; expected one JSON object a line: fetch or export it again"):
        first_object(tmp_path / "empty.json")
