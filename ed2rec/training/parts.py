"""Everything that training needs, built from a dataset and settings; and what of it a run folder keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ed2rec.adaptation import add_lora, check_compiler, check_targets, compile_layers, keep_less, merge_lora
from ed2rec.backbone import build_tiny, layers_of, load_backbone, prune_vocabulary, untie
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.data.splits import leave_one_out
from ed2rec.data.texts import item_texts, user_texts
from ed2rec.decoding import head_is_plain, most_tokens
from ed2rec.device import choose_device, computing_type
from ed2rec.encoding import Whitening, encode_texts
from ed2rec.errors import BackboneError, ConfigError
from ed2rec.generative import GenerativeRecommender, save_wordings
from ed2rec.indexers.contract import IndexTable
from ed2rec.indexers.lsh import RandomHyperplanes
from ed2rec.indexers.refresh import Churn, build
from ed2rec.instructions.packing import PackedBatches
from ed2rec.instructions.sequential import WALK, SequentialPlan
from ed2rec.instructions.tasks import SHOWN_USERS, Task
from ed2rec.instructions.templates import (
    HISTORY_FIRST,
    INSTRUCTIONS,
    SEQUENTIAL,
    WORDINGS,
    Wording,
    read_wordings,
    task_wordings,
)
from ed2rec.model import Branch, JointModel
from ed2rec.prior import TextPrior
from ed2rec.regulator import Regulator
from ed2rec.settings import Settings
from ed2rec.training.assignments import build_tasks, gather
from ed2rec.training.branches import (
    Encoded,
    Progress,
    encode,
    fill,
    fit_generator,
    layer_of,
    learns_behaviour,
    make_branch,
    read,
    reads_again,
    suffix_tokens,
    surveyed,
)
from ed2rec.training.reindex import Reindex
from ed2rec.training.rows import calm_head, start_rows
from ed2rec.vocabulary import IndexVocabulary, Kind, check_new


class Texts(NamedTuple):
    """Of items, and of users: all that recommending may show, and the early part that training may."""

    items: list[str]
    users: list[str]
    early: list[str]


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
    prior: TextPrior | None  # what texts say beside the LLM
    facts: dict[str, Any]
    whitenings: dict[Kind, Whitening]


def build_parts(dataset: Dataset, settings: Settings, progress: Progress) -> Parts:
    """Backbone, embeddings, warmed-up generators, tables, extended vocabulary, tasks."""
    device = choose_device(settings.training.device)
    split = leave_one_out(dataset.histories, dataset.users["user_id"].to_list())
    texts = _texts(dataset, split.train, settings)
    known = reads_of(split.train.lengths, settings) if settings.indexer.user_reads == "half" else None
    material = gather(dataset, split.train, settings.tasks.use if settings.tasks.share else (),
                      users=bool(texts.users), reads=known, substitutes=settings.tasks.substitutes)  # fmt: skip
    spoken = _spoken(settings)
    progress("backbone", 0, 1, settings.backbone.name)
    # Every vocabulary reads our open wordings and the paper's question, whichever are asked: so do the measured runs.
    said = [*dict.fromkeys([*INSTRUCTIONS["open"], INSTRUCTIONS["question"][0], *spoken[SEQUENTIAL]]), HISTORY_FIRST,
            *(text for task in material.rows for text in spoken[task])]  # fmt: skip
    tokenizer, llm = _backbone(settings, [*texts.items, *texts.users, *said, *material.texts()])
    b = settings.backbone
    progress("backbone", 1, 1, b.name if b.name == "tiny" or not b.layers else f"{b.name}, its first {b.layers} layers")
    # What cannot go together is found out before the texts are encoded.
    planned = IndexVocabulary(len(tokenizer), settings.indexer.items, settings.indexer.users)
    planned.check_room(llm, device, settings.backbone.untie)
    if settings.backbone.lora_rank:
        check_targets(llm, settings.backbone.lora_targets)
    if settings.training.compile:
        layers_of(llm)
        check_compiler(device)
    tasks = build_tasks(material, tokenizer, spoken, split.train, len(texts.items),
                        max_tokens=settings.tasks.max_tokens, max_history=settings.data.max_history)  # fmt: skip
    asked = task_wordings(tokenizer, SEQUENTIAL, spoken[SEQUENTIAL])
    _check_lengths({SEQUENTIAL: asked, **{task.name: task.wordings for task in tasks}}, llm, settings)
    llm.to(device)  # type: ignore[arg-type]
    read_as = _encoded(texts, llm, tokenizer, settings, progress)
    branches = {kind: make_branch(kind, found, settings, progress) for kind, found in read_as.items()}
    vocabulary, llm = _extended(llm, tokenizer, branches, read_as, texts, settings)
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
    facts = {f"{kind}s without text": found.without_text for kind, found in read_as.items()}
    whitenings = {kind: found.whitening for kind, found in read_as.items()}
    return Parts(
        tokenizer,
        model,
        {task: spoken[task] for task in (SEQUENTIAL, *(task.name for task in tasks))},
        asked,
        tasks,
        partial(_serving_users, model, settings),
        partial(_reread, model, tokenizer, texts, whitenings, settings) if reads_again(settings) else None,
        _reindex(model, read_as["item"].embeddings, split.train, asked[0], tokenizer, settings, progress)
        if learns_behaviour(settings)
        else None,
        _prior(read_as["item"], settings),
        facts | {"tasks": material.facts(), "generators": {"start": surveyed(model)}},
        whitenings,
    )


def _spoken(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The wordings of every task: ours and the paper's, or those of a prompt file."""
    instruction, file = settings.training.instruction, settings.tasks.prompts
    ours = {SEQUENTIAL: INSTRUCTIONS[instruction], **WORDINGS}
    return ours | (read_wordings(Path(file), instruction) if file else {})


