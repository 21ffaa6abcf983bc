"""Joint training of LLM and index generators on transformers.Trainer (Eq. 11)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from ed2rec.indexers.contract import IndexTable
from ed2rec.instructions.examples import Batch
from ed2rec.instructions.packing import PackedBatches
from ed2rec.model import JointModel, Share
from ed2rec.runs import COMPLETE

WEIGHTS = "model.safetensors"


@dataclass
class JointArguments(TrainingArguments):
    """TrainingArguments, and what joint training adds.

    index_lr  learning rate of the index generators
    Defaults that differ: one process feeds itself (no workers), nothing is reported, plain AdamW with clipping at 1.
    Among several processes: generators have no gradient while the index rests, so DDP looks for unused parameters;
    buffers are told once and by every refresh, not at every step.
    """

    index_lr: float = field(default=1e-4)
    report_to: Any = "none"
    remove_unused_columns: bool = False
    dataloader_pin_memory: bool = False
    disable_tqdm: bool = True
    max_grad_norm: float = 1.0
    optim: Any = "adamw_torch"
    ddp_find_unused_parameters: bool | None = True
    ddp_broadcast_buffers: bool | None = False


class JointTrainer(Trainer):
    """Trainer over `PackedBatches`: named losses, two learning rates, and checkpoints that hold the index tables.

    tasks: names of the tasks that examples are numbered by; the logs have each one's loss per supervised token
    (`nll_NAME`), its share of all tokens, shown ones included (`share_NAME`), and how many these are (`tokens`).
    """

    args: JointArguments
    model: JointModel
    train_dataset: PackedBatches

    def __init__(
        self,
        model: JointModel,
        args: JointArguments,
        batches: PackedBatches,
        callbacks: list[Any],
        tasks: Sequence[str] = ("sequential",),
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=batches, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False
        self.sums: dict[str, float] = defaultdict(float)
        self.tasks = tasks
        self.by_task = torch.zeros(3, len(tasks), device=args.device)  # nll, supervised tokens, all tokens

    def get_train_dataloader(self) -> DataLoader:
        """Plain: a prefetching loader would make a batch before the refresh that it has to see."""
        batches = self.train_dataset
        return DataLoader(batches, batch_size=1, sampler=SequentialSampler(batches), collate_fn=_only)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.args.world_size > 1:
            rank, step = self.args.process_index, self.state.global_step
            self.model.share = Share(rank, self.args.world_size, hash((self.args.seed, step, rank)) % 2**63)
        batch = Batch(**inputs)
        out = model(batch)
        for name, value in out.losses.items():
            self.sums[name] += value.detach()
        self.sums["steps"] += 1
        self.sums["targets"] += out.targets
        counted = (out.task_nll, out.task_tokens, torch.bincount(batch.task[batch.segment > 0]))
        for row, found in zip(self.by_task, counted, strict=True):
            row[: len(found)] += found
        return (out.loss, out) if return_outputs else out.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if ("loss" in logs or "train_loss" in logs) and self.sums["steps"]:  # the latter ends a training
            steps = self.sums.pop("steps")
            logs["targets"] = self.sums.pop("targets")
            sums = dict(self.sums) if self.args.world_size == 1 else self.accelerator.reduce(dict(self.sums), "mean")
            logs |= {f"loss_{name}": float(total) / steps for name, total in sums.items()}
            self.sums.clear()
            if self.args.world_size > 1:  # all tokens are counted everywhere, supervised ones by rows
                self.by_task[:2] = self.accelerator.reduce(self.by_task[:2], "sum")
            logs["tokens"] = float(self.by_task[2].sum())
            for task, (nll, supervised, tokens) in zip(self.tasks, self.by_task.T.tolist(), strict=True):
                if tokens:
                    logs |= {f"nll_{task}": nll / max(1.0, supervised), f"share_{task}": tokens / logs["tokens"]}
            self.by_task.zero_()
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """No decay for vectors and for embedding and head, whose unused rows it would shrink; generators apart."""
        if self.optimizer is None:
            llm = self.model.llm
            embedding = {id(llm.get_input_embeddings().weight), id(llm.get_output_embeddings().weight)}
            groups: dict[str, list[nn.Parameter]] = {"matrices": [], "others": [], "index": []}
            for name, weight in self.model.named_parameters():
                if not weight.requires_grad:
                    continue
                if not name.startswith("llm."):
                    groups["index"].append(weight)
                else:
                    groups["others" if weight.ndim < 2 or id(weight) in embedding else "matrices"].append(weight)
            args = self.args
            rates = {"matrices": args.learning_rate, "others": args.learning_rate, "index": args.index_lr}
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": weights, "lr": rates[name], "weight_decay": args.weight_decay * (name == "matrices")}
                    for name, weights in groups.items()
                    if weights
                ],
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
                fused=True,  # a tenth of a small step less on a CPU
            )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_state(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_state(self.model, Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process writes its random state
        if self.args.should_save:
            (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()


def save_state(model: JointModel, folder: Path) -> None:
    """Weights and index tables of one moment."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))
    for branch in model.branches():
        branch.table.save(folder / f"{branch.kind}s.parquet", [str(number) for number in range(len(branch.codes))])


def load_state(model: JointModel, folder: Path) -> None:
    load_model(model, folder / WEIGHTS, strict=False)
    for branch in model.branches():
        branch.table = IndexTable.load(folder / f"{branch.kind}s.parquet")


def _only(batches: list[Batch]) -> dict[str, Tensor]:
    (batch,) = batches
    return batch._asdict()
