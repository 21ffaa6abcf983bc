"""A training that was killed goes on as if nothing had happened: same weights, tables and history."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from small import shop, small_settings

from ed2rec.data.dataset import Dataset
from ed2rec.errors import RunError
from ed2rec.generative import GenerativeRecommender
from ed2rec.indexers.contract import IndexTable
from ed2rec.runs import Trained
from ed2rec.training import pipeline
from ed2rec.training.pipeline import train_ed2
from ed2rec.training.workspace import last_checkpoint

# Several epochs of a few steps; four checkpoints, the last one at the end; three refreshes, in which indices change
# their lengths; five validations.
OVERRIDES = ["training.epochs=10", "training.batch_tokens=400", "training.checkpoints=4", "training.refreshes=3",
             "training.validations=5", "training.max_share=0.6", "indexer.lr=0.1", "training.dropout=0.2"]  # fmt: skip


def train(
    workspace: Path, resume: bool = False, after: Callable[[int], None] = lambda step: None, *overrides: str
) -> Trained:
    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stage == "training":
            after(done)

    return train_ed2(shop(), small_settings(*OVERRIDES, *overrides), workspace, resume, progress)


def result(trained: Trained, folder: Path) -> dict[str, Any]:
    """Everything that a run is made of, comparable with ==."""
    trained.write(folder)
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".safetensors", ".json")}
    for path in folder.rglob("*.parquet"):
        table = IndexTable.load(path)
        files[path.name] = (table.codes.tolist(), table.suffix.tolist(), table.version)
    return files | {"history": json.loads(json.dumps(trained.metrics["history"])), "steps": trained.metrics["steps"]}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, Any]:
    """What comes out without any interruption."""
    folder = tmp_path_factory.mktemp("straight")
    return result(train(folder / "workspace"), folder / "run")


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["history"] == expected["history"]
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_the_training_that_is_interrupted_here_is_worth_interrupting(straight):
    """It has several epochs, tables that moved, and suffixes that came or went."""
    history, steps = straight["history"], straight["steps"]
    assert steps >= 15
    churn = [entry["churn"] for entry in history if "churn" in entry]
    assert sum(change["codes"] > 0 for change in churn) >= 3 and any(change["suffix"] > 0 for change in churn)
    assert straight["items.parquet"][2] == 4, "made anew once, then refreshed three times"
    assert len([entry for entry in history if "loss_llm" in entry]) == steps
    assert len([entry for entry in history if "valid" in entry]) == 5


def damage(workspace: Path) -> None:
    """A checkpoint in the middle of being written: its weights are cut, and the mark of completeness is missing."""
    last = last_checkpoint(workspace)
    later = last.with_name(f"checkpoint-{int(last.name.split('-')[1]) + 1}")
    shutil.copytree(last, later)
    (later / "complete").unlink()
    weights = later / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def test_after_kill_9_the_trajectory_is_the_same(straight, tmp_path):
    """Killed behind the second checkpoint by a signal that no process can handle; continued in another process."""
    at = round(0.7 * straight["steps"])
    program = (
        "import os, signal, sys; from pathlib import Path; from test_resume import train\n"
        f"train(Path(sys.argv[1]), after=lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == {at} else None)"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "workspace")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "workspace").glob("checkpoint-*/complete"))) == 2
    damage(tmp_path / "workspace")
    assert_same(result(train(tmp_path / "workspace", resume=True), tmp_path / "run"), straight)


class Stopped(Exception):
    """The machine stops here."""


def stop_after(step: int) -> Callable[[int], None]:
    def after(done: int) -> None:
        if done == step:
            raise Stopped

    return after


@pytest.mark.parametrize("share", [0.4, 0.6, 0.95])
def test_wherever_it_stops_it_goes_on(share, straight, tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path / "workspace", after=stop_after(round(share * straight["steps"])))
    assert_same(result(train(tmp_path / "workspace", resume=True), tmp_path / "run"), straight)


def test_it_may_stop_several_times(straight, tmp_path):
    for resume, share in ((False, 0.4), (True, 0.5), (True, 0.85)):
        with pytest.raises(Stopped):
            train(tmp_path / "workspace", resume, after=stop_after(round(share * straight["steps"])))
    assert_same(result(train(tmp_path / "workspace", resume=True), tmp_path / "run"), straight)


def test_stopped_between_the_last_step_and_the_saved_run_only_the_run_is_written(straight, tmp_path):
    train(tmp_path / "workspace")
    steps: list[int] = []
    again = train(tmp_path / "workspace", resume=True, after=steps.append)
    assert steps == []
    assert_same(result(again, tmp_path / "run"), straight)


def test_the_best_state_of_before_the_stop_stays_the_best(tmp_path, monkeypatch):
    """Here the validation likes the first state that it may choose: its weights are the smallest."""

    def evaluate(recommender: GenerativeRecommender, *_: Any, **__: Any) -> SimpleNamespace:
        size = sum(float(weight.detach().square().sum()) for weight in recommender.decoder.llm.parameters())
        return SimpleNamespace(metrics={"NDCG@10": 1 / size})

    monkeypatch.setattr(pipeline, "evaluate", evaluate)
    often = "training.checkpoints=20"
    expected = result(train(tmp_path / "straight", False, lambda step: None, often), tmp_path / "expected")
    scores = [entry["valid"]["NDCG@10"] for entry in expected["history"] if "valid" in entry]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(Stopped):
        train(tmp_path / "workspace", False, stop_after(expected["steps"] - 1), often)
    assert_same(result(train(tmp_path / "workspace", True, lambda step: None, often), tmp_path / "run"), expected)


def test_adapters_go_on_too(tmp_path):
    lora = "backbone.lora_rank=2"
    expected = result(train(tmp_path / "straight", False, lambda step: None, lora), tmp_path / "expected")
    with pytest.raises(Stopped):
        train(tmp_path / "workspace", False, stop_after(round(0.6 * expected["steps"])), lora)
    assert_same(result(train(tmp_path / "workspace", True, lambda step: None, lora), tmp_path / "run"), expected)


def test_other_settings_are_another_training(straight, tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path / "workspace", after=stop_after(straight["steps"] // 2))
    with pytest.raises(RunError, match="of other settings or data") as error:
        train(tmp_path / "workspace", True, lambda step: None, "training.lr=0.5")
    assert "\n" not in str(error.value) and "lr" in str(error.value)
    assert_same(result(train(tmp_path / "workspace", resume=True), tmp_path / "run"), straight)


def test_other_texts_are_another_training(tmp_path):
    """The tokenizer, the embeddings and the tasks would be others, under the old weights."""
    dataset, prompts = shop(), tmp_path / "prompts.yaml"
    prompts.write_text("title: ['Item {item} is called: {title}']\n")
    settings = small_settings(*OVERRIDES, f"tasks.prompts={prompts}")

    def go_on(dataset: Dataset) -> None:
        train_ed2(dataset, settings, tmp_path / "workspace", True, lambda *_: None)

    stop = stop_after(15)
    with pytest.raises(Stopped):
        train_ed2(dataset, settings, tmp_path / "workspace", False, lambda _, done, *__: stop(done))
    renamed = dataset.items.with_columns(title=pl.lit("something else ") + pl.col("title"))
    with pytest.raises(RunError, match="is of other settings or data") as error:
        go_on(replace(dataset, items=renamed))
    assert "\n" not in str(error.value)
    reworded = dataset.interactions.with_columns(comment=pl.lit("fine"))
    with pytest.raises(RunError, match="is of other settings or data"):
        go_on(replace(dataset, interactions=reworded))
    before = prompts.read_text()
    prompts.write_text("title: ['The title of {item} is: {title}']\n")
    with pytest.raises(RunError, match="is of other settings or data"):
        go_on(dataset)
    prompts.write_text(before)
    go_on(dataset)


def test_there_must_be_something_to_go_on_from(tmp_path):
    with pytest.raises(RunError, match="no complete checkpoint"):
        train(tmp_path / "workspace", resume=True)


def test_without_resume_an_old_workspace_does_not_matter(straight, tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path / "workspace", after=stop_after(straight["steps"] // 2))
    assert_same(result(train(tmp_path / "workspace"), tmp_path / "run"), straight)
