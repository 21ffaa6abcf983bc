"""MA-GNN: a graph of items within a window, a memory of what came before it (Ma et al. 2020)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ed2rec.baselines.contract import Loss, SequenceModel, padded_embedding
from ed2rec.baselines.sequences import Sequences
from ed2rec.data.dataset import Histories


class ItemGraph(nn.Module):
    """A_ij = n_ij / Σ_k n_ik, where n_ij counts how often j is one of the `reach` items after i in the training.

    Only the edges are kept, as sorted keys i (K + 1) + j, so a weight is found by bisection. They are buffers: saved
    with the model that holds them, and a graph without edges takes on the size of the saved one.
    """

    keys: Tensor
    weights: Tensor

    def __init__(self, catalogue: int, train: Histories | None = None, *, reach: int = 3) -> None:
        """train: training sequences alone, never a validation or test item; None: no edges, to be loaded."""
        super().__init__()
        self.stride = catalogue + 1
        flat = np.empty(0, np.int64) if train is None else train.flat.astype(np.int64)
        owner = np.empty(0, np.int64) if train is None else np.repeat(np.arange(len(train)), train.lengths)
        pairs = [(flat[:-n] * self.stride + flat[n:])[owner[:-n] == owner[n:]] for n in range(1, reach + 1)]
        keys, counts = np.unique(np.concatenate(pairs), return_counts=True)
        totals = np.bincount(keys // self.stride, counts, catalogue)
        beyond = self.stride**2  # an edge of nobody, so that bisection always ends at some key
        self.register_buffer("keys", torch.from_numpy(np.append(keys, beyond)))
        weights = np.append(counts / totals[keys // self.stride], 0).astype(np.float32)
        self.register_buffer("weights", torch.from_numpy(weights))

    def forward(self, items: Tensor) -> Tensor:
        """(..., n) item numbers, K a padding → (..., n, n): the part of A among them, 0 for a padding."""
        asked = items[..., :, None] * self.stride + items[..., None, :]
        at = torch.searchsorted(self.keys, asked)
        return self.weights[at].where(self.keys[at] == asked, 0.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("keys", "weights"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class MAGNN(SequenceModel):
    """score(j) = <u + p + 1/|N| Σ_{i in N} W_r e_i, q_j> + b_j   for the window N, the last `window` items.

    Short term: h_i ← tanh(W1 [Σ_k A_ik h_k ; h_i]), `steps` times from h_i = e_i;  s = 1/|N| Σ_i h_i.
    Long term, over the items i before the window with x_i = e_i + sinusoid(place of i in the history): head c attends
    with softmax_i(W3 tanh(W1' x_i + W2' u))_c;  z = mean_c tanh(Σ_i attention_ci x_i);  m = z + Σ softmax(z · k) v over
    the `units` memory units.  Fusion: g = σ(W4 s + W5 m + W6 u);  p = g ⊙ s + (1 - g) ⊙ m.

    Written from the paper's equations: the third-party port has a constant graph, no W_r and a softmax over heads.
    While a history is shorter than the window, |N| is the number of its items; before there is a long term, z = 0.
    One target per position instead of T = 3, since there is one to find. ED²'s row for this model is not comparable:
    its NDCG cannot occur with a single target.
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "bpr"

    def __init__(
        self, catalogue: int, population: int, graph: ItemGraph, *, width: int, window: int, steps: int, heads: int,
        units: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.graph, self.window, self.steps = graph, window, steps
        self.items, self.users = padded_embedding(catalogue, width), padded_embedding(population, width)
        self.next_items, self.bias = nn.Embedding(catalogue, width), nn.Parameter(torch.zeros(catalogue))
        nn.init.normal_(self.next_items.weight, std=0.02)
        self.propagate = nn.Linear(2 * width, width, bias=False)
        self.attend_item, self.attend_user = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.attend = nn.Linear(width, heads, bias=False)
        self.keys, self.values = (nn.Parameter(torch.randn(units, width) * width**-0.5) for _ in range(2))
        self.gate_short, self.gate_long, self.gate_user = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.relate = nn.Linear(width, width, bias=False)

    def states(self, batch: Sequences) -> Tensor:
        u = self.users(batch.users)[:, None]
        short, related = self._short_term(batch)
        long = self._long_term(self.items(batch.items), u)
        gate = torch.sigmoid(self.gate_short(short) + self.gate_long(long) + self.gate_user(u))
        return u + gate * short + (1 - gate) * long + related

    def _short_term(self, batch: Sequences) -> tuple[Tensor, Tensor]:
        """(B, L, width) twice: s, and the mean of W_r e_i, over the window that ends at each position."""
        device = batch.items.device
        at = torch.arange(batch.items.shape[1], device=device)[:, None] + torch.arange(
            1 - self.window, 1, device=device
        )
        window = batch.items[:, at.clamp(min=0)].where(at >= 0, batch.catalogue)  # (B, L, window)
        edges = self.graph(window)
        h = e = self.items(window)
        for _ in range(self.steps):  # a padding stays 0: it has no edge, and tanh(W 0) = 0
            h = torch.tanh(self.propagate(torch.cat([edges.to(h.dtype) @ h, h], dim=-1)))
        count = (window < batch.catalogue).sum(2, keepdim=True).clamp(min=1)
        return h.sum(2) / count, self.relate(e.sum(2) / count)

    def _long_term(self, e: Tensor, u: Tensor) -> Tensor:
        """(B, L, width): m at each position, from the items that have left its window."""
        length = e.shape[1]
        late = max(length - self.window, 0)  # the positions with a long term: the k-th of them sees the first k items
        x = e[:, :late] + sinusoids(late, e)
        logits = self.attend(torch.tanh(self.attend_item(x) + self.attend_user(u)))  # (B, late, heads)
        ahead = torch.ones(late, late, dtype=torch.bool, device=e.device).triu(1)
        attention = logits.mT[:, :, None].masked_fill(ahead, -torch.inf).softmax(3)  # (B, heads, late, late)
        z = F.pad(torch.tanh(attention @ x[:, None]).mean(1), (0, 0, length - late, 0))
        return z + (z @ self.keys.T).softmax(2) @ self.values

    def output(self) -> tuple[Tensor, Tensor | None]:
        return self.next_items.weight, self.bias


def sinusoids(count: int, like: Tensor) -> Tensor:
    """(count, width): sin(t / 10000^{2i/width}) in channel 2i and cos of it in channel 2i + 1 (Vaswani et al. 2017)."""
    width = like.shape[-1]
    place = torch.arange(count, device=like.device, dtype=like.dtype)[:, None]
    angle = place * 10000 ** (-torch.arange(0, width, 2, device=like.device, dtype=like.dtype) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]
