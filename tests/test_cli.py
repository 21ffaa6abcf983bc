"""The command line as people use it: exit codes, one-line errors, nothing but results on stdout."""

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import small
from shops import checkerboard

from ed2rec import cli
from ed2rec.cli import run_command
from ed2rec.evaluation.metrics import check_bound

HEAVY = ("torch", "transformers", "polars", "pandas", "scipy", "sklearn", "matplotlib")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with a dataset `shop` and a run `near` (text neighbours), which is the working folder."""
    checkerboard().save(tmp_path / "shop")
    monkeypatch.chdir(tmp_path)
    assert run_command(["train", "shop", "--model", "textknn", "--out", "near"]) == 0
    return tmp_path


@pytest.fixture
def ask(capsys):
    """ask(*arguments) -> (exit code, stdout, stderr); what a terminal would show."""

    def call(*arguments):
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def refused(answer) -> str:
    """The one line on stderr of a command that was refused."""
    code, out, err = answer
    assert (code, out) == (2, "") and err.startswith("ed2: ") and err.count("\n") == 1, answer
    return err


def commands() -> list[list[str]]:
    top = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    return [[name] for name in top] + [["data", command.name] for command in cli.data_app.registered_commands]


def test_the_verbs_are_those_of_the_design():
    verbs = {"data fetch", "prepare", "train", "evaluate", "recommend", "explain", "index", "export", "bench", "demo"}
    verbs |= {"doctor", "tune"}
    assert {" ".join(command) for command in commands()} == verbs


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_verb_shows_an_example_in_its_help(command, ask):
    code, out, _ = ask(*command, "--help")
    assert code == 0
    examples = re.findall(r"^ +ed2 .*$", out.partition("Example")[2], re.MULTILINE)
    assert examples and all(line.strip().startswith("ed2 " + " ".join(command)) for line in examples)


def test_help_and_version_need_no_heavy_library():
    """Checked by what is imported, not by the clock."""
    script = "import sys; from ed2rec.cli import run_command; run_command(sys.argv[1:]); print(*sys.modules)"
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", script, option], capture_output=True, text=True, check=True)
        assert not {name for name in HEAVY if name in done.stdout.splitlines()[-1].split()}


def test_no_verb_at_all_is_the_help(ask):
    assert ask()[:2] == ask("--help")[:2]
    assert re.fullmatch(r"ed2rec \d+\.\d+\S*\n", ask("--version")[1])


def test_usage_errors_are_one_line_with_a_hint(ask):
    assert "Did you mean" in refused(ask("trian")) and "ed2 --help" in refused(ask("trian"))
    assert "ed2 train --help" in refused(ask("train"))
    assert "--split" in refused(ask("evaluate", "x", "--splt", "test"))
    assert "'training'" in refused(ask("bench", "training"))
    assert "ed2 bench baselines" in refused(ask("bench", "decode", "--peers", "python"))
    assert "ed2 bench decode" in refused(ask("bench", "prepare", "--device", "cpu"))
    assert "--shape tiny goes with `ed2 bench decode`" in refused(ask("bench", "index", "--shape", "tiny"))
    assert "--compile goes with `ed2 bench train`" in refused(ask("bench", "decode", "--compile"))
    assert "'smollm2-135m'" in refused(ask("bench", "train", "--shape", "large"))
    assert "--device = 'nothing'" in refused(ask("bench", "index", "--device", "nothing"))
    assert "'--k'" in refused(ask("recommend", "x", "--user", "1", "--k", "many"))


def test_python_minus_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "ed2rec", "evaluate", "nowhere"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ed2: no run at ") and done.stderr.count("\n") == 1


def test_a_fault_of_ours_exits_with_1_and_its_traceback():
    script = (
        "from ed2rec import cli, workflow\n"
        "def broken(*a, **k): raise ZeroDivisionError('ours')\n"
        "workflow.load = broken\n"
        "import sys; sys.argv = ['ed2', 'evaluate', 'run']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError: ours" in done.stderr


def test_evaluate_writes_the_object_and_the_rankings_of_the_format(shop, ask):
    code, out, _ = ask("evaluate", "near", "--json", "m.json", "--rankings", "r.parquet", "--split", "valid")
    assert code == 0 and "NDCG@10" in out
    row = json.loads((shop / "m.json").read_text())
    assert (row["dataset"], row["split"], row["users"], row["model"]) == ("shop", "valid", 18, "textknn")
    check_bound(row)
    rankings = pl.read_parquet(shop / "r.parquet")
    assert rankings.columns == ["user_id", "rank", "item_id", "score", "target_id"]
    assert rankings["rank"].min() == 1 and rankings["rank"].max() == 10 and len(rankings) == 180
    hits = rankings.filter((pl.col("item_id") == pl.col("target_id")) & (pl.col("rank") <= 5))
    assert len(hits) / 18 == pytest.approx(row["HR@5"])


def test_json_on_stdout_is_one_object_and_nothing_else(shop, ask):
    for command in (
        ["evaluate", "near", "--json", "-"],
        ["recommend", "near", "--user", "u1", "--json"],
        ["recommend", "near", "--history", "i1, i4", "--k", "2", "--json"],
    ):
        code, out, _ = ask(*command)
        assert code == 0 and isinstance(json.loads(out), dict)
    assert [item["item_id"] for item in json.loads(out)["history"]] == ["i1", "i4"]
    assert len(json.loads(out)["recommendations"]) == 2


def test_recommend_shows_titles_beside_the_history(shop, ask):
    code, out, _ = ask("recommend", "near", "--user", "u1", "--k", "3")
    assert code == 0 and "history" in out and " 1. colour-1" in out.replace("│ 1.", "│  1.")


def test_where_no_k_is_given_a_catalogue_of_fewer_than_ten_items_is_recommended_whole(tmp_path, ask):
    checkerboard(colours=2, per_colour=4).save(tmp_path / "shop")
    assert ask("train", tmp_path / "shop", "--model", "itemknn", "--out", tmp_path / "run")[0] == 0
    code, out, _ = ask("recommend", tmp_path / "run", "--history", "i0", "--json")
    assert code == 0 and len(json.loads(out)["recommendations"]) == 8
    assert ask("recommend", tmp_path / "run", "--history", "i0")[0] == 0
    assert "choose k between 1 and 8" in refused(ask("recommend", tmp_path / "run", "--history", "i0", "--k", "10"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("recommend near --user nobody", "no user 'nobody'"),
        ("recommend near --history i1,zz", "no item 'zz'"),
        ("recommend near --user u1 --k 19", "choose k between 1 and 18"),
        ("recommend near", "either a user or a history"),
        ("recommend near --user u1 --history i1", "either a user or a history"),
        ("recommend shop --user u1", "is a dataset folder, not a run"),
        ("recommend near --history ,", "--history names no item"),
        ("recommend near --user u1 --ensemble 2", "textknn asks in no wordings"),
        ("evaluate near --ensemble 0", "'--ensemble'"),
        ("evaluate near --wordings 3", "textknn asks in no wordings, so there are no 3 to average over"),
        ("evaluate nowhere", "no run at"),
        ("evaluate near --k 20", "choose k between 1 and 18"),
        ("evaluate near --json absent/m.json", "cannot write"),
        ("evaluate near --dataset nowhere", "No dataset folder"),
        ("index near stats", "has no index"),
        ("index near show", "index RUN stats"),
        ("index near stats i1", "index RUN stats"),
        ("index near stats --picture p.png", "has no index"),
        ("index near show i1 --picture p.png", "goes with `ed2 index RUN stats`"),
        ("train nowhere --out new", "No dataset folder"),
        ("train near --out new", "is a run, not a dataset folder"),
        ("train shop --out new --set indexer.items=5", "allowed: a list, such as [a, b]"),
        ("train shop --out new --set indexer.items=[0]", "indexer.items = 0, allowed: greater than 0"),
        ("train shop --out new --set training.device=toaster", "training.device = 'toaster' is not here"),
        ("train shop --out new --set training.device=cuda:3", "set CUDA_VISIBLE_DEVICES=3 before the command"),
        ("train shop --out new --set training.report_to=[abacus]", "names abacus, which is unknown or not installed"),
        ("train shop --out shop --model popularity", "are left alone"),
        ("train shop --out new --model oracle", "no model 'oracle'"),
        ("train shop --out new --model S3-Rec", "no model 'S3-Rec'; the nearest is 's3rec'"),
        ("train shop --out new --preset dem", "the nearest is 'demo'"),
        ("train shop --out new --set training.epoch=3", "the nearest is 'training.epochs'"),
        ("train shop --out new --seed -1", "seed = -1, allowed: a whole number >= 0"),
        ("train shop --out new --config absent.yaml", "absent.yaml"),
        ("prepare shop --format parquet --out new", "parquet"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(shop, ask, command, expected):
    before = sorted(path.name for path in shop.iterdir())
    assert expected in refused(ask(*command.split()))
    assert sorted(path.name for path in shop.iterdir()) == before


def test_a_half_copied_run_is_refused_by_every_verb_that_opens_one(shop, ask):
    (shop / "near/textknn.npz").write_bytes(b"half")
    for command in (["evaluate", "near"], ["recommend", "near", "--user", "u1"], ["index", "near", "stats"]):
        assert "textknn.npz has 4 bytes" in refused(ask(*command))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder with the dataset `colours`, settings `small.yaml` and an ED² run `ed2`, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    small.shop().save("colours")
    Path("small.yaml").write_text(small.small_settings().to_yaml())
    assert run_command(["train", "colours", "--out", "ed2", "--config", "small.yaml"]) == 0
    return tmp_path


def test_index_health_is_shown_told_as_json_and_drawn(trained, ask):
    code, out, _ = ask("index", "ed2", "stats")
    assert code == 0 and "before the suffix" in out and "before twins are moved apart" in out and "mean κ" in out
    code, out, err = ask("index", "ed2", "stats", "--json", "--picture", "codes.png")
    items = json.loads(out)["items"]
    assert code == 0 and len(items["generator"]["kappa"]) == 3 and len(items["refreshes"]) == len(items["churn"]) == 3
    assert err == "codes.png: first codes of items by category\n" and Path("codes.png").stat().st_size > 1000
    assert "must end in .png" in refused(ask("index", "ed2", "stats", "--picture", "codes.jpg"))


def test_several_instructions_are_averaged_with_their_spread_or_asked_as_an_ensemble(trained, ask):
    row = json.loads(ask("evaluate", "ed2", "--wordings", "3", "--json", "-")[1])
    assert len(row["per_instruction"]) == 3 and set(row["std"]) == {"HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"}
    alone, one, three = (
        json.loads(ask("evaluate", "ed2", *options, "--json", "-")[1])
        for options in ([], ["--ensemble", "1"], ["--ensemble", "3"])
    )
    assert one["NDCG@10"] == alone["NDCG@10"] and "std" not in alone
    assert (three["ensemble"], three["per_instruction"]) == (3, [])
    assert " ± " in ask("evaluate", "ed2", "--wordings", "3")[1]
    code, out, _ = ask("recommend", "ed2", "--user", "u1", "--ensemble", "3", "--k", "4", "--json")
    assert code == 0 and len(json.loads(out)["recommendations"]) == 4
    assert "choose either --wordings" in refused(ask("evaluate", "ed2", "--wordings", "2", "--ensemble", "2"))


def test_a_run_of_any_model_gets_its_page(trained, ask):
    """Churn beside validation for a dynamic index; a baseline has neither, and gets its metrics and examples."""
    assert run_command(["train", "colours", "--model", "textknn", "--out", "near"]) == 0
    for run, split in (("ed2", "valid"), ("near", "test")):
        code, out, _ = ask("evaluate", run, "--split", split, "--report", f"{run}.html")
        page = (trained / f"{run}.html").read_text()
        assert code == 0 and "NDCG@10" in out and "taken next" in page
        assert ("how much the index moved" in page) == (run == "ed2"), run
    assert "NDCG@10 on the validation items" in (trained / "ed2.html").read_text()
    (trained / "mine.html").write_text("mine")
    assert "is not a report of ours" in refused(ask("evaluate", "near", "--report", "mine.html"))
    assert "No such folder" in refused(ask("evaluate", "near", "--report", "absent/near.html"))


def test_a_collapsed_index_is_one_line_and_exit_2(trained, ask):
    Path("log.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{u},i{(u + n) % 9},{n}\n" for u in range(9) for n in range(5))
    )
    assert ask("prepare", "log.csv", "--format", "csv", "--out", "textless")[0] == 0
    before = sorted(path.name for path in trained.iterdir())
    code, out, err = ask("train", "textless", "--out", "new", "--config", "small.yaml")
    assert (code, out) == (2, "") and sorted(path.name for path in trained.iterdir()) == before
    assert err.splitlines()[-1].startswith("ed2: the item index has collapsed after the warm-up: level a ")


@pytest.mark.parametrize("words", ["tasks.use=[foo]", "training.device=toaster", "backbone.name=no/such"])
def test_a_mistyped_setting_leaves_the_checkpoints_of_an_interrupted_training_alone(words, trained, ask):
    checkpoint = trained / ".new.training/checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete").touch()
    code, _, err = ask("train", "shop", "--out", "new", "--config", "small.yaml", "--set", words)
    assert code == 2 and err.startswith("an unfinished training of new has checkpoints, which this one replaces")
    assert (checkpoint / "complete").exists()
    collapsing = ["--set", "indexer.min_perplexity=1"]  # found out when the generators are warmed up
    assert ask("train", "shop", "--out", "new", "--config", "small.yaml", *collapsing)[0] == 2
    assert (checkpoint / "complete").exists()


def test_an_index_that_could_not_move_is_told_in_the_closing_lines(trained, ask):
    code, out, err = ask("train", "colours", "--out", "new", "--config", "small.yaml", "--set", "training.epochs=0.1")
    assert code == 0 and "the index is static: too few steps (1) for it to move" in out + err
    assert "index is static" not in "".join(ask("train", "colours", "--out", "new", "--config", "small.yaml")[1:])


def test_a_query_of_blanks_is_refused(shop, ask):
    assert "the query is empty" in refused(ask("recommend", "near", "--query", "  "))


def test_settings_reach_the_run(shop, ask):
    arguments = ["--out", "far", "--model", "textknn", "--seed", "5", "--set", "textknn.last=1"]
    assert ask("train", "shop", *arguments)[0] == 0
    copy = (shop / "far/config.yaml").read_text()
    assert "seed: 5" in copy and "last: 1" in copy
    assert ask("train", "shop", "--out", "again", "--config", "far/config.yaml")[0] == 0
    assert (shop / "again/config.yaml").read_text() == copy


def test_a_text_source_goes_through_every_verb(tmp_path, monkeypatch, ask):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{u},i{(u + n) % 6},{n}\n" for u in range(6) for n in range(5))
    )
    assert ask("prepare", "log.csv", "--format", "csv", "--out", "data", "--k-core", "3")[0] == 0
    assert ask("train", "data", "--model", "popularity", "--out", "run")[0] == 0
    code, out, _ = ask("evaluate", "run", "--json", "-")
    assert code == 0 and json.loads(out)["users"] == 6


def test_doctor_answers_in_words_and_in_json(ask):
    code, out, _ = ask("doctor", "--json")
    found = json.loads(out)
    assert code == (0 if found["healthy"] else 2)
    assert "torch" in ask("doctor")[1]


def test_a_reader_that_leaves_early_is_not_an_error(shop):
    command = f"{sys.executable} -m ed2rec recommend near --user u1 --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=shop)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_a_training_goes_on_when_nobody_reads_its_progress_any_more(shop):
    command = f"{sys.executable} -m ed2rec train shop --model gru4rec --set epochs=2 --out new 2> >(true)"
    assert subprocess.run(["bash", "-c", command], cwd=shop, check=False).returncode == 0
    assert run_command(["evaluate", "new"]) == 0
