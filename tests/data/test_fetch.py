"""Downloads from a server on this machine: whole and verified, or not at all."""

import gzip
import hashlib
import json
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ed2rec.data import download as downloads
from ed2rec.data import fetch as fetching
from ed2rec.data.archives import Archive, take_out
from ed2rec.data.download import Unavailable, download, download_wheel
from ed2rec.data.fetch import AMAZON_CATEGORIES, PINNED, fetch
from ed2rec.errors import DataError


@pytest.fixture
def server():
    """Serves `server.files` (path → bytes); a path in `server.short` promises more than it sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(self.path)  # before the answer: the client may look as soon as it has it
            content = site.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"") + (9 if self.path in site.short else 0)))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.files, site.short, site.asked = {}, set(), []
    site.url = f"http://127.0.0.1:{site.server_port}"
    thread = threading.Thread(target=site.serve_forever, daemon=True)
    thread.start()
    yield site
    site.shutdown()
    site.server_close()


def zipped(path, members) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.read_bytes()


def pinned(content: bytes, where: str) -> Archive:
    return Archive(where, "sha256:" + hashlib.sha256(content).hexdigest(), {"inside/data.txt": "data.txt"})


@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """ "toy" is pinned to an archive on the server, after an origin that does not have it."""
    content = zipped(tmp_path / "toy.zip", {"inside/data.txt": b"numbers" * 1000, "other.txt": b"not asked for"})
    server.files["/toy.zip"] = content
    archives = pinned(content, f"{server.url}/gone.zip"), pinned(content, f"{server.url}/toy.zip")
    monkeypatch.setitem(PINNED, "toy", archives)
    return content


def test_the_next_origin_is_tried_and_only_the_named_members_come_out(toy, server, tmp_path):
    seen = []
    out = fetch("toy", tmp_path / "out", progress=lambda *step: seen.append(step))
    assert out == tmp_path / "out"
    assert (out / "data.txt").read_bytes() == b"numbers" * 1000
    assert sorted(path.name for path in out.iterdir()) == ["data.txt", "fetched.json"]
    assert server.asked == ["/gone.zip", "/toy.zip"]
    assert seen[-1] == ("toy.zip", len(toy), len(toy))
    assert json.loads((out / "fetched.json").read_text())["toy"]["from"] == f"{server.url}/toy.zip"


def test_files_that_are_there_are_not_fetched_again_and_damaged_ones_are(toy, server, tmp_path):
    for _ in range(2):
        fetch("toy", tmp_path / "out")
    assert len(server.asked) == 2
    (tmp_path / "out" / "data.txt").write_bytes(b"damaged")
    fetch("toy", tmp_path / "out")
    assert (tmp_path / "out" / "data.txt").read_bytes() == b"numbers" * 1000


def test_a_wrong_checksum_and_a_short_answer_are_refused_and_nothing_is_lost(toy, server, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "data.txt").write_text("mine")
    server.files["/gone.zip"] = b"something else"
    server.short.add("/toy.zip")
    with pytest.raises(DataError) as told:
        fetch("toy", out)
    message = str(told.value)
    assert (
        "another checksum" in message and "toy.zip (" in message and "--source PATH" in message and "\n" not in message
    )
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("data.txt", "mine")]


def test_a_local_archive_is_taken_if_it_is_the_pinned_one(toy, server, tmp_path):
    fetch("toy", tmp_path / "out", source=tmp_path / "toy.zip")
    assert (tmp_path / "out" / "data.txt").exists() and server.asked == []
    (tmp_path / "toy.zip").write_bytes(toy + b"!")
    with pytest.raises(DataError, match="has the checksum sha256:"):
        fetch("toy", tmp_path / "out2", source=tmp_path / "toy.zip")
    with pytest.raises(DataError, match="is not a file"):
        fetch("toy", tmp_path / "out2", source=tmp_path / "none.zip")
    assert not (tmp_path / "out2").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        fetch("toy", tmp_path / "empty", source=tmp_path / "none.zip")
    assert (tmp_path / "empty").exists(), "it was there before"


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    zipped(tmp_path / "evil.zip", {"../escaped.txt": b"x", "inside/data.txt": b"y"})
    folder = tmp_path / "folder"
    folder.mkdir()
    take_out(tmp_path / "evil.zip", {"inside/data.txt": "data.txt"}, folder)
    take_out(tmp_path / "evil.zip", {"../escaped.txt": "../escaped.txt"}, folder)
    assert not (tmp_path / "escaped.txt").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["data.txt", "escaped.txt"]


def test_links_in_an_archive_are_refused(tmp_path):
    link = zipfile.ZipInfo("inside/data.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="not a plain file"):
        take_out(tmp_path / "link.zip", {"inside/data.txt": "data.txt"}, tmp_path)
    assert not (tmp_path / "data.txt").exists()


def test_a_damaged_archive_and_a_missing_member_are_told(tmp_path):
    (tmp_path / "no.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="damaged archive"):
        take_out(tmp_path / "no.zip", {"a": "a"}, tmp_path)
    zipped(tmp_path / "other.zip", {"b": b""})
    with pytest.raises(DataError, match=r"has no a;"):
        take_out(tmp_path / "other.zip", {"a": "a"}, tmp_path)


def amazon(server, monkeypatch, reviews: bytes):
    monkeypatch.setattr(fetching, "AMAZON_HOSTS", (f"{server.url}/dead", server.url))
    server.files["/categoryFilesSmall/Gift_Cards_5.json.gz"] = reviews
    server.files["/metaFiles2/meta_Gift_Cards.json.gz"] = gzip.compress(b"{}\n")


def test_amazon_reviews_and_metadata_come_from_the_first_host_that_has_them(server, tmp_path, monkeypatch):
    amazon(server, monkeypatch, gzip.compress(b'{"asin": "B"}\n'))
    out = fetch("amazon-2018/Gift_Cards", tmp_path / "out")
    names = sorted(path.name for path in out.iterdir())
    assert names == ["Gift_Cards_5.json.gz", "fetched.json", "meta_Gift_Cards.json.gz"]
    record = json.loads((out / "fetched.json").read_text())["amazon-2018/Gift_Cards"]
    assert record["from"] == server.url and len(record["files"]) == 2


def test_an_amazon_file_that_does_not_unpack_is_refused(server, tmp_path, monkeypatch):
    amazon(server, monkeypatch, gzip.compress(b'{"asin": "B"}\n' * 99)[:-9])
    with pytest.raises(DataError, match=r"HTTP 404.*cut short.*by hand"):
        fetch("amazon-2018/Gift_Cards", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ml100k", "ml-100k"),
        ("amazon-2018/Gift_Card", "amazon-2018/Gift_Cards"),
        ("ml-100k/x", "ml-100k"),
        ("../x", ""),
    ],
)
def test_an_unknown_name_gets_the_nearest(tmp_path, name, nearest):
    with pytest.raises(DataError, match=f"Nearest: {nearest}"):
        fetch(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        fetch("ml-100k", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_nobody_listening_is_an_origin_that_is_unavailable(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(Unavailable, match="refused"):
        download(f"{server.url}/x", tmp_path)


def test_a_wheel_comes_through_the_users_own_pip(tmp_path, monkeypatch):
    asked = []

    def pip(command, **options):
        asked.append(command)
        (tmp_path / "toy-1.0-py3-none-any.whl").write_bytes(b"wheel")
        return downloads.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(downloads.subprocess, "run", pip)
    assert download_wheel("toy==1.0", tmp_path).read_bytes() == b"wheel"
    (command,) = asked
    assert command[1:4] == ["-m", "pip", "download"] and command[-1] == "toy==1.0"
    assert "--no-deps" in command and command[command.index("--only-binary") + 1] == ":all:"


def test_what_pip_says_last_is_the_reason(tmp_path, monkeypatch):
    ended = downloads.subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found\n")
    monkeypatch.setattr(downloads.subprocess, "run", lambda *a, **k: ended)
    with pytest.raises(Unavailable, match=r"^pip: ERROR: No matching distribution found$"):
        download_wheel("toy==1.0", tmp_path)


def test_every_pin_is_a_checksum_and_every_name_is_plain():
    for archives in PINNED.values():
        for archive in archives:
            algorithm, _, digits = archive.checksum.partition(":")
            assert len(digits) == {"sha256": 64, "md5": 32}[algorithm]
            assert all("/" not in name for name in archive.members.values())
    assert len(set(AMAZON_CATEGORIES)) == 29
