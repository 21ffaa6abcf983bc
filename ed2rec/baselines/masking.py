"""Rows of items of which some are hidden: what BERT4Rec and the pre-training of S³-Rec learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from ed2rec.baselines.sequences import Sequences


def training_rows(batch: Sequences, longest: int) -> Tensor:
    """(B, T) int64, T <= longest: each row's items and the last one asked for behind them; the latest `longest`."""
    assert batch.targets is not None
    last = batch.targets.gather(1, (batch.lengths - 1).clamp(min=0)[:, None])
    return appended(batch, last, longest)


def appended(batch: Sequences, what: Tensor, longest: int) -> Tensor:
    """(B, T) int64, T <= longest: the items of each history and then `what` (B, 1); the latest `longest` of them."""
    room = batch.items.new_full((len(batch), 1), batch.catalogue)
    whole = torch.cat([batch.items, room], dim=1).scatter(1, batch.lengths[:, None], what)
    end = batch.lengths[:, None] + 1
    at = torch.arange(min(whole.shape[1], longest), device=whole.device) + (end - longest).clamp(min=0)
    return whole.gather(1, at.clamp(max=whole.shape[1] - 1)).where(at < end, batch.catalogue)


def last_of(real: Tensor) -> Tensor:
    """(B, T) bool → (B, T) bool: the last position of each row where there is something, which must come first."""
    return real & ~torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)


def hidden_at_random(real: Tensor, rate: float, draw: torch.Generator) -> Tensor:
    """(B, T) bool: each real position with probability `rate`, and at least one of a row that has any."""
    chance = torch.rand(real.shape, generator=draw).to(real.device).masked_fill(~real, 2.0)
    return real & ((chance < rate) | (chance == chance.min(1, keepdim=True).values))
