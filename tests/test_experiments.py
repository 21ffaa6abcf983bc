"""The drivers of the paper's tables and figures: made-up shops, small models, and the paper's arithmetic."""

import importlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shops import dataset_of

from ed2rec.baselines import trainer
from ed2rec.config import differences, resolve
from ed2rec.errors import ConfigError, DataError
from ed2rec.evaluation.metrics import REPORTED
from ed2rec.inspection import Crossing, churn_of, draw_first_codes
from experiments import figure4, figure6, report, runs, table1, table2, table3, table7, toy
from experiments.report import average_degradation, paper
from experiments.runs import Variant, ask, collect

DRIVERS = ["table1", "table2", "table3", "table7", "figure4", "figure6", "figure7"]


# The paper's own arithmetic.


@pytest.mark.parametrize("dataset", ["Instruments", "Games", "Arts"])
def test_the_papers_improvement_is_that_over_the_best_baseline_of_each_column(dataset):
    rows = dict(paper()["table1"][dataset])
    printed, ours = rows.pop("Improvement %"), rows.pop("ED²")
    best = np.max(list(rows.values()), axis=0)
    assert 100 * (np.array(ours) - best) / best == pytest.approx(printed, abs=0.006)


def test_the_papers_averages_over_its_improvements():
    printed = np.array([rows["Improvement %"] for rows in paper()["table1"].values()])
    hits = [name.startswith("HR") for name in paper()["metrics"]]
    assert printed[:, hits].mean() == pytest.approx(paper()["text"]["improvement HR"], abs=0.005)
    assert printed[:, ~np.array(hits)].mean() == pytest.approx(paper()["text"]["improvement NDCG"], abs=0.005)


@pytest.mark.parametrize("table", ["table2", "table3"])
def test_the_papers_average_degradations_follow_from_its_rows(table):
    rows = dict(paper()[table])
    printed = rows.pop("Avg.D %")
    found = {name: average_degradation(rows["ED²"], row) for name, row in rows.items() if name != "ED²"}
    assert found == pytest.approx(printed, abs=0.006)


def test_rows_that_the_paper_prints_twice_agree():
    one, two, main = paper()["table2"], paper()["table3"], paper()["table1"]["Instruments"]
    assert one["w/o dynamic"] == two["Static"] and one["ED²"] == two["ED²"] == main["ED²"]
    baselines = [row for name, row in main.items() if name not in ("ED²", "Improvement %")]
    assert one["P-Baseline"] == two["P-Baseline"] == [max(column) for column in zip(*baselines, strict=True)]
    assert paper()["metrics"] == list(REPORTED)


@pytest.mark.parametrize("dataset", ["Instruments", "Games", "Arts"])
def test_the_papers_sparsity_and_length_follow_from_its_counts(dataset):
    users, items, interactions, sparsity, length = paper()["table6"][dataset]
    assert 100 * (1 - interactions / (users * items)) == pytest.approx(sparsity, abs=0.006)
    assert interactions / users == pytest.approx(length, abs=0.006)


def test_average_degradation_by_hand():
    # (10 - 9)/10 = 1/10, (4 - 5)/4 = -1/4: the mean is -3/40.
    assert average_degradation([10, 4], [9, 5]) == pytest.approx(-7.5)
    assert np.isnan(average_degradation([0, 4], [1, 4]))


# Variants.


@pytest.mark.parametrize(("driver", "table"), [(table2, "table2"), (table3, "table3")])
def test_every_row_of_the_paper_is_a_variant(driver, table):
    """Except the baseline."""
    missing = paper()[table].keys() - {variant.name for variant in driver.VARIANTS} - {"Avg.D %", "P-Baseline"}
    assert not missing


