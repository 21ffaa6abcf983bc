"""SASRec: self-attention over the history (Kang & McAuley 2018), as RecBole sizes it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ed2rec.baselines.contract import Loss, TiedModel, padded_embedding
from ed2rec.baselines.sequences import Sequences
from ed2rec.baselines.transformer import Transformer


class SASRec(TiedModel):
    """h_t = Transformer(LayerNorm(e_{i_1} + p_1), …, e_{i_t} + p_t)_t;  score(j) = <h_t, e_j>   (causal, tied).

    longest: positions L. Blocks are post-norm with GELU, as in BERT; the paper's own loss is binary cross-entropy with
    one negative per position.
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "bce"

    def __init__(
        self, catalogue: int, *, width: int, layers: int, heads: int, inner: int, dropout: float, longest: int
    ) -> None:
        super().__init__()
        self.items = padded_embedding(catalogue, width)
        self.positions = nn.Embedding(longest, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)
        self.blocks = Transformer(width, layers=layers, heads=heads, inner=inner, dropout=dropout, causal=True)

    def states(self, batch: Sequences) -> Tensor:
        place = torch.arange(batch.items.shape[1], device=batch.items.device)
        return self.blocks(self.dropout(self.norm(self.items(batch.items) + self.positions(place))))
