"""`ed2 tune`: one search for every model, ours and theirs, on one stated budget, judged by validation alone.

    FOLDER/search.yaml     what is searched: model, dataset, space, settings of the start
    FOLDER/trials.jsonl    one line a trial, written as it ends
    FOLDER/study           Optuna's journal of the same trials, for --resume and for Optuna's own tools
    FOLDER/best.yaml       the best settings as a preset, kept up to date

Trial 0 is the start (the model's preset, and what --preset and --config put on it), so that a search is never worse
than it. Each later one is what a tree-structured Parzen estimator asks for, never the same twice; it is given up where
its best validation NDCG@10 is below the median of those before it at the same point, but no baseline's before it has
had as many epochs as the best so far had in all: a small learning rate has the time that a large one had. What is drawn
follows from seed and number alone, so a search that was interrupted goes on as if it had not been, but for the trial
that it was in, which is tried again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ed2rec import runs, trials, workflow
from ed2rec.config import Settings, changed, check_model
from ed2rec.data.dataset import Dataset
from ed2rec.environment import launched
from ed2rec.errors import ConfigError, Ed2Error, RunError
from ed2rec.spaces import Range, Space, combinations, holding, value_of
from ed2rec.trials import Limit, Row, best_of, counted, decided, spent

RANDOM = 5
"""Trials that are drawn at random before the estimator, and as many to the end before any is given up."""


@dataclass(frozen=True)
class Search:
    """How a search ended. rows: as in trials.jsonl; best: one of them; exhausted: the whole grid was tried."""

    folder: Path
    rows: list[Row]
    best: Row
    exhausted: bool


class _OutOfTime(Exception):
    """The minutes are over in the middle of a trial."""


def tune(
    dataset_folder: Path,
    out: Path,
    start: Settings,
    space: Space,
    *,
    limit: Limit | None = None,
    resume: bool = False,
    command: str = "",
    progress: workflow.Progress = workflow.quiet,
) -> Search:
    """Search around `start`, whose own values are tried first.

    space: `spaces.space_of(start.model)`, or any other. command: how this was asked for, noted in best.yaml.
    ConfigError for a limit that allows nothing; RunError for a folder of something else, and where the minutes were
    over before the first validation. An error of the start's own trial is raised, that of a later one noted in its row.
    """
    limit = limit or Limit()
    limit.check()
    check_model(start.model)
    space = holding(space, start)
    if launched()[1] > 1:
        raise ConfigError(f"a search is made by one process, not by {launched()[1]}: start it without a launcher")
    _optuna()
    dataset, out = Dataset.load(Path(dataset_folder)), Path(out)
    fresh = trials.open_folder(out, trials.record(dataset, start, space), resume)
    search, exhausted = None, False
    try:
        search = _Searching(dataset, out, start, space, _study(out, start.model), progress)
        while not limit.over(search.rows):
            if not search.propose():
                exhausted = True
                break
            search.run(limit)
            progress("trials", counted(search.rows), limit.trials, f"{spent(search.rows):.0f} s")
            if best := best_of(search.rows):
                trials.write_best(out / trials.BEST, dataset.name, search.rows, best, start, space, command)
    except Exception as error:
        if not isinstance(error, Ed2Error) and not runs.disk_is_full(error):
            raise
        if fresh and not (search and search.rows):
            shutil.rmtree(out)
        if isinstance(error, Ed2Error):
            raise
        again = "go on with --resume" if out.exists() else "start again"
        raise RunError(f"no room for the search in {out}: free some space and {again}, or choose another --out"
                       ) from error  # fmt: skip
    if (best := best_of(search.rows)) is None:
        raise RunError(f"no trial in {out} came to a validation within {limit.minutes:g} minutes: give more --minutes "
                       "and --resume")  # fmt: skip
    return Search(out, search.rows, best, exhausted)


class _Searching:
    """The trials so far, and the next one."""

    def __init__(self, dataset: Dataset, out: Path, start: Settings, space: Space, study: Any,
                 progress: workflow.Progress) -> None:  # fmt: skip
        self.dataset, self.out, self.start, self.space = dataset, out, start, space
        self.study, self.progress = study, progress
        self.first = {key: value_of(start, key) for key in space}
        self.grid = combinations(space)
        self.rows = trials.read_rows(out / trials.TRIALS)
        self._settle()

    def propose(self) -> bool:
        """Put the next trial into the study's queue; False where the whole grid has been tried."""
        waiting = (_optuna().trial.TrialState.WAITING,)
        if self.study.get_trials(deepcopy=False, states=waiting):  # interrupted before it began
            return True
        done = decided(self.rows)
        again = [self.first, *(row["values"] for row in self.rows if row["state"] in ("cut", "interrupted"))]
        left = [values for values in again if values not in done and values.keys() == self.space.keys()]
        open_ = None if self.grid is None else [values for values in self.grid if values not in done]
        if open_ == []:
            return False
        self.study.enqueue_trial(left[0] if left else self._draw(done, open_))
        return True

    def _draw(self, done: list[Row], open_: list[Row] | None) -> Row:
        """What the estimator asks for after the decided trials, or one at random where it insists on what has been
        tried. Of one that was cut it is told nothing, so a search that is gone on with draws what it would have drawn.
        """
        optuna, seed = _optuna(), (self.start.seed * 100_003 + len(done)) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM)
        scratch = optuna.create_study(direction="maximize", sampler=sampler)
        told = {row["number"] for row in self.rows if row["state"] in trials.DECIDED}
        scratch.add_trials([trial for trial in self.study.get_trials(deepcopy=False) if trial.number in told])
        for _ in range(30):
            values = scratch.ask(_distributions(self.space)).params
            if values not in done:
                return values
        return open_[np.random.default_rng(seed).integers(len(open_))] if open_ else values

    def run(self, limit: Limit) -> None:
        """The trial in the queue: trained, measured, and written down before the study is told."""
        trial = self.study.ask(_distributions(self.space))
        settings, workspace = changed(self.start, trial.params), self.out / "training"
        watch = _Watch(trial, settings, self._grace(settings), limit.left(self.rows))
        row: Row = {"number": trial.number, "state": "complete", "values": trial.params}
        started = perf_counter()
        try:
            trained = workflow.fit(self.dataset, settings, workspace, False, self._named(trial.number, watch), watch)
            row |= trials.measured(trained, self.dataset, settings, workspace)
        except (_OutOfTime, _optuna().TrialPruned) as stop:
            row |= {"state": "cut" if isinstance(stop, _OutOfTime) else "pruned", **watch.reached()}
        except Ed2Error as error:
            if trial.params == self.first:
                raise
            row |= {"state": "failed", "valid": {}, "epochs": None, "error": " ".join(str(error).split())}
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
        self._add(row | {"seconds": round(perf_counter() - started, 3)})

    def _grace(self, settings: Settings) -> float:
        """Validations that a trial has before it may be given up: half of an ed2 training, whose length is set; of a
        baseline's, which stops by itself, all that the best one so far had. The first trial is never given up."""
        best = best_of(self.rows)
        if best is None or best["epochs"] is None:  # nothing to be held against, or a floor, which has no epochs
            return float("inf")
        if settings.model == "ed2":
            return settings.training.validations // 2
        return best["epochs"] - changed(self.start, best["values"]).pretraining

    def _named(self, number: int, watch: _Watch) -> workflow.Progress:
        def report(stage: str, done: int, total: int, note: str = "") -> None:
            self.progress(f"trial {number}: {stage}", done, total, note)
            watch.unheard()

        return report

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        trials.add_row(self.out / trials.TRIALS, row)
        self._tell(row)

    def _tell(self, row: Row) -> None:
        state = _optuna().trial.TrialState
        if row["state"] == "complete":
            self.study.tell(row["number"], row["valid"]["NDCG@10"])
        else:
            given_up = row["state"] in ("pruned", "cut")
            self.study.tell(row["number"], state=state.PRUNED if given_up else state.FAIL)

    def _settle(self) -> None:
        """After an interruption: what the study holds to be under way is told how it ended."""
        known = {row["number"]: row for row in self.rows}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state != _optuna().trial.TrialState.RUNNING:
                continue
            if trial.number in known:
                self._tell(known[trial.number])
            else:
                self._add({"number": trial.number, "state": "interrupted", "values": trial.params, "valid": {},
                           "epochs": None, "seconds": None})  # fmt: skip


