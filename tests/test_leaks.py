"""Nothing of a validation or test interaction reaches what is trained: neither its texts nor its item.

Twice: marks that occur only in held-out interactions are looked for wherever training reads, and a training on a log
with other held-out interactions must end in the very same weights and tables, to the last bit.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from small import shop, small_settings

from ed2rec.data.dataset import Dataset
from ed2rec.data.splits import leave_one_out
from ed2rec.instructions.examples import ITEM, USER, Batch
from ed2rec.instructions.tasks import SEQUENTIAL_TASKS
from ed2rec.instructions.templates import FORMS
from ed2rec.training import assignments, branches, parts
from ed2rec.training.joint import JointTrainer
from ed2rec.training.parts import build_parts
from ed2rec.training.pipeline import train_ed2

MARK = "zzsecret"  # in what is told about held-out interactions
GHOST = "zzghost"  # in the texts of items that only they have
GHOSTS = 3  # items that occur in held-out interactions alone
QUICK = ["training.epochs=2", "tasks.share=0.3"]  # which leaves room for walks of the similarity task
TASKS = (*SEQUENTIAL_TASKS, *FORMS)  # by number, where the dataset allows all of them
CATALOGUE = ("similarity", "title", "description", "find", "find-described")  # made of its texts, not of behaviour


def held_out(dataset: Dataset) -> np.ndarray:
    """Rows of the log that are somebody's last or last but one."""
    ends = dataset.histories.offsets[1:]
    return np.sort(np.concatenate([ends - 1, ends - 2]))


def profiled(dataset: Dataset) -> Dataset:
    """Every third user with a profile that the source states."""
    stated = ["likes steel" if user % 3 == 0 else "" for user in range(len(dataset.users))]
    return replace(dataset, users=dataset.users.with_columns(profile=pl.Series(stated)))


def marked(seed: int = 0) -> Dataset:
    """A shop in which every held-out interaction has marked texts, and most of them a marked item."""
    dataset = profiled(shop(seed=seed))
    known = len(dataset.items)
    names = {"title": f"{GHOST} title", "description": f"{GHOST} words", "brand": f"{GHOST} brand"}
    names["categories"] = f"{GHOST}, fruit"
    ghosts = pl.DataFrame([{"item_id": f"i-{GHOST}-{n}", **names} for n in range(GHOSTS)])
    ghosts = ghosts.select(dataset.items.columns)
    log, rows = dataset.interactions, held_out(dataset)
    item, comment, query = log["item"].to_numpy().copy(), [""] * len(log), ["want"] * len(log)
    summary = log["summary"].to_list()
    for n, row in enumerate(rows):
        item[row] = known + n % GHOSTS
        summary[row] = comment[row] = query[row] = f"{MARK} {n}"
    items = pl.concat([dataset.items, ghosts])
    log = log.with_columns(
        item=pl.Series(item, dtype=pl.UInt32), item_id=pl.Series(items["item_id"].to_list()).gather(item),
        summary=pl.Series(summary), comment=pl.Series(comment), query=pl.Series(query),
    )  # fmt: skip
    return replace(dataset, items=items, interactions=log)


class Segment(NamedTuple):
    """One example as it was trained on: its task, the items and users in it, and the entities asked for (0: a word)."""

    task: str
    items: list[int]
    users: list[int]
    asked: list[int]


