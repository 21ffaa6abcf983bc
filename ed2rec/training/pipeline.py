"""From a dataset to a trained ED²: the stages of the paper in order (§2.2), each with what it hands on.

texts → LLM → embeddings (Eq. 2) → generators warmed up (Eq. 3-5) → tables → vocabulary (Eq. 6)
      → joint training (Eq. 11)
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.integrations import get_available_reporting_integrations

from ed2rec.adaptation import compile_errors_explained, memory_errors_explained
from ed2rec.backbone import quiet_libraries
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.data.splits import Cases, leave_one_out
from ed2rec.errors import ConfigError, IndexCollapse
from ed2rec.evaluation.ranking import evaluate
from ed2rec.indexers.lsh import bits_of
from ed2rec.indexers.refresh import Churn
from ed2rec.instructions.neighbours import nearest
from ed2rec.instructions.packing import PackedBatches
from ed2rec.instructions.sequential import SequentialPlan
from ed2rec.instructions.tasks import Mixture
from ed2rec.model import Branch, JointModel
from ed2rec.runs import Trained
from ed2rec.settings import Settings
from ed2rec.training.branches import Progress, moves, surveyed
from ed2rec.training.callbacks import MoveIndex, Tell, Validate
from ed2rec.training.history import History
from ed2rec.training.joint import JointArguments, JointTrainer
from ed2rec.training.parts import Parts, build_parts, reads_of, recommender, write
from ed2rec.training.processes import Processes
from ed2rec.training.schedule import IndexSchedule, check_shares
from ed2rec.training.workspace import clear, go_on_from, record_of


@memory_errors_explained()
@compile_errors_explained()
def train_ed2(
    dataset: Dataset,
    settings: Settings,
    workspace: Path,
    resume: bool,
    progress: Progress,
    watch: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train on the training part of the dataset. workspace: folder of checkpoints; kept until the run is written.

    watch: told (number of the validation, its NDCG@10); may raise to stop (`ed2 tune`).
    """
    quiet_libraries()
    _check(settings)
    processes = Processes(settings.training.device)
    record = processes.tell(lambda: record_of(settings, dataset, processes.count))
    checkpoint = processes.tell(lambda: go_on_from(workspace, record)) if resume else None
    torch.manual_seed(settings.seed)
    split = leave_one_out(dataset.histories, dataset.users["user_id"].to_list())
    parts = build_parts(dataset, settings, progress if processes.first else _nothing)
    model, t = parts.model, settings.training
    _agree(model, processes)
    if checkpoint is None:  # from here on, and no earlier: all settings have turned out to be good
        processes.tell(lambda: clear(workspace, record))
    mixture = _mixture(split.train, parts, settings)
    batches = _batches(mixture, parts, settings)
    schedule = IndexSchedule.of(batches.steps, t.fixed_start, t.frozen_tail, t.refreshes if moves(settings) else 0)
    if moves(settings) and not schedule.refreshes:
        progress("training", 0, batches.steps, "too few steps for the index to move: it is static")
    reached = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    history = processes.tell(lambda: History(workspace / "history.jsonl", reached))
    log = history.add if processes.first else _nothing
    points = {round(batches.steps * (i + 1) / t.validations) for i in range(t.validations)} | {batches.steps}
    final = round((1 - t.frozen_tail) * batches.steps)  # the same for a static index, so that both choose alike
    before = [entry["valid"]["NDCG@10"] for entry in history.entries if "valid" in entry and entry["step"] >= final]
    measure = _measure(split.valid, parts, settings, processes)
    anew = _agreed(parts.anew, model, processes)
    floor = settings.indexer.min_perplexity
    callbacks = [
        MoveIndex(model, schedule, t.margin, t.max_share, settings.indexer.separate, log, floor, parts.reread, anew),
        Validate(model, measure, points, workspace, log, final, max(before, default=-1.0), watch),
        Tell(progress if processes.first else _nothing, log),
    ]
    arguments = _arguments(settings, workspace, batches.steps, model)
    trainer = JointTrainer(model, arguments, batches, callbacks, mixture.names)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except IndexCollapse:  # it would collapse again from any of these checkpoints
        shutil.rmtree(workspace, ignore_errors=True)
        raise
    parts.facts["generators"]["end"] = surveyed(model)
    metrics = {"facts": parts.facts, "history": history.entries, "steps": batches.steps}
    return Trained(metrics, lambda folder: write(folder, dataset, parts))


def _mixture(train: Histories, parts: Parts, settings: Settings) -> Mixture:
    """Every task's examples: the histories, the walks of the similarity task, and the tasks of words."""
    model, t = parts.model, settings.training
    plan = SequentialPlan(
        train,
        parts.asked,
        user_reads=reads_of(train.lengths, settings) if settings.indexer.user_reads == "half" else None,
        has_users=model.users is not None,
        max_history=settings.data.max_history,
        user_dropout=t.user_dropout,
        dense=t.dense,
        neighbours=nearest(model.items.embeddings, known=_known(model.items)) if t.neighbours else None,
        walks=t.neighbours,
    )
    return Mixture(plan, parts.tasks, settings.tasks.share, model.index_tokens().lengths())


