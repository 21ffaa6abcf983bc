"""Random hyperplanes in the place of the generator (App. I): static, or hashing what the LLM has become."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from small import shop, small_settings

from ed2rec import inspection, workflow
from ed2rec.data.texts import item_texts
from ed2rec.encoding import encode_texts
from ed2rec.errors import ConfigError, IndexCollapse
from ed2rec.indexers.contract import IndexTable
from ed2rec.indexers.lsh import RandomHyperplanes, bits_of
from ed2rec.training.parts import build_parts
from ed2rec.training.pipeline import train_ed2

# The last layer, because the words of the texts occur in no instruction: their embeddings alone would never change.
HASHED = ["indexer.kind=lsh", "indexer.items=[4, 4, 4]", "indexer.users=[4, 4]", "encoding.layer=-1",
          "indexer.separate=false", "training.max_share=1.0"]  # fmt: skip


def quiet(*_: object) -> None:
    pass


def train(workspace: Path, *overrides: str, resume: bool = False, progress=quiet):
    return train_ed2(shop(), small_settings(*HASHED, *overrides), workspace, resume, progress)


def written(trained, folder: Path) -> dict[str, object]:
    trained.write(folder)
    state = {name: value.tolist() for name, value in load_file(folder / "indexer.safetensors").items()}
    tables = {name: IndexTable.load(folder / f"index/{name}.parquet") for name in ("items", "users")}
    return state | {name: (table.codes.tolist(), table.version) for name, table in tables.items()}


def test_a_static_table_is_the_hash_of_the_texts_before_training(tmp_path):
    settings = small_settings(*HASHED, "training.refreshes=0")
    torch.manual_seed(settings.seed)
    first = build_parts(shop(), settings, quiet).model.items
    trained = train(tmp_path / "workspace", "training.refreshes=0")
    found = written(trained, tmp_path / "run")
    assert found["items"] == (first.indexer.codes(first.embeddings).tolist(), 0)
    losses = {name for entry in trained.metrics["history"] for name in entry if name.startswith("loss_")}
    assert losses == {"loss_llm", "loss_index_item", "loss_index_user"}


def test_a_dynamic_table_is_the_hash_of_the_texts_as_the_llm_reads_them_now():
    """The planes and the whitening stay; the centre is that of the new embeddings."""
    settings = small_settings(*HASHED)
    parts = build_parts(shop(), settings, quiet)
    branch, planes = parts.model.items, parts.model.items.indexer.planes.clone()
    before = branch.embeddings.clone()
    parts.model.train()
    with torch.no_grad():
        for weight in parts.model.llm.parameters():
            weight += 0.5 * weight.std() * torch.randn_like(weight)
    parts.reread()
    assert parts.model.llm.training
    assert (branch.embeddings - before).abs().max() > 0.01 and torch.equal(branch.indexer.planes, planes)
    assert torch.allclose(branch.indexer.centre, branch.embeddings.mean(0), atol=1e-6)
    texts = item_texts(shop(), settings.data.max_characters)
    raw = encode_texts(parts.model.eval().llm, parts.tokenizer, texts, layer=-1)
    torch.testing.assert_close(branch.embeddings, parts.whitenings["item"].apply(raw))


def test_every_refresh_hashes_anew_within_the_bounds_of_churn(tmp_path):
    trained = train(tmp_path / "free", "training.lr=0.02")
    churn = [entry["churn"] for entry in trained.metrics["history"] if entry.get("kind") == "item"]
    assert written(trained, tmp_path / "run")["items"][1] == len(churn) == 2
    assert churn[0]["codes"] > 0
    few = train(tmp_path / "few", "training.lr=0.02", "training.max_share=0.1")
    bounded = [entry["churn"] for entry in few.metrics["history"] if "churn" in entry]
    assert all(entry["codes"] <= 0.1 for entry in bounded) and any(entry["wanted"] > 0.1 for entry in bounded)


def test_a_training_with_hashed_texts_goes_on_where_it_stopped(tmp_path):
    """The users' table for recommending is made from the texts as they were read at the last refresh: part of the
    state, even if the training stops behind that."""

    class Stopped(Exception):
        pass

    options = ("training.lr=0.02", "training.epochs=4", "training.checkpoints=8")
    expected = written(train(tmp_path / "straight", *options), tmp_path / "expected")
    steps: list[int] = []

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage == "training":
            steps.append(done)
            if done >= 0.9 * total:
                raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "workspace", *options, progress=stop)
    assert written(train(tmp_path / "workspace", *options, resume=True), tmp_path / "run") == expected


def test_the_generator_s_figures_at_the_end_are_those_of_a_training_in_one_go(tmp_path):
    """They are of the texts as the last refresh read them, also where the training stopped behind that."""

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage == "training" and done >= 0.9 * total:
            raise InterruptedError

    options = ("training.lr=0.02", "training.epochs=4", "training.checkpoints=8")
    straight = train(tmp_path / "straight", *options).metrics["facts"]["generators"]["end"]
    with pytest.raises(InterruptedError):
        train(tmp_path / "workspace", *options, progress=stop)
    resumed = train(tmp_path / "workspace", *options, resume=True).metrics["facts"]["generators"]
    assert resumed["end"] == straight != resumed["start"]


def test_hashes_of_one_text_for_all_have_collapsed_before_any_training(tmp_path):
    dataset = shop()
    alike = replace(dataset, items=dataset.items.with_columns(title=pl.lit("apple"), categories=pl.lit("")))
    for refreshes in (0, 2):
        settings = small_settings(*HASHED, f"training.refreshes={refreshes}", "indexer.users=[]")
        with pytest.raises(IndexCollapse, match=r"the item index has collapsed at the start.*choose another") as error:
            train_ed2(alike, settings, tmp_path / "workspace", False, quiet)
        assert "indexer.lr" not in str(error.value)


def test_a_run_with_hashed_texts_is_loaded_evaluated_and_looked_at(tmp_path):
    shop().save(tmp_path / "shop")
    workflow.train(tmp_path / "shop", tmp_path / "run", small_settings(*HASHED, "training.epochs=1"))
    assert 0 <= workflow.evaluate_run(workflow.load(tmp_path / "run")).metrics["HR@10"] <= 1
    stats = inspection.index_stats(tmp_path / "run")
    assert stats["items"]["sizes"] == [4, 4, 4] and stats["users"]["sizes"] == [4, 4]
    saved = load_file(tmp_path / "run/indexer.safetensors")
    again = RandomHyperplanes(saved["item.quantiser.centre"].shape[0], bits=2, levels=3)
    again.load_state_dict({name: saved[f"item.quantiser.{name}"] for name in ("centre", "planes")})
    assert again.sizes == (4, 4, 4) and np.isfinite(again.planes.numpy()).all()


@pytest.mark.parametrize("sizes", ["[4, 32]", "[6, 6]", "[1]"])
def test_sizes_that_no_number_of_planes_makes_are_refused_before_anything_is_encoded(sizes, tmp_path):
    for kind in ("items", "users"):
        with pytest.raises(ConfigError, match="power of two") as refused:
            train(tmp_path / "workspace", f"indexer.{kind}={sizes}")
        assert "\n" not in str(refused.value) and not (tmp_path / "workspace").exists()


def test_the_bits_of_the_paper_s_sizes():
    assert bits_of((256, 256, 256, 256)) == 8 and bits_of((2048,)) == 11 and bits_of((2, 2)) == 1