@pytest.mark.parametrize("base", ["default", "small"])
@pytest.mark.parametrize("variant", table2.VARIANTS + table3.VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_stands_above_the_base_and_above_single_settings(variant, base, tmp_path):
    request = ask("", [variant], ["--toy", "--out", str(tmp_path), "--preset", base, "--set", "seed=7"])
    settings = request.settings(variant, seed=3)
    assert settings.seed == 3
    for key, value in (differences(variant.preset) if variant.preset else {}).items():
        group, name = key.split(".")
        assert settings.model_dump(mode="json")[group][name] == value


@pytest.mark.parametrize("dataset", ["toy", "Industrial"])  # the model's own preset, and what a search has found
def test_the_preset_of_a_model_stands_below_single_settings(dataset, tmp_path):
    words = ["--set", "baseline.dropout=0.6", "--set", "tied=true"]
    request = replace(ask("", table1.VARIANTS, ["--toy", "--out", str(tmp_path), *words]), name=dataset)
    request = table1.tuned(request)
    sasrec = next(variant for variant in request.variants if variant.name == "sasrec")
    assert sasrec.preset == {"toy": "sasrec", "Industrial": "sasrec-industrial"}[dataset]
    settings = request.settings(sasrec, seed=1)
    assert (settings.model, settings.baseline.dropout, settings.baseline.tied) == ("sasrec", 0.6, True)
    assert settings.sasrec.layers == resolve(sasrec.preset).sasrec.layers and settings.seed == 1


def test_settings_are_read_once_a_variant_and_seed(tmp_path, monkeypatch):
    request, calls = request_of(tmp_path, [Variant("one", "static"), Variant("two")], "--seeds", "2"), []

    def counted(*given, **more):
        calls.append(given)
        return resolve(*given, **more)

    monkeypatch.setattr(runs, "resolve", counted)
    monkeypatch.setattr(runs, "_make", lambda *given: None)
    assert collect(request) == [] and len(calls) == 4
    assert not replace(request, overrides=[]).resolved  # what was read is of these settings alone


# Running and resuming.


def request_of(out: Path, variants: list[Variant], *words: str) -> runs.Request:
    return ask("", variants, ["--toy", "--out", str(out), "--set", "training.epochs=0.5", *words])


def test_what_is_there_is_not_made_again_under_any_name(tmp_path, monkeypatch):
    variants = [Variant("one", "static"), Variant("two", settings=("regulator.beta1=0",))]
    rows = collect(request_of(tmp_path, variants, "--seeds", "1"))
    assert [(row["variant"], row["seed"]) for row in rows] == [("one", 0), ("two", 0)]
    assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["test"] == rows[0]["test"]
    monkeypatch.setattr(runs.workflow, "train", None)  # nothing may be trained from here on
    assert collect(request_of(tmp_path, variants, "--seeds", "1")) == rows
    renamed = collect(request_of(tmp_path, [Variant("another name", "wo-dynamic")], "--seeds", "1"))
    assert renamed == [{**rows[0], "variant": "another name"}]
    with pytest.raises(TypeError):  # another base is another run
        collect(request_of(tmp_path, variants, "--seeds", "1", "--set", "training.lr=0.01"))


def test_a_row_during_which_the_machine_stopped_is_made_again_on_a_line_of_its_own(tmp_path):
    one = Variant("popularity", settings=("model=popularity",))
    request = ask("", [one], ["--toy", "--out", str(tmp_path), "--seeds", "2"])
    rows, file = collect(request), tmp_path / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    again = collect(request)
    assert [row["test"] for row in again] == [row["test"] for row in rows]
    lines = file.read_text().splitlines()
    assert len(lines) == 3 and [json.loads(lines[n])["seed"] for n in (0, 2)] == [0, 1]
    assert collect(request) == again and len(file.read_text().splitlines()) == 3


def test_other_texts_are_another_row(tmp_path):
    request, one = request_of(tmp_path, [], "--seeds", "1"), Variant("one")
    folder = tmp_path / "toy-dataset"
    shop = toy.Dataset.load(folder)
    replace(shop, items=shop.items.with_columns(title=pl.lit("the same"))).save(folder)
    again = request_of(tmp_path, [], "--seeds", "1")
    assert request.counts == again.counts and runs._key(request, one, 0) != runs._key(again, one, 0)


def test_a_variant_that_refuses_is_left_out_with_its_reason_and_the_rest_is_made(tmp_path, capsys):
    bare = tmp_path / "bare"
    dataset_of([[(n + turn) % 9 for turn in range(4)] for n in range(20)], [f"item {n}" for n in range(9)]).save(bare)
    words = [str(bare), "--out", str(tmp_path / "out"), "--seeds", "1", "--preset", "default"]
    table1.main([*words, "--models", "fdsa", "popularity"])
    text = (tmp_path / "out/table1.md").read_text()
    assert "| **popularity** | 1 |" in text and "Left out: fdsa (fdsa needs categories or brands" in text
    with pytest.raises(DataError, match="fdsa needs categories or brands"):
        table1.main([*words[:2], str(tmp_path / "other"), *words[3:], "--models", "fdsa"])


SHORT = ["--toy", "--seeds", "1", "--set", "epochs=1"]


def test_a_setting_is_looked_for_in_each_models_groups_and_who_lacks_it_is_left_out(tmp_path):
    """Popularity, which is not trained, has no epochs: it is said where it was asked for, and not shown elsewhere."""
    table1.main([*SHORT[:3], "--out", str(tmp_path), "--models", "popularity"])
    for models in (["popularity", "gru4rec"], ["gru4rec"]):
        table1.main([*SHORT, "--out", str(tmp_path), "--models", *models])
        text = (tmp_path / "table1.md").read_text()
        assert "| **GRU4Rec** | 1 |" in text and "**popularity**" not in text
        assert ("Left out: popularity (--set epochs=1: unknown setting 'epochs'" in text) == (len(models) == 2)
    run = runs.runs.open_run(next(tmp_path.glob("gru4rec-0-*")))
    assert run.settings.baseline.epochs == 1


def test_another_models_preset_is_refused_and_a_row_names_its_model_itself(tmp_path, capsys):
    table1.main([*SHORT, "--out", str(tmp_path), "--models", "gru4rec", "sasrec", "--preset", "gru4rec"])
    text = (tmp_path / "table1.md").read_text()
    assert (
        "| **GRU4Rec** | 1 |" in text
        and "Left out: sasrec (preset gru4rec is for gru4rec, not for sasrec: leave one of the two out)" in text
    )
    with pytest.raises(ConfigError, match="--set model=sasrec: a row says itself"):
        table1.main([*SHORT, "--out", str(tmp_path), "--models", "gru4rec", "--set", "model=sasrec"])


def test_a_damaged_checkpoint_does_not_keep_a_row_from_being_made(tmp_path, capsys, monkeypatch):
    words = [*SHORT, "--out", str(tmp_path), "--models", "gru4rec"]
    with monkeypatch.context() as patch:  # stopped when the epoch's checkpoint is there
        patch.setattr("ed2rec.runs.save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            table1.main(words)
    (state,) = tmp_path.glob(".gru4rec-0-*.training/checkpoint-last/state.safetensors")
    state.write_bytes(state.read_bytes()[:100])
    table1.main(words)
    assert "gru4rec, seed 0, begun anew: the checkpoint in" in capsys.readouterr().err
    assert "| **GRU4Rec** | 1 |" in (tmp_path / "table1.md").read_text()


def test_a_folder_that_cannot_be_and_an_interruption_are_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    for more in ([], ["--toy"]):
        dataset = [] if more else [str(tmp_path / "toy")]
        toy.shop().save(tmp_path / "toy")
        with pytest.raises(SystemExit) as left:
            runs.command(partial(table1.main, [*dataset, *more, "--out", str(tmp_path / "file")]))
        assert left.value.code == 2
        assert capsys.readouterr().err == f"ed2: --out {tmp_path / 'file'} cannot be a folder: File exists\n"

    def stop(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.workflow, "train", stop)
    with pytest.raises(SystemExit) as left:
        runs.command(partial(table1.main, [*SHORT, "--out", str(tmp_path / "out"), "--models", "gru4rec"]))
    assert left.value.code == 130 and capsys.readouterr().err.endswith(
        "interrupted; the same command goes on where it was\n"
    )


def test_who_cannot_have_a_setting_is_left_out_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    def stop(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.workflow, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        table1.main([*SHORT, "--out", str(tmp_path), "--models", "gru4rec", "markov"])
    assert "markov, left out: --set epochs=1: unknown setting 'epochs'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="epochs=1: unknown setting"):
        table1.main([*SHORT, "--out", str(tmp_path), "--models", "popularity", "markov"])
    assert capsys.readouterr().err == ""


def test_only_the_variants_that_are_asked_for_are_made_and_all_that_are_there_are_shown(tmp_path):
    variants = [Variant("one", "static"), Variant("two", "wo-user"), Variant("three", "wo-mgtr")]
    for name in ("three", "one"):
        rows = collect(request_of(tmp_path, variants, "--seeds", "1", "--variants", name))
    assert [row["variant"] for row in rows] == ["one", "three"]


def test_a_run_whose_measurement_was_interrupted_is_measured_and_not_trained_again(tmp_path, monkeypatch):
    request = request_of(tmp_path, [Variant("one", "static")], "--seeds", "1")

    def interrupted(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(request, interrupted)
    assert not (tmp_path / "results.jsonl").exists()
    monkeypatch.setattr(runs.workflow, "train", None)
    assert len(collect(request)) == 1


@pytest.mark.parametrize("variant", [Variant("static", "static"), Variant("gru4rec", "gru4rec")])
def test_a_training_that_was_interrupted_goes_on_from_its_checkpoint(variant, tmp_path, monkeypatch):
    """Stopped at its first checkpoint, whichever of the two trainers wrote it."""
    longer = ("baseline.epochs=2", "training.epochs=4", "training.checkpoints=4")
    request = request_of(tmp_path, [variant], "--seeds", "1", *(word for one in longer for word in ("--set", one)))
    resumed, train = [], runs.workflow.train

    def watched(*given, resume, progress, **more):
        def stop(*told):
            progress(*told)
            if not resume and runs.runs.complete_checkpoints(runs.runs.workspace(given[1])):
                raise KeyboardInterrupt

        resumed.append(resume)
        return train(*given, resume=resume, progress=stop, **more)

    monkeypatch.setattr(runs.workflow, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        collect(request)
    assert len(collect(request)) == 1 and resumed == [False, True]


def test_what_a_model_does_not_read_neither_stops_it_nor_makes_it_anew(tmp_path, monkeypatch):
    """A baseline's training is gone on with, and its run is measured for another file, whatever is set for ours."""
    request = request_of(tmp_path, [Variant("gru4rec", "gru4rec")], "--seeds", "1", "--set", "baseline.epochs=2")
    other = replace(request, overrides=[*request.overrides, "training.lr=0.004"])
    keep = trainer._keep

    def stopped(*what):
        keep(*what)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "_keep", stopped)
        collect(request)
    assert len(collect(other)) == 1
    monkeypatch.setattr(runs.workflow, "train", None)  # nothing may be trained from here on
    assert len(collect(request, file="other.jsonl")) == 1


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--variants", "w/o sense"], "no variant 'w/o sense'"),
        (["--seeds", "0"], "at least one"),
        (["somewhere"], "either a dataset folder or --toy"),
        (["--dataset", "somewhere"], "either a dataset folder or --toy"),
        (["--preset", "smal"], "the nearest is 'small'"),
        (["--variants", "w/o usr"], "the nearest is 'w/o user'; there are: ED²,"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(words, fault, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        runs.command(lambda: table2.main(["--toy", "--out", str(tmp_path), *words]))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and fault in error and error.count("\n") == 1


# Tables and figures.

FEW = {
    "table1": ["popularity"],
    "table2": ["ED²", "w/o u&m"], "table3": ["ED²", "D-LSH"], "table7": ["popularity"],
    "figure4": ["ED², 4 first codes"], "figure6": ["0.1,0.5"], "figure7": ["base", "0.0001"],
}  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.mark.parametrize("name", DRIVERS)
def test_every_driver_runs_on_the_toy_and_writes_markdown_and_a_picture(name, out, capsys):
    driver = importlib.import_module(f"experiments.{name}")
    driver.main(["--toy", "--out", str(out), "--seeds", "1", "--variants", *FEW[name]])
    text = (out / f"{name}.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() in text
    assert "Seeds: 0." in text and "cores of" in text and "Dataset: toy." in text
    assert (out / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    if name == "table3":  # on the toy too the index moves
        churn = {path.name.split("-0-")[0]: churn_of(runs.runs.open_run(path).metrics) for path in out.glob("*-0-*")}
        assert churn["ED2"]["items"] and churn["D-LSH"]["items"]


def made_up(name: str, seed: int, *numbers: float) -> runs.Row:
    metrics = dict(zip(REPORTED, numbers, strict=True))
    machine = {"cores": 2, "processor": "abacus", "accelerators": []}
    return {"variant": name, "seed": seed, "valid": metrics, "test": metrics, "test, new only": metrics,
            "sizes": {"items": [4, 8], "users": []}, "steps": 70, "hardware": machine, "commit": "c0ffee"}  # fmt: skip


def test_ours_stands_above_the_papers_with_intervals_and_paired_degradations(tmp_path):
    request = ask("", table2.VARIANTS, ["--toy", "--out", str(tmp_path)])
    rows = [made_up("ED²", seed, *[0.1 * (seed + 1)] * 5) for seed in (0, 1)]
    rows += [made_up("w/o user", seed, *[0.09 * (seed + 1)] * 5) for seed in (0, 1)]
    text, _ = report.ablation(request, rows, "table2", "T")
    lines = [line for line in text.splitlines() if "w/o user" in line]
    # Seeds 0.09 and 0.18: mean 0.135, half the interval t(0.975; 1) · 0.0636 / sqrt 2 = 12.706 · 0.045 = 0.5718.
    assert "| 0.1350 ± 0.5718 |" in lines[0] and "| 10.00 ± 0.00 | 4·8 / none | 70 |" in lines[0]
    assert lines[1].startswith("| w/o user, paper |  | 0.0701 | 0.1010 | 0.1230 | 0.0860 | 0.0929 | 2.17 |")
    assert "2 cores of abacus" in text and "c0ffee" in text


def test_rows_of_several_commits_are_said_to_be_so_and_whose_they_are(tmp_path):
    request = ask("", table2.VARIANTS, ["--toy", "--out", str(tmp_path)])
    rows = [made_up("ED²", seed, *[0.1] * 5) for seed in (0, 1)]
    assert "Commit: c0ffee." in report.facts(request, rows)
    assert "Commit: unknown." in report.facts(request, [{**rows[0], "commit": None}])
    mixed = [*rows, {**made_up("w/o user", 0, *[0.1] * 5), "commit": "decaf"}, {**rows[1], "commit": None}]
    text = report.facts(request, mixed)
    assert "rows of several commits: c0ffee (ED²); decaf (w/o user); unknown (ED²)." in text and "Commit:" not in text


def test_the_grid_of_figure_6_is_summed_up_by_hand():
    cells = np.full((5, 5), np.nan)
    cells[0, 1], cells[1, 0], cells[2, 2] = 0.3, 0.1, 0.2
    summary = figure6.summary(cells)
    # Deviations 0.1, -0.1, 0: sqrt(2/3 · 0.01) = 0.0816.
    assert "over 3 cells: 8.2e-02" in summary
    assert "beta1 < beta2 0.3000, beta1 = beta2 0.2000, beta1 > beta2 0.1000" in summary
    assert figure6.summary(np.full((5, 5), np.nan)) == "No runs yet."


def test_purity_and_information_of_figure_4_by_hand():
    mixed = Crossing(["a", "b"], ["0", "1"], np.array([[3, 1], [1, 3]]))
    same = Crossing(["a", "b"], ["0", "1"], np.array([[4, 0], [0, 4]]))
    assert figure4.purity(mixed) == 6 / 8 and figure4.largest(mixed) == 1 / 2
    assert figure4.purity(same) == 1 and figure4.information(same) == pytest.approx(1)
    # In bits: H(category) = H(code) = 1, and 2 I / (1 + 1) = I = 1 + 1 - H(pair).
    pair = 2 * (3 / 8 * np.log2(8 / 3) + 1 / 8 * np.log2(8))
    assert figure4.information(mixed) == pytest.approx(2 - pair, abs=1e-6)


def test_figure_4_is_the_picture_that_ed2_index_draws_of_the_run(out, tmp_path, monkeypatch):
    crossings, crossed, loads = [], figure4.categories_by_code, []

    def counted(*given):
        crossings.append(crossed(*given))
        return crossings[-1]

    words = ["--toy", "--out", str(out), "--seeds", "1"]
    figure4.main(words)  # where the run is not there yet
    with monkeypatch.context() as patch:
        patch.setattr(figure4, "categories_by_code", counted)
        load = toy.Dataset.load
        patch.setattr(toy.Dataset, "load", lambda folder: loads.append(folder) or load(folder))
        figure4.main(words)
    assert len(loads) == 1 and len(crossings) == 1  # one seed
    run = next(out.glob("ED2--4-first-codes-0-*"))
    shown = draw_first_codes(run, tmp_path / "p.png")
    lines = (out / "figure4.md").read_text().splitlines()
    rows = [[name, *map(str, counts)] for name, counts in zip(shown.names, shown.counts.tolist(), strict=True)]
    assert [line.strip("| ").split(" | ") for line in lines[4 : 4 + len(rows)]] == rows
    assert (tmp_path / "p.png").read_bytes() == (out / "figure4.png").read_bytes()


def test_figure_4_refuses_a_dataset_that_says_nothing_of_its_items(tmp_path, capsys):
    dataset_of([[0, 1, 2, 3]] * 4, ["a", "b", "c", "d"]).save(tmp_path / "bare")
    with pytest.raises(DataError, match="has categories or a brand"):
        figure4.main([str(tmp_path / "bare"), "--out", str(tmp_path / "out")])


def test_models_are_found_among_the_papers_whatever_their_punctuation():
    assert table7.KNOWN["srgnn"] == "SR-GNN" and table7.KNOWN["cllm4rec"] == "CLLM4Rec"
    assert table7.VARIANTS[0].name == "ED²"


def test_times_have_intervals_over_seeds_and_stand_beside_the_papers_row_of_the_model():
    rows = [{"alone": seconds, "together": seconds / 100} for seconds in (0.01, 0.02, 0.03)]
    lines = {line[0]: line[1:] for line in table7.lines({"SR-GNN": rows, "SASRec": rows[:1]})}
    # Half the interval: t(0.975; 2) · 0.01 / sqrt 3 = 4.3027 · 0.005774 = 0.02484.
    assert lines["SR-GNN"] == ["2.00e-02 ± 2.48e-02", "2.00e-04 ± 2.48e-04", "6.21e-02"]
    assert lines["SASRec"] == ["1.00e-02", "1.00e-04", ""] and lines["LC-Rec"] == ["", "", "5.93e-02"]


def test_times_are_shown_under_the_names_of_the_other_tables(tmp_path, monkeypatch):
    row = {**made_up("", 0, *[0.1] * 5), "alone": 0.01, "together": 0.01, "users alone": 5, "users together": 5}
    names = ["ED²", "SR-GNN", "fmlprec", "s3rec", "popularity"]
    monkeypatch.setattr(table7, "collect", lambda *given: [{**row, "variant": name} for name in names])
    table7.main(["--toy", "--out", str(tmp_path)])
    found = [line.split(" | ")[0] for line in (tmp_path / "table7.md").read_text().splitlines()[4:12]]
    ours = ["| ED²", "| SR-GNN", "| FMLP-Rec", "| S3-Rec", "| popularity"]
    assert found == [*ours, "| MA-GNN", "| CLLM4Rec", "| LC-Rec"]


def test_the_toy_is_a_dataset_with_texts_and_categories(tmp_path):
    toy.shop().save(tmp_path / "toy")
    dataset = toy.Dataset.load(tmp_path / "toy")
    assert dataset.histories.lengths.min() >= 3 and all(dataset.items["categories"].str.starts_with("Shop,"))
    resolve(None, toy.SETTINGS)


def test_no_driver_accepts_a_variant_that_another_one_has(tmp_path):
    with pytest.raises(ConfigError, match="no variant 'w/o user'"):
        table3.main(["--toy", "--out", str(tmp_path), "--variants", "w/o user"])
