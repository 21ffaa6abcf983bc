"""FMLP-Rec: learned filters over the history instead of attention (Zhou et al. 2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ed2rec.baselines.contract import Loss, TiedModel, padded_embedding
from ed2rec.baselines.sequences import Sequences
from ed2rec.baselines.transformer import start_small


class FilterBlock(nn.Module):
    """x ← LayerNorm(x + F⁻¹(W ⊙ F x));  x ← LayerNorm(x + W2 GELU(W1 x))   (post-norm).

    F is the orthonormal Fourier transform over `longest` positions, so the filter is a circular convolution of each
    channel with a learned kernel of that length. W is complex, (longest // 2 + 1, width), kept as pairs of reals.
    """

    def __init__(self, width: int, *, inner: int, dropout: float, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.filter = nn.Parameter(torch.randn(longest // 2 + 1, width, 2) * 0.02)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        for layer in (self.up, self.down):
            start_small(layer)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def filtered(self, x: Tensor) -> Tensor:
        """(B, T, width) → the same, T <= longest: x stands anywhere among `longest` positions that are 0 elsewhere.

        Where it stands does not matter, since what goes in later comes out later by as much; so the zeros may follow.
        """
        spectrum = torch.fft.rfft(x.float(), n=self.longest, dim=1, norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.filter.float())
        return torch.fft.irfft(spectrum, n=self.longest, dim=1, norm="ortho")[:, : x.shape[1]].to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_1(x + self.dropout(self.filtered(x)))
        return self.norm_2(x + self.dropout(self.down(F.gelu(self.up(x)))))


class FMLPRec(TiedModel):
    """state = Filters(LN(e_{i_1} + p_{L-n+1}), …, LN(e_{i_n} + p_L))_n;  score(j) = <state, e_j>   (tied).

    longest: L, the length of the filters; of a longer history the latest L items count, and position L is the last
    item's. What the model says depends on L. The original filters the padding in front too, with its position
    embeddings; here padded positions are 0 before each filter, so that only items are mixed. A filter is circular and
    looks ahead, so a state is computed after the last item only. That of an empty history is 0.
    """

    every_position: ClassVar[bool] = False
    own_loss: ClassVar[Loss] = "bce"

    def __init__(self, catalogue: int, *, width: int, layers: int, inner: int, dropout: float, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.items = padded_embedding(catalogue, width)
        self.positions = nn.Embedding(longest, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            FilterBlock(width, inner=inner, dropout=dropout, longest=longest) for _ in range(layers)
        )

    def states(self, batch: Sequences) -> Tensor:
        width = min(batch.items.shape[1], self.longest)  # no more columns than the batch needs: the others are 0
        items = batch.to_left(width)
        real = (items < batch.catalogue)[:, :, None]
        x = self.items(items) + self.positions.weight[-width:]
        x = self.dropout(self.norm(x)) * real
        for block in self.blocks:
            x = block(x) * real
        return x[:, -1]
