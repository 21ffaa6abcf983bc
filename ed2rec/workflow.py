"""What the verbs of the command line do, as functions: from a dataset folder to a run, from a run to answers.

The one place that knows every model by name. Each model needs two lines: how it is fitted, how it is loaded.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from ed2rec import runs
from ed2rec.config import Settings
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.data.splits import Cases, LeaveOneOut, leave_one_out
from ed2rec.environment import launched
from ed2rec.errors import ConfigError, DataError, Ed2Error, RunError
from ed2rec.evaluation.ranking import Evaluation, evaluate, evaluate_wordings
from ed2rec.recommender import Recommender, check_k

MODELS = ("ed2", "popularity", "textknn")

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, of how many, a note such as a loss)."""


@runtime_checkable
class Worded(Protocol):
    """A recommender that asks an LLM, and can ask the same thing in several wordings."""

    @property
    def wordings(self) -> Sequence[str]: ...

    def worded(self, number: int) -> Recommender:
        """The same recommender, asking in wording number 0…len(wordings)-1."""
        ...


@dataclass(frozen=True)
class LoadedRun:
    """A run with its weights, beside the dataset it was trained on."""

    folder: runs.RunFolder
    dataset: Dataset
    recommender: Recommender


def quiet(stage: str, done: int, total: int, note: str = "") -> None:
    """The progress report of those who want none."""


def train(
    dataset_folder: Path, out: Path, settings: Settings, *, resume: bool = False, progress: Progress = quiet
) -> runs.RunFolder:
    """Train `settings.model` on the training part of a dataset folder and save the run.

    Among several processes of one launcher the first one saves, and all come back when the run is there.
    """
    if settings.model not in MODELS:
        raise ConfigError(f"no model {settings.model!r}; there are: {', '.join(MODELS)}")
    rank, processes = launched()
    if processes > 1 and settings.model != "ed2":
        raise ConfigError(f"{settings.model} is fitted by one process, not by {processes}: start it without a launcher")
    dataset_folder, out = Path(dataset_folder), Path(out)
    if rank == 0:
        runs.check_target(out)
    dataset = Dataset.load(dataset_folder)
    workspace = runs.workspace(out)
    trained = fit(dataset, settings, workspace, resume, progress)
    if rank == 0:
        runs.save(out, settings, trained.metrics, trained.write, reference(dataset_folder, dataset))
        shutil.rmtree(workspace, ignore_errors=True)  # checkpoints, needed until here
    if processes > 1:
        from ed2rec.training.processes import Processes

        Processes(settings.training.device).wait()
    return runs.open_run(out)


def fit(dataset: Dataset, settings: Settings, workspace: Path, resume: bool, progress: Progress) -> runs.Trained:
    """The chosen model, trained. Imports only what that model needs: a baseline starts without an LLM library."""
    if settings.model == "ed2":
        from ed2rec.training.pipeline import train_ed2

        return train_ed2(dataset, settings, workspace, resume, progress)
    if settings.model == "popularity":
        from ed2rec.baselines.popularity import Popularity

        return runs.Trained({}, Popularity.fit(split(dataset).train, len(dataset.items)).save)
    from ed2rec.baselines.textknn import TextNeighbours

    # Titles and brands only: descriptions are long, repeat the boilerplate of the shop, and lower NDCG@10.
    texts = [f"{title} {brand}" for title, brand in dataset.items.select("title", "brand").iter_rows()]
    return runs.Trained({}, TextNeighbours.fit(texts, settings.textknn.last).save)


def load(run: Path, dataset_folder: Path | None = None) -> LoadedRun:
    """Open a run and its dataset, where it was at training or at `dataset_folder` if it has moved since."""
    folder = runs.open_run(run)
    dataset = its_dataset(folder, dataset_folder)
    model = folder.model
    if model == "ed2":
        from ed2rec.generative import load_generative

        return LoadedRun(folder, dataset, load_generative(folder.path, folder.settings, dataset))
    if model == "popularity":
        from ed2rec.baselines.popularity import Popularity

        return LoadedRun(folder, dataset, Popularity.load(folder.path))
    if model == "textknn":
        from ed2rec.baselines.textknn import TextNeighbours

        return LoadedRun(folder, dataset, TextNeighbours.load(folder.path))
    raise RunError(f"{folder.path} is a {model!r} run, which this version does not know; it knows {', '.join(MODELS)}")


