"""`ed2 tune`: what it finds, what it spends, what it writes down, and what it never looks at."""

import errno
import json
import os
import sys
from dataclasses import replace

import optuna
import polars as pl
import pytest
import small
import yaml
from shops import checkerboard

from ed2rec import spaces, tuning, workflow
from ed2rec.baseline_settings import FLOORS, LEARNED
from ed2rec.cli import run_command
from ed2rec.config import as_preset, changed, explain, for_model, groups_of, keys_set, resolve
from ed2rec.data.dataset import Dataset
from ed2rec.data.splits import leave_one_out
from ed2rec.errors import ConfigError, RunError
from ed2rec.spaces import Range, combinations, holding, space_of
from ed2rec.trials import Limit, best_of
from ed2rec.tuning import tune
from ed2rec.workflow import MODELS

QUICK = ["epochs=4", "width=8", "max_history=6", "dropout=0.0", "patience=4", "device=cpu"]
PLANTED = {"baseline.lr": (1e-6, 1e-5, 1e-2)}


def start(*overrides, model="gru4rec", seed=0):
    quick = [] if model in FLOORS else [*QUICK, *overrides]
    return resolve(for_model(model, None), quick, extra={"model": model, "seed": seed})


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with the dataset `shop`, which is the working folder."""
    checkerboard().save(tmp_path / "shop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def without_seconds(rows) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# What it finds.


def test_a_planted_better_setting_is_found_after_the_preset_and_the_search_ends_with_the_grid(shop):
    base = start("lr=1e-6")
    found = tune(shop / "shop", shop / "out", base, PLANTED, limit=Limit(10))
    assert found.exhausted and len(found.rows) == 3, "three values are three trials, none made twice"
    assert found.rows[0]["values"] == {"baseline.lr": 1e-6}, "trial 0 is the start"
    assert found.best["values"] == {"baseline.lr": 1e-2}
    assert found.best["valid"]["NDCG@10"] > 2 * found.rows[0]["valid"]["NDCG@10"]
    assert lines(shop / "out") == found.rows
    assert [row["number"] for row in found.rows] == [0, 1, 2] and all(row["seconds"] > 0 for row in found.rows)
    assert set(found.best["valid"]) == {"HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"}
    assert [row["epochs"] for row in found.rows] == [4, 4, 4]


def test_trial_0_is_what_ed2_train_makes_of_the_model_alone(shop):
    found = tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(1))
    run = workflow.train(shop / "shop", shop / "run", start())
    best = max(run.metrics["curve"], key=lambda row: row["valid_NDCG@10"])
    assert found.best["valid"]["NDCG@10"] == best["valid_NDCG@10"]
    assert found.best["values"]["baseline.lr"] == resolve("gru4rec").baseline.lr, "though the space does not name it"


def test_a_range_is_searched_within_its_ends_and_beyond_the_preset_it_is_widened_to_it(shop):
    space = {"markov.smoothing": Range(2.0, 50.0, log=True)}
    found = tune(shop / "shop", shop / "out", start(model="markov"), space, limit=Limit(8))
    drawn = [row["values"]["markov.smoothing"] for row in found.rows]
    assert drawn[0] == 1.0 and len(set(drawn)) == 8 and all(1 <= value <= 50 for value in drawn)


def test_ours_is_searched_like_theirs_and_judged_by_the_states_that_it_would_keep(tmp_path):
    small.shop().save(tmp_path / "shop")
    base = small.small_settings("training.epochs=2", "training.neighbours=0", "tasks.use=[]", "indexer.users=[]")
    found = tune(tmp_path / "shop", tmp_path / "out", base, {"training.lr": (1e-9, 3e-3)}, limit=Limit(5))
    assert found.exhausted and [row["values"]["training.lr"] for row in found.rows] == [3e-3, 1e-9]
    told = []
    trained = workflow.fit(
        Dataset.load(tmp_path / "shop"), base, tmp_path / "w", False, workflow.quiet, lambda *told_: told.append(told_)
    )
    measured = [(entry["step"], entry["valid"]["NDCG@10"]) for entry in trained.metrics["history"] if "valid" in entry]
    assert told == [(number, value) for number, (_, value) in enumerate(measured, start=1)] and len(told) == 3
    kept = [value for step, value in measured if step >= round(0.3 * trained.metrics["steps"])]
    assert found.rows[0]["valid"]["NDCG@10"] == max(kept) and found.rows[0]["epochs"] == 2


# What it spends.


def test_a_trial_of_ours_is_given_up_too(tmp_path, monkeypatch):
    small.shop().save(tmp_path / "shop")
    monkeypatch.setattr(tuning, "RANDOM", 1)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: trial.number > 0)
    base = small.small_settings("training.epochs=3", "training.neighbours=0", "tasks.use=[]", "indexer.users=[]")
    found = tune(tmp_path / "shop", tmp_path / "out", base, {"training.lr": (1e-9, 3e-3)}, limit=Limit(2))
    assert [(row["state"], row["epochs"]) for row in found.rows] == [("complete", 3), ("pruned", 1)], (
        "1 of 3 validations"
    )


def test_trials_below_the_median_are_given_up_and_logged_with_what_they_had_reached(shop, monkeypatch):
    monkeypatch.setattr(tuning, "RANDOM", 1)
    base = start("lr=1e-2", "epochs=6", "patience=6")
    found = tune(shop / "shop", shop / "out", base, {"baseline.lr": (1e-2, 1e-9)}, limit=Limit(2))
    first, second = lines(shop / "out")
    assert (first["state"], second["state"]) == ("complete", "pruned") and found.best == first
    assert set(second["valid"]) == {"NDCG@10"} and second["valid"]["NDCG@10"] < first["valid"]["NDCG@10"]


def test_a_baseline_is_given_up_only_after_as_many_epochs_as_the_best_one_had(shop, monkeypatch):
    monkeypatch.setattr(tuning, "RANDOM", 1)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: True)
    tune(shop / "shop", shop / "out", start("lr=1e-2", "epochs=9", "patience=2"), {"baseline.lr": (1e-2, 1e-3)},
         limit=Limit(2))  # fmt: skip
    first, second = lines(shop / "out")
    assert first["state"] == "complete" and second["state"] == "pruned" and 2 < first["epochs"] == second["epochs"]


def test_epochs_of_pretraining_are_no_validations_that_others_must_have_had():
    search = object.__new__(tuning._Searching)
    search.start = resolve(for_model("s3rec", None), extra={"model": "s3rec"})
    search.rows = [
        {"state": "complete", "values": {"s3rec.pretraining": 150}, "valid": {"NDCG@10": 0.1}, "epochs": 170}
    ]
    assert search._grace(changed(search.start, {"s3rec.pretraining": 50})) == 20


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(tuning, "perf_counter", lambda: self.now)


def test_the_minutes_cut_the_trial_that_is_under_way_and_it_counts_with_what_it_had(shop, monkeypatch):
    clock = Clock(monkeypatch)

    def epoch(stage, done, total, note=""):
        clock.now += 20.0 * (stage != "trials")

    found = tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(9, minutes=2), progress=epoch)
    assert [(row["state"], row["epochs"], row["seconds"]) for row in found.rows] == [
        ("complete", 4, 80),
        ("cut", 2, 40),
    ]
    more = tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(9, minutes=100), resume=True, progress=epoch)
    assert more.rows[:2] == found.rows and more.rows[2]["values"] == found.rows[1]["values"], "tried again, in full"
    assert more.rows[2]["state"] == "complete" and more.exhausted


def test_minutes_that_end_before_the_first_validation_are_said_to_be_too_few(shop, monkeypatch):
    clock = Clock(monkeypatch)

    def slow(*_):
        clock.now += 99.0

    with pytest.raises(RunError, match="within 1 minutes: give more --minutes and --resume"):
        tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(9, minutes=1), progress=slow)
    assert [(row["state"], row["valid"]) for row in lines(shop / "out")] == [("cut", {})]
    found = tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(2, minutes=99), resume=True)
    assert found.best["number"] == 1 and found.best["values"] == found.rows[0]["values"], "the preset, again"


# Going on.


def test_a_search_in_two_parts_is_the_search_in_one_with_its_numbering(shop):
    space = space_of("gru4rec")
    whole = tune(shop / "shop", shop / "whole", start("epochs=2"), space, limit=Limit(7))
    tune(shop / "shop", shop / "parts", start("epochs=2"), space, limit=Limit(3))
    parts = tune(shop / "shop", shop / "parts", start("epochs=2"), space, limit=Limit(7), resume=True)
    assert without_seconds(parts.rows) == without_seconds(whole.rows)
    assert [row["number"] for row in lines(shop / "parts")] == list(range(7))
    other = tune(shop / "shop", shop / "other", start("epochs=2", seed=1), space, limit=Limit(4))
    assert [row["values"] for row in other.rows] != [row["values"] for row in whole.rows[:4]]


def test_a_search_that_was_cut_draws_what_it_would_have_drawn(shop, monkeypatch):
    """The cut trial counts once, and the estimator hears of its repetition alone."""
    clock, space = Clock(monkeypatch), space_of("gru4rec")

    def epoch(stage, done, total, note=""):
        clock.now += 20.0 * (stage != "trials")

    whole = tune(shop / "shop", shop / "whole", start("epochs=2"), space, limit=Limit(6))
    cut = tune(shop / "shop", shop / "cut", start("epochs=2"), space, limit=Limit(9, minutes=1.5), progress=epoch)
    assert [row["state"] for row in cut.rows] == ["complete", "complete", "cut"]
    more = tune(shop / "shop", shop / "cut", start("epochs=2"), space, limit=Limit(6), resume=True)
    assert [row["values"] for row in more.rows if row["state"] != "cut"] == [row["values"] for row in whole.rows]


def test_after_an_interruption_the_trial_is_tried_again_and_costs_nothing(shop, monkeypatch):
    space, fit = space_of("gru4rec"), workflow.fit
    whole = tune(shop / "shop", shop / "whole", start("epochs=2"), space, limit=Limit(4))

    calls = []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setattr(workflow, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(shop / "shop", shop / "out", start("epochs=2"), space, limit=Limit(4))
    monkeypatch.setattr(workflow, "fit", fit)
    with (shop / "out/trials.jsonl").open("a") as file:
        file.write('{"number": 2, "sta')  # the machine stopped while it wrote
    found = tune(shop / "shop", shop / "out", start("epochs=2"), space, limit=Limit(4), resume=True)
    assert [row["state"] for row in found.rows] == ["complete", "complete", "interrupted", "complete", "complete"]
    assert [row["values"] for row in found.rows if row["state"] == "complete"] == [row["values"] for row in whole.rows]
    assert [row["number"] for row in lines(shop / "out")] == [0, 1, 2, 3, 4]
    assert not (shop / "out/training").exists()


def test_a_row_that_the_study_was_not_told_of_is_told_when_the_search_goes_on(shop, monkeypatch):
    monkeypatch.setattr(tuning._Searching, "_tell", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(1))
    monkeypatch.undo()
    found = tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(1), resume=True)
    assert len(found.rows) == 1
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(shop / "out/study")))
    study = optuna.load_study(study_name="gru4rec", storage=journal)
    assert study.best_value == found.best["valid"]["NDCG@10"], "Optuna's own tools read the journal"


# What it writes down.


@pytest.mark.parametrize("model", ["gru4rec", "itemknn"])
def test_the_best_settings_are_a_preset_that_trains_as_the_trial_did(shop, model):
    quick = [word for text in (QUICK if model == "gru4rec" else []) for word in ("--set", text)]
    arguments = ["--model", model, "--out", "out", "--trials", "3", "--seed", "7", *quick]
    assert run_command(["tune", str(shop / "shop"), *arguments]) == 0
    file = shop / "out/best.yaml"
    head, rest = file.read_text().split("\n", 1)
    best = best_of(lines(shop / "out"))
    assert head.startswith(f"# {model} on shop: trial {best['number']} of 3, ")
    assert f"valid NDCG@10 {best['valid']['NDCG@10']:.4f}: ed2 tune shop --model {model} --out out --trials 3" in head
    assert str(shop) not in file.read_text(), "fit to be committed"
    assert yaml.safe_load(rest)["model"] == model and "seed" not in rest and "device" not in rest
    assert run_command(["train", "shop", "--out", "run", "--config", str(file), "--seed", "7"]) == 0
    run = workflow.load(shop / "run")
    assert all(spaces.value_of(run.folder.settings, key) == value for key, value in best["values"].items())
    assert workflow.evaluate_run(run, "valid").metrics["NDCG@10"] == pytest.approx(best["valid"]["NDCG@10"])
    arguments = ["--model", model, "--out", "on", "--trials", "1", "--config", str(file), "--seed", "7"]
    assert run_command(["tune", str(shop / "shop"), *arguments]) == 0
    (first,) = lines(shop / "on")
    assert first["values"].items() >= best["values"].items(), "a search that starts there tries it first"
    assert "--trials 1 --config best.yaml --seed 7" in (shop / "on/best.yaml").read_text()


def test_a_preset_of_the_best_comes_to_the_same_on_top_of_the_models_own(tmp_path, monkeypatch):
    """bert4rec's preset has a dropout of 0.2; one of 0.5, the plain default, has to be written all the same."""
    settings = changed(resolve("bert4rec"), {"baseline.dropout": 0.5, "baseline.lr": 1e-4})
    (tmp_path / "best.yaml").write_text(as_preset(settings))
    assert resolve(file=tmp_path / "best.yaml") == resolve("bert4rec", file=tmp_path / "best.yaml") == settings


