"""Codes ↔ index tokens ↔ LLM token ids, and the LLM's rows for them (Eq. 6-7; 4·256 item and 4·256 user tokens).

The new tokens follow the text vocabulary without gaps, in this order:

    items   <a_0> … <b_0> … <c_0> … <d_0> …   one block per level, a letter per level
            <p_0> …                           suffixes of colliding items (App. K)
    users   <ua_0> … <ub_0> … … <up_0> …      the same for users
            <ua_unk>                          a user whose index is unknown or dropped

so a level is a slice of the embedding and of the head, and a code is an offset into it.

Shape letters: K entities, M levels, N codes per level, H LLM width.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerFast

from ed2rec.environment import memory_gib
from ed2rec.errors import BackboneError, ConfigError
from ed2rec.indexers.contract import IndexTable

Kind = Literal["item", "user"]
LETTERS = "abcdefghijklmno"  # one per level; p is the suffix
UNKNOWN_USER = "<ua_unk>"
_TOKEN = re.compile(r"<(u?)([a-p])_(0|[1-9]\d*)>")


class IndexToken(NamedTuple):
    """One index token taken apart; the suffix level is M."""

    kind: Kind
    level: int
    code: int


@dataclass(frozen=True)
class IndexVocabulary:
    """Where every index token sits in the LLM's vocabulary.

    text_size       tokens before the first index token, so also the first index token's id
    item_sizes      codes per item level, (N_1, …, N_M)
    user_sizes      codes per user level; () where there is no user index
    item_suffixes   how many items may share their M codes
    user_suffixes   the same for users

    Raises ConfigError for more than 15 levels or an empty one.
    """

    text_size: int
    item_sizes: tuple[int, ...]
    user_sizes: tuple[int, ...] = ()
    item_suffixes: int = 0
    user_suffixes: int = 0

    def __post_init__(self) -> None:
        for kind, sizes in (("item", self.item_sizes), ("user", self.user_sizes)):
            if len(sizes) > len(LETTERS) or any(size < 1 for size in sizes) or (kind == "item" and not sizes):
                raise ConfigError(f"{kind} codes per level {list(sizes)}: give 1 to {len(LETTERS)} sizes of at least 1")

    def levels(self, kind: Kind) -> int:
        """M."""
        return len(self._sizes(kind))

    def suffixes(self, kind: Kind) -> int:
        """How many entities may share their M codes."""
        return self.item_suffixes if kind == "item" else self.user_suffixes

    def slice_of(self, kind: Kind, level: int) -> slice:
        """Token ids of one level's codes; level M is the suffix level. ValueError beyond it."""
        if not 0 <= level <= self.levels(kind):
            raise ValueError(f"level {level} of {kind}s, which have levels 0..{self.levels(kind)}")
        block = level if kind == "item" else len(self.item_sizes) + 1 + level
        start, stop = self._bounds()[block : block + 2]
        return slice(start, stop)

    @property
    def unknown_user(self) -> int:
        """Token id of <ua_unk>, the last one."""
        return self._bounds()[-1]

    @property
    def index_slice(self) -> slice:
        """Token ids of all index tokens."""
        return slice(self.text_size, self.unknown_user + 1)

    def __len__(self) -> int:
        """How many index tokens there are."""
        return self.index_slice.stop - self.index_slice.start

    def token_ids(self, kind: Kind, table: IndexTable) -> np.ndarray:
        """(K, M+1) int64 LLM token ids of every entity's index; the last column is -1 where there is no suffix.

        Raises ConfigError where the table has other level sizes or more suffixes than the vocabulary.
        """
        sizes = self._sizes(kind)
        if tuple(table.sizes) != sizes:
            raise ConfigError(
                f"an index table with {list(table.sizes)} codes per level for a vocabulary with {list(sizes)} "
                f"{kind} codes per level: build both from the same settings"
            )
        suffixes = self.slice_of(kind, len(sizes))
        highest = int(table.suffix.max(initial=-1))
        if highest >= suffixes.stop - suffixes.start:
            raise ConfigError(
                f"{highest + 1} {kind}s share one index, but the vocabulary has {suffixes.stop - suffixes.start} "
                f"{kind} suffix tokens: set {kind}_suffixes to at least {highest + 1}, or use more codes"
            )
        starts = np.array([self.slice_of(kind, level).start for level in range(len(sizes))], dtype=np.int64)
        last = np.where(table.suffix >= 0, table.suffix + np.int64(suffixes.start), -1)
        return np.column_stack([table.codes + starts, last])

    def tokens(self) -> list[str]:
        """All index tokens in the order of their ids."""
        return [*self._tokens("item", ""), *self._tokens("user", "u"), UNKNOWN_USER]

    def extend(
        self, tokenizer: PreTrainedTokenizerFast, llm: PreTrainedModel, noise: float = 0.1, seed: int = 0
    ) -> None:
        """Add the index tokens to the tokenizer and their rows to the LLM's embedding and head, in place.

            row = mean of the text rows + noise · (standard deviation of the text rows, per dimension) · N(0, 1)

        A tokenizer never splits or merges an index token. Works for tied and untied heads, and where the embedding
        already has spare (padding) rows: those are used first. Deterministic given seed.
        Raises BackboneError, with nothing changed, if the tokenizer has one of the tokens or another size.
        """
        check_new(tokenizer)
        known = tokenizer.get_vocab()
        if len(tokenizer) != self.text_size or max(known.values()) != self.text_size - 1:
            raise BackboneError(
                f"a tokenizer of {len(tokenizer)} tokens with ids up to {max(known.values())}, but the index tokens "
                f"are to start at {self.text_size}: build the vocabulary with text_size = len(tokenizer), ids gapless"
            )
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in self.tokens()])
        if len(_matrices(llm)[0]) < self.index_slice.stop:
            llm.resize_token_embeddings(self.index_slice.stop, mean_resizing=False)
        generator = torch.Generator().manual_seed(seed)
        for weight in _matrices(llm):
            text, rows = weight.detach()[: self.text_size].float(), weight.detach()[self.index_slice]
            random = torch.randn(rows.shape, generator=generator).to(text)
            rows.copy_(text.mean(0) + noise * text.std(0) * random)

    def check_room(self, llm: PreTrainedModel, device: torch.device, untie: bool) -> None:
        """ConfigError where the rows of the index tokens alone are more than the device holds: in embedding and head,
        which may be one matrix, the weights, their gradients and AdamW's two moments. untie: whether it becomes two."""
        rows = _matrices(llm)
        width = rows[0].shape[1]
        needed = (2 if untie else len(rows)) * 4 * len(self) * width * 4 / 2**30
        if device.type == "cuda":
            whole: float | None = torch.cuda.mem_get_info(device)[1] / 2**30
        else:
            whole = memory_gib()
        if whole is not None and needed > whole:
            raise ConfigError(
                f"{len(self):,} index tokens of width {width} take {needed:,.0f} GiB in training, and {device} has "
                f"{whole:,.0f} GiB: give fewer codes a level in indexer.items or indexer.users, and more levels"
            )

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerFast) -> "IndexVocabulary":
        """The vocabulary by which a tokenizer was extended. BackboneError if it was not, or not by `extend`."""
        known = tokenizer.get_vocab()
        if UNKNOWN_USER not in known:
            raise BackboneError("the tokenizer has no index tokens: extend it first, or load the one of a trained run")
        counts = Counter(found[1] + found[2] for token in known if (found := _TOKEN.fullmatch(token)))
        vocabulary = cls(
            text_size=known[UNKNOWN_USER] - counts.total(),
            item_sizes=tuple(counts[letter] for letter in LETTERS if counts[letter]),
            user_sizes=tuple(counts["u" + letter] for letter in LETTERS if counts["u" + letter]),
            item_suffixes=counts["p"],
            user_suffixes=counts["up"],
        )
        for token_id, token in enumerate(vocabulary.tokens(), start=vocabulary.text_size):
            if known.get(token) != token_id:
                raise BackboneError(
                    f"index token {token} has id {known.get(token)} where {token_id} was expected: "
                    "the tokenizer was changed after it was extended; take the one saved with the run"
                )
        return vocabulary

    def start_rows(
        self, llm: PreTrainedModel, kind: Kind, level: int, vectors_NH: Tensor, head_NH: Tensor | None = None
    ) -> None:
        """Set the embedding rows of one level, scaled together so that their mean norm is that of the text rows.

        vectors_NH: (N, H), one per code, for example the mean title-token embedding of the items that carry it; a
        zero vector keeps its row as it is. head_NH: the same for the rows of an untied head, which lives in another
        space; without it an untied head is left alone.
        """
        for weight, vectors in zip(_matrices(llm), (vectors_NH, head_NH), strict=False):
            if vectors is not None:
                norm = weight.detach()[: self.text_size].float().norm(dim=1).mean()
                self._set_rows(weight, kind, level, vectors, norm)

    def replace_rows(
        self, llm: PreTrainedModel, kind: Kind, level: int, vectors_NH: Tensor, head_NH: Tensor, head_scale: float = 1.0
    ) -> None:
        """As `start_rows`, in training: the mean norm stays what it was, times `head_scale` for an untied head."""
        columns = self.slice_of(kind, level)
        for weight, vectors, scale in zip(_matrices(llm), (vectors_NH, head_NH), (1.0, head_scale), strict=False):
            norm = scale * weight.detach()[columns].float().norm(dim=1).mean()
            self._set_rows(weight, kind, level, vectors, norm)

    def _set_rows(self, weight: nn.Parameter, kind: Kind, level: int, vectors: Tensor, norm: Tensor) -> None:
        columns = self.slice_of(kind, level)
        wanted = (columns.stop - columns.start, weight.shape[1])
        if vectors.shape != wanted:
            raise ValueError(f"vectors of shape {tuple(vectors.shape)} for {kind} level {level}, expected {wanted}")
        rows = vectors.float().to(weight.device)
        norms = rows.norm(dim=1)
        given = norms > 0
        if given.any():
            weight.detach()[columns][given] = (rows * (norm / norms[given].mean()))[given].to(weight.dtype)

    def train_rows(self, llm: PreTrainedModel) -> list[nn.Parameter]:
        """Make the index rows of embedding and head trainable, and only those: text rows get a zero gradient.

        For LoRA, where everything else is frozen (methods.md 5.24). Returns the matrices (one if tied). Give them an
        optimiser group with weight_decay = 0: decay moves rows that have no gradient.
        """
        matrices = _matrices(llm)
        for weight in matrices:
            weight.requires_grad_(True)
            weight.register_hook(self._index_rows_only)
        return matrices

    def _index_rows_only(self, gradient: Tensor) -> Tensor:
        masked = torch.zeros_like(gradient)
        masked[self.index_slice] = gradient[self.index_slice]
        return masked

    def _sizes(self, kind: Kind) -> tuple[int, ...]:
        return self.item_sizes if kind == "item" else self.user_sizes

    def _bounds(self) -> list[int]:
        blocks = (*self.item_sizes, self.item_suffixes, *self.user_sizes, self.user_suffixes)
        return list(accumulate(blocks, initial=self.text_size))

    def _tokens(self, kind: Kind, prefix: str) -> Iterator[str]:
        letters = LETTERS[: self.levels(kind)] + "p"
        for level, letter in enumerate(letters):
            columns = self.slice_of(kind, level)
            yield from (f"<{prefix}{letter}_{code}>" for code in range(columns.stop - columns.start))

    def parse(self, token: str) -> IndexToken:
        """`<b_17>` -> ("item", 1, 17); `<up_0>` -> ("user", M, 0). ValueError if it is none of these tokens."""
        found = _TOKEN.fullmatch(token)
        if found:
            kind: Kind = "user" if found[1] else "item"
            level = self.levels(kind) if found[2] == "p" else LETTERS.index(found[2])
            if level <= self.levels(kind):
                columns = self.slice_of(kind, level)
                if int(found[3]) < columns.stop - columns.start and (found[2] == "p" or level < self.levels(kind)):
                    return IndexToken(kind, level, int(found[3]))
        raise ValueError(f"{token!r} is not an index token of {self}")


def check_new(tokenizer: PreTrainedTokenizerFast) -> None:
    """BackboneError if the tokenizer has any token of the form of an index token."""
    taken = [token for token in tokenizer.get_vocab() if token == UNKNOWN_USER or _TOKEN.fullmatch(token)]
    if taken:
        raise BackboneError(
            f"the tokenizer already has {len(taken)} of the index tokens ({', '.join(sorted(taken)[:3])}, …): "
            "start from a tokenizer that was not extended"
        )


def _matrices(llm: PreTrainedModel) -> list[nn.Parameter]:
    """The embedding and, where it is another matrix, the head."""
    embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    if head is None:
        raise BackboneError(f"{type(llm).__name__} has no output head: load it as a causal language model")
    matrices = [embedding.weight] if head.weight is embedding.weight else [embedding.weight, head.weight]
    return cast(list[nn.Parameter], matrices)
