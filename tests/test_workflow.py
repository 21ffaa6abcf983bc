import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import small
import torch
from shops import checkerboard, dataset_of

from ed2rec import answers, workflow
from ed2rec.config import resolve
from ed2rec.data.dataset import Dataset
from ed2rec.errors import ConfigError, DataError, RunError, UnknownEntity
from ed2rec.evaluation.ranking import evaluate
from ed2rec.recommender import Recommendations
from ed2rec.runs import RunFolder
from ed2rec.summary import examples_of, headline, summarise, telling_users
from ed2rec.workflow import LoadedRun


@pytest.fixture
def shop(tmp_path):
    """A saved dataset and a text-neighbours run on it."""
    checkerboard().save(tmp_path / "shop")
    workflow.train(tmp_path / "shop", tmp_path / "run", resolve(extra={"model": "textknn"}))
    return tmp_path


def test_a_run_evaluates_to_what_the_model_itself_does(shop):
    run = workflow.load(shop / "run")
    for split in ("test", "valid"):
        direct = evaluate(run.recommender, workflow.cases_of(run, split))
        assert workflow.evaluate_run(run, split).metrics == direct.metrics


def test_a_split_by_time_asks_for_the_first_item_after_the_moment_and_learns_from_nothing_after_it(tmp_path):
    """Interaction t of 108 happens at moment t, user by user: only the user who is in the middle of a list at a cut
    has items on both sides of it. The cut of 90 % is moment 97 (of 0…107), in user 16's list of six, 96…101."""
    checkerboard().save(tmp_path / "shop")
    settings = resolve(extra={"model": "popularity", "split": "global-time"})
    workflow.train(tmp_path / "shop", tmp_path / "run", settings)
    run = workflow.load(tmp_path / "run")
    cases = workflow.cases_of(run, "test")
    assert (cases.users.tolist(), cases.targets.tolist()) == ([16], [run.dataset.histories[16][1]])
    learned = run.recommender.counts.sum()
    assert learned == workflow.split(run.dataset, settings).valid_from <= 97
    assert len(workflow.evaluate_run(run).ranks) == 1


def later(dataset: Dataset) -> Dataset:
    """The same lists, but every time twice as late: a split by time cuts some of them elsewhere."""
    return replace(dataset, interactions=dataset.interactions.with_columns(timestamp=pl.col("timestamp") * 2))


def test_other_times_are_other_interactions_where_they_split(tmp_path):
    checkerboard().save(tmp_path / "shop")
    later(checkerboard()).save(tmp_path / "later")
    for split in ("global-time", "leave-one-out"):
        settings = resolve(extra={"model": "popularity", "split": split})
        workflow.train(tmp_path / "shop", tmp_path / split, settings)
    workflow.evaluate_run(workflow.load(tmp_path / "leave-one-out", tmp_path / "later"))
    run = workflow.load(tmp_path / "global-time", tmp_path / "later")
    with pytest.raises(DataError, match="has other interactions than"):
        workflow.evaluate_run(run)
    older = {part: value for part, value in run.folder.dataset.items() if part != "times"}
    assert older.keys() == workflow.load(tmp_path / "leave-one-out").folder.dataset.keys()


def test_a_run_by_time_from_before_times_were_noted_is_still_evaluated(tmp_path):
    checkerboard().save(tmp_path / "shop")
    settings = resolve(extra={"model": "popularity", "split": "global-time"})
    workflow.train(tmp_path / "shop", tmp_path / "run", settings)
    file = tmp_path / "run/environment.json"
    facts = json.loads(file.read_text())
    del facts["dataset"]["times"]
    file.write_text(json.dumps(facts))
    assert len(workflow.evaluate_run(workflow.load(tmp_path / "run")).ranks) == 1


def test_what_cannot_be_split_by_time_is_refused(tmp_path):
    positions = checkerboard()
    positions.facts["source"] = {"timestamps": "positions in the user's list"}
    positions.save(tmp_path / "shop")
    with pytest.raises(DataError, match="has no times"):
        workflow.train(tmp_path / "shop", tmp_path / "run", resolve(extra={"model": "markov", "split": "global-time"}))
    with pytest.raises(ConfigError, match="global-time is for the baselines"):
        workflow.train(tmp_path / "shop", tmp_path / "run", resolve(extra={"split": "global-time"}))


