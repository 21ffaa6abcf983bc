"""What the verbs of the command line do, as functions: from a dataset folder to a run, from a run to its metrics.

ED² and the baselines (`baselines.build`) meet here: how each is fitted, and how it is loaded. What a loaded run says
to people is in `answers`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from ed2rec import runs
from ed2rec.baseline_settings import FLOORS, LEARNED
from ed2rec.config import MODELS, Settings, check_model
from ed2rec.data.dataset import Dataset
from ed2rec.data.splits import Cases, GlobalTime, LeaveOneOut, global_time, leave_one_out, times_of
from ed2rec.ensemble import Ensemble
from ed2rec.environment import launched
from ed2rec.errors import ConfigError, DataError, Ed2Error, RunError
from ed2rec.evaluation.ranking import Evaluation, evaluate, evaluate_wordings
from ed2rec.recommender import Recommender

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, of how many, a note such as a loss)."""
Watch = Callable[[int, float], None]
"""Called with (epoch, for ed2 the number of the validation; validation NDCG@10); may raise to stop the training."""


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
    check_model(settings.model)
    rank, processes = launched()
    if processes > 1 and settings.model != "ed2":
        raise ConfigError(f"{settings.model} is fitted by one process, not by {processes}: start it without a launcher")
    dataset_folder, out = Path(dataset_folder), Path(out)
    if rank == 0:
        runs.check_target(out)
    dataset = Dataset.load(dataset_folder)
    workspace = runs.workspace(out)
    try:
        trained = fit(dataset, settings, workspace, resume, progress)
    except Exception as error:
        left = runs.complete_checkpoints(workspace)
        if not left and rank == 0:  # nothing to go on from; another process may still be writing
            shutil.rmtree(workspace, ignore_errors=True)
        if isinstance(error, Ed2Error) or not runs.disk_is_full(error):
            raise
        again = "go on with --resume" if left else "train again"
        raise RunError(f"no room for the checkpoints of {out} in {workspace}: free some space and {again}, or choose "
                       "another --out; a run that was there is unchanged") from error  # fmt: skip
    if rank == 0:
        runs.save(out, settings, trained.metrics, trained.write, reference(dataset_folder, dataset, settings.split))
        shutil.rmtree(workspace, ignore_errors=True)  # checkpoints, needed until here
    if processes > 1:
        from ed2rec.training.processes import Processes

        Processes(settings.training.device).wait()
    return runs.open_run(out)


def told(run: runs.RunFolder) -> list[str]:
    """What is to be known of an ed2 run besides its metrics, a line each; nothing of others."""
    facts = run.metrics.get("facts", {})
    textless = [f"{facts[key]:,} {key}" for key in ("items without text", "users without text") if facts.get(key)]
    stand = [f"{' and '.join(textless)} stand at the mean of the others"] if textless else []
    return [line for line in (cut_told(run), *stand, *tasks_told(run), static_told(run)) if line]


def cut_told(run: runs.RunFolder) -> str:
    """That a pretrained LLM was cut, which presets made for `tiny` do by their size of it; "" for other runs."""
    b = run.settings.backbone
    if run.model != "ed2" or b.name == "tiny" or b.layers is None:
        return ""
    return (f"of {b.name} the first {b.layers} layers were kept (backbone.layers); "
            "--set backbone.layers=null keeps all")  # fmt: skip


def tasks_told(run: runs.RunFolder) -> list[str]:
    """Which share of the tokens each task of an ed2 run had, and which tasks were off and why; nothing of others."""
    entries = [entry for entry in run.metrics.get("history", []) if "share_sequential" in entry]
    keys = dict.fromkeys(key for entry in entries for key in entry if key.startswith("share_"))
    counted = all("tokens" in entry for entry in entries)  # older versions did not say how many there were
    tokens = np.array([entry["tokens"] if counted else 1.0 for entry in entries])
    shares = {key: np.array([entry.get(key, 0.0) for entry in entries]) @ tokens / tokens.sum() for key in keys}
    said = [f"{key.removeprefix('share_')} {100 * share:.1f} %" for key, share in shares.items()]
    tasks = run.metrics.get("facts", {}).get("tasks", {})
    lines = [f"shares of the tokens: {', '.join(said)}"] if said else []
    if without := [name for name in tasks.get("on", {}) if said and f"share_{name}" not in keys]:
        lines.append(
            f"no room for {', '.join(without)}: what needs them is untrained; raise tasks.share or training.epochs"
        )
    return lines + [f"task {name} is off: {reason}" for name, reason in tasks.get("off", {}).items()]


def static_told(run: runs.RunFolder) -> str:
    """That the index of an ed2 run never moved where its settings ask it to, for want of steps; "" for other runs."""
    if run.model != "ed2":
        return ""
    from ed2rec.training.branches import moves

    if not moves(run.settings) or any("churn" in entry for entry in run.metrics.get("history", [])):
        return ""
    steps = run.metrics.get("steps", 0)
    return (f"the index is static: too few steps ({steps}) for it to move; raise training.epochs, or set "
            "training.refreshes=0 where that is meant")  # fmt: skip


def fit(
    dataset: Dataset, settings: Settings, workspace: Path, resume: bool, progress: Progress, watch: Watch | None = None
) -> runs.Trained:
    """The chosen model, trained. Imports only what that model needs: a baseline starts without an LLM library."""
    if settings.split != "leave-one-out" and settings.model == "ed2":
        raise ConfigError("split=global-time is for the baselines: what ed2 reads of users is cut by leave-one-out")
    if settings.model == "ed2":
        from ed2rec.training.pipeline import train_ed2

        return train_ed2(dataset, settings, workspace, resume, progress, watch)
    from ed2rec.baselines.build import fit_baseline

    parts = split(dataset, settings)
    return fit_baseline(dataset, parts, settings, workspace, resume=resume, progress=progress, watch=watch)


