"""Baselines on the command line: every one through the verbs, and what is wrong in one line."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from shops import ring, told
from test_cli import ask, refused  # noqa: F401

from ed2rec.baseline_settings import LEARNED
from ed2rec.baselines import trainer

SMALL = ["--set", "epochs=1", "--set", "device=cpu"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    ring().save(folder / "bare")
    told(ring()).save(folder / "shop")
    return folder


@pytest.fixture
def shop(datasets, tmp_path, monkeypatch) -> Path:
    """The working folder: datasets `shop`, and `bare`, which says nothing of its items."""
    shutil.copytree(datasets, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", LEARNED)
def test_every_learned_baseline_is_trained_evaluated_and_asked(name, shop, ask):  # noqa: F811
    extra = ["--set", "pretraining=1"] if name == "s3rec" else []
    code, _, err = ask("train", "shop", "--model", name, "--out", "run", *SMALL, *extra)
    assert code == 0 and f"{name} is in run; next: ed2 evaluate run" in err
    kept = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (kept["model"], kept["baseline"]["epochs"]) == (name, 1)
    row = json.loads(ask("evaluate", "run", "--json", "-")[1])
    assert (row["model"], row["users"]) == (name, 24) and 0 < row["HR@10"] <= 1
    code, out, _ = ask("recommend", "run", "--history", "i1,i2", "--k", "3", "--json")
    assert code == 0 and len(json.loads(out)["recommendations"]) == 3


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("shop --model sasrek", "no model 'sasrek'; the nearest is 'sasrec'; there are: ed2, "),
        ("shop --model sasrek --set lr=0.01", "no model 'sasrek'; the nearest is 'sasrec'"),
        ("shop --model GRU4Rec --set lr=7", "no model 'GRU4Rec'; the nearest is 'gru4rec'"),
        ("shop --model sasrec --preset caser", "preset caser is for caser, not for sasrec: leave one of the two out"),
        ("shop --model sasrec --set model=caser", "--set model=caser is another model than --model sasrec: leave one"),
        ("shop --preset caser --set model=sasrec", "preset caser is for caser, not for sasrec"),
        ("shop --preset small --set model=sasrec", ", which sasrec does not have: leave the preset out"),
        ("shop --set model=hgn --set training.epochs=3", "does not read training.epochs"),
        ("shop --set model=sasrek", "no model 'sasrek'; the nearest is 'sasrec'; there are: ed2, "),
        ("shop --model popularity --preset small", ", which popularity does not have: leave the preset out"),
        ("shop --preset demo --set model=itemknn", ", which itemknn does not have: leave the preset out"),
        ("shop --preset caser --preset hgn", "preset caser is for caser, not for hgn"),
        ("shop --model ed2 --preset caser", "preset caser is for caser, not for ed2"),
        ("shop --preset small --model sasrec", ", which sasrec does not have: leave the preset out"),
        ("shop --preset small,sasrec", ", which sasrec does not have: leave the preset out"),
        ("bare --model fdsa", "fdsa needs categories or brands, and dataset shop has neither: "),
        ("bare --model s3rec", "s3rec needs categories or brands, and dataset shop has neither: "),
        ("shop --model sasrec --set heads=3", "sasrec.heads = 3 does not divide baseline.width = 64"),
        ("shop --model hgn --set tied=false", "baseline.tied=false: hgn does not score with its item embeddings alone"),
        ("shop --model caser --set layers=3", "--set layers=3: unknown setting 'layers'"),
        ("shop --model sasrec --set layer=3", "unknown setting 'layer'; the nearest is 'sasrec.layers'"),
        ("shop --model hgn --set windw=3", "unknown setting 'windw'; the nearest is 'hgn.window'"),
        ("shop --model ed2 --set lr=0.1", "--set lr=0.1: 'lr' may be indexer.lr or training.lr: write one of them"),
        ("shop --model hgn --set training.epochs=3", "does not read training.epochs; the nearest is 'baseline.epochs'"),
        ("shop --model popularity --set epochs=3", "unknown setting 'epochs'; popularity reads model, seed, split\n"),
        ("shop --model textknn --set tied=false", "'tied'; textknn reads model, seed, split, textknn.last\n"),
        ("shop --model caser --set negatives=5", "baseline.negatives=5: softmax, the loss here, is over the whole "
         "catalogue and draws none; set baseline.loss=own as well, or leave it out"),
        ("shop --model srgnn --set negatives=5 --set loss=own", "and draws none; leave it out"),
        ("shop --model caser --set negatives=1000000000 --set loss=own", "negatives=1000000000: there are 12 items"),
        ("shop --model hgn --config sasrec.yaml", "sasrec.yaml is for sasrec, not for hgn: leave one of the two out"),
        ("shop --model ed2 --config sasrec.yaml", "sasrec.yaml is for sasrec, not for ed2: leave one of the two out"),
        ("shop --model hng --config sasrec.yaml", "no model 'hng'; the nearest is 'hgn'"),
        ("shop --model gru4rec --set baseline.lr=7", "baseline.lr = 7, allowed: a number > 0 and <= 1"),
        ("shop --model gru4rec --set loss=hinge", "baseline.loss = 'hinge', allowed: 'softmax' or 'own'"),
        ("shop --model gru4rec --set device=toaster", "baseline.device = 'toaster' is not here"),
        ("shop --model sasrec --resume", "no complete checkpoint in "),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(shop, ask, command, expected):  # noqa: F811
    expected = expected.replace("dataset shop", "dataset ring")
    Path("sasrec.yaml").write_text("model: sasrec\nbaseline: {epochs: 1}\n")
    before = sorted(path.name for path in shop.iterdir())
    assert expected in refused(ask("train", *command.split(), "--out", "new"))
    assert sorted(path.name for path in shop.iterdir()) == before


def test_a_baseline_is_not_fitted_by_several_processes(shop, ask, monkeypatch):  # noqa: F811
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    error = refused(ask("train", "shop", "--model", "sasrec", "--out", "new"))
    assert "sasrec is fitted by one process, not by 2: start it without a launcher" in error


def test_the_settings_of_a_run_are_taken_back(shop, ask):  # noqa: F811
    assert (
        ask("train", "shop", "--model", "caser", "--out", "first", "--seed", "4", "--set", "window=3", *SMALL)[0] == 0
    )
    assert ask("train", "shop", "--config", "first/config.yaml", "--out", "again")[0] == 0
    assert Path("again/config.yaml").read_text() == Path("first/config.yaml").read_text()
    weights = [Path(run, "weights.safetensors").read_bytes() for run in ("first", "again")]
    assert weights[0] == weights[1]


def test_a_model_that_is_set_is_the_model_that_is_asked_for(shop, ask):  # noqa: F811
    for run, words in (("asked", ["--model", "sasrec"]), ("set", ["--set", "model=sasrec"])):
        assert ask("train", "shop", *words, "--out", run, *SMALL)[0] == 0
    assert Path("set/config.yaml").read_text() == Path("asked/config.yaml").read_text()
    assert yaml.safe_load(Path("set/config.yaml").read_text())["baseline"]["tied"] is False, "as its preset says"


def test_a_set_model_is_above_that_of_a_file(shop, ask):  # noqa: F811
    Path("mine.yaml").write_text("model: caser\nbaseline: {epochs: 1, device: cpu}\n")
    assert ask("train", "shop", "--config", "mine.yaml", "--set", "model=hgn", "--out", "run")[0] == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"] == "hgn"


def test_a_file_that_names_a_baseline_starts_from_its_preset(shop, ask):  # noqa: F811
    """The width of Caser's paper is 50, the default 64."""
    Path("mine.yaml").write_text("model: caser\nbaseline: {epochs: 1, device: cpu}\n")
    assert ask("train", "shop", "--config", "mine.yaml", "--out", "run")[0] == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["baseline"]["width"] == 50