class _Watch:
    """Told of every validation: remembers the best, stops a trial that is out of time or hopeless.

    Epochs of pre-training do not count, so that trials with more and with less of it are compared at the same point.
    """

    def __init__(self, trial: Any, settings: Settings, grace: float, seconds: float) -> None:
        self.trial, self.grace, self.until = trial, grace, perf_counter() + seconds
        self.before = settings.pretraining
        self.share = settings.training.epochs / max(settings.training.validations, 1) if settings.model == "ed2" else 1
        self.step, self.best = 0, -1.0

    def __call__(self, step: int, value: float) -> None:
        self.step, self.best = step, max(self.best, value)
        self.trial.report(self.best, step - self.before)
        if perf_counter() >= self.until:
            raise _OutOfTime
        if step - self.before >= self.grace and self.trial.should_prune():
            raise _optuna().TrialPruned

    def unheard(self) -> None:
        """Before the first validation the end of time has to be noticed elsewhere; afterwards it waits for one."""
        if not self.step and perf_counter() >= self.until:
            raise _OutOfTime

    def reached(self) -> Row:
        return {"valid": {"NDCG@10": self.best} if self.step else {}, "epochs": round(self.step * self.share, 3)}


def _study(out: Path, model: str) -> Any:
    optuna = _optuna()
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / trials.STUDY))),
        study_name=model, direction="maximize", load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=RANDOM),
    )  # fmt: skip


def _distributions(space: Space) -> dict[str, Any]:
    made = _optuna().distributions

    def of(values: Any) -> Any:
        if not isinstance(values, Range):
            return made.CategoricalDistribution(values)
        kind = made.IntDistribution if values.whole else made.FloatDistribution
        return kind(values.low, values.high, log=values.log)

    return {key: of(values) for key, values in space.items()}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("ed2 tune needs Optuna, which is not installed: pip install 'ed2rec[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
