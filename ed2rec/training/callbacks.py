"""What happens between steps: the index moves, the validation NDCG is measured, progress is told."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ed2rec.indexers.health import check_use, survey
from ed2rec.indexers.refresh import Churn, refresh
from ed2rec.model import Branch, JointModel
from ed2rec.training.joint import load_state, save_state
from ed2rec.training.schedule import IndexSchedule

Log = Callable[[dict[str, Any]], None]


class MoveIndex(TrainerCallback):
    """Starts, refreshes and freezes the index as the schedule says; logs churn and generator of every refresh.

    margin     in logits: how much better another code has to be
    max_share  of the entities may move in the first refresh; it falls linearly to a third of that in the last one
    floor      of the use of a generator's codes, below which training stops (`health.check_use`)
    reread     called before every refresh: brings the branches' embeddings up to date with the LLM
    anew       called where the index begins to move: makes the items' index anew (`Reindex`)
    """

    def __init__(
        self,
        model: JointModel,
        schedule: IndexSchedule,
        margin: float,
        max_share: float,
        separate: bool,
        log: Log,
        floor: float = 0.0,
        reread: Callable[[], None] | None = None,
        anew: Callable[[], Churn] | None = None,
    ) -> None:
        self.model, self.schedule, self.margin, self.max_share = model, schedule, margin, max_share
        self.separate, self.log, self.floor = separate, log, floor
        self.reread, self.anew = reread, anew

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._set(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = state.global_step
        if step == self.schedule.warm and self.anew is not None:
            self._tell(step, self.model.items, self.anew())
        if step in self.schedule.refreshes:
            self._refresh(step)
        self._set(step)

    def _set(self, step: int) -> None:
        self.model.moving = self.schedule.moving(step)
        if step >= self.schedule.freeze:
            self.model.freeze_index()

    def _refresh(self, step: int) -> None:
        place = self.schedule.refreshes.index(step) / max(1, len(self.schedule.refreshes) - 1)
        share = self.max_share * (1 - 2 / 3 * place)
        if self.reread is not None:
            self.reread()
        for branch in self.model.branches():
            table, churn = refresh(
                branch.indexer,
                branch.embeddings,
                branch.table,
                margin=self.margin,
                max_share=share,
                separate=self.separate,
                limit=self.model.vocabulary.suffixes(branch.kind),
            )
            (branch.table,) = broadcast_object_list([table])  # several processes: the first one's, should they differ
            self._tell(step, branch, churn)

    def _tell(self, step: int, branch: Branch, churn: Churn) -> None:
        """Log what moved, and stop where the indexer by itself has collapsed."""
        found = survey(branch.indexer, branch.embeddings)
        check_use(found, self.floor, branch.kind, f"at step {step}")
        entry = {"churn": asdict(churn), "perplexity": branch.table.health.perplexity, "generator": found.as_dict()}
        self.log({"step": step, "kind": branch.kind, **entry})


class Validate(TrainerCallback):
    """Measures the validation NDCG@10 at the given steps and keeps the best state, weights and tables together.

    Only states from step `final` on, whose index no longer moves, can be the best one: an earlier one was never
    trained to its end. best: what was the best before a training that is resumed. watch: told (number of the
    measurement, from 1; NDCG@10) after each; may raise to stop.
    """

    def __init__(
        self,
        model: JointModel,
        measure: Callable[[], dict[str, float]],
        steps: set[int],
        workspace: Path,
        log: Log,
        final: int,
        best: float = -1.0,
        watch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.watch = watch
        self.model, self.measure, self.steps, self.folder = model, measure, steps, workspace / "best"
        self.log, self.final, self.best = log, final, best

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step not in self.steps:
            return
        with torch.random.fork_rng():
            metrics = self.measure()
        self.log({"step": state.global_step, "valid": metrics})
        if state.global_step >= self.final and metrics["NDCG@10"] > self.best:
            self.best = metrics["NDCG@10"]
            if state.is_world_process_zero:
                self._keep()
        if self.watch is not None:
            self.watch(sorted(self.steps).index(state.global_step) + 1, metrics["NDCG@10"])

    def _keep(self) -> None:
        partial = self.folder.with_name("best.part")
        shutil.rmtree(partial, ignore_errors=True)
        save_state(self.model, partial)
        shutil.rmtree(self.folder, ignore_errors=True)
        partial.rename(self.folder)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        args.distributed_state.wait_for_everyone()  # type: ignore[union-attr]  # the first process may still be writing
        if self.folder.exists():
            load_state(self.model, self.folder)


class Tell(TrainerCallback):
    """Passes the step and the recent loss on to a progress report, and Trainer's logs on to the history."""

    def __init__(self, progress: Callable[[str, int, int, str], None], log: Log) -> None:
        self.progress, self.log, self.note = progress, log, ""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress("training", state.global_step, state.max_steps, self.note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss_llm" in logs:
            self.note = f"loss {logs['loss_llm']:.2f}"
            ours = {name: value for name, value in logs.items() if not name.startswith(("epoch", "total_", "train_"))}
            self.log({"step": state.global_step, **ours})