def _batches(mixture: Mixture, parts: Parts, settings: Settings) -> PackedBatches:
    """As many of them as the epochs have."""
    t = settings.training
    index, pad = parts.model.index_tokens, parts.tokenizer.pad_token_id or 0
    ahead = parts.model.items.embeddings.device.type != "cpu"  # where it would take from the computing itself
    batches = PackedBatches(mixture, index, pad, t.batch_tokens, t.pack, settings.seed, ahead)
    batches.steps = max(1, round(t.epochs * batches.steps_per_epoch))
    return batches


def _measure(valid: Cases, parts: Parts, settings: Settings, processes: Processes) -> Callable[[], dict[str, float]]:
    """Metrics of the first `training.validation_users` cases, of which every process ranks its part."""
    cases = valid.take(np.arange(min(settings.training.validation_users, len(valid))))
    mine = cases.take(np.arange(processes.rank, len(cases), processes.count))

    def measure() -> dict[str, float]:
        found = evaluate(recommender(parts, settings), mine, k=10).metrics if len(mine) else {}
        return processes.mean(found, len(mine))

    return measure


def _check(settings: Settings) -> None:
    """ConfigError for settings that cannot go together, before minutes of encoding and warming up."""
    t = settings.training
    if t.dense and t.instruction == "question":
        raise ConfigError("training.instruction=question asks behind the history: set training.dense=false as well")
    if settings.tasks.use and not isinstance(settings.tasks.use, str) and not settings.tasks.share:
        raise ConfigError(f"tasks.use names {', '.join(settings.tasks.use)}, but tasks.share=0 leaves them no tokens: "
                          "raise the share (at most 0.5), or name no task (tasks.use=auto)")  # fmt: skip
    if settings.indexer.kind == "lsh":
        for sizes in filter(None, (settings.indexer.items, settings.indexer.users)):
            bits_of(sizes)
    if moves(settings):
        check_shares(t.fixed_start, t.frozen_tail)
    _check_trackers(t.report_to)


def _check_trackers(names: Sequence[str]) -> None:
    """Trainer itself would refuse them after the warm-up."""
    installed = get_available_reporting_integrations()
    if missing := [name for name in names if name not in installed]:
        raise ConfigError(
            f"training.report_to names {', '.join(missing)}, which is unknown or not installed; "
            f"here there is: {', '.join(installed) or 'none'}; install its package or leave it out"
        )


def _nothing(*_: Any) -> None:
    """What every process but the first does where the first one writes or speaks."""


def _agree(model: JointModel, processes: Processes) -> None:
    """The first process's embeddings and tables everywhere: two GPUs may round differently."""
    for branch in model.branches():
        branch.embeddings, branch.teacher = processes.same(branch.embeddings), processes.same(branch.teacher)
        branch.table = processes.tell(lambda table=branch.table: table)  # type: ignore[misc]


def _agreed(anew: Callable[[], Churn] | None, model: JointModel, processes: Processes) -> Callable[[], Churn] | None:
    """The index made anew in every process, ending in what the first one has: tables, generator and the LLM's rows."""
    if anew is None or processes.count == 1:
        return anew

    def made() -> Churn:
        churn = anew()
        _agree(model, processes)
        rows = (model.llm.get_input_embeddings().weight, model.llm.get_output_embeddings().weight)
        for weight in (*model.items.indexer.parameters(), *rows):
            weight.data.copy_(processes.same(weight.data))
        return churn

    return made


def _known(branch: Branch) -> np.ndarray:
    return (branch.teacher.abs().sum(1) > 0).cpu().numpy()


def _arguments(settings: Settings, workspace: Path, steps: int, model: JointModel) -> JointArguments:
    t = settings.training
    logging = max(1, steps // 100)
    saving = -(-steps // max(1, t.checkpoints))
    arguments = JointArguments(
        output_dir=str(workspace),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=t.lr,
        index_lr=settings.indexer.lr,
        weight_decay=t.weight_decay,
        adam_beta2=0.98,
        warmup_steps=max(1, round(t.warmup_ratio * steps)),
        lr_scheduler_type="cosine",
        logging_steps=logging,
        save_strategy="steps" if t.checkpoints else "no",
        save_steps=-(-saving // logging) * logging,  # right after a log entry: its sums are not in a checkpoint
        save_total_limit=2,
        seed=settings.seed,
        report_to=list(t.report_to) or "none",
        use_cpu=next(model.parameters()).device.type == "cpu",
    )
    if arguments.n_gpu > 1:  # Trainer would put a lone process on all GPUs by DataParallel, which cannot split a Batch
        arguments._n_gpu = 1
    return arguments
