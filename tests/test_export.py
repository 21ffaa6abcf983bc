"""An export says what the run says, to programs that know nothing of ed2rec."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from small import shop, small_settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from ed2rec import answers, workflow
from ed2rec.cli import run_command
from ed2rec.config import resolve
from ed2rec.errors import BackboneError, DataError, RunError
from ed2rec.export import export

KINDS = {
    "all weights": (), "tied": ("backbone.untie=false",), "adapters": ("backbone.lora_rank=2",),
    "no users": ("indexer.users=[]",), "over all tokens": ("decoding.normalise=vocabulary",),
    "beside a prior": ("decoding.prior=2",),
}  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A folder with a dataset."""
    folder = tmp_path_factory.mktemp("shelf")
    shop().save(folder / "shop")
    return folder


@pytest.fixture(scope="module")
def run(shelf) -> Path:
    return trained(shelf, "all weights")


def trained(shelf: Path, kind: str) -> Path:
    path = shelf / kind.replace(" ", "-")
    if not path.exists():
        settings = small_settings("training.epochs=2", "training.checkpoints=0", "training.lr=0.01", *KINDS[kind])
        workflow.train(shelf / "shop", path, settings)
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_alone_gives_every_item_the_score_that_the_run_gives_it(kind, shelf, tmp_path):
    """Score = sum of log-probabilities of the tokens of `index` behind the prompt, by plain forward passes."""
    path = trained(shelf, kind)
    folder = export(path, tmp_path / "out")
    tokenizer, llm = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    tied = llm.get_input_embeddings().weight is llm.get_output_embeddings().weight
    assert tied == (kind == "tied") and type(llm).__name__ == "LlamaForCausalLM"
    example, items = json.loads((folder / "example.json").read_text()), lines(folder / "items.jsonl")
    levels = [[token for token in tokenizer.get_vocab() if token.startswith(f"<{letter}_")] for letter in "abcp"]
    scores = {}
    for item in items:
        answer = tokenizer(item["index"], add_special_tokens=False)["input_ids"]
        assert answer == item["token_ids"], "the string is these tokens and no others"
        asked = torch.tensor([example["prompt_token_ids"] + answer])
        with torch.no_grad():
            logits = llm(asked).logits[0, -len(answer) - 1 : -1]
        score = 0.0
        for row, level, token in zip(logits, levels, answer, strict=False):
            over = row if kind == "over all tokens" else row[tokenizer.convert_tokens_to_ids(level)]
            score += float(row[token] - over.logsumexp(-1))
        scores[item["item_id"]] = score
    run = workflow.load(path)
    alone = replace(run, recommender=run.recommender.without_prior())  # an export has the LLM and no prior
    answer = answers.recommend(alone, user_id=example["user_id"], k=15)
    assert sorted(scores.values(), reverse=True) == pytest.approx(answer.scores, abs=1e-4)
    assert [scores[item.item_id] for item in answer.items] == pytest.approx(answer.scores, abs=1e-4)
    for shown in example["answers"]:  # of a narrow beam: perhaps not the best, but with their true scores
        assert scores[shown["item_id"]] == pytest.approx(shown["score"], abs=1e-4)
    assert len(example["answers"]) == 5 and example["history"] == [item.item_id for item in answer.history][-5:]


def test_every_item_and_user_has_its_index_and_the_tables_come_along(run, tmp_path):
    folder = export(run, tmp_path / "out")
    dataset = workflow.load(run).dataset
    items, users = lines(folder / "items.jsonl"), lines(folder / "users.jsonl")
    assert [item["item_id"] for item in items] == dataset.items["item_id"].to_list()
    assert [user["user_id"] for user in users] == dataset.users["user_id"].to_list()
    assert len({item["index"] for item in items}) == len(items)
    for name, rows in (("items", items), ("users", users)):
        table = pl.read_parquet(folder / f"index/{name}.parquet")
        assert table.equals(pl.read_parquet(run / f"index/{name}.parquet"))
        letters = "abc" if name == "items" else ("ua", "ub")
        for row, codes, suffix in zip(rows, table["codes"].to_list(), table["suffix"].to_list(), strict=True):
            text = "".join(f"<{letter}_{code}>" for letter, code in zip(letters, codes, strict=True))
            assert row["index"].startswith(text) and row["index"].endswith(f"p_{suffix}>") == (suffix >= 0)
    said = (folder / "README.md").read_text(encoding="utf-8")
    assert "{" not in said.replace("{user}", "").replace("{history}", "") and "shop" in said


def test_a_run_without_a_user_index_exports_no_users(shelf, tmp_path):
    folder = export(trained(shelf, "no users"), tmp_path / "out")
    assert not (folder / "users.jsonl").exists() and not (folder / "index/users.parquet").exists()


def test_a_run_without_an_llm_is_refused_in_one_line(shelf, tmp_path):
    workflow.train(shelf / "shop", tmp_path / "popular", resolve(extra={"model": "popularity"}))
    with pytest.raises(RunError, match="is a popularity run, which has no LLM to export") as error:
        export(tmp_path / "popular", tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_an_export_replaces_an_export_and_nothing_else(run, tmp_path, monkeypatch, capsys):
    assert run_command(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "out/README.md").write_text("of the export before")
    assert run_command(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/README.md").read_text(encoding="utf-8").startswith("# shop")
    (tmp_path / "out/index/orders.csv").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files than ours \(index/orders.csv\); it is left alone"):
        export(run, tmp_path / "out")
    (tmp_path / "out/index/orders.csv").unlink()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="it is left alone"):
        export(run, tmp_path / "thesis")
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(ZeroDivisionError):
        export(run, tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "thesis"]


@pytest.mark.parametrize(
    ("name", "text"), [("items.jsonl", '{"item_id": "1"}'), ("export.json", '{"files": ["orders.csv"]}')]
)
def test_files_of_somebody_else_whose_names_are_ours_are_left_alone(name, text, run, tmp_path):
    (tmp_path / "shopdata").mkdir()
    (tmp_path / "shopdata" / name).write_text(text)
    (tmp_path / "shopdata/orders.csv").write_text("order,item")
    with pytest.raises(DataError, match="it is left alone"):
        export(run, tmp_path / "shopdata")
    assert sorted(path.name for path in (tmp_path / "shopdata").iterdir()) == sorted([name, "orders.csv"])


def test_an_export_needs_the_run_no_more(shelf, run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    folder = export(tmp_path / "copy", tmp_path / "out", shelf / "shop")
    shutil.rmtree(tmp_path / "copy")
    assert AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_an_export_is_no_backbone_to_start_from_and_the_reason_is_said_first(run, shelf, tmp_path):
    settings = small_settings(f"backbone.name={export(run, tmp_path / 'out')}", "backbone.prune_vocabulary=true")
    with pytest.raises(BackboneError, match=r"already has .* start from a tokenizer that was not extended"):
        workflow.train(shelf / "shop", tmp_path / "new", settings)
