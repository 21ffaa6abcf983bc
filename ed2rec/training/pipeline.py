"""From a dataset to a trained ED²: the stages of the paper in order (§2.2), each with what it hands on.

texts → LLM → embeddings (Eq. 2) → generators warmed up (Eq. 3-5) → tables → vocabulary (Eq. 6)
      → joint training (Eq. 11)
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.integrations import get_available_reporting_integrations

from ed2rec.adaptation import add_lora, check_targets, keep_less, memory_errors_explained, merge_lora
from ed2rec.backbone import build_tiny, load_backbone, prune_vocabulary, quiet_libraries, untie
from ed2rec.data.dataset import Dataset
from ed2rec.data.splits import Cases, leave_one_out
from ed2rec.data.texts import item_texts, user_texts
from ed2rec.decoding import head_is_plain
from ed2rec.encoding import Whitening, encode_texts
from ed2rec.errors import BackboneError, ConfigError, RunError
from ed2rec.evaluation.ranking import evaluate
from ed2rec.generative import GenerativeRecommender, choose_device, computing_type, save_wordings
from ed2rec.indexers.behaviour import Behaviour
from ed2rec.indexers.contract import IndexTable
from ed2rec.indexers.fitting import fit
from ed2rec.indexers.health import check_use, survey
from ed2rec.indexers.lsh import RandomHyperplanes, bits_of
from ed2rec.indexers.refresh import Churn, build
from ed2rec.indexers.variational import VariationalQuantiser
from ed2rec.instructions.neighbours import nearest
from ed2rec.instructions.packing import PackedBatches
from ed2rec.instructions.sequential import SequentialPlan
from ed2rec.instructions.tasks import Mixture, Task
from ed2rec.instructions.templates import (
    HISTORY_FIRST,
    INSTRUCTIONS,
    QUESTION,
    SEQUENTIAL,
    WORDINGS,
    Wording,
    read_wordings,
    wordings,
)
from ed2rec.model import Branch, JointModel
from ed2rec.regulator import Regulator
from ed2rec.runs import Trained
from ed2rec.settings import Settings
from ed2rec.training.assignments import build_tasks, gather
from ed2rec.training.callbacks import MoveIndex, Tell, Validate
from ed2rec.training.history import History
from ed2rec.training.joint import JointArguments, JointTrainer, last_checkpoint
from ed2rec.training.processes import Processes
from ed2rec.training.reindex import Reindex
from ed2rec.training.rows import start_rows
from ed2rec.training.schedule import IndexSchedule
from ed2rec.vocabulary import IndexVocabulary, Kind

Progress = Callable[[str, int, int, str], None]
SUFFIXES = 64  # suffix tokens per kind: entities that may share their M codes


class Encoded(NamedTuple):
    """What one kind of entity brings: texts (for the record), raw LLM embeddings, and the same whitened."""

    raw: np.ndarray  # (K, H), zero rows without text
    whitening: Whitening
    embeddings: Tensor  # (K, E), fallback rows filled in
    without_text: int


@dataclass(frozen=True)
class Parts:
    """Everything that training needs, built."""

    tokenizer: PreTrainedTokenizerFast
    model: JointModel
    spoken: Mapping[str, Sequence[str]]  # the wordings by task, "sequential" first
    asked: list[Wording]
    tasks: list[Task]
    serving_users: Callable[[], IndexTable | None]  # the users' table for recommending, made from all they may show
    reread: Callable[[], None] | None  # brings what the indexers read up to date with the LLM
    anew: Callable[[], Churn] | None  # makes the items' index anew, from texts and behaviour
    facts: dict[str, Any]
    whitenings: dict[Kind, Whitening]


@memory_errors_explained()
def train_ed2(dataset: Dataset, settings: Settings, workspace: Path, resume: bool, progress: Progress) -> Trained:
    """Train on the training part of the dataset. workspace: folder of checkpoints; kept until the run is written."""
    quiet_libraries()
    if settings.training.dense and settings.training.instruction == "question":
        raise ConfigError("training.instruction=question asks behind the history: set training.dense=false as well")
    if settings.indexer.kind == "lsh":  # found out before minutes of encoding
        for sizes in filter(None, (settings.indexer.items, settings.indexer.users)):
            bits_of(sizes)
    _check_trackers(settings.training.report_to)
    processes = Processes(settings.training.device)
    checkpoint = processes.tell(lambda: _prepare(workspace, settings, dataset, resume, processes.count))
    torch.manual_seed(settings.seed)
    split = leave_one_out(dataset.histories, dataset.users["user_id"].to_list())
    parts = build_parts(dataset, settings, progress if processes.first else _nothing)
    model, t = parts.model, settings.training
    _agree(model, processes)
    plan = SequentialPlan(
        split.train,
        parts.asked,
        user_reads=_reads(split.train.lengths, settings) if settings.indexer.user_reads == "half" else None,
        has_users=model.users is not None,
        max_history=settings.data.max_history,
        user_dropout=t.user_dropout,
        dense=t.dense,
        neighbours=nearest(model.items.embeddings, known=_known(model.items)) if t.neighbours else None,
        walks=t.neighbours,
    )
    mixture = Mixture(plan, parts.tasks, settings.tasks.share, model.index_tokens().lengths())
    batches = PackedBatches(
        mixture, model.index_tokens, parts.tokenizer.pad_token_id or 0, t.batch_tokens, t.pack, settings.seed
    )
    batches.steps = max(1, round(t.epochs * batches.steps_per_epoch))
    schedule = IndexSchedule.of(batches.steps, t.fixed_start, t.frozen_tail, t.refreshes)
    reached = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    history = processes.tell(lambda: History(workspace / "history.jsonl", reached))
    log = history.add if processes.first else _nothing
    cases = _some(split.valid, t.validation_users)

    def measure() -> dict[str, float]:
        mine = _every(cases, processes.rank, processes.count)
        found = evaluate(recommender(parts, settings), mine, k=10).metrics if len(mine) else {}
        return processes.mean(found, len(mine))

    points = {round(batches.steps * (i + 1) / t.validations) for i in range(t.validations)} | {batches.steps}
    final = round((1 - t.frozen_tail) * batches.steps)  # the same for a static index, so that both choose alike
    before = [entry["valid"]["NDCG@10"] for entry in history.entries if "valid" in entry and entry["step"] >= final]
    trainer = JointTrainer(
        model,
        _arguments(settings, workspace, batches.steps, model),
        batches,
        [
            MoveIndex(
                model,
                schedule,
                t.margin,
                t.max_share,
                settings.indexer.separate,
                SUFFIXES,
                log,
                settings.indexer.min_perplexity,
                parts.reread,
                _agreed(parts.anew, model, processes),
            ),
            Validate(model, measure, points, workspace, log, final, max(before, default=-1.0)),
            Tell(progress if processes.first else _nothing, log),
        ],
        mixture.names,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    parts.facts["generators"]["end"] = _surveyed(model)
    metrics = {"facts": parts.facts, "history": history.entries, "steps": batches.steps}
    return Trained(metrics, lambda folder: write(folder, dataset, parts))


def _check_trackers(names: Sequence[str]) -> None:
    """Before any work: Trainer would refuse them after the warm-up."""
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


def _prepare(workspace: Path, settings: Settings, dataset: Dataset, resume: bool, processes: int) -> Path | None:
    """An empty workspace that knows its settings and its log, or the checkpoint to go on from."""
    record = workspace / "settings.yaml"
    content = f"{settings.to_yaml()}# log {dataset.histories.checksum()}\n# processes {processes}\n"
    if not resume:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        record.write_text(content)
        return None
    checkpoint = last_checkpoint(workspace)
    if record.exists() and record.read_text() != content:
        old, new = record.read_text().splitlines(), content.splitlines()
        was, now = next((pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]), ("", ""))
        raise RunError(
            "the interrupted training had other settings, another log or another number of processes "
            f"({was.strip()!r}, now {now.strip()!r}): resume with the same ones, or train without --resume"
        )
    return checkpoint


def build_parts(dataset: Dataset, settings: Settings, progress: Progress) -> Parts:
    """Backbone, embeddings, warmed-up generators, tables, extended vocabulary."""
    device = choose_device(settings.training.device)
    split = leave_one_out(dataset.histories, dataset.users["user_id"].to_list())
    items = item_texts(dataset, settings.data.max_characters)
    users: list[str] = []
    early: list[str] = []
    if settings.indexer.users:
        users = user_texts(dataset, split.train.lengths, settings.data.max_characters)
        early = user_texts(dataset, _reads(split.train.lengths, settings), settings.data.max_characters)
    known = _reads(split.train.lengths, settings) if settings.indexer.user_reads == "half" else None
    material = gather(dataset, split.train, settings.tasks.use if settings.tasks.share else (),
                      users=bool(users), reads=known, substitutes=settings.tasks.substitutes)  # fmt: skip
    spoken = WORDINGS | (read_wordings(Path(settings.tasks.prompts)) if settings.tasks.prompts else {})
    progress("backbone", 0, 1, settings.backbone.name)
    said = [HISTORY_FIRST, *(text for task in material.rows for text in spoken[task])]
    tokenizer, llm = _backbone(settings, [*items, *users, *SEQUENTIAL, *QUESTION, *said, *material.texts()])
    if settings.backbone.lora_rank:
        check_targets(llm, settings.backbone.lora_targets)  # before the texts are encoded
    tasks = build_tasks(material, tokenizer, spoken, split.train, len(items),
                        max_tokens=settings.tasks.max_tokens, max_history=settings.data.max_history)  # fmt: skip
    llm.to(device)  # type: ignore[arg-type]
    item_side = _encode(items, llm, tokenizer, settings, "items", progress)
    facts: dict[str, Any] = {"items without text": item_side.without_text, "tasks": material.facts()}
    branches: dict[Kind, Branch] = {"item": _branch("item", item_side, settings, progress)}
    whitenings: dict[Kind, Whitening] = {"item": item_side.whitening}
    if users:
        both = _encode([*users, *early], llm, tokenizer, settings, "users", progress)
        count = len(users)
        training = Encoded(both.raw[count:], both.whitening, both.embeddings[count:], 0)
        facts["users without text"] = sum(not text for text in users)
        branches["user"] = _branch("user", training, settings, progress, both.embeddings, both.embeddings[:count])
        whitenings["user"] = both.whitening
    vocabulary = IndexVocabulary(
        len(tokenizer), settings.indexer.items, settings.indexer.users, SUFFIXES, SUFFIXES if users else 0
    )
    if not head_is_plain(llm):
        raise BackboneError(
            f"the head of {settings.backbone.name} scales or caps its logits, which training does not do: "
            "choose a backbone whose logits are head(states)"
        )
    if settings.backbone.untie:
        untie(llm)
    raw = {"item": item_side.raw} | ({"user": both.raw[len(users) :]} if users else {})
    if _layer(settings) != 0:  # the rows live among the token embeddings, whatever layer the generators read
        reads = settings.encoding.max_tokens
        raw = {kind: encode_texts(llm, tokenizer, texts, layer=0, max_tokens=reads)
               for kind, texts in (("item", items), ("user", early)) if texts}  # fmt: skip
    vocabulary.extend(tokenizer, llm, seed=settings.seed)
    for kind, branch in branches.items():
        start_rows(llm, vocabulary, branch, raw[kind])
    if settings.backbone.lora_rank:
        b = settings.backbone
        llm = add_lora(llm, b.lora_rank, b.lora_alpha, b.lora_dropout, b.lora_targets)
        vocabulary.train_rows(llm)
    if settings.training.gradient_checkpointing:
        keep_less(llm)
    r, t = settings.regulator, settings.training
    model = JointModel(
        llm,
        vocabulary,
        branches["item"],
        branches.get("user"),
        Regulator(r.beta1, r.beta2, r.temperature, r.literal),
        normalise=settings.decoding.normalise,
        dropout=t.dropout,
        label_smoothing=t.label_smoothing,
        gradient=t.gradient,
        reconstruction=r.reconstruction,
        bos=tokenizer.bos_token_id,
        dtype=computing_type(t.bf16, device),
    ).to(device)

    def serving_users() -> IndexTable | None:
        if model.users is None or model.users.serving is None:
            return None
        return build(model.users.indexer, model.users.serving, settings.indexer.separate, SUFFIXES)

    def reread() -> None:
        """X_T anew. The whitening is kept, or the axes would turn under the planes and codes flip without a reason;
        the mean is not, since training moves all states alike."""
        was_training = model.llm.training
        model.llm.eval()
        for branch in model.branches():
            texts = items if branch.kind == "item" else [*users, *early]
            raw = _fill(_read(texts, model.llm, tokenizer, settings), texts)
            now = whitenings[branch.kind].apply(raw).to(device)
            cast(RandomHyperplanes, branch.indexer).recentre(now)
            branch.embeddings = now[-len(branch.embeddings) :]
            if branch.serving is not None:
                branch.serving = now[: len(branch.serving)].clone()
        model.llm.train(was_training)

    facts["generators"] = {"start": _surveyed(model)}
    sequential = INSTRUCTIONS[t.instruction]
    known_as = {"sequential": sequential} | {task.name: spoken[task.name] for task in tasks}
    asked = wordings(tokenizer, sequential)
    rereads, anew = (reread if _rereads(settings) else None), None
    if _learns_behaviour(settings):
        shown = {"has_users": False, "max_history": settings.data.max_history, "dense": asked[0].open_ended}
        plan = SequentialPlan(split.train, asked[:1], **shown)  # type: ignore[arg-type]
        anew = Reindex(
            model,
            item_side.embeddings,
            settings.indexer.behaviour,
            lambda: PackedBatches(plan, model.index_tokens, tokenizer.pad_token_id or 0, seed=settings.seed).epoch(),
            partial(_fit_generator, "item", settings=settings, progress=progress),
            settings.indexer.separate,
            SUFFIXES,
        )
    return Parts(tokenizer, model, known_as, asked, tasks, serving_users, rereads, anew, facts, whitenings)


def recommender(parts: Parts, settings: Settings) -> GenerativeRecommender:
    """The model as it is now, as a recommender."""
    model = parts.model
    return GenerativeRecommender(
        model.llm,
        model.vocabulary,
        model.items.table,
        parts.serving_users(),
        parts.asked,
        beam=settings.decoding.beam,
        max_history=settings.data.max_history,
        normalise=settings.decoding.normalise,
        dtype=model.dtype,
    )


def write(folder: Path, dataset: Dataset, parts: Parts) -> None:
    """The model's part of a run folder."""
    model = parts.model
    (folder / "index").mkdir(parents=True)
    merge_lora(model.llm).save_pretrained(folder / "model")
    parts.tokenizer.save_pretrained(folder / "model")
    save_wordings(folder, parts.spoken)
    model.items.table.save(folder / "index" / "items.parquet", dataset.items["item_id"].to_list())
    users = parts.serving_users()
    if users is not None:
        users.save(folder / "index" / "users.parquet", dataset.users["user_id"].to_list())
    state: dict[str, Tensor] = {}
    for branch in model.branches():
        whitening = parts.whitenings[branch.kind]
        state |= {f"{branch.kind}.quantiser.{name}": weight for name, weight in branch.indexer.state_dict().items()}
        state |= {f"{branch.kind}.whitening.{name}": value for name, value in whitening._asdict().items()}
    save_file({name: value.contiguous().cpu() for name, value in state.items()}, folder / "indexer.safetensors")


