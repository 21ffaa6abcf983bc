"""Which tasks a dataset allows, why it does not allow the others, and their examples.

A task is off where nothing is known that it could ask for. Asked for by name, that is an error; with "auto" it is a
fact that the run records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerFast

from ed2rec.data import told
from ed2rec.data.associated import associated_users
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.errors import ConfigError
from ed2rec.instructions.tasks import Task, copurchase, from_rows, read_texts
from ed2rec.instructions.templates import FORMS, HIGH_ORDER, task_wordings


@dataclass(frozen=True)
class Material:
    """rows: by task, what its examples are made of (for copurchase: the log of items that several users took).
    off: by task that was wanted and cannot be had, why."""

    rows: Mapping[str, pl.DataFrame]
    off: Mapping[str, str]

    def texts(self) -> list[str]:
        """What people wrote that stands in no text of an item, for whoever learns or prunes a vocabulary."""
        written = []
        if "comment" in self.rows:
            written.append(self.rows["comment"]["comment"])
        if "query" in self.rows:
            written.append(self.rows["query"].filter(pl.col("provenance") != "title")["query"])
        return pl.concat(written).unique(maintain_order=True).to_list() if written else []

    def facts(self) -> dict[str, Any]:
        """For the record: rows per task, where made-up texts come from, and what is off."""
        on: dict[str, Any] = {}
        for task, rows in self.rows.items():
            on[task] = {"rows": len(rows)}
            if "provenance" in rows.columns:
                counts = rows["provenance"].value_counts(sort=True)
                on[task]["provenance"] = dict(counts.iter_rows())
        return {"on": on, "off": dict(self.off)}


def gather(
    dataset: Dataset,
    train: Histories,
    use: Literal["auto", "alignment"] | Sequence[str],
    *,
    users: bool,
    reads: np.ndarray | None = None,
    substitutes: bool = True,
) -> Material:
    """The rows of every task in `use` that the training part of the dataset has something for.

    use     "auto" all of them, "alignment" those without users, or names, each of which must then be possible
    train   row u is the training history of user u
    users   whether there is a user index
    reads   (J,) how many of a user's interactions that index was made from: nothing of them is asked for beside it

    ConfigError for a task that does not exist, or that is named in `use` and cannot be had.
    """
    sets = {"auto": tuple(FORMS), "alignment": tuple(task for task in FORMS if task not in HIGH_ORDER)}
    wanted = sets[use] if isinstance(use, str) else use
    if unknown := [task for task in wanted if task not in FORMS]:
        raise ConfigError(f"tasks.use names {unknown[0]!r}; there are: {', '.join(FORMS)}")
    rows: dict[str, pl.DataFrame] = {}
    off: dict[str, str] = {}
    for task in wanted:
        needs = FORMS[task].needs
        if "user" in needs and not users:
            off[task] = "there is no user index (indexer.users is empty)"
            continue
        found = _rows(task, dataset, train, substitutes)
        if reads is not None and task in ("copurchase", "comment", "query"):
            later = (found["position"].to_numpy() >= reads[found["user"].to_numpy()]).tolist()
            found = found.with_columns(pl.Series("later", later, dtype=pl.Boolean))
            found = found if task == "copurchase" else found.filter("later")
        if len(found):
            rows[task] = found
        else:
            off[task] = _REASONS[task]
    if not isinstance(use, str) and off:
        task, reason = next(iter(off.items()))
        raise ConfigError(f"tasks.use asks for {task}, but {reason}: leave it out, or set tasks.use=auto")
    return Material(rows, off)


_REASONS = {
    "copurchase": "no item was taken by two users before their last two interactions",
    "comment": "the log has no comments or summaries of training interactions",
    "query": "the log has no queries, and none can be made up (tasks.substitutes, titles)",
    "preference": "no profile is known, and none can be made up (tasks.substitutes, categories, brands, titles)",
    "title": "no item has a title",
    "description": "no item has a description",
    "find": "no item has a title",
    "find-described": "no item has a title and a description",
}


def _rows(task: str, dataset: Dataset, train: Histories, substitutes: bool) -> pl.DataFrame:
    until = train.lengths
    if task == "copurchase":
        log = told.training_log(dataset, until).select("item", "user", "position", "timestamp")
        return log.filter(pl.len().over("item") >= 2)
    if task == "comment":
        return told.comments(dataset, until)
    if task == "query":
        return told.queries(dataset, until, substitutes)
    if task == "preference":
        return told.preferences(dataset, until, substitutes)
    texts = [slot for slot in FORMS[task].needs if slot != "item"]
    rows = told.described(dataset).select("item", *texts)
    return rows.filter(pl.all_horizontal(pl.col(text) != "" for text in texts))


def build_tasks(
    material: Material,
    tokenizer: PreTrainedTokenizerFast,
    wordings: Mapping[str, Sequence[str]],
    train: Histories,
    items: int,
    *,
    max_tokens: int = 48,
    max_history: int = 20,
) -> list[Task]:
    """Tasks with their wordings (by task) and texts in tokens. items: size of the catalogue."""
    made = []
    for name, rows in material.rows.items():
        asked = task_wordings(tokenizer, name, wordings[name])
        if name == "copurchase":
            later = rows.filter("later") if "later" in rows.columns else rows
            made.append(copurchase(associated_users(rows, items), associated_users(later, items), asked))
        else:
            made.append(from_rows(name, rows, asked, read_texts(tokenizer, max_tokens), train, max_history))
    return made
