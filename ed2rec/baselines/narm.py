"""NARM: a recurrent network and attention over its states (Li et al. 2017), as RecBole sizes it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, cat, nn

from ed2rec.baselines.contract import SequenceModel, padded_embedding
from ed2rec.baselines.sequences import Sequences


class NARM(SequenceModel):
    """score(j) = <B^T c_t, e_j>,   c_t = [Σ_{i ≤ t} α_{ti} h_i; h_t],   h = GRU(e_{i_1}, …)   (causal, tied)

        α_{ti} = <v, σ(A1 h_t + A2 h_i)>            (weights, not shares: no softmax)

    hidden: width of h, which B maps back to `width`. dropout: of the items; dropout_context: of c. No biases. Memory of
    the attention: B · L² · hidden.
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
        h = self.gru(self.dropout(self.items(batch.items)))[0]
        pairs = (self.last(h)[:, :, None] + self.each(h)[:, None]).sigmoid()  # (B, T, T, hidden)
        local = self.weight(pairs).squeeze(-1).tril() @ h  # an item looks back only
        return self.decode(self.dropout_context(cat([local, h], dim=-1)))

    def output(self) -> tuple[Tensor, Tensor | None]:
        return self.items.weight[:-1], None