def test_an_error_of_a_later_trial_is_noted_and_one_of_the_first_is_told(shop):
    base = start("heads=1", model="sasrec")
    found = tune(shop / "shop", shop / "out", base, {"sasrec.heads": (1, 3)}, limit=Limit(9))
    assert [row["state"] for row in found.rows] == ["complete", "failed"]
    assert "does not divide baseline.width = 8" in lines(shop / "out")[1]["error"]
    with pytest.raises(ConfigError, match="does not divide"):
        tune(shop / "shop", shop / "new", start("heads=3", model="sasrec"), PLANTED, limit=Limit(9))
    assert not (shop / "new").exists(), "there is nothing to go on from"


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_and_costs_no_trial(shop, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(ConfigError, match=r"search\.yaml: No space left on device"):
            tune(shop / "shop", shop / "out", start(), PLANTED)
    assert not (shop / "out").exists()
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "fit", full)
        with pytest.raises(RunError, match="free some space and start again"):
            tune(shop / "shop", shop / "out", start(), PLANTED)
    assert not (shop / "out").exists()
    tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(1))
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "fit", full)
        with pytest.raises(RunError, match="free some space and go on with --resume"):
            tune(shop / "shop", shop / "out", start(), PLANTED, resume=True)
    found = tune(shop / "shop", shop / "out", start(), PLANTED, limit=Limit(2), resume=True)
    assert [row["state"] for row in found.rows] == ["complete", "interrupted", "complete"]


