"""One trainer for every learned baseline: batches, one loss, AdamW, and the state that validates best.

Walk of a batch: `Training` → `SequenceModel.supervised` (states, targets) → a loss over the whole catalogue or over
sampled negatives → AdamW. After each epoch all validation users are ranked; training stops when NDCG@10 has not risen
for `patience` epochs. Pre-training, where a model has it, has a row for every prefix of a history. Every random choice
of an epoch follows from the seed and its number, so a training that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ed2rec.baselines import losses
from ed2rec.baselines.contract import Loss
from ed2rec.baselines.learned import Learned
from ed2rec.baselines.sequences import Sequences, Training
from ed2rec.data.splits import GlobalTime, LeaveOneOut
from ed2rec.errors import DataError, RunError
from ed2rec.evaluation.metrics import reported
from ed2rec.files import replace_file
from ed2rec.runs import COMPLETE

Progress = Callable[[str, int, int, str], None]
Watch = Callable[[int, float], None]
"""Called with (epoch, validation NDCG@10); may raise to stop a training that a search has given up."""


@dataclass(frozen=True)
class Budget:
    """How a baseline is trained. loss None: the model's own; negatives None: the number of its paper.

    patience: epochs without a better validation NDCG@10 before training stops. pretraining: epochs of the model's
    pre-training, where it has one.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    loss: Loss | None
    negatives: int | None
    patience: int
    pretraining: int
    bf16: bool
    seed: int


@dataclass
class Course:
    """How far a training has come; what a checkpoint holds beside tensors."""

    epoch: int = 0
    best: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def goes_on(self, budget: Budget) -> bool:
        waited = self.epoch - max(self.best_epoch, budget.pretraining)
        return self.epoch < budget.pretraining + budget.epochs and waited < budget.patience


