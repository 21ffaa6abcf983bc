"""S³-Rec: SASRec, pre-trained on what items, attributes and segments tell of each other (Zhou et al. 2020)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ed2rec.baselines.contract import Loss, TiedModel, padded_embedding
from ed2rec.baselines.features import Field
from ed2rec.baselines.masking import hidden_at_random, last_of, training_rows
from ed2rec.baselines.sequences import Sequences
from ed2rec.baselines.transformer import Transformer, linear


class S3Rec(TiedModel):
    """h_t = Transformer(LayerNorm(e_{i_1} + p_1), …)_t, causal;  score(j) = <h_t, e_j>   (tied).

    In pre-training the same weights see both sides of rows in which items are hidden; an item with attributes A_i:

        AAP   at an item that is seen:   - Σ_{a in A_i} log σ(<W h, r_a>) - Σ_{a not in A_i} log(1 - σ(<W h, r_a>))
        MAP   at a hidden item:          the same, with a W of its own, as each objective has
        MIP   at a hidden item:          - log σ(<W h, e_i> - <W h, e_j>)   for an item j that is not in the row
        SP    for a hidden segment s:    - log σ(<W h, h_s> - <W h, h_s'>)  for a segment s' of the training sequences

    The authors' code takes σ of both scores before it takes their difference, which holds it within (-1, 1) and the
    losses above log(1 + 1/e); here it is taken once. Their negative segments come from sequences that contain
    validation and test items; here from the other training sequences of the batch. A row is a prefix of a training
    sequence, as theirs are. An item without attributes is not taken for one that has none.
    masked: probability that an item is hidden; the last one always is.
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "bce"
    WEIGHTS: ClassVar[dict[str, float]] = {"AAP": 0.2, "MIP": 1.0, "MAP": 1.0, "SP": 0.5}

    def __init__(
        self, catalogue: int, attributes: Field, *, width: int, layers: int, heads: int, inner: int, dropout: float,
        longest: int, masked: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.catalogue, self.longest, self.masked = catalogue, longest, masked
        self.items, self.hidden = padded_embedding(catalogue, width), nn.Parameter(torch.empty(width))
        self.positions = nn.Embedding(longest, width)
        for weight in (self.hidden, self.positions.weight):
            nn.init.normal_(weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)
        # Not causal by itself: which positions are seen differs between the two stages.
        self.blocks = Transformer(width, layers=layers, heads=heads, inner=inner, dropout=dropout, causal=False).blocks
        self.attributes = padded_embedding(attributes.count, width)
        self.values: Tensor
        self.register_buffer("values", attributes.values)
        self.project = nn.ModuleDict({name: linear(width, width) for name in self.WEIGHTS})

    def states(self, batch: Sequences) -> Tensor:
        length = batch.items.shape[1]
        past = torch.ones(length, length, dtype=torch.bool, device=batch.items.device).tril()
        return self._encode(self.items(batch.items), past)

    def pretraining_loss(self, batch: Sequences, draw: torch.Generator) -> Tensor:
        """The four, weighed as in the authors' code."""
        found = self.pretraining_losses(batch, draw)
        return torch.stack([self.WEIGHTS[name] * found[name] for name in found]).sum()

    def pretraining_losses(self, batch: Sequences, draw: torch.Generator) -> dict[str, Tensor]:
        """Each summed over attributes and positions, as the weights expect, and divided by the number of rows."""
        rows = training_rows(batch, self.longest)
        real = rows < self.catalogue
        last, hidden = last_of(real), hidden_at_random(real, self.masked, draw)
        hidden = hidden | last
        cut = foreign_segments(rows, real, draw)
        rest = real & ~cut.inside
        states = self._both_sides(
            torch.cat([rows, rows, rows, cut.foreign]), torch.cat([hidden, cut.inside, rest, rest])
        )
        found, around, own, foreign = states.chunk(4)
        context = self.project["SP"](around[last])
        against = not_in_row(rows, hidden, self.catalogue, draw)
        return {
            "AAP": self._of_attributes("AAP", found, rows, real & ~hidden) / len(rows),
            "MIP": self._of_items(found[hidden], rows[hidden], against) / len(rows),
            "MAP": self._of_attributes("MAP", found, rows, hidden) / len(rows),
            "SP": pairwise((context * own[last]).sum(1), (context * foreign[last]).sum(1)) / len(rows),
        }

    def _encode(self, x: Tensor, visible: Tensor) -> Tensor:
        place = self.positions(torch.arange(x.shape[1], device=x.device))
        x = self.dropout(self.norm(x + place))
        for block in self.blocks:
            x = block(x, visible)
        return x

    def _both_sides(self, rows: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, H), every position seeing all of its row. The items that are hidden are not read."""
        seen = self.items(rows.masked_fill(hidden, self.catalogue))
        visible = (rows < self.catalogue)[:, None, None, :]
        return self._encode(self.hidden.where(hidden[:, :, None], seen), visible)

    def _of_attributes(self, name: str, states: Tensor, rows: Tensor, where: Tensor) -> Tensor:
        """Σ over positions and all attributes:  softplus(s_a) - [a in A_i] s_a,  the cross-entropy of σ(s_a)."""
        count = len(self.attributes.weight) - 1
        where = where & (self.values[rows.clamp(max=self.catalogue - 1), 0] < count)
        scores = self.project[name](states[where]) @ self.attributes.weight[:-1].T
        own = self.values[rows[where]]
        of_own = scores.gather(1, own.clamp(max=count - 1)).where(own < count, 0)
        return F.softplus(scores).sum() - of_own.sum()

    def _of_items(self, states: Tensor, items: Tensor, against: Tensor) -> Tensor:
        context = self.project["MIP"](states)
        return pairwise((context * self.items(items)).sum(1), (context * self.items(against)).sum(1))


def pairwise(positive: Tensor, negative: Tensor) -> Tensor:
    """- Σ log σ(s⁺ - s⁻)."""
    return F.softplus(negative - positive).sum()


class Segments(NamedTuple):
    """inside: (B, T) bool, one segment of each row. foreign: (B, T) int64, the rows with other items in there."""

    inside: Tensor
    foreign: Tensor


def foreign_segments(rows: Tensor, real: Tensor, draw: torch.Generator) -> Segments:
    """A segment of 1…n // 2 of the n items of each row, and one as long from anywhere else in the batch.

    The batch is read as one ring of items in which the foreign segment starts uniformly where it does not overlap its
    own; like the authors', it may cross from one user to the next. Only training items are in a training batch.
    """
    place = torch.arange(rows.shape[1], device=rows.device)
    count = real.sum(1, keepdim=True)
    length = 1 + _below((count // 2).clamp(min=1), draw)
    start = _below(count - length + 1, draw)
    inside = (place >= start) & (place < start + length)
    ring, before = rows[real], count.cumsum(0) - count
    step = length + _below((len(ring) - 2 * length + 1).clamp(min=1), draw)
    return Segments(inside, ring[(before + place + step) % len(ring)].where(inside, rows))


def not_in_row(rows: Tensor, where: Tensor, catalogue: int, draw: torch.Generator) -> Tensor:
    """(S,) int64: for each of the S positions an item, uniformly, that is not in its row (a few draws, then any)."""
    own = rows[where.nonzero()[:, 0]]
    limit = torch.full((len(own), 1), catalogue, device=rows.device)
    found = _below(limit, draw)
    for _ in range(8):
        bad = (found == own).any(1, keepdim=True)
        if not bool(bad.any()):
            break
        found = _below(limit, draw).where(bad, found)
    return found[:, 0]


def _below(limits: Tensor, draw: torch.Generator) -> Tensor:
    """(n, 1) int64: uniform in 0…limit - 1. Drawn on the processor, so that every device gets the same."""
    chance = torch.rand(limits.shape, generator=draw, dtype=torch.float64).to(limits.device)
    return (chance * limits).long()
