"""What the texts of the last items say about the next one, beside what a model says.

    prior(j | history) = w Σ_i cos(x_i, x_j)       over the last L items i of the history, i ≠ j

x are the texts as the LLM reads them (X_T, Eq. 2), or beside a baseline their latent semantic analysis. It is added to
the log-probability of an item: a product of two experts, of which one has seen behaviour and the other only texts. An
item without a text gets nothing and gives nothing, and no item speaks for itself: its own text says nothing about what
comes after it. The paper has w = 0.

Shape letters: B histories, K items, E width of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from ed2rec.data.texts import tfidf
from ed2rec.errors import DataError, RunError

FILE = "texts.safetensors"


class TextPrior:
    """texts: (K, E) x_i / |x_i| of every item, zero rows where there is no text; weight: w > 0; last: L >= 1."""

    def __init__(self, texts: Tensor, weight: float, last: int) -> None:
        if weight <= 0 or last < 1:
            raise ValueError(f"weight = {weight} and last = {last}: give a weight above 0 and at least one item")
        self.texts_KE, self.weight, self.last = texts, weight, last

    def __call__(self, histories: Sequence[np.ndarray]) -> Tensor:
        """(B, K) float32, also under autocast, on the device of the texts; 0 everywhere for an empty history."""
        recent = np.full((len(histories), self.last), -1, dtype=np.int64)
        for row, history in enumerate(histories):
            shown = history[-self.last :]
            recent[row, : len(shown)] = shown
        items_BL = torch.from_numpy(recent).to(self.texts_KE.device)
        read_BLE = self.texts_KE[items_BL.clamp(min=0)] * (items_BL >= 0)[..., None]
        with torch.autocast(self.texts_KE.device.type, enabled=False):  # as whoever decodes in bfloat16 calls it
            prior_BK = read_BLE.sum(1) @ self.texts_KE.T
        own_BL = read_BLE.square().sum(-1)
        prior_BK.scatter_add_(1, items_BL.clamp(min=0), -own_BL)
        return self.weight * prior_BK

    def save(self, folder: Path) -> None:
        save_file({"items": self.texts_KE.cpu().contiguous()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, weight: float, last: int, items: int, device: torch.device) -> TextPrior:
        """RunError where the file is missing, damaged or of another catalogue."""
        try:
            with safe_open(folder / FILE, "pt") as file:
                texts = file.get_tensor("items")
        except (OSError, SafetensorError) as error:
            raise RunError(f"{folder / FILE} cannot be read ({' '.join(str(error).split())}): copy the run again, or "
                           "train it again: ed2 train") from None  # fmt: skip
        if texts.ndim != 2 or len(texts) != items:
            raise RunError(f"{folder / FILE} has texts of {len(texts):,} items where the run has {items:,}: copy the "
                           "run again, or train it again: ed2 train")  # fmt: skip
        return cls(texts.to(device), weight, last)


def latent_semantics(texts: Sequence[str], width: int = 256, seed: int = 0) -> Tensor:
    """(K, E) float32 rows of length 1: TF-IDF in its first E <= width singular directions (Deerwester et al. 1990).

    A zero row for an item without a text, or whose words no direction holds. DataError where no text has a word.
    """
    counted = tfidf(texts)
    if counted is None:
        raise DataError("no item of this dataset has a word in its texts: leave the prior 0")
    if min(counted.shape) <= width:  # as it is: no directions could be left out
        return normalize(torch.from_numpy(counted.toarray()), dim=1)
    from sklearn.decomposition import TruncatedSVD  # a second, which whoever recommends need not wait

    found = TruncatedSVD(width, random_state=seed).fit_transform(counted)
    return normalize(torch.from_numpy(np.ascontiguousarray(found, np.float32)), dim=1)