class Listener:
    """Every text that is encoded or put into a task, and every batch that is trained on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[list[str]] = []
        self.told: list[str] = []
        self.batches: list[Batch] = []
        encode, loss, read_texts = branches.encode_texts, JointTrainer.compute_loss, assignments.read_texts

        def listen(llm: Any, tokenizer: Any, texts: list[str], **options: Any) -> np.ndarray:
            self.texts.append(list(texts))
            return encode(llm, tokenizer, texts, **options)

        def watch(trainer: Any, model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> Any:
            self.batches.append(Batch(**inputs))
            return loss(trainer, model, inputs, **options)

        def overhear(*given: Any) -> Any:
            read = read_texts(*given)
            return lambda texts: self.told.extend(texts) or read(texts)

        monkeypatch.setattr(branches, "encode_texts", listen)
        monkeypatch.setattr(parts, "encode_texts", listen)  # where the rows of index tokens read another layer
        monkeypatch.setattr(assignments, "read_texts", overhear)
        monkeypatch.setattr(JointTrainer, "compute_loss", watch)

    def segments(self) -> Iterator[Segment]:
        for batch in self.batches:
            for r in range(len(batch.segment)):
                for example in range(1, int(batch.segment[r].max()) + 1):
                    own = torch.nonzero(batch.segment[r] == example).flatten()
                    at = Batch(*(column[r, own] for column in batch))
                    items, users = (at.number[(at.kind == kind) & (at.level == 0)].tolist() for kind in (ITEM, USER))
                    first = torch.nonzero(at.label_level == 0).flatten()
                    asked = at.number[(first + 1).clamp(max=len(own) - 1)].tolist()
                    yield Segment(TASKS[int(at.task[0])], items, users, asked)


@pytest.mark.parametrize(
    "overrides",
    [
        ("indexer.user_reads=half", "training.dense=true"),
        ("indexer.user_reads=half", "training.dense=false", "encoding.layer=-1"),
        ("indexer.user_reads=all", "training.dense=true", "encoding.layer=-1"),
        ("indexer.user_reads=all", "training.dense=false"),
    ],
    ids=" ".join,
)
def test_no_mark_of_a_held_out_interaction_reaches_what_is_trained(overrides, tmp_path, monkeypatch):
    dataset = marked()
    listener = Listener(monkeypatch)
    trained = train_ed2(dataset, small_settings(*QUICK, *overrides), tmp_path / "workspace", False, lambda *_: None)

    items, users = listener.texts[0], [texts for texts in listener.texts if texts != listener.texts[0]]
    assert sum(GHOST in text for text in items) == GHOSTS, "the catalogue is known, also what nobody has taken yet"
    assert len(listener.texts) == (4 if "encoding.layer=-1" in overrides else 2), "every encoding has been heard"
    assert users and all(len(texts) >= len(dataset.users) for texts in users)
    assert not [text for texts in users for text in texts if MARK in text or GHOST in text]
    assert {"want", f"{GHOST} title"} <= set(listener.told)
    assert any(text.startswith("likes steel") for text in listener.told), (
        "what the source states of a user is asked for"
    )
    assert not [text for text in listener.told if MARK in text]
    assert any("Says" in text and "want" in text for texts in users for text in texts), "there is something to mark"

    training = leave_one_out(dataset.histories).train
    found = list(listener.segments())
    assert {segment.task for segment in found} == set(TASKS), "every task has been trained"
    behaviour = {item for segment in found if segment.task not in CATALOGUE for item in segment.items}
    assert behaviour == set(training.flat.tolist()) and max(behaviour) < len(dataset.items) - GHOSTS
    trained.write(tmp_path / "run")


def test_every_sequence_that_is_trained_on_is_part_of_somebody_s_training_history(tmp_path, monkeypatch):
    dataset = marked()
    listener = Listener(monkeypatch)
    train_ed2(dataset, small_settings(*QUICK), tmp_path / "workspace", False, lambda *_: None)
    training = leave_one_out(dataset.histories).train
    rows = [tuple(row.tolist()) for row in map(training.__getitem__, range(len(training)))]
    parts = {row[a:b] for row in rows for a in range(len(row)) for b in range(a, len(row) + 1)}
    for task, items, users, _ in listener.segments():
        for user in users:
            assert set(items) <= set(rows[user]), f"{task} tells of something that user {user} took later"
        if task == "sequential":
            assert tuple(items) in parts


def test_the_user_index_of_training_says_nothing_of_the_targets_beside_it(tmp_path, monkeypatch):
    """`user_reads=half`: texts that the training index is made from stop where the supervised items begin."""
    dataset = shop()
    log = dataset.interactions
    position = np.arange(len(log)) - dataset.histories.offsets[log["user"].to_numpy()]
    half = (leave_one_out(dataset.histories).train.lengths + 1) // 2
    late = position >= half[log["user"].to_numpy()]
    text = [f"{MARK} late" if flag else text for flag, text in zip(late, log["summary"], strict=True)]
    dataset = replace(dataset, interactions=log.with_columns(summary=pl.Series(text)))
    listener = Listener(monkeypatch)
    train_ed2(dataset, small_settings(*QUICK), tmp_path / "workspace", False, lambda *_: None)
    count = len(dataset.users)
    (serving_and_training,) = listener.texts[1:]
    serving, training = serving_and_training[:count], serving_and_training[count:]
    assert len(training) == count and any(MARK in text for text in serving)
    assert not any(MARK in text for text in training)
    tasks = set()
    for task, items, users, asked in listener.segments():
        late_items = [set(dataset.histories[user][half[user] :].tolist()) for user in users]
        if task in ("sequential", "query") and users:
            assert set(asked) <= late_items[0]
        elif task == "copurchase":
            assert items[0] in late_items[users.index(asked[0])]
        elif task == "comment":
            assert items[-1] in late_items[0], "the item comes last, behind a history"
        tasks.add(task)
    assert {"sequential", "query", "copurchase", "comment"} <= tasks


TOLD = ("summary", "comment", "query")  # of an interaction


def talkative() -> Dataset:
    """A shop with all that an interaction can say, and some stated profiles."""
    dataset = profiled(shop())
    summary = dataset.interactions["summary"]
    log = dataset.interactions.with_columns(comment="so " + summary, query=summary.str.split(" ").list.first())
    return replace(dataset, interactions=log)


def changed(dataset: Dataset, which: int) -> Dataset:
    """Other held-out interactions: other items, texts and times. which: 1 the test item, 2 the validation item."""
    rows = np.sort(dataset.histories.offsets[1:] - which)
    log = dataset.interactions
    item, time = log["item"].to_numpy().copy(), log["timestamp"].to_numpy().copy()
    item[rows], time[rows] = (item[rows] + 4) % len(dataset.items), time[rows] * 3 + 10**6
    ids = dataset.items["item_id"].gather(item)
    late = pl.Series(np.isin(np.arange(len(log)), rows))
    texts = [pl.when(late).then(pl.lit(f"plum piano {name}")).otherwise(name).alias(name) for name in TOLD]
    log = log.with_columns(*texts, item=pl.Series(item, dtype=pl.UInt32), item_id=ids, timestamp=pl.Series(time))
    assert (log["item"] != dataset.interactions["item"]).sum() == len(rows)
    return replace(dataset, interactions=log)


def everything(dataset: Dataset, folder: Path, *overrides: str) -> dict[str, Any]:
    """The files of the run, and what was measured on the way."""
    trained = train_ed2(dataset, small_settings(*QUICK, *overrides), folder / "w", False, lambda *_: None)
    trained.write(folder / "run")
    assert any(entry.get("share_similarity", 0) > 0 for entry in trained.metrics["history"]), "walks take part"
    assert trained.metrics["facts"]["tasks"]["on"]["preference"]["provenance"] == {
        "history": 20,
        "profile and history": 10,
    }
    files = {path.name: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    return files | {"history": trained.metrics["history"]}


@pytest.mark.parametrize(("which", "validations"), [(1, 3), (2, 0)], ids=["test items", "validation items"])
def test_other_held_out_interactions_train_the_same_model_to_the_last_bit(which, validations, tmp_path):
    """Validation items may choose between states (validations > 0), test items not even that."""
    dataset, setting = talkative(), f"training.validations={validations}"
    first = everything(dataset, tmp_path / "first", setting)
    second = everything(changed(dataset, which), tmp_path / "second", setting)
    assert {"model.safetensors", "indexer.safetensors", "items.parquet", "users.parquet"} <= first.keys()
    if which == 2:  # validation figures may differ, and only they
        first["history"], second["history"] = (
            [entry for entry in run["history"] if "valid" not in entry] for run in (first, second)
        )
    assert first == second


LSH = ("indexer.kind=lsh", "indexer.users=[4, 4]")  # planes make powers of two


@pytest.mark.parametrize(
    "overrides",
    [
        (*LSH, "training.refreshes=0"),
        LSH,
        ("indexer.latent=gaussian", "indexer.separate=false"),
        ("indexer.latent=none", "backbone.lora_rank=2"),
        ("encoding.layer=-1", "training.instruction=question", "training.dense=false", "training.epochs=1"),
    ],
    ids=" ".join,
)
def test_so_does_every_kind_of_index_and_of_training(overrides, tmp_path):
    dataset, settings = talkative(), ("training.validations=0", *overrides)
    first = everything(dataset, tmp_path / "first", *settings)
    second = everything(changed(changed(dataset, 1), 2), tmp_path / "second", *settings)
    for run in (first, second):  # the last state is measured in any case
        run["history"] = [entry for entry in run["history"] if "valid" not in entry]
    assert first == second


def test_what_recommends_a_user_s_test_item_was_made_from_training_interactions(monkeypatch):
    """The users' table for serving is made from all training interactions, and from nothing after them."""
    tables = [
        build_parts(data, small_settings(), lambda *_: None).serving_users()
        for data in (talkative(), changed(changed(talkative(), 1), 2))
    ]
    assert tables[0] is not None and tables[1] is not None
    np.testing.assert_array_equal(tables[0].codes, tables[1].codes)
    np.testing.assert_array_equal(tables[0].suffix, tables[1].suffix)