def _backbone(settings: Settings, texts: Sequence[str]) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    b = settings.backbone
    if not b.name:
        raise ConfigError("backbone.name is empty, as the preset paper leaves it: give a folder or a Hugging Face "
                          "name, such as --set backbone.name=backbones/smollm2-135m")  # fmt: skip
    if b.load_in_4bit and (b.name == "tiny" or not b.lora_rank):
        raise ConfigError("backbone.load_in_4bit holds a pretrained LLM frozen and trains adapters beside it: set "
                          "backbone.name to one and backbone.lora_rank above 0, for example 8")  # fmt: skip
    if b.name == "tiny":
        return build_tiny(
            texts,
            hidden=b.hidden,
            layers=b.layers or 4,
            heads=b.heads,
            intermediate=b.intermediate,
            vocabulary=b.vocabulary,
            attention_dropout=settings.training.attention_dropout,
            seed=settings.seed,
        )
    tokenizer, llm = load_backbone(b.name, b.layers, b.load_in_4bit)
    if hasattr(llm.config, "attention_dropout"):
        llm.config.attention_dropout = settings.training.attention_dropout
        for module in llm.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = settings.training.attention_dropout  # type: ignore[assignment]
    return prune_vocabulary(tokenizer, llm, texts) if b.prune_vocabulary else (tokenizer, llm)


