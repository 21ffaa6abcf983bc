"""What the learned baselines minimise: each a pure function of states, output table and targets.

Letters: S supervised states, H width, K catalogue, C negatives per state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ed2rec.data.dataset import Histories

CHUNK = 2**21
"""Logits computed at a time: a chunk stays in the processor's cache."""


class _SoftmaxCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over chunks of rows, so that (S, K) logits never exist at once."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        rows, n = max(1, CHUNK // len(table)), len(states)
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        total = states.new_zeros(())
        for low in range(0, n, rows):
            s, t = states[low : low + rows], targets[low : low + rows, None]
            logits = s @ table.T if bias is None else torch.addmm(bias, s, table.T)
            behind = logits.amax(1) - logits.gather(1, t)[:, 0]
            p = logits.softmax(1)  # one pass; its largest entry says what all were divided by
            total += (behind - p.amax(1).log()).sum()
            p.scatter_add_(1, t, p.new_full(t.shape, -1.0))
            torch.mm(p, table, out=grad_states[low : low + rows])
            grad_table.addmm_(p.T, s)
            if grad_bias is not None:
                grad_bias += p.sum(0)
        grads = (grad_states, grad_table, grad_bias)
        ctx.save_for_backward(*(None if grad is None else grad.div_(n) for grad in grads))
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        states, table, bias = ctx.saved_tensors
        return grads[0] * states, grads[0] * table, None if bias is None else grads[0] * bias, None


def softmax(states: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """- mean_s log softmax_j(<h_s, v_j> + b_j)[target_s]   over the whole catalogue.

    states: (S, H), S >= 1; table: (K, H); bias: (K,) or None; targets: (S,) int64.
    """
    return _SoftmaxCrossEntropy.apply(states.float(), table.float(), None if bias is None else bias.float(), targets)


def sampled_scores(states: Tensor, table: Tensor, bias: Tensor | None, items: Tensor) -> Tensor:
    """(S, C): <h_s, v_j> + b_j for the items (S, C) of each state."""
    scores = torch.einsum("sh,sch->sc", states, table[items])
    return scores if bias is None else scores + bias[items]


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """mean of  - log σ(s⁺) - 1/C Σ log(1 - σ(s⁻)).  positive: (S, 1), negative: (S, C)."""
    return F.softplus(-positive).mean() + F.softplus(negative).mean()


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """mean of  - log σ(s⁺ - s⁻)  (Rendle et al. 2009)."""
    return F.softplus(negative - positive).mean()


def top1(positive: Tensor, negative: Tensor) -> Tensor:
    """mean of  σ(s⁻ - s⁺) + σ(s⁻²)  (Hidasi et al. 2016)."""
    return (torch.sigmoid(negative - positive) + torch.sigmoid(negative**2)).mean()


def hinge(positive: Tensor, negative: Tensor, margin: float = 0.5) -> Tensor:
    """mean of  max(0, margin - s⁺ + s⁻)  (AttRec's, on negative distances)."""
    return F.relu(margin - positive + negative).mean()


SAMPLED = {"bce": bce, "bpr": bpr, "top1": top1, "hinge": hinge}


class Negatives:
    """Draws items, each with the same probability, that a user has not taken in training: the r-th free item is

        r + how many taken items t_0 < t_1 < … have  t_i - i <= r,   r uniform over the number of free items.

    A user who is not known has taken nothing; one who took every item gets any.
    """

    def __init__(self, train: Histories, catalogue: int):
        users = np.repeat(np.arange(len(train)), train.lengths)
        taken: NDArray[np.int64] = np.unique(users.astype(np.int64) * catalogue + train.flat)
        first = np.searchsorted(taken, np.arange(len(train) + 2) * catalogue)
        place = np.arange(len(taken)) - first[taken // catalogue]
        self.catalogue = catalogue
        self.first = torch.from_numpy(first)  # of each user among all taken items
        self.free_before = torch.from_numpy(taken - place)  # user · K + t_i - i: not falling

    def draw(self, users: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(S, count) int64 on the users' device; users: (S,). Drawn on the processor: the same on every device."""
        user = users.cpu()[:, None]
        first = self.first[user]
        free = self.catalogue - (self.first[user + 1] - first)
        chance = torch.rand(len(user), count, generator=generator, dtype=torch.float64)
        r = (chance * free.where(free > 0, self.catalogue)).long()
        passed = torch.searchsorted(self.free_before, user * self.catalogue + r, right=True) - first
        return ((r + passed) % self.catalogue).to(users.device)  # beyond K only where nothing was free
