"""`ed2 demo` from a copy of MovieLens-100K's files that is made up here: what it shows, writes and refuses."""

import json
import re

import numpy as np
import pytest

from ed2rec.cli import run_command
from ed2rec.data.movielens import GENRES


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Thirty people who each watch the twelve films of one genre in an order of their own; the working folder."""
    monkeypatch.chdir(tmp_path)
    folder, random = tmp_path / "ml-100k", np.random.default_rng(0)
    folder.mkdir()
    films = range(1, 37)
    kinds = {film: film % 3 for film in films}
    flags = {kind: "|".join("1" if n == kind + 1 else "0" for n in range(len(GENRES) + 1)) for kind in range(3)}
    (folder / "u.item").write_text("".join(
        f"{film}|Film {film} (19{50 + film})|01-Jan-1995||http://x|{flags[kinds[film]]}\n" for film in films
    ), encoding="latin-1")  # fmt: skip
    rows = []
    for user in range(1, 31):
        own = [film for film in films if kinds[film] == user % 3]
        rows += [(user, film, 100 * user + turn) for turn, film in enumerate(random.permutation(own))]
    (folder / "u.data").write_text("".join(f"{user}\t{film}\t5\t{time}\n" for user, film, time in rows))
    (folder / "u.user").write_text("".join(f"{user}|{20 + user}|F|artist|0\n" for user in range(1, 31)))
    return folder


SMALL = [f"--set={line}" for line in (
    "backbone.hidden=16", "backbone.heads=2", "backbone.layers=1", "backbone.intermediate=32",
    "backbone.vocabulary=300", "indexer.items=[16]", "indexer.users=[4]", "indexer.warmup_epochs=2",
    "training.epochs=2", "training.batch_tokens=512", "training.device=cpu", "training.bf16=false", "decoding.beam=10",
)]  # fmt: skip


def test_the_demo_trains_shows_and_reports(source, capsys):
    assert run_command(["demo", "--out", "demo", "--source", "ml-100k", "--user", "7", *SMALL]) == 0
    said = capsys.readouterr().out
    assert "popularity" in said and "NDCG@10" in said and "history of user 7" in said
    assert said.count("Film ") >= 15, "ten films to watch, beside those that were watched"
    page = (source.parent / "demo/report.html").read_text()
    assert "<svg" in page and "user 7" in page
    assert not re.search(r"(src|href)=.?https?:|url\(http|@import", page), "it opens without a network"
    metrics = json.loads((source.parent / "demo/ed2/metrics.json").read_text())
    assert any("valid" in entry for entry in metrics["history"])
    again = run_command(["demo", "--out", "demo", "--source", "ml-100k", "--set", "model=popularity"])
    assert again == 0, "a report of ours is replaced"


def test_a_page_of_somebody_else_is_left_alone(source, capsys):
    (source.parent / "site").mkdir()
    (source.parent / "site/report.html").write_text("mine")
    assert run_command(["demo", "--out", "site", "--source", "ml-100k", "--set", "model=popularity"]) == 2
    assert "is not a report of ours" in capsys.readouterr().err
    assert [path.name for path in (source.parent / "site").iterdir()] == ["report.html"]