def _encode(
    texts: list[str],
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    what: str,
    progress: Progress,
) -> Encoded:
    """Eq. 2. An entity without text stands at the mean of the others, and its suffix tells it apart."""
    e = settings.encoding
    cache = None if settings.backbone.name == "tiny" else Path(e.cache) if e.cache else default_cache()
    tell = partial(_tell, progress, f"encoding {what}")
    raw = _read(texts, llm, tokenizer, settings, cache, tell)
    filled = _fill(raw, texts)
    whitening = Whitening.fit(filled, power=0.5 if e.whiten else 0.0)
    embeddings = whitening.apply(filled).to(llm.device)
    return Encoded(raw, whitening, embeddings, sum(not text for text in texts))


def _read(
    texts: Sequence[str],
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    e = settings.encoding
    dtype = computing_type(settings.training.bf16, llm.device)
    return encode_texts(
        llm, tokenizer, texts, pooling=e.pooling, layer=_layer(settings), max_tokens=e.max_tokens, dtype=dtype,
        cache=cache, progress=progress,
    )  # fmt: skip


def _fill(raw: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    known = np.array([bool(text) for text in texts])
    filled = raw.copy()
    filled[~known] = raw[known].mean(0) if known.any() else 0.0
    return filled


def _tell(progress: Progress, stage: str, done: int, total: int) -> None:
    progress(stage, done, total, "")


def _learns_behaviour(settings: Settings) -> bool:
    i, t = settings.indexer, settings.training
    return i.kind == "hvqae" and i.behaviour > 0 and t.refreshes > 0 and t.fixed_start > 0


def _rereads(settings: Settings) -> bool:
    return settings.indexer.kind == "lsh" and settings.training.refreshes > 0


def _layer(settings: Settings) -> int:
    """Whose states are pooled; the layers of tiny know nothing yet, its token embeddings do."""
    if settings.encoding.layer is not None:
        return settings.encoding.layer
    return 0 if settings.backbone.name == "tiny" else -1


def default_cache() -> Path:
    """$ED2_CACHE, else ~/.cache/ed2rec."""
    return Path(os.environ.get("ED2_CACHE") or Path.home() / ".cache" / "ed2rec") / "embeddings"


def _branch(
    kind: Kind,
    encoded: Encoded,
    settings: Settings,
    progress: Progress,
    fit_on: Tensor | None = None,
    serving: Tensor | None = None,
) -> Branch:
    """An indexer made from its entities' embeddings, and its first table."""
    x = encoded.embeddings
    learns = kind == "item" and _learns_behaviour(settings)
    if learns:  # room for behaviour, of which nothing is known yet
        x = Behaviour.nothing(len(x), encoded.raw.shape[1], x.device).beside(x)
    make = _hashing if settings.indexer.kind == "lsh" else _warmed_up
    indexer = make(kind, x if fit_on is None else fit_on, settings, progress)
    raw = torch.as_tensor(encoded.raw, dtype=torch.float32, device=x.device)
    known = raw.abs().sum(1) > 0
    teacher = torch.where(known[:, None], raw - raw[known].mean(0), 0.0) if known.any() else raw
    table = build(indexer, x, settings.indexer.separate, SUFFIXES)
    return Branch(kind, indexer, x, teacher, table, serving, _rereads(settings), learns)


def _hashing(kind: Kind, x: Tensor, settings: Settings, progress: Progress) -> RandomHyperplanes:
    """As many random planes as the sizes ask for (App. I)."""
    sizes = settings.indexer.items if kind == "item" else settings.indexer.users
    planes = RandomHyperplanes(x.shape[1], bits_of(sizes), len(sizes)).to(x.device)
    planes.initialise(x, settings.seed)
    return planes


def _warmed_up(kind: Kind, x: Tensor, settings: Settings, progress: Progress) -> VariationalQuantiser:
    """A generator that has learned its entities' embeddings (App. G)."""
    i = settings.indexer
    sizes = i.items if kind == "item" else i.users
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        quantiser = VariationalQuantiser(x.shape[1], i.hidden, i.code_width, sizes, i.latent).to(x.device)
    _fit_generator(kind, quantiser, x, settings, progress)
    return quantiser


def _fit_generator(
    kind: Kind, quantiser: VariationalQuantiser, x: Tensor, settings: Settings, progress: Progress
) -> None:
    i = settings.indexer
    regulator = Regulator(settings.regulator.beta1, settings.regulator.beta2, settings.regulator.temperature)
    fit(
        quantiser,
        x,
        epochs=i.warmup_epochs,
        lr=i.warmup_lr,
        batch=256,
        seed=settings.seed,
        extra=(lambda q: regulator.token(kind, q)) if settings.regulator.beta2 else None,
        progress=lambda epoch, losses: progress(
            f"warming up the {kind} index", epoch + 1, i.warmup_epochs, f"reconstruction {losses['recon']:.3f}"
        ),
    )
    check_use(survey(quantiser, x).codes, quantiser.sizes, i.min_perplexity, kind, "after the warm-up")


def _surveyed(model: JointModel) -> dict[str, Any]:
    """What the indexers say by themselves, on what recommending reads; "items" and "users" as `ed2 index` has it."""
    reads = {branch: branch.embeddings if branch.serving is None else branch.serving for branch in model.branches()}
    return {f"{branch.kind}s": survey(branch.indexer, x).as_dict() for branch, x in reads.items()}


def _known(branch: Branch) -> np.ndarray:
    return (branch.teacher.abs().sum(1) > 0).cpu().numpy()


def _reads(lengths: np.ndarray, settings: Settings) -> np.ndarray:
    return (lengths + 1) // 2 if settings.indexer.user_reads == "half" else lengths


def _some(cases: Cases, count: int) -> Cases:
    return _rows(cases, np.arange(min(count, len(cases))))


def _every(cases: Cases, first: int, step: int) -> Cases:
    return _rows(cases, np.arange(first, len(cases), step))


def _rows(cases: Cases, rows: np.ndarray) -> Cases:
    return Cases(cases.users[rows], cases.histories.take(rows), cases.targets[rows])


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
