"""NARM: a recurrent network and attention over its states (Li et al. 2017), as RecBole sizes it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ed2rec.baselines.contract import TiedModel, padded_embedding
from ed2rec.baselines.sequences import Sequences


class NARM(TiedModel):
    """score(j) = <B^T c_t, e_j>,   c_t = [Σ_{i ≤ t} α_{ti} h_i; h_t],   h = GRU(e_{i_1}, …)   (causal, tied)

        α_{ti} = <v, σ(A1 h_t + A2 h_i)>            (weights, not shares: no softmax)

    hidden: width of h, which B maps back to `width`. dropout: of the items; dropout_context: of c. No biases. In
    training the attention holds B · L² · hidden numbers, when recommending B · L · hidden.
    """

    every_position: ClassVar[bool] = True

    def __init__(
        self, catalogue: int, *, width: int, hidden: int, layers: int, dropout: float, dropout_context: float
    ) -> None:
        super().__init__()
        self.items = padded_embedding(catalogue, width)
        nn.init.xavier_normal_(self.items.weight)
        self.items.weight.data[-1] = 0
        self.dropout, self.dropout_context = nn.Dropout(dropout), nn.Dropout(dropout_context)
        self.gru = nn.GRU(width, hidden, layers, bias=False, batch_first=True)
        self.last, self.each = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.weight = nn.Linear(hidden, 1, bias=False)
        self.decode = nn.Linear(2 * hidden, width, bias=False)
        for linear in (self.last, self.each, self.weight, self.decode):
            nn.init.xavier_normal_(linear.weight)

    def states(self, batch: Sequences) -> Tensor:
        h = self.recurrent(batch)
        return self.attend(h, h, torch.ones(h.shape[1], h.shape[1], device=h.device).tril())

    def final(self, batch: Sequences) -> Tensor:
        h = self.recurrent(batch)
        return self.attend(batch.last(h)[:, None], h, batch.real[:, None].to(h.dtype)).squeeze(1)

    def recurrent(self, batch: Sequences) -> Tensor:
        """h: (B, L, hidden)."""
        return self.gru(self.dropout(self.items(batch.items)))[0]

    def attend(self, asking: Tensor, h: Tensor, visible: Tensor) -> Tensor:
        """(B, Q, width) for asking: (B, Q, hidden), among h: (B, L, hidden); visible: (Q, L) or (B, Q, L), 0 or 1."""
        pairs = (self.last(asking)[:, :, None] + self.each(h)[:, None]).sigmoid()  # (B, Q, L, hidden)
        local = (self.weight(pairs).squeeze(-1) * visible) @ h
        return self.decode(self.dropout_context(torch.cat([local, asking], dim=-1)))
