"""The driver of Table 1: whose rows, whose star, and what is not compared."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from scipy import stats

from ed2rec.config import differences, for_model, plain, presets, resolve, what_is_read
from ed2rec.evaluation.metrics import REPORTED, reported
from ed2rec.evaluation.significance import paired_bootstrap, paired_t_test
from ed2rec.spaces import value_of
from ed2rec.trials import best_of
from ed2rec.workflow import MODELS
from experiments import report, runs, table1
from experiments.report import paper
from experiments.runs import Variant, ask

NAMES = ["popularity", "textknn"]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("table1")
    table1.main(["--toy", "--out", str(out), "--models", *NAMES, "--seeds", "2"])
    return out


def request_in(out: Path, name: str = "toy", models: tuple[str, ...] = ()) -> runs.Request:
    variants = [*table1.VARIANTS, *(Variant(model) for model in models)]
    return replace(ask("", variants, ["--toy", "--out", str(out), "--seeds", "2"]), name=name)


def made_up(model: str, seed: int, *numbers: float) -> runs.Row:
    test = dict(zip(REPORTED, numbers, strict=True))
    return {"variant": model, "seed": seed, "run": f"{model}-{seed}", "valid": {"NDCG@10": 0.5}, "test": test,
            "test, new only": {"HR@10": 0.7, "NDCG@10": 0.6}}  # fmt: skip


def lines_of(table: table1.Table) -> dict[str, list[str]]:
    return {line[0]: line[1:] for line in table.lines()}


def test_markdown_latex_picture_and_the_ranks_of_every_user_are_written(out):
    rows = [json.loads(line) for line in (out / "table1.jsonl").read_text().splitlines()]
    assert [(row["variant"], row["seed"]) for row in rows] == [(name, seed) for seed in (0, 1) for name in NAMES]
    for row in rows:
        ranks = pl.read_parquet(out / "ranks" / f"{row['run']}.parquet")
        assert ranks["user"].to_list() == list(range(24))
        assert reported(ranks["rank"].to_numpy()) == pytest.approx(row["test"])
    text, latex = (out / "table1.md").read_text(), (out / "table1.tex").read_text()
    assert "| **textknn** | 2 |" in text and "The paper has no rows for toy." in text
    assert latex.count(r" \\") == 4 and latex.count("&") == 4 * 9 and r"$\pm$" in latex
    assert (out / "table1.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b""),
                                    lambda file: file.write_bytes(file.read_bytes()[:-20])],
                         ids=["lost", "empty", "cut short"])  # fmt: skip
def test_a_second_call_makes_nothing_again_and_measures_ranks_that_cannot_be_read(damage, out, monkeypatch):
    monkeypatch.setattr(runs.workflow, "train", None)
    lost = next((out / "ranks").glob("textknn-1-*"))
    before, text = pl.read_parquet(lost), (out / "table1.md").read_text()
    damage(lost)
    table1.main(["--dataset", str(out / "toy-dataset"), "--out", str(out), "--models", "popularity", *toy_words()])
    assert pl.read_parquet(lost).equals(before)
    assert (out / "table1.md").read_text().split("Dataset:")[0] == text.split("Dataset:")[0]


def toy_words() -> list[str]:
    """What `--toy` sets, said in so many words on top of the plain defaults."""
    return ["--seeds", "2", "--preset", "default", *(f"--set={setting}" for setting in runs.toy.SETTINGS)]


GAMES = {"users": 50546, "items": 16859, "interactions": 452989}


@pytest.mark.parametrize(("name", "folder"), [("Games", "x"), ("games", "x"), ("other", "games")])
def test_the_papers_rows_are_found_by_the_name_of_the_dataset_or_its_folder(name, folder, tmp_path):
    request = replace(request_in(tmp_path, name), dataset=tmp_path / folder, counts=GAMES)
    assert table1.printed_for(request) == paper()["table1"]["Games"] and not table1.other_data(request)
    other = replace(request, name="Industrial", dataset=tmp_path / "industrial")
    assert table1.printed_for(other) == {} and table1.other_data(other) == "The paper has no rows for Industrial."


def test_a_log_of_that_name_that_is_not_the_papers_or_is_split_otherwise_is_not_compared(tmp_path):
    request = replace(request_in(tmp_path, "Games"), counts={**GAMES, "users": 40})
    by_time = replace(request, counts=GAMES, overrides=[*request.overrides, "split=global-time"])
    for one, why in ((request, "here are 40 users, 16,859 items"), (by_time, "split=global-time")):
        assert table1.printed_for(one) == {} and why in table1.other_data(one)
        rows = {"sasrec": [made_up("sasrec", 0, *[0.1] * 5)]}
        assert why in table1.Table(rows, table1.printed_for(one), {}).notes(one)


def test_every_model_of_the_paper_is_known_by_its_name_on_the_command_line():
    ours = ["fmlprec", "caser", "hgn", "gru4rec", "srgnn", "magnn", "bert4rec", "sasrec", "fdsa", "s3rec"]
    ours += ["p5cid", "tiger", "cllm4rec", "lcrec", "ed2"]
    theirs = [name for name in paper()["table1"]["Arts"] if name != table1.IMPROVEMENT]
    assert [table1.known_as(model) for model in ours] == theirs
    assert table1.known_as("itemknn") == "itemknn"


def test_ours_stands_above_the_papers_and_the_difference_below():
    printed = paper()["table1"]["Games"]
    rows = [made_up("sasrec", seed, *(value + 0.002 + 0.001 * seed for value in printed["SASRec"])) for seed in (0, 1)]
    table = table1.Table({"sasrec": rows}, printed, {})
    lines = lines_of(table)
    # Two seeds 0.001 apart: half the interval t(0.975; 1) · 0.0005 = 12.706 · 0.0005 = 0.0064.
    assert lines["**SASRec**"][:2] == ["2", "0.0170 ± 0.0064"]
    assert lines["SASRec, paper"][:2] == ["", "0.0145"]
    assert lines["SASRec, ours − paper"][1:] == ["+0.0025 ± 0.0064"] * 5 + [""] * 3
    assert lines["**SASRec**"][6:] == ["0.5000 ± 0.0000", "0.7000 ± 0.0000", "0.6000 ± 0.0000"]
    assert list(lines).index("**SASRec**") + 1 == list(lines).index("SASRec, paper")
    assert table1.signed([-0.25]) == "−0.2500"


def test_with_one_seed_the_difference_has_its_interval_over_users_and_says_so(tmp_path):
    """400 users, of whom half are hits: s² = n/(n − 1)/4, so s/√n = 1/2/√399, and half is t(0.975; 399) of that."""
    hits = {metric: np.arange(400) % 2.0 for metric in REPORTED}
    rows, printed = {"sasrec": [made_up("sasrec", 0, *[1 / 2] * 5)]}, {"SASRec": [0.4, 0.5, 0.6, 0.45, 0.48]}
    table = table1.Table(rows, printed, {}, {"sasrec": hits})
    half = stats.t.ppf(0.975, 399) / 2 / np.sqrt(399)
    gaps = ["+0.1000", "+0.0000", "−0.1000", "+0.0500", "+0.0200"]
    line = lines_of(table)["SASRec, ours − paper (± over users)"]
    assert line[1:] == [f"{gap} ± {half:.4f}" for gap in gaps] + [""] * 3
    notes = table.notes(request_in(tmp_path, "Instruments"))
    assert "± over users: of a model with one seed, half the 95 % t-interval over the users" in notes
    # Two seeds, or a paper's row that is not compared with: nothing is over users.
    for ours, theirs in (({"sasrec": rows["sasrec"] * 2}, printed), (rows, {"SASRec": [0.5, 0.5, 0.5, 0.1, 0.5]})):
        other = table1.Table(ours, theirs, {}, {"sasrec": hits})
        assert not [name for name in lines_of(other) if "over users" in name]
        assert "over users:" not in other.notes(request_in(tmp_path, "Instruments"))


def test_the_interval_over_users_is_that_of_the_ranks_which_the_run_left(tmp_path, monkeypatch):
    monkeypatch.setattr(table1, "printed_for", lambda request: {"textknn": [0.4, 0.5, 0.6, 0.45, 0.48]})
    table1.main(["--toy", "--out", str(tmp_path), "--models", "textknn", "--seeds", "1"])
    row = next(line for line in (tmp_path / "table1.md").read_text().splitlines() if "ours − paper" in line)
    hits = pl.read_parquet(next((tmp_path / "ranks").iterdir()))["rank"].to_numpy() <= 10
    half = stats.t.ppf(0.975, 23) * hits.std(ddof=1) / np.sqrt(24)
    assert row.split(" | ")[0] == "| textknn, ours − paper (± over users)"
    assert row.split(" | ")[4] == f"{table1.signed([hits.mean() - 0.6])} ± {half:.4f}"


def test_models_that_only_one_side_has_are_shown_without_a_difference():
    printed = paper()["table1"]["Games"]
    lines = lines_of(table1.Table({"itemknn": [made_up("itemknn", 0, *[0.1] * 5)]}, printed, {}))
    assert lines["**itemknn**"][:6] == ["1", *["0.1000"] * 5] and "itemknn, paper" not in lines
    assert lines["TIGER, paper"] == ["", "0.0188", "0.0599", "0.0939", "0.0392", "0.0501", "", "", ""]
    assert not [name for name in lines if "ours − paper" in name]


def test_the_share_of_the_papers_figure_is_said_and_who_is_below_95_percent(tmp_path):
    printed = paper()["table1"]["Instruments"]
    shares = {"SASRec": 0.97, "HGN": 0.9, "MA-GNN": 0.5}
    rows = {plain(name): [made_up(plain(name), 0, *(share * value for value in printed[name]))]
            for name, share in shares.items()}  # fmt: skip
    notes = table1.Table(rows, printed, {}).notes(replace(request_in(tmp_path, "Instruments")))
    assert "NDCG@10 in percent of the paper's: SASRec 97, HGN 90; below 95: HGN." in notes
    assert "in percent" not in table1.Table({"itemknn": rows["hgn"]}, printed, {}).notes(request_in(tmp_path))


def test_a_row_that_breaks_the_bound_is_shown_with_the_reason_and_not_compared_with(tmp_path):
    printed = paper()["table1"]["Instruments"]
    table = table1.Table({"magnn": [made_up("magnn", 0, *[0.05] * 5)]}, printed, {})
    lines = lines_of(table)
    assert lines["MA-GNN, paper (not comparable)"][1:6] == ["0.0296", "0.0545", "0.0735", "0.0497", "0.0569"]
    assert "MA-GNN, ours − paper" not in lines
    assert [name for name in lines if "not comparable" in name] == ["MA-GNN, paper (not comparable)"]
    notes = table.notes(request_in(tmp_path, "Instruments"))
    assert "the paper's MA-GNN" in notes and "NDCG@5 = 0.0497 is outside [0.0392, 0.0453]" in notes
    table.draw("Instruments")


def test_the_star_compares_users_over_the_mean_of_the_seeds(tmp_path):
    """400 users. Model a is first for half of them, another half with each seed; b for a quarter; c for one fewer."""
    request, ranks = request_in(tmp_path, models=("a", "b", "c")), tmp_path / "ranks"
    ranks.mkdir()
    users = np.arange(400)
    firsts = {
        "a-0": users % 2 == 0,
        "a-1": users % 2 == 1,
        "b-0": users % 4 == 0,
        "c-0": (users % 4 == 0) & (users > 0),
    }
    for name, first in firsts.items():
        # Rows need not be in order of users.
        pl.DataFrame({"user": users[::-1], "rank": np.where(first, 1, 11)[::-1]}).write_parquet(
            ranks / f"{name}.parquet"
        )
    rows = {"a": [made_up("a", seed, *[1 / 2] * 5) for seed in (0, 1)], "b": [made_up("b", 0, *[1 / 4] * 5)]}
    found = {model: table1.per_user_metrics(request, own) for model, own in rows.items()}
    assert found["a"]["HR@5"].tolist() == [1 / 2] * 400
    leads = table1.leads_of(found)
    assert all(one.best == "a" and one.starred for one in leads.values())
    assert leads["HR@1"].p == paired_t_test([1 / 2] * 400, firsts["b-0"]).p
    assert leads["HR@1"].resampled == paired_bootstrap([1 / 2] * 400, firsts["b-0"])
    assert "by bootstrap 0.2500 [0.2" in table1.Table(rows, {}, leads)._comparison("HR@1")
    lines = lines_of(table1.Table(rows, {}, leads))
    assert lines["**a**"][1] == "**0.5000 ± 0.0000***" and lines["**b**"][1] == "0.2500"
    assert lines["improvement of the best over the second, %"][1] == "100.00*"
    nothing = {**rows, "b": [made_up("b", 0, *[0.0] * 5)]}
    assert lines_of(table1.Table(nothing, {}, leads))["improvement of the best over the second, %"][1] == ""
    # Between b and c there is one user: b is bold and has no star.
    close = {"b": found["b"], "c": table1.per_user_metrics(request, [made_up("c", 0, *[99 / 400] * 5)])}
    rows = {"b": rows["b"], "c": [made_up("c", 0, *[99 / 400] * 5)]}
    assert lines_of(table1.Table(rows, {}, table1.leads_of(close)))["**b**"][1] == "**0.2500**"
    assert table1.leads_of({"b": found["b"]}) == {}


def test_latex_escapes_what_it_would_read_otherwise():
    text = report.latex(["model", "a & b"], [["**ED²**", "50 % ± 1*"], ["**0.5***", "a_1 #2 −3"]], "T")
    assert r"model & a \& b \\" in text
    assert r"\textbf{ED$^2$} & 50 \% $\pm$ 1$^{*}$ \\" in text
    assert r"\textbf{0.5$^{*}$} & a\_1 \#2 $-$3 \\" in text
    assert text.startswith("\\begin{table}\n\\caption{T}\n\\begin{tabular}{lr}\n\\toprule")


# What searches have found.

SEARCHES = Path(table1.__file__).parent / "searches"
FOUND = [name for name in presets() if name.split("-")[0] in MODELS and "-" in name]


def test_a_search_is_committed_with_its_preset():
    kept = {f"{log.parent.name}-{log.parent.parent.name}" for log in SEARCHES.glob("*/*/trials.jsonl")}
    assert kept == set(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_a_tuned_preset_is_the_best_trial_of_its_search(name):
    model, _, dataset = name.partition("-")
    lines = (SEARCHES / dataset / model / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    best = best_of([json.loads(line) for line in lines])
    kept = yaml.safe_load((SEARCHES / dataset / model / "search.yaml").read_text(encoding="utf-8"))["settings"]
    # A setting that is newer than the search is not in its record: what is new must not change what was found.
    alone = resolve(None, extra=differences(name))
    for settings in (resolve(for_model(model, name)), alone):  # as `ed2 train` and as Table 1 take it
        assert best and settings.model == model
        assert {key: value_of(settings, key) for key in best["values"]} == best["values"]
        now = json.loads(json.dumps({key: value_of(settings, key) for key in flat(kept)}))
        assert {key for key, value in flat(kept).items() if now[key] != value} <= best["values"].keys()
        assert what_is_read(settings) == what_is_read(alone)


def flat(groups):
    """{"a": {"b": 1}, "c": 2} → {"a.b": 1, "c": 2}"""
    return {f"{name}.{key}" if key else name: value for name, group in groups.items()
            for key, value in (group.items() if isinstance(group, dict) else [("", group)])}  # fmt: skip


def test_the_table_takes_what_was_found_for_its_dataset(out, monkeypatch):
    monkeypatch.setattr(table1, "presets", lambda: ["sasrec", "sasrec-toy", "narm-games"])
    chosen = {variant.name: variant.preset for variant in table1.tuned(request_in(out)).variants}
    assert chosen["sasrec"] == "sasrec-toy" and chosen["narm"] == "narm" and chosen["popularity"] is None
