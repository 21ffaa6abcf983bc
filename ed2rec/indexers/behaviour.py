"""What behaviour says about an item, in the LLM's own terms: the states from which it is asked for.

    b_k = mean of h_t over the training positions t whose next item is k          h_t: last state of the LLM
    X_k = [ X_T,k / sqrt(E) ; weight · W(b_k) / sqrt(H) ], of unit mean square     W: whitening

Items that are asked for in like situations get like b, whatever is written about them. X_T, made once from texts, can
never tell the index that; the paper's pipeline, in which the LLM that is being trained reads the texts (§2.2.1), could.
Shape letters: K items, H LLM width, E text-embedding width, n positions.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ed2rec.encoding import Whitening

SHRINK = 2.0  # an item seen so often lies half-way between the mean of all and its own


class Behaviour(nn.Module):
    """Running means of the states before each item. Its buffers are part of a checkpoint."""

    total: Tensor
    count: Tensor
    mean: Tensor
    projection: Tensor

    def __init__(self, items: int, width: int, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("total", torch.zeros(items, width))
        self.register_buffer("count", torch.zeros(items))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.zeros(width, width))

    @torch.no_grad()
    def observe(self, items_n: Tensor, states_nH: Tensor) -> None:
        """States from which the items were asked for. Only training interactions may come here."""
        self.total.index_add_(0, items_n, states_nH.float())
        self.count.index_add_(0, items_n, torch.ones_like(items_n, dtype=self.count.dtype))

    @torch.no_grad()
    def forget(self, share: float = 0.5) -> None:
        """Let earlier states count for less: the LLM has moved on since."""
        self.total.mul_(1 - share)
        self.count.mul_(1 - share)

    def centred(self) -> Tensor:
        """(K, H) b_k minus the mean of all, shrunk by n_k / (n_k + 2); 0 for an item that nobody has asked for."""
        seen = self.count > 0
        means = self.total / self.count.clamp_min(1e-9)[:, None]
        overall = means[seen].mean(0) if seen.any() else means.mean(0)
        shrunk = (means - overall) * (self.count / (self.count + SHRINK))[:, None]
        return torch.where(seen[:, None], shrunk, 0.0)

    def by_code(self, codes: np.ndarray, size: int) -> Tensor:
        """(size, H) mean state from which the items with each code are asked for, minus the mean of all states; 0 where
        there is none. codes: (K,) 0 … size-1."""
        carried = torch.as_tensor(codes, dtype=torch.long, device=self.total.device)
        total = torch.zeros(size, self.total.shape[1], device=self.total.device).index_add_(0, carried, self.total)
        count = torch.zeros(size, device=self.total.device).index_add_(0, carried, self.count)[:, None]
        overall = self.total.sum(0) / self.count.sum().clamp_min(1e-9)
        return torch.where(count > 0, total / count.clamp_min(1e-9) - overall, 0.0)

    @torch.no_grad()
    def fit_whitening(self) -> None:
        """Choose W from what is known now. Later views keep it: axes that turned would move codes for no reason."""
        whitening = Whitening.fit(self.centred().cpu().numpy())
        self.mean.copy_(whitening.mean)
        self.projection.copy_(whitening.projection)

    @torch.no_grad()
    def beside(self, texts_KE: Tensor) -> Tensor:
        """(K, E + H) X, what an index generator reads. Before `fit_whitening` the second part is 0."""
        seen = (self.count > 0)[:, None]
        view = torch.where(seen, (self.centred() - self.mean) @ self.projection, 0.0)
        joined = torch.cat(
            [texts_KE / texts_KE.shape[1] ** 0.5, self.weight * view / view.shape[1] ** 0.5], dim=1
        )
        return joined / joined.square().mean().sqrt().clamp_min(1e-12)
