"""From texts to the halves of the generator: embeddings (Eq. 2), an indexer fitted to them (Eq. 3-5), a first table."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ed2rec.device import computing_type
from ed2rec.encoding import Whitening, encode_texts
from ed2rec.environment import cache_folder
from ed2rec.indexers.behaviour import Behaviour
from ed2rec.indexers.fitting import fit
from ed2rec.indexers.health import check_use, survey
from ed2rec.indexers.lsh import RandomHyperplanes, bits_of
from ed2rec.indexers.refresh import build
from ed2rec.indexers.variational import VariationalQuantiser
from ed2rec.model import Branch, JointModel
from ed2rec.regulator import Regulator
from ed2rec.settings import Settings
from ed2rec.vocabulary import Kind

Progress = Callable[[str, int, int, str], None]
FEWEST_SUFFIXES = 64
CROWDING = 16  # the largest group, in the mean group of an index that is too small for everybody: users, mostly


class Encoded(NamedTuple):
    """What one kind of entity brings: texts (for the record), raw LLM embeddings, and the same whitened."""

    raw: np.ndarray  # (K, H), zero rows without text
    whitening: Whitening
    embeddings: Tensor  # (K, E), fallback rows filled in
    without_text: int
    serving: Tensor | None = None  # (K, E) where recommending may read more than training

    @property
    def known(self) -> Tensor:
        """(K,) bool: who has a text."""
        return torch.as_tensor(self.raw, device=self.embeddings.device).abs().sum(1) > 0


def encode(
    texts: list[str],
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: Settings,
    what: str,
    progress: Progress,
) -> Encoded:
    """Eq. 2. An entity without text stands at the mean of the others, and its suffix tells it apart."""
    e = settings.encoding
    cache = None if settings.backbone.name == "tiny" else Path(e.cache) if e.cache else cache_folder() / "embeddings"
    tell = partial(_tell, progress, f"encoding {what}")
    raw = read(texts, llm, tokenizer, settings, cache, tell)
    filled = fill(raw, texts)
    whitening = Whitening.fit(filled, power=0.5 if e.whiten else 0.0)
    embeddings = whitening.apply(filled).to(llm.device)
    if without := sum(not text for text in texts):
        progress(f"encoding {what}", len(texts), len(texts), f"{without:,} without text stand at the others' mean")
    return Encoded(raw, whitening, embeddings, without)


def read(
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
        llm, tokenizer, texts, pooling=e.pooling, layer=layer_of(settings), max_tokens=e.max_tokens, dtype=dtype,
        cache=cache, progress=progress,
    )  # fmt: skip


def fill(raw: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    known = np.array([bool(text) for text in texts])
    filled = raw.copy()
    filled[~known] = raw[known].mean(0) if known.any() else 0.0
    return filled


def _tell(progress: Progress, stage: str, done: int, total: int) -> None:
    progress(stage, done, total, "")


def layer_of(settings: Settings) -> int:
    """Whose states are pooled; the layers of tiny know nothing yet, its token embeddings do."""
    if settings.encoding.layer is not None:
        return settings.encoding.layer
    return 0 if settings.backbone.name == "tiny" else -1


def make_branch(kind: Kind, encoded: Encoded, settings: Settings, progress: Progress) -> Branch:
    """An indexer made from its entities' embeddings, and its first table."""
    x, serving = encoded.embeddings, encoded.serving
    learns = kind == "item" and learns_behaviour(settings)
    if learns:  # room for behaviour, of which nothing is known yet
        x = Behaviour.nothing(len(x), encoded.raw.shape[1], x.device).beside(x)
    make = _hashing if settings.indexer.kind == "lsh" else _warmed_up
    indexer = make(kind, x if serving is None else torch.cat([serving, x]), settings, progress)
    raw = torch.as_tensor(encoded.raw, dtype=torch.float32, device=x.device)
    known = encoded.known
    teacher = torch.where(known[:, None], raw - raw[known].mean(0), 0.0) if known.any() else raw
    table = build(indexer, x, settings.indexer.separate, suffix_tokens(encoded, indexer.sizes))
    return Branch(kind, indexer, x, teacher, table, serving, reads_again(settings), learns)


def suffix_tokens(encoded: Encoded, sizes: Sequence[int]) -> int:
    """How many entities may share their M codes: 64, or more where there are many more entities than indices, or many
    without text, which stand in one place: they have the last codes of one prefix, and twice the room they need there.
    """
    textless = int((~encoded.raw.any(1)).sum())
    crowd = CROWDING * -(-len(encoded.raw) // math.prod(sizes))
    return max(FEWEST_SUFFIXES, crowd, 2 * -(-textless // sizes[-1]))


def _hashing(kind: Kind, x: Tensor, settings: Settings, progress: Progress) -> RandomHyperplanes:
    """As many random planes as the sizes ask for (App. I)."""
    sizes = settings.indexer.items if kind == "item" else settings.indexer.users
    planes = RandomHyperplanes(x.shape[1], bits_of(sizes), len(sizes)).to(x.device)
    planes.initialise(x, settings.seed)
    check_use(survey(planes, x), settings.indexer.min_perplexity, kind, "at the start")
    return planes


def _warmed_up(kind: Kind, x: Tensor, settings: Settings, progress: Progress) -> VariationalQuantiser:
    """A generator that has learned its entities' embeddings (App. G)."""
    i = settings.indexer
    sizes = i.items if kind == "item" else i.users
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        quantiser = VariationalQuantiser(x.shape[1], i.hidden, i.code_width, sizes, i.latent).to(x.device)
    fit_generator(kind, quantiser, x, settings, progress)
    return quantiser


def fit_generator(
    kind: Kind, quantiser: VariationalQuantiser, x: Tensor, settings: Settings, progress: Progress
) -> None:
    i = settings.indexer
    r = settings.regulator
    regulator = Regulator(r.beta1, r.beta2, r.temperature, r.literal)
    fit(
        quantiser,
        x,
        epochs=i.warmup_epochs,
        lr=i.warmup_lr,
        batch=256,
        seed=settings.seed,
        extra=(lambda q: regulator.token(kind, q)) if r.beta2 else None,
        progress=lambda epoch, losses: progress(
            f"warming up the {kind} index", epoch + 1, i.warmup_epochs, f"reconstruction {losses['recon']:.3f}"
        ),
    )
    check_use(survey(quantiser, x), i.min_perplexity, kind, "after the warm-up")


def moves(settings: Settings) -> bool:
    """Whether the index moves in joint training; otherwise it is static."""
    return settings.training.refreshes > 0 and settings.indexer.lr > 0


def learns_behaviour(settings: Settings) -> bool:
    i, t = settings.indexer, settings.training
    return i.kind == "hvqae" and i.behaviour > 0 and moves(settings) and t.fixed_start > 0


def reads_again(settings: Settings) -> bool:
    return settings.indexer.kind == "lsh" and moves(settings)


def surveyed(model: JointModel) -> dict[str, Any]:
    """What the indexers say by themselves, on what recommending reads; "items" and "users" as `ed2 index` has it."""
    reads = {branch: branch.embeddings if branch.serving is None else branch.serving for branch in model.branches()}
    return {f"{branch.kind}s": survey(branch.indexer, x).as_dict() for branch, x in reads.items()}
