"""GRU4Rec: a recurrent network over the history (Hidasi et al. 2016; Tan et al. 2016), as RecBole sizes it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ed2rec.baselines.contract import Loss, TiedModel, padded_embedding
from ed2rec.baselines.sequences import Sequences


class GRU4Rec(TiedModel):
    """h_t = W GRU(e_{i_1}, …, e_{i_t})_t;  score(j) = <h_t, e_j>   (causal, tied).

    hidden: width of the recurrent state, which W maps back to `width`. No biases in the GRU. dropout: of the items,
    dropout_state: of what W reads. The paper's own loss is TOP1; its negatives are the other items of a batch, ours are
    drawn at random.
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "top1"

    def __init__(
        self, catalogue: int, *, width: int, hidden: int, layers: int, dropout: float, dropout_state: float = 0.0
    ) -> None:
        super().__init__()
        self.items = padded_embedding(catalogue, width)
        nn.init.xavier_normal_(self.items.weight)
        self.items.weight.data[-1] = 0
        self.dropout, self.dropout_state = nn.Dropout(dropout), nn.Dropout(dropout_state)
        self.gru = nn.GRU(width, hidden, layers, bias=False, batch_first=True)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)
        self.project = nn.Linear(hidden, width)

    def states(self, batch: Sequences) -> Tensor:
        return self.project(self.dropout_state(self.gru(self.dropout(self.items(batch.items)))[0]))