def test_a_preset_of_a_baseline_names_its_model(shop, ask):  # noqa: F811
    assert ask("train", "shop", "--preset", "gru4rec", "--out", "run", *SMALL)[0] == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"] == "gru4rec"


def test_a_training_that_was_interrupted_is_resumed(shop, ask, monkeypatch):  # noqa: F811
    """Stopped after its first epoch, it comes to the weights and metrics of one that was not."""
    command = ["train", "shop", "--model", "sasrec", "--set", "epochs=3", "--set", "device=cpu", "--out"]
    assert ask(*command, "whole")[0] == 0
    keep = trainer._keep

    def stopped(*what):
        keep(*what)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_keep", stopped)
        code, _, err = ask(*command, "run")
    assert code != 0 and "Traceback" not in err
    assert "has not finished: continue it with ed2 train … --resume" in refused(ask("evaluate", "run"))
    assert "of other settings or data" in refused(ask(*command, "run", "--resume", "--seed", "9"))
    assert ask(*command, "run", "--resume")[0] == 0
    for file in ("weights.safetensors", "metrics.json", "config.yaml"):
        assert Path("run", file).read_bytes() == Path("whole", file).read_bytes()
    assert not list(shop.glob(".run.*"))


def test_what_is_not_the_usual_protocol_is_said_in_the_row_in_the_title_and_on_the_page(shop, ask):  # noqa: F811
    assert ask("train", "shop", "--model", "markov", "--out", "run", "--set", "split=global-time")[0] == 0
    usual = json.loads(ask("evaluate", "run", "--json", "-")[1])
    other = json.loads(ask("evaluate", "run", "--exclude-history", "--json", "-")[1])
    assert "exclude_history" not in usual and other["exclude_history"] is True
    code, out, _ = ask("evaluate", "run", "--exclude-history", "--report", "page.html")
    assert code == 0 and "split by global-time, history left out" in " ".join(out.split())
    page = Path("page.html").read_text()
    assert "Split by global-time, history left out on the test items" in page and "Leave-one-out" not in page
