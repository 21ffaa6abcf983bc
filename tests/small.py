"""Small joint models and shops, so that a test of training takes a second. Everything is made in memory."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerFast
from worlds import WORDS, tiny_llm, word_tokenizer

from ed2rec.adaptation import add_lora
from ed2rec.config import Settings, resolve
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.indexers.contract import IndexTable
from ed2rec.indexers.refresh import build
from ed2rec.indexers.variational import VariationalQuantiser
from ed2rec.instructions.examples import Batch, IndexTokens, collate
from ed2rec.instructions.sequential import sequential
from ed2rec.instructions.templates import SEQUENTIAL, Wording, task_wordings
from ed2rec.model import Branch, JointModel
from ed2rec.regulator import Regulator
from ed2rec.vocabulary import IndexVocabulary, Kind

ASKED = "recommend a next item for user {user} history : {history}"
QUESTION = "history in order : {history} , recommend a next item for the user {user} : answer {item}"
SIZES, SUFFIXES = (3, 2, 3), 8  # 18 paths: 15 items and 7 users, some of whom need a suffix


class Asked(NamedTuple):
    """A sequential example whose wording is a number."""

    user: int
    items: np.ndarray
    first: int
    wording: int


def example(items: list[int], user: int = -1, first: int = 1, wording: int = 0) -> Asked:
    return Asked(user, np.array(items, np.int32), first, wording)


@dataclass(frozen=True)
class World:
    """A joint model over 15 items and 7 users, and the wordings its tokenizer knows."""

    model: JointModel
    tokenizer: PreTrainedTokenizerFast
    asked: list[Wording]

    @property
    def index(self) -> IndexTokens:
        return self.model.index_tokens()

    def batch(self, *rows: list[Asked]) -> Batch:
        return collate([[sequential(self.asked[e.wording], *e[:3]) for e in row] for row in rows], self.index, 0)


def joint_world(
    users: bool = True, llm: str = "llama", separate: bool = False, lora: int = 0, seed: int = 0, **options: object
) -> World:
    """options: of JointModel. separate: no collisions. lora: rank of adapters beside which only index rows learn."""
    tokenizer = word_tokenizer()
    asked = task_wordings(tokenizer, SEQUENTIAL, (ASKED, QUESTION))
    vocabulary = IndexVocabulary(len(WORDS), SIZES, SIZES if users else (), SUFFIXES, SUFFIXES if users else 0)
    model = tiny_llm(llm, len(WORDS) + len(vocabulary), seed=seed)
    if lora:
        model = add_lora(model, lora)
        vocabulary.train_rows(model)
    regulator = options.pop("regulator", Regulator())
    branches = {"item": branch("item", 15, model.config.hidden_size, separate, seed)}
    if users:
        branches["user"] = branch("user", 7, model.config.hidden_size, separate, seed + 1)
    joint = JointModel(model, vocabulary, branches["item"], branches.get("user"), regulator, bos=1, **options)  # type: ignore[arg-type]
    return World(joint.eval(), tokenizer, asked)


def branch(kind: Kind, entities: int, width: int, separate: bool = False, seed: int = 0) -> Branch:
    """A generator of random entities (two of them twins), started from their k-means."""
    torch.manual_seed(seed)
    x = torch.randn(entities, 8)
    x[1] = x[0]
    quantiser = VariationalQuantiser(8, (), 6, SIZES)
    quantiser.initialise(x, seed)
    table = build(quantiser, x, separate=separate, limit=SUFFIXES)
    return Branch(kind, quantiser, x, torch.randn(entities, width), table)


def suffixed(table: IndexTable) -> np.ndarray:
    """Numbers of the entities with a suffix."""
    return np.flatnonzero(table.suffix >= 0)


TOPICS = {
    "fruit": "apple pear plum sweet ripe juicy orchard", "tool": "hammer saw drill steel heavy workshop iron",
    "music": "guitar piano drum string melody stage tune",
}  # fmt: skip


def shop(users: int = 30, per_topic: int = 5, length: int = 8, seed: int = 0) -> Dataset:
    """Users who mostly stay with one topic. Titles and summaries are words of the item's topic; 15 items, two of which
    have one title."""
    generator = np.random.default_rng(seed)
    words = [text.split() for text in TOPICS.values()]
    topic = np.repeat(np.arange(len(words)), per_topic)
    titles = [" ".join(generator.choice(words[t], 3, replace=False)) for t in topic]
    titles[1] = titles[0]
    rows = []
    for user in range(users):
        liking = np.where(topic == user % len(words), 6.0, 1.0)
        count = 3 + int(generator.integers(length - 2))
        taken = generator.choice(len(titles), size=count, replace=False, p=liking / liking.sum())
        rows += [(f"u{user}", f"i{item}", user, int(item)) for item in taken]
    log = pl.DataFrame(rows, ["user_id", "item_id", "user", "item"], orient="row")
    log = log.with_columns(
        pl.col("user").cast(pl.UInt32), pl.col("item").cast(pl.UInt32),
        timestamp=pl.int_range(len(log)), summary=pl.Series([" ".join(words[topic[row[3]]][:2]) for row in rows]),
    )  # fmt: skip
    none = [""] * len(titles)
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles, "description": none,
                          "brand": none, "categories": [list(TOPICS)[t] for t in topic]})  # fmt: skip
    people = pl.DataFrame({"user_id": [f"u{n}" for n in range(users)], "profile": [""] * users})
    return Dataset("shop", items, people, log, {})


def small_settings(*overrides: str) -> Settings:
    """A run that takes seconds: one layer of width 16, three levels of four codes, two refreshes, three checkpoints."""
    return resolve(None, [
        "backbone.hidden=16", "backbone.heads=2", "backbone.layers=1", "backbone.intermediate=32",
        "backbone.vocabulary=300", "indexer.items=[4, 4, 4]", "indexer.users=[3, 3]", "indexer.code_width=8",
        "indexer.warmup_epochs=2", "indexer.lr=0.01", "data.max_history=5", "training.batch_tokens=512",
        "training.epochs=7", "training.lr=0.003", "training.refreshes=2", "training.margin=0.0",
        "training.max_share=0.4", "training.checkpoints=3", "training.validations=3", "training.bf16=false",
        "training.device=cpu", "decoding.beam=5", *overrides,
    ])  # fmt: skip


def histories_of(*lists: list[int]) -> Histories:
    return Histories.from_lists(lists)
