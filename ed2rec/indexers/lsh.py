"""Locality-sensitive hashing, the indexer that the paper compares with (Eq. 17-18, App. I).

    omega'_m = sum_i 2^i [phi_(m,i) . X > 0],  i = 0..h-1,      Omega = <omega'_1, …, omega'_M>

Static (S-LSH): one table for the whole training. Dynamic (D-LSH): the same planes, and a new table from the text
embeddings of the LLM as it is then, at every refresh. Nothing here is trained.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ed2rec.errors import ConfigError


class RandomHyperplanes(nn.Module):
    """M levels of h = `bits` random planes through the mean of the data; an Indexer.

    Embeddings of an LLM share a large common part; through the origin most of them would lie on one side.
    The defaults give 4 levels of 256 codes, as many as the paper's dynamic index.
    """

    centre: Tensor
    planes: Tensor
    signs: Tensor

    def __init__(self, input_width: int, bits: int = 8, levels: int = 4) -> None:
        super().__init__()
        self.sizes = (2**bits,) * levels
        self.register_buffer("centre", torch.zeros(input_width))
        self.register_buffer("planes", torch.zeros(levels, bits, input_width))
        bit = torch.arange(2**bits)[None, :] >> torch.arange(bits)[:, None] & 1
        self.register_buffer("signs", 2.0 * bit - 1, persistent=False)  # (h, 2^h): column n holds the bits of code n

    @torch.no_grad()
    def initialise(self, embeddings: Tensor, seed: int = 0) -> None:
        """Centre on the data and draw the planes; the same seed gives the same planes on every device."""
        self.recentre(embeddings)
        self.planes.copy_(torch.randn(self.planes.shape, generator=torch.Generator().manual_seed(seed)))

    @torch.no_grad()
    def recentre(self, embeddings: Tensor) -> None:
        """Let the planes go through the mean of these embeddings, with the directions that they have."""
        self.centre.copy_(embeddings.float().mean(0))

    def codes(self, x_BE: Tensor) -> Tensor:
        """(B, E) -> (B, M) int64 (Eq. 17-18)."""
        return self.walk(x_BE)[0]

    @torch.no_grad()
    def walk(
        self, x_BE: Tensor, keep_BM: Tensor | None = None, margins: Sequence[float] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """See Indexer.walk. Logit of a code: sum_i ±phi_i.(x - centre)/2, so a wrong bit costs |phi_i.(x - centre)|."""
        side_BMh = torch.einsum("be,mhe->bmh", x_BE.float() - self.centre, self.planes)
        powers = 2 ** torch.arange(side_BMh.shape[-1], device=x_BE.device)
        codes = ((side_BMh > 0) * powers).sum(-1)
        logits = [side @ self.signs / 2 for side in side_BMh.unbind(1)]
        if keep_BM is not None:
            for m, score in enumerate(logits):
                gain = score.gather(1, codes[:, m, None]) - score.gather(1, keep_BM[:, m, None])
                codes[:, m] = torch.where(gain.squeeze(1) > margins[m], codes[:, m], keep_BM[:, m])
        return codes, logits


def bits_of(sizes: Sequence[int]) -> int:
    """h where sizes = (2^h,) * M, h >= 1; ConfigError for any other sizes."""
    bits = sizes[0].bit_length() - 1
    if bits < 1 or any(size != 1 << bits for size in sizes):
        raise ConfigError(
            f"index sizes {list(sizes)} cannot be hashed: with indexer.kind=lsh every level has the same number of "
            "codes and it is a power of two, for example [256, 256, 256, 256]"
        )
    return bits