def test_checkpoints_are_swept_up_once_the_run_is_saved(shop, monkeypatch):
    workspace = workflow.runs.workspace(shop / "run")

    def leaves_checkpoints(dataset, settings, workspace, resume, progress):
        workspace.mkdir()
        return workflow.runs.Trained({}, lambda folder: (folder / "w.bin").write_text("w"))

    monkeypatch.setattr(workflow, "fit", leaves_checkpoints)
    workflow.train(shop / "shop", shop / "run", resolve(extra={"model": "textknn"}))
    assert not workspace.exists()


def test_a_disk_that_fills_up_in_training_is_one_line_and_costs_neither_checkpoints_nor_the_run(shop, monkeypatch):
    checkpoint = workflow.runs.workspace(shop / "run") / "checkpoint-3"

    def fills_up(dataset, settings, workspace, resume, progress):
        checkpoint.mkdir(parents=True)
        (checkpoint / workflow.runs.COMPLETE).touch()
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(workflow, "fit", fills_up)
    with pytest.raises(RunError, match=r"no room for the checkpoints of .*go on with --resume"):
        workflow.train(shop / "shop", shop / "run", resolve(extra={"model": "textknn"}))
    assert checkpoint.exists() and workflow.load(shop / "run").folder.model == "textknn"


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), ZeroDivisionError("ours")])
def test_a_training_that_leaves_nothing_to_go_on_from_leaves_nothing(shop, monkeypatch, fault):
    """Neither the best state half written nor half a checkpoint; and nobody is sent to --resume."""
    workspace = workflow.runs.workspace(shop / "new")

    def stops(dataset, settings, workspace, resume, progress):
        for name in ("best.part", "checkpoint-3"):
            (workspace / name).mkdir(parents=True)
        raise fault

    monkeypatch.setattr(workflow, "fit", stops)
    full = isinstance(fault, OSError)
    with pytest.raises(RunError if full else ZeroDivisionError) as told:
        workflow.train(shop / "shop", shop / "new", resolve(extra={"model": "textknn"}))
    assert not workspace.exists() and "--resume" not in str(told.value)
    assert not full or "free some space and train again" in str(told.value)
    with pytest.raises(RunError, match="no run at"):
        workflow.load(shop / "new")


def test_a_user_gets_items_after_everything_the_user_has_taken(shop):
    run = workflow.load(shop / "run")
    answer = answers.recommend(run, user_id="u4", k=3)
    assert [item.item_id for item in answer.history] == [f"i{n}" for n in run.dataset.histories[4]]
    assert len(answer.items) == 3 and answer.scores == sorted(answer.scores, reverse=True)
    assert answer.as_dict()["recommendations"][0] == {
        "rank": 1, "item_id": answer.items[0].item_id, "title": answer.items[0].title, "score": answer.scores[0],
    }  # fmt: skip


def test_a_history_of_somebody_unknown_is_answered_in_kind(shop):
    answer = answers.recommend(workflow.load(shop / "run"), item_ids=["i0", "i3"], k=2)
    assert all(item.title.startswith("colour-0") for item in answer.items)


def test_questions_that_cannot_be_answered(shop):
    run = workflow.load(shop / "run")
    with pytest.raises(UnknownEntity, match="'u99'"):
        answers.recommend(run, user_id="u99")
    with pytest.raises(UnknownEntity, match="'nothing'"):
        answers.recommend(run, item_ids=["i1", "nothing"])
    with pytest.raises(ConfigError, match="choose k between 1 and 18"):
        answers.recommend(run, user_id="u1", k=19)
    for both_or_none in ({"user_id": "u1", "item_ids": ["i1"]}, {}):
        with pytest.raises(ConfigError, match="either a user or a history"):
            answers.recommend(run, **both_or_none)