def train_baseline(
    learned: Learned,
    split: LeaveOneOut | GlobalTime,
    budget: Budget,
    *,
    workspace: Path,
    stamp: str,
    resume: bool = False,
    progress: Progress = lambda *_: None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Fit `learned.model` in place and leave it at its best state; returns what was measured.

    stamp: names the settings and the data; a checkpoint of others is refused. Raises RunError where there is nothing
    to resume or the model is no longer finite, DataError where nobody has two items to learn from.
    """
    model = learned.model
    rows = partial(Training, split.train, catalogue=learned.catalogue, longest=learned.longest, batch=budget.batch,
                   seed=budget.seed)  # fmt: skip
    data = rows(whole_rows=model.every_position)
    prefixes = rows(whole_rows=False) if budget.pretraining else data
    if not data.targets:
        raise DataError("no user has two training items, so there is no next item to learn from: prepare the dataset "
                        "with --k-core 4 or more, or give more data")  # fmt: skip
    steps = Steps(learned, split, budget)
    course, best = Course(), _copy(model)
    if resume:
        course, best = _restore(workspace, stamp, steps)
    elif workspace.exists():
        shutil.rmtree(workspace)
    while course.goes_on(budget):
        pretraining = course.epoch < budget.pretraining
        if course.epoch == budget.pretraining:
            steps.start()  # gradients of pre-training are far larger: its moments would hold the next stage back
        loss = steps.epoch(prefixes if pretraining else data, course.epoch, pretraining)
        row: dict[str, float] = {"epoch": course.epoch + 1, "loss": loss}
        _check_finite(row["loss"], model, course.epoch + 1, budget)
        course.epoch += 1
        note = f"loss {row['loss']:.3f}"
        if not pretraining:
            row |= {f"valid_{name}": value for name, value in reported(learned.ranks(split.valid)).items()}
            note += f"  valid NDCG@10 {row['valid_NDCG@10']:.4f}"
            if row["valid_NDCG@10"] > course.best:
                course.best, course.best_epoch, best = row["valid_NDCG@10"], course.epoch, _copy(model)
        course.history.append(row)
        if pretraining:
            progress("pre-training", course.epoch, budget.pretraining, note)
        else:
            progress("training", course.epoch - budget.pretraining, budget.epochs, note)
        _keep(workspace, stamp, course, best, steps)
        if watch is not None and not pretraining:
            watch(course.epoch, row["valid_NDCG@10"])
    model.load_state_dict(best)
    return {"best_epoch": course.best_epoch, "epochs": course.epoch, "targets_per_epoch": data.targets,
            "parameters": sum(p.numel() for p in model.parameters()), "valid_NDCG@10": course.best,
            "curve": course.history}  # fmt: skip


class Steps:
    """Optimiser and loss of one training."""

    def __init__(self, learned: Learned, split: LeaveOneOut | GlobalTime, budget: Budget):
        self.model, self.seed, self.half = learned.model, budget.seed, budget.bf16
        self.loss: Loss = budget.loss or self.model.own_loss
        self.negatives = budget.negatives or self.model.own_negatives
        self.sampler = None if self.loss == "softmax" else losses.Negatives(split.train, learned.catalogue)
        self.lr, self.weight_decay = budget.lr, budget.weight_decay
        self.start()

    def start(self) -> None:
        """A fresh AdamW."""
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True
        )

    def epoch(self, data: Training, number: int, pretraining: bool) -> float:
        """One pass over the targets; the mean loss of each, before its step.

        A step's loss is that of its targets over the targets of a mean step. Batches hold histories of about one
        length, so with a mean over each the targets of short histories would weigh several times those of long ones.
        """
        device = next(self.model.parameters()).device
        torch.manual_seed(self.seed * 1_000_003 + number)  # dropout
        draw = torch.Generator().manual_seed(self.seed * 100_003 + number)
        self.model.train()
        usual = data.targets / len(data)
        values = [self._take(batch.to(device), draw, pretraining, usual) for batch in data.epoch(number)]
        return float(torch.stack(values).mean())  # read back once: a GPU need not wait after every step

    def _take(self, batch: Sequences, draw: torch.Generator, pretraining: bool, usual: float) -> Tensor:
        if pretraining:
            value = self._pretraining(batch, draw)
        else:
            assert batch.targets is not None
            value = self._recommending(batch, draw) * ((batch.targets < batch.catalogue).sum() / usual)
        self.optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        return value.detach()

    def _pretraining(self, batch: Sequences, draw: torch.Generator) -> Tensor:
        with self._precision(batch.items.device.type):
            return self.model.pretraining_loss(batch, draw)

    def _recommending(self, batch: Sequences, draw: torch.Generator) -> Tensor:
        with self._precision(batch.items.device.type):
            states, targets, users = self.model.supervised(batch, draw)
        table, bias = self.model.output()
        if self.sampler is None:
            return losses.softmax(states, table, bias, targets)
        drawn = self.sampler.draw(users, self.negatives, draw)
        scores = losses.sampled_scores(states.float(), table, bias, torch.cat([targets[:, None], drawn], 1))
        return losses.SAMPLED[self.loss](scores[:, :1], scores[:, 1:])

    def _precision(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16) if self.half else nullcontext()


def _check_finite(loss: float, model: torch.nn.Module, epoch: int, budget: Budget) -> None:
    """The loss is that before each step, so the last step is looked for in the weights."""
    if not math.isfinite(loss):
        raise RunError(f"the loss of epoch {epoch} is {loss}: lower baseline.lr ({budget.lr:g})")
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise RunError(f"weights are no longer finite after epoch {epoch}: lower baseline.lr ({budget.lr:g})")


def _copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _keep(workspace: Path, stamp: str, course: Course, best: dict[str, Tensor], steps: Steps) -> None:
    """One file, replaced as a whole: weights now, weights at the best epoch, AdamW's moments, and the course."""
    tensors = {f"now.{name}": value.contiguous() for name, value in steps.model.state_dict().items()}
    tensors |= {f"best.{name}": value.contiguous() for name, value in best.items()}
    for number, state in steps.optimiser.state_dict()["state"].items():
        tensors |= {f"adamw.{number}.{name}": value.clone() for name, value in state.items()}
    folder = workspace / "checkpoint-last"
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / "state.safetensors") as file:
        save_file(tensors, file, {"stamp": stamp, "course": json.dumps(asdict(course))})
    (folder / COMPLETE).touch()


def _restore(workspace: Path, stamp: str, steps: Steps) -> tuple[Course, dict[str, Tensor]]:
    path = workspace / "checkpoint-last" / "state.safetensors"
    if not path.is_file():
        raise RunError(f"no complete checkpoint in {workspace}: train without --resume")
    try:
        with safe_open(path, "pt") as file:
            kept = file.metadata()
        tensors = load_file(path)
    except SafetensorError as error:
        raise RunError(f"the checkpoint in {workspace} is damaged ({error}): train without --resume") from None
    if kept["stamp"] != stamp:
        raise RunError(f"the checkpoint in {workspace} is of other settings or data: resume with the same ones, or "
                       "train without --resume")  # fmt: skip
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split(".", 1)
        if kind == "adamw":
            number, name = name.split(".", 1)
            moments.setdefault(int(number), {})[name] = value
        else:
            parts[kind][name] = value
    steps.model.load_state_dict(parts["now"])
    groups = steps.optimiser.state_dict()["param_groups"]
    steps.optimiser.load_state_dict({"state": moments, "param_groups": groups})
    return Course(**json.loads(kept["course"])), parts["best"]
