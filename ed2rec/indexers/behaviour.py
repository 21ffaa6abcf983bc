"""What behaviour says about an item, in the LLM's own terms: the states from which it is asked for.

    b_k = mean of h_t over the training positions t whose next item is k          h_t: last state of the LLM
    X_k = [ X_T,k / sqrt(E) ; weight · W(b_k) / sqrt(H) ], of unit mean square     W: whitening

Items that are asked for in like situations get like b, whatever is written about them. X_T, made once from texts, can
never tell the index that; the paper's pipeline, in which the LLM that is being trained reads the texts (§2.2.1), could.
Shape letters: K items, H LLM width, E text-embedding width, n positions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ed2rec.encoding import Whitening

SHRINK = 2.0  # an item seen so often lies half-way between the mean of all and its own


@dataclass(frozen=True)
class Behaviour:
    """total (K, H): sum of the states before each item; count (K,): how many these are."""

    total: Tensor
    count: Tensor

    @classmethod
    def nothing(cls, items: int, width: int, device: torch.device | str = "cpu") -> "Behaviour":
        return cls(torch.zeros(items, width, device=device), torch.zeros(items, device=device))

    def observe(self, items_n: Tensor, states_nH: Tensor) -> None:
        """States from which the items were asked for. Only training interactions may come here."""
        self.total.index_add_(0, items_n, states_nH.detach().float())
        self.count.index_add_(0, items_n, torch.ones_like(items_n, dtype=self.count.dtype))

    def centred(self) -> Tensor:
        """(K, H) b_k minus the mean of all, shrunk by n_k / (n_k + 2); 0 for an item that nobody has asked for."""
        seen = self.count > 0
        means = self.total / self.count.clamp_min(1)[:, None]
        overall = means[seen].mean(0) if seen.any() else 0.0
        shrunk = (means - overall) * (self.count / (self.count + SHRINK))[:, None]
        return torch.where(seen[:, None], shrunk, 0.0)

    def by_code(self, codes: np.ndarray, size: int) -> Tensor:
        """(size, H) mean state from which the items with each code are asked for, minus the mean of all states; 0 where
        there is none. codes: (K,) 0 … size-1."""
        carried = torch.as_tensor(codes, dtype=torch.long, device=self.total.device)
        total = torch.zeros(size, self.total.shape[1], device=self.total.device).index_add_(0, carried, self.total)
        count = torch.zeros(size, device=self.total.device).index_add_(0, carried, self.count)[:, None]
        overall = self.total.sum(0) / self.count.sum().clamp_min(1)
        return torch.where(count > 0, total / count.clamp_min(1) - overall, 0.0)

    def beside(self, texts_KE: Tensor, weight: float = 1.0) -> Tensor:
        """(K, E + H) X, what an index generator reads; the second part is 0 for an item that nobody has asked for."""
        centred = self.centred()
        seen = self.count > 0
        view = torch.zeros_like(centred)
        if seen.any():
            whitened = Whitening.fit(centred[seen].cpu().numpy()).apply(centred[seen].cpu())
            view[seen] = whitened.to(view.device)
        parts = [texts_KE / texts_KE.shape[1] ** 0.5, weight * view / view.shape[1] ** 0.5]
        joined = torch.cat(parts, dim=1)
        return joined / joined.square().mean().sqrt().clamp_min(1e-12)