# What it never looks at.


class Unreadable:
    def __getattribute__(self, name):
        raise AssertionError(f"the search asked for {name} of the test split")


@pytest.mark.parametrize("model", ["gru4rec", "magnn", "markov"])
def test_the_test_split_is_never_touched(shop, monkeypatch, model):
    def poisoned(dataset, settings):
        return replace(leave_one_out(dataset.histories), test=Unreadable())

    monkeypatch.setattr(workflow, "split", poisoned)
    with pytest.raises(AssertionError, match="asked for targets"):
        _ = workflow.split(checkerboard(), None).test.targets
    found = tune(shop / "shop", shop / "out", start("epochs=1", model=model), space_of(model), limit=Limit(2))
    assert len(found.rows) == 2


def test_other_test_items_change_nothing_in_a_search_of_either_kind(tmp_path):
    """Also for ed2, which makes its split itself."""
    dataset = small.shop()
    log = dataset.interactions
    ends = dataset.histories.offsets[1:] - 1
    item = log["item"].to_numpy().copy()
    item[ends] = (item[ends] + 4) % len(dataset.items)
    names = dataset.items["item_id"].gather(item)
    other = replace(dataset, interactions=log.with_columns(item=pl.Series(item, dtype=pl.UInt32), item_id=names))
    dataset.save(tmp_path / "a")
    other.save(tmp_path / "b")
    assert (leave_one_out(dataset.histories).test.targets != leave_one_out(other.histories).test.targets).all()
    ours = small.small_settings("training.epochs=1", "training.neighbours=0", "tasks.use=[]")
    for base, space in ((ours, {"training.lr": (3e-3, 1e-2)}), (start(), space_of("gru4rec"))):
        rows = [tune(tmp_path / n, tmp_path / f"{base.model}-{n}", base, space, limit=Limit(1)).rows for n in "ab"]
        assert without_seconds(rows[0]) == without_seconds(rows[1])