def test_a_dataset_that_has_moved_is_found_again_and_another_one_is_refused(shop):
    (shop / "shop").rename(shop / "moved")
    with pytest.raises(DataError, match="--dataset DIR"):
        workflow.load(shop / "run")
    assert workflow.load(shop / "run", shop / "moved").dataset.name == "shop"
    dataset_of([[0, 1, 2]], ["a", "b", "c"]).save(shop / "other")
    with pytest.raises(DataError, match="other users or items"):
        workflow.load(shop / "run", shop / "other")


def test_a_log_that_has_grown_may_be_asked_but_not_evaluated(shop):
    """Test items of the new log may have been training items of the old one."""
    lists = [row.tolist() for row in checkerboard().histories]
    lists[0].append(1)
    dataset_of(lists, checkerboard().items["title"].to_list()).save(shop / "grown")
    run = workflow.load(shop / "run", shop / "grown")
    assert answers.recommend(run, user_id="u0", k=1).history[-1].item_id == "i1"
    with pytest.raises(DataError, match="other interactions"):
        workflow.evaluate_run(run)


def test_fingerprints_tell_renamed_reordered_and_regrown_datasets_apart():
    base = dataset_of([[0, 1, 2], [1, 2, 3]], list("abcd"))
    assert workflow.fingerprint(base) == workflow.fingerprint(dataset_of([[0, 1, 2], [1, 2, 3]], list("wxyz")))
    reordered = workflow.fingerprint(dataset_of([[0, 2, 1], [1, 2, 3]], list("abcd")))
    assert reordered["entities"] == workflow.fingerprint(base)["entities"]
    split_elsewhere = workflow.fingerprint(dataset_of([[0, 1, 2, 1], [2, 3]], list("abcd")))
    assert len({found["log"] for found in (workflow.fingerprint(base), reordered, split_elsewhere)}) == 3


def test_unknown_models_are_refused_at_training_and_at_loading(shop):
    with pytest.raises(ConfigError, match=r"no model 'oracle'; there are: ed2, fmlprec, caser, .*textknn"):
        workflow.train(shop / "shop", shop / "new", resolve(extra={"model": "oracle"}))
    for file in (shop / "run/config.yaml", shop / "run/environment.json"):
        file.write_text(file.read_text().replace("textknn", "oracle", 1))
    with pytest.raises(RunError, match="'oracle'"):
        workflow.load(shop / "run")


class Worded:
    """Answers well in its first wording and badly in its second."""

    wordings = ("please", "now")

    def __init__(self, number=0):
        self.number = number

    def worded(self, number):
        return Worded(number)

    def recommend(self, histories, users, k):
        items = np.arange(k)[None].repeat(len(histories), 0) + self.number * 100
        return Recommendations(items, -np.arange(k, dtype=np.float32)[None].repeat(len(histories), 0))


def test_a_model_with_wordings_is_averaged_over_as_many_as_asked(tmp_path):
    dataset_of([[3, 4, 0]] * 3, ["a"] * 200).save(tmp_path / "shop")
    workflow.train(tmp_path / "shop", tmp_path / "run", resolve(extra={"model": "popularity"}))
    run = workflow.load(tmp_path / "run")
    asked = LoadedRun(run.folder, run.dataset, Worded())
    assert workflow.evaluate_run(asked).metrics["HR@1"] == 1
    both = workflow.evaluate_run(asked, wordings=2)
    assert both.metrics["HR@1"] == 1 / 2 and len(both.per_instruction) == 2
    with pytest.raises(ConfigError, match="3 wordings, but the model has 1 to 2"):
        workflow.evaluate_run(asked, wordings=3)


