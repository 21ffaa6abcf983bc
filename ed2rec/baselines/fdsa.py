"""FDSA: self-attention over the items and, beside it, over what is said of them (Zhang et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ed2rec.baselines.contract import Loss, TiedModel, padded_embedding
from ed2rec.baselines.features import Field
from ed2rec.baselines.sequences import Sequences
from ed2rec.baselines.transformer import Transformer, linear


class FDSA(TiedModel):
    """h_t = LayerNorm(W [Transformer_1(e_{i_1}, …)_t ; Transformer_2(f_{i_1}, …)_t]);  score(j) = <h_t, e_j>   (tied).

    Both are causal and read LayerNorm(· + p_t). f_i = Σ_n a_n m_n over the fields n of item i: m_n is the mean
    embedding of the field's values, a = softmax_n w·ReLU(V m_n). As in RecBole, positions and LayerNorm are the same
    for both streams, the latter for the output too. A field without a value gets no weight, where RecBole weighs the
    padding. The fields are stored with the weights (`fields.N.values`).
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "bce"

    def __init__(
        self, catalogue: int, fields: Sequence[Field], *, width: int, layers: int, heads: int, inner: int,
        dropout: float, longest: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.items, self.positions = padded_embedding(catalogue, width), nn.Embedding(longest, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.fields = nn.ModuleList(FieldTable(field, width) for field in fields)
        self.weigh = None  # with a single field it could not learn
        if len(fields) > 1:  # no bias in the last layer: softmax would cancel it
            self.weigh = nn.Sequential(linear(width, width), nn.ReLU(), linear(width, 1, bias=False))
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)
        self.over_items, self.over_features = (
            Transformer(width, layers=layers, heads=heads, inner=inner, dropout=dropout, causal=True) for _ in range(2)
        )
        self.fuse = linear(2 * width, width)

    def states(self, batch: Sequences) -> Tensor:
        place = self.positions(torch.arange(batch.items.shape[1], device=batch.items.device))
        of_items = self.over_items(self.dropout(self.norm(self.items(batch.items) + place)))
        of_features = self.over_features(self.dropout(self.norm(self.features(batch.items) + place)))
        return self.dropout(self.norm(self.fuse(torch.cat([of_items, of_features], dim=-1))))

    def features(self, items: Tensor) -> Tensor:
        """(B, L) item numbers → (B, L, H): f. Zero for padding and for items without any value."""
        found = torch.stack([field(items) for field in self.fields], dim=2)
        if self.weigh is None:
            return found[:, :, 0]
        known = torch.stack([field.known(items) for field in self.fields], dim=2)  # type: ignore[operator]
        logits = self.weigh(found).squeeze(-1).masked_fill(~known, -1e9)  # finite: an item may have no field at all
        return (logits.softmax(-1)[..., None] * found).sum(2)


class FieldTable(nn.Module):
    """(B, L) item numbers → (B, L, width): the mean embedding of an item's values; zero without any."""

    values: Tensor

    def __init__(self, field: Field, width: int) -> None:
        super().__init__()
        self.table = padded_embedding(field.count, width)
        of_padding = field.values.new_full((1, field.values.shape[1]), field.count)
        self.register_buffer("values", torch.cat([field.values, of_padding]))

    def forward(self, items: Tensor) -> Tensor:
        bags = F.embedding_bag(self.values[items.flatten()], self.table.weight, mode="mean",
                               padding_idx=self.table.padding_idx)  # fmt: skip
        return bags.view(*items.shape, -1)

    def known(self, items: Tensor) -> Tensor:
        """(B, L) bool: whether the item has a value."""
        return self.values[items, 0] < len(self.table.weight) - 1
