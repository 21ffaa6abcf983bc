"""Caser: convolutions over the window of the latest items (Tang & Wang 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ed2rec.baselines.contract import Loss, SequenceModel, padded_embedding
from ed2rec.baselines.sequences import Sequences
from ed2rec.baselines.transformer import linear


class Caser(SequenceModel):
    """score(j) = <[z_t; p_u], w_j> + b_j,   z_t = ReLU(W [vertical; horizontal] + b)

    The window of position t is an image, E = (e_{i_{t-L+1}}, …, e_{i_t}), zero before the first item.

        vertical    Σ_l a_{nl} E_l + c_n               for n = 1 … `vertical`, each of length `width`
        horizontal  max_s ReLU(<G_{nh}, E_{s … s+h-1}> + g_{nh})   for n = 1 … `horizontal`, h = 1 … L

    window: L. The output table has rows of length 2·width and is not tied to the items. A user who is not known has
    p_u = 0. The paper asks for the next three items of each window, we for the next one.
    """

    every_position: ClassVar[bool] = True
    own_loss: ClassVar[Loss] = "bce"
    own_negatives: ClassVar[int] = 3

    def __init__(
        self,
        catalogue: int,
        population: int,
        *,
        width: int,
        window: int,
        vertical: int,
        horizontal: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.items, self.users = padded_embedding(catalogue, width), padded_embedding(population, width)
        self.vertical = nn.Linear(window, vertical)
        self.horizontal = nn.ModuleList(nn.Conv1d(width, horizontal, height) for height in range(1, window + 1))
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(vertical * width + horizontal * window, width)
        self.out = linear(2 * width, catalogue)

    def states(self, batch: Sequences) -> Tensor:
        image = F.pad(self.items(batch.items), (0, 0, self.window - 1, 0))  # (B, L - 1 + T, width)
        found = [self.vertical(image.unfold(1, self.window, 1)).flatten(2)]
        for height, filters in enumerate(self.horizontal, start=1):
            # One convolution over the whole history serves all windows; each takes its maximum over its own part.
            answer = F.relu(filters(image.transpose(1, 2)))
            found.append(F.max_pool1d(answer, self.window - height + 1, stride=1).transpose(1, 2))
        z = F.relu(self.mix(self.dropout(torch.cat(found, dim=-1))))
        return torch.cat([z, self.users(batch.users)[:, None].expand_as(z)], dim=-1)

    def output(self) -> tuple[Tensor, Tensor | None]:
        return self.out.weight, self.out.bias