# The spaces.


@pytest.mark.parametrize("model", list(yaml.safe_load(spaces.FILE.read_text())))
def test_every_space_names_settings_of_its_model_and_values_that_they_take(model):
    assert model in MODELS
    base = resolve(for_model(model, None), extra={"model": model})
    known = {key for key, _, _ in explain()}
    for key, values in space_of(model).items():
        assert key in known and key.split(".")[0] in groups_of(model)
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            assert type(value) is type(spaces.value_of(base, key)), f"{key}: {value!r} (a YAML number needs its dot)"
            assert spaces.value_of(changed(base, {key: value}), key) == value


def test_every_model_but_popularity_can_be_searched():
    assert set(yaml.safe_load(spaces.FILE.read_text())) == {"ed2", *LEARNED, *FLOORS} - {"popularity"}


def test_the_grid_of_fmlprec_is_the_published_one_with_its_weights_tied_and_what_is_set_is_not_searched():
    grid = combinations(space_of("fmlprec", {"baseline.tied"}))
    assert len(grid) == 2 * 3 * 2 and {"fmlprec.layers": 4, "baseline.dropout": 0.2, "baseline.lr": 1e-4} in grid
    assert len(combinations(space_of("fmlprec"))) == 2 * len(grid)
    fixed = keys_set(["lr=1e-3", "fmlprec.layers=2"], "fmlprec")
    assert fixed == {"baseline.lr", "fmlprec.layers"}
    assert list(space_of("fmlprec", fixed)) == ["baseline.tied", "baseline.dropout"]
    with pytest.raises(ConfigError, match="--set fixes all that is searched for textknn"):
        space_of("textknn", {"textknn.last"})


