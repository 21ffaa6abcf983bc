"""BERT4Rec: hidden items guessed from both sides (Sun et al. 2019), as RecBole sizes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ed2rec.baselines.contract import TiedModel, padded_embedding
from ed2rec.baselines.masking import appended, hidden_at_random, last_of, training_rows
from ed2rec.baselines.sequences import Sequences
from ed2rec.baselines.transformer import Transformer, linear


class BERT4Rec(TiedModel):
    """h_t = LayerNorm(GELU(W Transformer(x)_t));  score(j) = <h_t, e_j> + b_j   at a hidden position t   (tied).

    x_t = LayerNorm(e_{i_t} + p_t), with a vector of its own in place of e_{i_t} where the item is hidden; attention
    sees both sides. The next item is the hidden one behind the latest `longest` - 1 items of the history. In training
    each item of a row is hidden with probability `masked`, at least one; with probability `only_last` it is the last
    one alone, which is what is asked afterwards. Every training item ends a row, behind the items before it, as in
    RecBole, which never asks for it: a row per user asks for the next item once a user and epoch, and is far weaker.
    """

    def __init__(
        self, catalogue: int, *, width: int, layers: int, heads: int, inner: int, dropout: float, longest: int,
        masked: float, only_last: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.longest, self.masked, self.only_last = longest, masked, only_last
        self.items, self.hidden = padded_embedding(catalogue, width), nn.Parameter(torch.empty(width))
        self.positions = nn.Embedding(longest, width)
        for weight in (self.hidden, self.positions.weight):
            nn.init.normal_(weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)
        self.blocks = Transformer(width, layers=layers, heads=heads, inner=inner, dropout=dropout, causal=False)
        self.head, self.head_norm = linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(catalogue))

    def states(self, batch: Sequences) -> Tensor:
        """(B, H): at the hidden item behind the history, after the output head."""
        there = torch.zeros_like(batch.items[:, :1])  # any item: it is hidden at once
        rows = appended(batch, there, self.longest)
        return self._guess(rows, last_of(rows < batch.catalogue), batch.catalogue)

    def supervised(self, batch: Sequences, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """At the hidden positions of each row; either kind of training batch will do."""
        rows = training_rows(batch, self.longest)
        hidden = self.hide(rows < batch.catalogue, draw)
        users = batch.users[:, None].expand_as(rows)[hidden]
        return self._guess(rows, hidden, batch.catalogue), rows[hidden], users

    def hide(self, real: Tensor, draw: torch.Generator) -> Tensor:
        """(B, T) bool → (B, T) bool: what training hides of each row."""
        alone = torch.rand(len(real), 1, generator=draw).to(real.device) < self.only_last
        return last_of(real).where(alone, hidden_at_random(real, self.masked, draw))

    def _guess(self, rows: Tensor, hidden: Tensor, catalogue: int) -> Tensor:
        """(S, H) at the S hidden positions, in order of rows. The items there are not read."""
        place = torch.arange(rows.shape[1], device=rows.device)
        seen = self.items(rows.masked_fill(hidden, catalogue))
        x = self.hidden.where(hidden[:, :, None], seen) + self.positions(place)
        x = self.blocks(self.dropout(self.norm(x)), rows < catalogue)[hidden]
        return self.head_norm(F.gelu(self.head(x)))

    def output(self) -> tuple[Tensor, Tensor | None]:
        return self.table(), self.bias