def evaluate_run(
    run: LoadedRun,
    which: Literal["test", "valid"] = "test",
    *,
    k: int = 10,
    wordings: int = 1,
    exclude_history: bool = False,
    progress: Progress = quiet,
) -> Evaluation:
    """Rank the split's targets. wordings: over how many instructions to average, where the model has several."""
    cases = cases_of(run.dataset, which)
    if run.folder.dataset["log"] != fingerprint(run.dataset)["log"]:
        raise DataError(f"dataset {run.dataset.name} has other interactions than {run.folder.path} was trained on, so "
                        "its test items may have been trained on: train again")  # fmt: skip

    def report(done: int, total: int) -> None:
        progress("evaluating", done, total, "")

    options: dict[str, Any] = {"k": k, "exclude_history": exclude_history, "progress": report}
    if not isinstance(run.recommender, Worded):
        return evaluate(run.recommender, cases, **options)
    if not 1 <= wordings <= len(run.recommender.wordings):
        raise ConfigError(f"{wordings} wordings, but the model has 1 to {len(run.recommender.wordings)}")
    asked = [(run.recommender.wordings[number], run.recommender.worded(number)) for number in range(wordings)]
    return evaluate_wordings(asked, cases, **options)


@dataclass(frozen=True)
class Item:
    """An item as people see it. title: its id where it has none."""

    item_id: str
    title: str


@dataclass(frozen=True)
class Answer:
    """Recommendations for one user beside the history they follow from. items, scores: best first."""

    history: list[Item]
    items: list[Item]
    scores: list[float]

    def as_dict(self) -> dict[str, Any]:
        ranked = enumerate(zip(self.items, self.scores, strict=True), start=1)
        return {
            "history": [asdict(item) for item in self.history],
            "recommendations": [{"rank": rank, **asdict(item), "score": score} for rank, (item, score) in ranked],
        }


def recommend(
    run: LoadedRun, *, user_id: str | None = None, item_ids: Sequence[str] | None = None, k: int = 10
) -> Answer:
    """The k best items for a user of the dataset after all they have taken, or for somebody unknown after a history."""
    dataset = run.dataset
    if (user_id is None) == (item_ids is None):
        raise ConfigError("give either a user or a history: --user ID or --history ID,ID,…")
    check_k(k, len(dataset.items))
    user = -1 if user_id is None else dataset.user_number(user_id)
    history = [dataset.item_number(item) for item in item_ids or ()] if user < 0 else dataset.histories[user].tolist()
    best = run.recommender.recommend(Histories.from_lists([history]), np.array([user], dtype=np.int64), k)
    shown = best.items[0] >= 0
    return Answer(
        items_of(dataset, history), items_of(dataset, best.items[0][shown].tolist()), best.scores[0][shown].tolist()
    )


def items_of(dataset: Dataset, numbers: Sequence[int]) -> list[Item]:
    """The items with these numbers."""
    rows = dataset.items.select("item_id", "title")[list(numbers)].iter_rows() if numbers else ()
    return [Item(item_id, title or item_id) for item_id, title in rows]


def split(dataset: Dataset) -> LeaveOneOut:
    return leave_one_out(dataset.histories, dataset.users["user_id"].to_list())


def cases_of(dataset: Dataset, which: str) -> Cases:
    parts = split(dataset)
    return parts.test if which == "test" else parts.valid


def reference(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """What a run keeps of its dataset: where it is, how large, and how to recognise it."""
    counts = {"users": len(dataset.users), "items": len(dataset.items), "interactions": len(dataset.interactions)}
    return {"path": str(folder.absolute()), "name": dataset.name, **counts, **fingerprint(dataset)}


def fingerprint(dataset: Dataset) -> dict[str, str]:
    """entities: which users and items have which number. log: who took what, in which order."""
    entities = hashlib.sha256()
    for ids in (dataset.users["user_id"], dataset.items["item_id"]):
        for name in ids:
            entities.update(f"{len(name)}:{name}".encode())
        entities.update(b"|")
    return {"entities": entities.hexdigest(), "log": dataset.histories.checksum()}


def its_dataset(folder: runs.RunFolder, elsewhere: Path | None = None) -> Dataset:
    """The dataset of a run, where it was at training or `elsewhere`; DataError where it is not the same one."""
    known: Mapping[str, Any] = folder.dataset
    path = elsewhere or Path(known["path"])
    try:
        dataset = Dataset.load(path)
    except Ed2Error as error:
        if elsewhere is not None:
            raise
        raise DataError(f"the dataset of {folder.path} cannot be loaded: {error} (moved? give --dataset DIR)") from None
    if known["entities"] != fingerprint(dataset)["entities"]:
        raise DataError(f"dataset {path} has other users or items than {known['name']}, on which {folder.path} was "
                        "trained: give the right one with --dataset DIR, or train again")  # fmt: skip
    return dataset