def test_a_space_is_widened_to_the_value_that_a_search_starts_from():
    settings = resolve(overrides=["markov.smoothing=500", "textknn.last=7"])
    held = holding({"markov.smoothing": Range(0.1, 100.0), "textknn.last": (1, 2)}, settings)
    assert held == {"markov.smoothing": Range(0.1, 500.0), "textknn.last": (7, 1, 2)}
    assert combinations(held) is None and len(combinations({"textknn.last": Range(1, 4)})) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hgn: {hgn.windows: [1]}", "hgn has no setting 'hgn.windows'"),
        ("hgn: {caser.window: [1]}", "hgn has no setting 'caser.window'"),
        ("hgn: {hgn.window: []}", "allowed: a list of values"),
        ("hgn: {hgn.window: {low: 3, high: 1}}", "allowed: a list of values"),
    ],
)
def test_a_space_that_is_not_one_is_refused(tmp_path, text, expected):
    (tmp_path / "search.yaml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        space_of("hgn", file=tmp_path / "search.yaml")


# Bad input.


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("tune shop --model popularity --out new", "there is nothing to search for popularity; there is for: fmlprec"),
        ("tune shop --model grurec --out new", "the nearest is 'gru4rec'"),
        ("tune shop --model gru4rec --out new --trials 0", "--trials 0, allowed: 1 or more"),
        ("tune shop --model gru4rec --out new --minutes 0", "--minutes 0, allowed: more than 0"),
        ("tune shop --model gru4rec --out new --resume", "no search in new to go on with"),
        ("tune shop --model gru4rec --out shop", "holds something that is not a search"),
        ("tune shop --model markov --out old", "holds this search already: go on with --resume"),
        ("tune shop --model textknn --out old --resume", "old is another search (model: markov; now model: textknn)"),
        ("tune shop --model markov --out old --seed 3 --resume", "another search (seed: 0; now seed: 3)"),
        ("tune nowhere --model markov --out new", "No dataset folder"),
        ("tune shop --model ed2 --set split=global-time --out new", "split=global-time is for the baselines"),
        ("tune shop --model hgn --set model=sasrec --out new", "--set model=sasrec is another model than --model hgn"),
        ("tune shop --model hgn --preset sasrec --out new", "preset sasrec is for sasrec"),
        ("tune shop --model fdsa --out new", "categories"),
        ("tune shop --model markov --config nowhere.yaml --out new", "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_leaves_everything_as_it_was(shop, capsys, command, expected):
    assert run_command(["tune", "shop", "--model", "markov", "--out", "old", "--trials", "2"]) == 0
    before = {path: path.read_bytes() for path in shop.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run_command(command.split()) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and expected in err, err
    assert {path: path.read_bytes() for path in shop.rglob("*") if path.is_file()} == before


def test_without_optuna_the_command_that_installs_it_is_named(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'ed2rec\[tune\]'"):
        tune(shop / "shop", shop / "out", start(), PLANTED)
    assert not (shop / "out").exists()