def test_an_ensemble_ranks_once_by_the_mean_over_as_many_wordings_as_asked(tmp_path):
    dataset_of([[3, 4, 0]] * 3, ["a"] * 200).save(tmp_path / "shop")
    workflow.train(tmp_path / "shop", tmp_path / "run", resolve(extra={"model": "popularity"}))
    run = workflow.load(tmp_path / "run")
    asked = LoadedRun(run.folder, run.dataset, Worded())
    alone, both = (workflow.evaluate_run(asked, ensemble=n) for n in (1, 2))
    np.testing.assert_array_equal(alone.top.items, workflow.evaluate_run(asked).top.items)
    assert both.ranks.tolist() == [2, 2, 2], "items 0 and 100 are equally likely, which counts against the target"
    assert both.per_instruction == () and both.top.scores[0, 0] == pytest.approx(np.log(1 / 2))
    answer = answers.recommend(asked, user_id="u0", k=4, ensemble=2)
    assert [item.item_id for item in answer.items] == ["i0", "i100", "i1", "i101"]
    with pytest.raises(ConfigError, match="3 wordings, but the model has 1 to 2"):
        workflow.evaluate_run(asked, ensemble=3)
    with pytest.raises(ConfigError, match="choose either --wordings"):
        workflow.evaluate_run(asked, ensemble=2, wordings=2)
    with pytest.raises(ConfigError, match="popularity asks in no wordings"):
        answers.recommend(run, user_id="u0", ensemble=2)


def test_a_summary_holds_the_run_the_comparison_and_both_hits_and_misses(shop):
    run = workflow.load(shop / "run")
    result = workflow.evaluate_run(run)
    row = result.row("shop", "test", "textknn")
    history = [
        {"step": 1, "loss_llm": 2.0},
        {"step": 2, "kind": "item", "churn": {"levels": [0.1, 0.2]}},
        {"step": 3, "valid": {"NDCG@10": 0.5}},
    ]
    run.folder.metrics["history"] = history
    data = summarise(run, [row, {**row, "model": "half", "NDCG@10": row["NDCG@10"] / 2}], examples_of(run, "test", [0]))
    assert data.figures[0] == ("2.0×", "the NDCG@10 of half")
    assert data.losses == {"recommendation (Eq. 7)": [(1, 2.0)]} and data.validation == [(3, 0.5)]
    assert data.churn == {"items": {"a": [(2, 0.1)], "b": [(2, 0.2)]}} and data.frozen_from == 2
    example = data.examples[0]
    assert example.target == run.dataset.items["title"][int(run.dataset.histories[0][-1])]
    assert (example.place > 0) == (example.target in example.recommended)
    assert json.dumps(dict(data.environment)) and "files" not in data.environment


def test_users_for_the_page_are_a_hit_one_further_down_and_a_miss(shop):
    run = workflow.load(shop / "run")
    result = workflow.evaluate_run(run)
    ranks = np.full(18, 50)
    ranks[[3, 5]] = [5, 1]
    chosen = telling_users(type(result)(ranks, result.top, result.users, result.targets, 0.0))
    assert chosen == [5, 3, 0]
    assert headline([{"NDCG@10": 0.1, "HR@10": 0.2, "HR@1": 0.3}])[0] == ("0.100", "NDCG@10 on the test items")


def test_a_run_in_bfloat16_trains_ranks_and_tells(tmp_path):
    """`auto` picks it on most GPUs and new processors, so with texts beside the LLM it has to go all the way, and to
    score as in float32 but for what rounding to eight bits moves."""
    small.shop().save(tmp_path / "shop")
    settings = small.small_settings("training.epochs=2", "training.bf16=true", "decoding.prior=2")
    workflow.train(tmp_path / "shop", tmp_path / "run", settings)
    run, asked = workflow.load(tmp_path / "run"), small.histories_of([3, 9, 1], [5])
    assert workflow.evaluate_run(run).metrics.keys() == workflow.evaluate_run(run, exclude_history=True).metrics.keys()
    assert answers.explain(run, "u3").as_dict()
    rounded = run.recommender.recommend(asked, None, 15)
    assert run.recommender.decoder.dtype == torch.bfloat16
    run.recommender.decoder.dtype = None
    exact = run.recommender.recommend(asked, None, 15)
    np.testing.assert_allclose(rounded.scores, exact.scores, atol=0.05)
    assert not np.array_equal(rounded.scores, exact.scores)