def load(run: Path, dataset_folder: Path | None = None) -> LoadedRun:
    """Open a run and its dataset, where it was at training or at `dataset_folder` if it has moved since."""
    folder = runs.open_run(run)
    dataset = its_dataset(folder, dataset_folder)
    model = folder.model
    if model == "ed2":
        from ed2rec.generative import load_generative

        return LoadedRun(folder, dataset, load_generative(folder.path, folder.settings, dataset))
    if model in (*LEARNED, *FLOORS):
        from ed2rec.baselines.build import load_baseline

        parts = split(dataset, folder.settings)
        return LoadedRun(folder, dataset, load_baseline(folder.path, folder.settings, dataset, parts))
    raise RunError(f"{folder.path} is a {model!r} run, which this version does not know; it knows {', '.join(MODELS)}")


def evaluate_run(
    run: LoadedRun,
    which: Literal["test", "valid"] = "test",
    *,
    k: int = 10,
    wordings: int = 1,
    ensemble: int | None = None,
    exclude_history: bool = False,
    progress: Progress = quiet,
) -> Evaluation:
    """Rank the split's targets.

    wordings: over the metrics of how many instructions to average, where the model has several. ensemble: instead,
    rank once by the mean probability over so many instructions (`asking_all`).
    """
    if ensemble is not None and wordings > 1:
        raise ConfigError(
            "choose either --wordings (the mean of their metrics) or --ensemble (the metrics of their mean)"
        )
    if wordings != 1 and not isinstance(run.recommender, Worded):
        raise ConfigError(f"{run.folder.model} asks in no wordings, so there are no {wordings} to average over: leave "
                          "--wordings out")  # fmt: skip
    cases = cases_of(run, which)
    known, found = run.folder.dataset, fingerprint(run.dataset, run.folder.settings.split)
    # A run by time that is older than the fingerprint of times has none to compare.
    if any(known.get(part, value) != value for part, value in found.items()):
        raise DataError(f"dataset {run.dataset.name} has other interactions than {run.folder.path} was trained on, so "
                        "its test items may have been trained on: train again")  # fmt: skip

    def report(done: int, total: int) -> None:
        progress("evaluating", done, total, "")

    options: dict[str, Any] = {"k": k, "exclude_history": exclude_history, "progress": report}
    if ensemble is not None:
        return evaluate(asking_all(run, ensemble), cases, **options)
    if not isinstance(run.recommender, Worded):
        return evaluate(run.recommender, cases, **options)
    return evaluate_wordings(_asked(run.recommender, wordings), cases, **options)


def metrics_row(
    run: LoadedRun, which: str, result: Evaluation, *, ensemble: int | None = None, exclude_history: bool = False
) -> dict[str, Any]:
    """The JSON object of `ed2 evaluate`, with what is not the usual protocol (`conditions`)."""
    row = result.row(run.dataset.name, which, run.folder.model)
    if (split := run.folder.settings.split) != "leave-one-out":
        row["protocol"] = split
    if exclude_history:
        row["exclude_history"] = True
    if ensemble is not None:
        row["ensemble"] = ensemble
    return row


def asking_all(run: LoadedRun, count: int) -> Ensemble:
    """The run's model asked in its first `count` wordings, ranking by their mean probability. ConfigError for a model
    that has none, or not so many."""
    if not isinstance(run.recommender, Worded):
        raise ConfigError(f"{run.folder.model} asks in no wordings, so there is no ensemble of them: leave it out")
    members = [recommender for _, recommender in _asked(run.recommender, count)]
    return Ensemble(members, depth=run.folder.settings.decoding.beam)


def _asked(recommender: Worded, count: int) -> list[tuple[str, Recommender]]:
    """The first `count` wordings, and the recommenders that ask in them."""
    if not 1 <= count <= len(recommender.wordings):
        raise ConfigError(f"{count} wordings, but the model has 1 to {len(recommender.wordings)}")
    return [(recommender.wordings[number], recommender.worded(number)) for number in range(count)]


def split(dataset: Dataset, settings: Settings) -> LeaveOneOut | GlobalTime:
    """What is trained on, what is asked in validation and in the test."""
    if settings.split == "global-time":
        return global_time(dataset.histories, times_of(dataset))
    return leave_one_out(dataset.histories, dataset.users["user_id"].to_list())


def cases_of(run: LoadedRun, which: str) -> Cases:
    parts = split(run.dataset, run.folder.settings)
    return parts.test if which == "test" else parts.valid


def reference(folder: Path, dataset: Dataset, split: str = "leave-one-out") -> dict[str, Any]:
    """What a run keeps of its dataset: where it is, how large, and how to recognise it. split: the setting."""
    place = {"path": str(folder.absolute()), "name": dataset.name}
    return {**place, **dataset.counts(), **fingerprint(dataset, split)}


def fingerprint(dataset: Dataset, split: str = "leave-one-out") -> dict[str, str]:
    """entities: which users and items have which number; and `Dataset.log_checksums`."""
    entities = hashlib.sha256()
    for ids in (dataset.users["user_id"], dataset.items["item_id"]):
        for name in ids:
            entities.update(f"{len(name)}:{name}".encode())
        entities.update(b"|")
    return {"entities": entities.hexdigest(), **dataset.log_checksums(split)}


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
