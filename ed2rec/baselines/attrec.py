"""AttRec: short-term intent by self-attention, long-term taste by distance (Zhang et al. 2018)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ed2rec.baselines.contract import Loss, SequenceModel, padded_embedding
from ed2rec.baselines.sequences import Sequences


class AttRec(SequenceModel):
    """score(j) = - ω ‖u - v_j‖² - (1 - ω) ‖x_j - m_t‖²   (u, v: long-term; x: items of the window; m: intent)

        m_t = 1/n Σ_l Σ_k a_{lk} x_k,     a_l = softmax_{k ≠ l}(<q_l, k_k> / √width)
        q_l = ReLU(W_Q (x_l + τ_l)),      k_l = ReLU(W_K (x_l + τ_l)),      τ: sines and cosines of the place

    over the n latest items, at most `window`; the last place is always that of the latest item. Up to what does not
    depend on j, the score is

        <[2ω u; 2(1 - ω) m_t], [v_j; x_j]> - ω ‖v_j‖² - (1 - ω) ‖x_j‖².

    omega: ω in [0, 1]. A single item attends to itself, no item gives m = 0, a user who is not known has u = 0. Norms
    are held by `baseline.weight_decay` where it is large enough, one of the paper's two ways: in its other, the unit
    ball, a softmax over a catalogue could not become sharp. The paper asks for the next three items, we for the next.
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "hinge"

    def __init__(
        self, catalogue: int, population: int, *, width: int, window: int, omega: float, dropout: float
    ) -> None:
        super().__init__()
        self.window, self.omega = window, omega
        self.items, self.users = padded_embedding(catalogue, width), padded_embedding(population, width)
        self.tastes = padded_embedding(catalogue, width)
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("signal", time_signal(window, width), persistent=False)

    def states(self, batch: Sequences) -> Tensor:
        long = self.users(batch.users)[:, None].expand(-1, batch.items.shape[1], -1)
        return torch.cat([2 * self.omega * long, 2 * (1 - self.omega) * self.intent(batch)], dim=-1)

    def intent(self, batch: Sequences) -> Tensor:
        """m: (B, T, width)."""
        x = self.items(batch.items)
        # Items are projected once and places once: W (x + τ) = W x + W τ.
        query, key = (self.dropout(F.relu(self.windows(linear(x)) + linear(self.signal).T))
                      for linear in (self.query, self.key))  # fmt: skip
        real = self.windows(batch.real[..., None]).squeeze(2)  # (B, T, window)
        itself = torch.eye(self.window, dtype=torch.bool, device=x.device)
        visible = real[:, :, None] & ~itself
        visible = visible | (itself & ~visible.any(-1, keepdim=True))
        affinity = query.transpose(2, 3) @ key / math.sqrt(x.shape[2])
        attention = affinity.masked_fill(~visible, -torch.inf).softmax(-1)  # (B, T, window, window)
        share = real / real.sum(-1, keepdim=True).clamp(min=1)
        return (self.windows(x) @ (share[:, :, None] @ attention).transpose(2, 3)).squeeze(-1)

    def windows(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D, window): what stands at each position and before it, 0 before the first."""
        return F.pad(x, (0, 0, self.window - 1, 0)).unfold(1, self.window, 1)

    def output(self) -> tuple[Tensor, Tensor | None]:
        v, x = self.tastes.weight[:-1], self.items.weight[:-1]
        return torch.cat([v, x], dim=1), -self.omega * v.square().sum(1) - (1 - self.omega) * x.square().sum(1)


def time_signal(length: int, width: int) -> Tensor:
    """τ_{t,2i} = sin(t / 10000^(2i/width)),  τ_{t,2i+1} = cos(same)   (Vaswani et al. 2017).  (length, width)."""
    pair = torch.arange(width) // 2 * 2
    angle = torch.arange(length)[:, None] / 10000 ** (pair / width)
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())