def test_shares_of_the_tokens_and_tasks_that_are_off_are_told(tmp_path):
    """Of all tokens, whichever entry of the log counted them; the reasons are those of the run's facts."""
    small.shop().save(tmp_path / "shop")
    run = workflow.train(tmp_path / "shop", tmp_path / "run", small.small_settings("training.epochs=2"))
    shares, *off = workflow.tasks_told(run)
    found = {name: float(share) for name, share in re.findall(r"(\S+) ([\d.]+) %", shares.partition(": ")[2])}
    assert shares.startswith("shares of the tokens: sequential ") and sum(found.values()) == pytest.approx(100, abs=0.5)
    assert found["sequential"] >= 50 and found["title"] > 0
    assert "task description is off: no item has a description" in off
    entries = [entry for entry in run.metrics["history"] if "tokens" in entry]
    assert entries[-1]["step"] == run.metrics["steps"] and not any("train_runtime" in entry for entry in entries)
    sequential = sum(entry["share_sequential"] * entry["tokens"] for entry in entries)
    assert found["sequential"] == pytest.approx(100 * sequential / sum(e["tokens"] for e in entries), abs=0.051)


def test_an_entry_of_the_log_counts_by_its_tokens():
    entries = [{"share_sequential": 0.4, "share_title": 0.6, "tokens": 100}, {"share_sequential": 0.8, "tokens": 300}]
    told = workflow.tasks_told(RunFolder(Path("run"), resolve(), {"history": entries}, {}))
    assert told == ["shares of the tokens: sequential 70.0 %, title 15.0 %"]
    found = {"history": entries, "facts": {"tasks": {"on": {"title": {}, "query": {}, "find": {}}, "off": {}}}}
    assert workflow.tasks_told(RunFolder(Path("run"), resolve(), found, {}))[1:] == [
        "no room for query, find: what needs them is untrained; raise tasks.share or training.epochs"]  # fmt: skip
    older = [{name: value for name, value in entry.items() if name != "tokens"} for entry in entries]
    told = workflow.tasks_told(RunFolder(Path("run"), resolve(), {"history": older}, {}))
    assert told == ["shares of the tokens: sequential 60.0 %, title 30.0 %"], "runs that did not count: each as much"


def test_a_baseline_has_no_shares_to_tell(tmp_path):
    small.shop().save(tmp_path / "shop")
    popular = workflow.train(tmp_path / "shop", tmp_path / "popular", resolve(extra={"model": "popularity"}))
    assert workflow.tasks_told(popular) == workflow.told(popular) == []


def test_how_many_have_no_text_is_told_first():
    facts = {"items without text": 1200, "users without text": 0}
    told = workflow.told(RunFolder(Path("run"), resolve(overrides=["training.refreshes=0"]), {"facts": facts}, {}))
    assert told == ["1,200 items without text stand at the mean of the others"]


def test_a_pretrained_llm_that_was_cut_is_told_and_tiny_is_not():
    def told(*overrides):
        return workflow.told(RunFolder(Path("run"), resolve("medium", ["training.refreshes=0", *overrides]), {}, {}))

    assert told() == told("backbone.name=some/model", "backbone.layers=null") == []
    assert told("backbone.name=some/model") == ["of some/model the first 2 layers were kept (backbone.layers); "
                                                "--set backbone.layers=null keeps all"]  # fmt: skip


def test_an_index_that_had_no_steps_to_move_is_told_with_the_run_and_on_its_page(tmp_path):
    small.shop().save(tmp_path / "shop")
    told = {}
    for changed in ("training.epochs=0.1", "training.epochs=7", "training.refreshes=0"):
        run = workflow.train(tmp_path / "shop", tmp_path / "run", small.small_settings("training.epochs=0.1", changed))
        told[changed] = workflow.static_told(run)
        subtitle = summarise(workflow.load(tmp_path / "run"), [], [], figures=[("1", "run")]).subtitle
        assert subtitle.endswith(f"Note: {told[changed]}." if told[changed] else "Seed 0.")
    short, *others = told.values()
    assert short.startswith("the index is static: too few steps (1) for it to move; raise training.epochs")
    assert others == ["", ""], "one that moves, and one that is meant to be static"
    popular = workflow.train(tmp_path / "shop", tmp_path / "popular", resolve(extra={"model": "popularity"}))
    assert workflow.static_told(popular) == ""
