"""HGN: what of each recent item, and which recent items, matter to a user (Ma et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ed2rec.baselines.contract import Loss, SequenceModel, padded_embedding
from ed2rec.baselines.sequences import Sequences
from ed2rec.baselines.transformer import linear


class HGN(SequenceModel):
    """score(j) = <p_u + o_t + Σ_l e_l, q_j> + b_j,   sums over the latest `window` items

        F_l = e_l ⊙ σ(W1 e_l + W2 p_u + b)          which features of an item pass
        s_l = σ(<w3, F_l> + <w4_l, p_u>)            which items pass; l counts back from the latest one
        o_t = Σ_l s_l F_l / Σ_l s_l                 (0 without items)

    The sums run over real items only, where other implementations let padding dilute the mean. All of w3 and w4 is
    trained; the authors' code leaves it as drawn. A user who is not known has p_u = 0.
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "bpr"

    def __init__(self, catalogue: int, population: int, *, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.items, self.users = padded_embedding(catalogue, width), padded_embedding(population, width)
        self.feature, self.feature_user = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.instance, self.instance_user = nn.Linear(width, 1, bias=False), nn.Linear(width, window, bias=False)
        for layer in (self.instance, self.instance_user):
            nn.init.xavier_uniform_(layer.weight)
        self.out = linear(width, catalogue)

    def states(self, batch: Sequences) -> Tensor:
        e, u = self.items(batch.items), self.users(batch.users)
        gated = e * torch.sigmoid(self.feature(e) + self.feature_user(u)[:, None])  # (B, T, width)
        place = torch.arange(e.shape[1], device=e.device)
        back = place[:, None] - place  # (T, T): the row's position looks so many items back
        seen = ((back >= 0) & (back < self.window)) & batch.real[:, None]  # (B, T, T)
        from_user = self.instance_user(u)[:, back.clamp(0, self.window - 1)]
        gate = torch.sigmoid(self.instance(gated).transpose(1, 2) + from_user) * seen
        pooled = gate @ gated / gate.sum(-1, keepdim=True).clamp(min=1e-9)
        return u[:, None] + pooled + seen.to(e.dtype) @ e

    def output(self) -> tuple[Tensor, Tensor | None]:
        return self.out.weight, self.out.bias