def _check_lengths(wordings: Mapping[str, Sequence[Wording]], llm: PreTrainedModel, settings: Settings) -> None:
    """ConfigError where an example or a prompt of a task can be longer than the LLM reads: as many items, words and
    users as are shown at most, and all with a suffix.

    An LLM with learned positions would end in a fault, others would train and be refused by the first search.
    """
    limit, name = most_tokens(llm), settings.backbone.name
    if settings.encoding.max_tokens > limit:
        raise ConfigError(f"encoding.max_tokens={settings.encoding.max_tokens}, where {name} reads {limit:,} tokens: "
                          "set it to that at most")  # fmt: skip
    item, user = len(settings.indexer.items) + 1, len(settings.indexer.users) + 1
    history, words = settings.data.max_history, settings.tasks.max_tokens
    # Walks of the similarity task are shown as histories, whatever those may have.
    takes = {"history": max(history, WALK) * item, "item": item, "user": user, "users": SHOWN_USERS * user}

    def length(wording: Wording) -> int:
        next_item = item if wording.open_ended else 0
        return wording.text_tokens + sum(takes.get(slot, words + 1) for slot in wording.slots) + next_item

    task, longest = max(((task, max(of, key=length)) for task, of in wordings.items()), key=lambda one: length(one[1]))
    if length(longest) <= limit:
        return
    mends = [f"data.max_history={history}"] * ("history" in longest.slots)
    mends += [f"tasks.max_tokens={words}"] * (not takes.keys() >= set(longest.slots))
    mends += [f"the levels of indexer.items and indexer.users ({item - 1} and {user - 1})"]
    less = "" if task == SEQUENTIAL else f", or leave {task} out of tasks.use"
    raise ConfigError(f"an example of the task {task} may take {length(longest):,} tokens, where {name} reads "
                      f"{limit:,}: lower {' or '.join(mends)}{less}")  # fmt: skip


def _texts(dataset: Dataset, train: Histories, settings: Settings) -> Texts:
    limit = settings.data.max_characters
    items = item_texts(dataset, limit)
    if not settings.indexer.users:
        return Texts(items, [], [])
    early = user_texts(dataset, reads_of(train.lengths, settings), limit)
    return Texts(items, user_texts(dataset, train.lengths, limit), early)


def _encoded(
    texts: Texts,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    progress: Progress,
) -> dict[Kind, Encoded]:
    """Eq. 2 for items, and for users of whom training may show less than recommending does."""
    found: dict[Kind, Encoded] = {"item": encode(texts.items, llm, tokenizer, settings, "items", progress)}
    if texts.users:
        both = encode([*texts.users, *texts.early], llm, tokenizer, settings, "users", progress)
        count = len(texts.users)
        found["user"] = both._replace(
            raw=both.raw[count:],
            embeddings=both.embeddings[count:],
            serving=both.embeddings[:count],
            without_text=sum(not text for text in texts.users),
        )
    return found


def _extended(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    branches: Mapping[Kind, Branch],
    read_as: Mapping[Kind, Encoded],
    texts: Texts,
    settings: Settings,
) -> tuple[IndexVocabulary, PreTrainedModel]:
    """The LLM with index tokens, whose rows start from what their entities mean, and with adapters where asked for."""
    b = settings.backbone
    vocabulary = IndexVocabulary(
        len(tokenizer),
        settings.indexer.items,
        settings.indexer.users,
        suffix_tokens(read_as["item"], settings.indexer.items),
        suffix_tokens(read_as["user"], settings.indexer.users) if texts.users else 0,
    )
    if not head_is_plain(llm):
        raise BackboneError(
            f"the head of {b.name} scales or caps its logits, which training does not do: "
            "choose a backbone whose logits are head(states)"
        )
    if b.untie:
        untie(llm)
    raw = {kind: found.raw for kind, found in read_as.items()}
    if layer_of(settings) != 0:  # the rows live among the token embeddings, whatever layer the generators read
        reads = settings.encoding.max_tokens
        shown: dict[Kind, list[str]] = {"item": texts.items, "user": texts.early}
        raw = {kind: encode_texts(llm, tokenizer, shown[kind], layer=0, max_tokens=reads) for kind in raw}
    vocabulary.extend(tokenizer, llm, seed=settings.seed)
    for kind, branch in branches.items():
        start_rows(llm, vocabulary, branch, raw[kind])
    some = [text for text in texts.items if text][:16]
    read = tokenizer(some, truncation=True, max_length=64)["input_ids"] if some else []
    calm_head(llm, vocabulary, [ids for ids in read if ids])
    if b.lora_rank:
        llm = add_lora(llm, b.lora_rank, b.lora_alpha, b.lora_dropout, b.lora_targets)
        vocabulary.train_rows(llm)
    if settings.training.gradient_checkpointing:
        keep_less(llm)
    if settings.training.compile:
        compile_layers(layers_of(llm))
    return vocabulary, llm


def _prior(items: Encoded, settings: Settings) -> TextPrior | None:
    d = settings.decoding
    if not d.prior:
        return None
    return TextPrior(normalize(items.embeddings * items.known[:, None], dim=1), d.prior, d.prior_items)


def _serving_users(model: JointModel, settings: Settings) -> IndexTable | None:
    if model.users is None or model.users.serving is None:
        return None
    limit = model.vocabulary.suffixes("user")
    table = build(model.users.indexer, model.users.serving, settings.indexer.separate, limit)
    return replace(table, version=model.users.table.version)


def _reread(
    model: JointModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Texts,
    whitenings: Mapping[Kind, Whitening],
    settings: Settings,
) -> None:
    """X_T anew (D-LSH). The whitening is kept, or the axes would turn under the planes and codes flip without a reason;
    the mean is not, since training moves all states alike."""
    was_training = model.llm.training
    model.llm.eval()
    for branch in model.branches():
        shown = texts.items if branch.kind == "item" else [*texts.users, *texts.early]
        raw = fill(read(shown, model.llm, tokenizer, settings), shown)
        now = whitenings[branch.kind].apply(raw).to(branch.embeddings.device)
        cast(RandomHyperplanes, branch.indexer).recentre(now)
        branch.embeddings = now[-len(branch.embeddings) :].clone()
        if branch.serving is not None:
            branch.serving = now[: len(branch.serving)].clone()
    model.llm.train(was_training)


def _reindex(
    model: JointModel,
    texts: Tensor,
    train: Histories,
    wording: Wording,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    progress: Progress,
) -> Reindex:
    plan = SequentialPlan(
        train, [wording], has_users=False, max_history=settings.data.max_history, dense=wording.open_ended
    )
    pad = tokenizer.pad_token_id or 0
    return Reindex(
        model,
        texts,
        settings.indexer.behaviour,
        lambda: PackedBatches(plan, model.index_tokens, pad, seed=settings.seed).epoch(),
        partial(fit_generator, "item", settings=settings, progress=progress),
        settings.indexer.separate,
    )


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
        prior=parts.prior,
    )


def write(folder: Path, dataset: Dataset, parts: Parts) -> None:
    """The model's part of a run folder."""
    model = parts.model
    (folder / "index").mkdir(parents=True)
    merge_lora(model.llm).save_pretrained(folder / "model")
    parts.tokenizer.save_pretrained(folder / "model")
    save_wordings(folder, parts.spoken)
    model.items.table.save(folder / "index" / "items.parquet", dataset.items["item_id"].to_list())
    if parts.prior is not None:
        parts.prior.save(folder)
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
    check_new(tokenizer)
    if hasattr(llm.config, "attention_dropout"):
        llm.config.attention_dropout = settings.training.attention_dropout
        for module in llm.modules():
            if isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = settings.training.attention_dropout  # type: ignore[assignment]
    return prune_vocabulary(tokenizer, llm, texts) if b.prune_vocabulary else (tokenizer, llm)


def reads_of(lengths: np.ndarray, settings: Settings) -> np.ndarray:
    return (lengths + 1) // 2 if settings.indexer.user_reads == "half" else lengths
