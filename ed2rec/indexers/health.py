"""What a generator would say by itself about all its entities, and when that is a collapse.

The table is not the whole truth: twins were moved apart in it, and a margin and a budget held back who wanted to
move. A generator that collapses shows in its own codes first.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ed2rec.errors import IndexCollapse
from ed2rec.indexers.collisions import groups
from ed2rec.indexers.contract import Health, Indexer
from ed2rec.indexers.variational import VariationalQuantiser

CHUNK = 2048  # entities per pass
CROWD = 10  # a deeper level is judged where it has so many entities to tell apart


@dataclass(frozen=True)
class Survey:
    """A generator in mode, on all its entities.

    codes    (K, M), before twins are moved apart and before anything holds an entity back
    sizes    codes per level
    learned  a generator's codes, which training moves; otherwise those of planes, which nothing moves
    kappa    per level the mean concentration of the latent (Eq. 3); empty where the latent has none
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    learned: bool = True
    kappa: tuple[float, ...] = ()

    @property
    def health(self) -> Health:
        return Health.of(self.codes, self.sizes)

    def as_dict(self) -> dict[str, Any]:
        """Health and kappa as plain values, for metrics.json."""
        health = self.health
        return {**asdict(health), "collision_rate": health.collision_rate, "kappa": self.kappa}


@torch.no_grad()
def survey(indexer: Indexer, embeddings: Tensor) -> Survey:
    """embeddings: (K, E), row k is entity number k, K >= 1."""
    if not isinstance(indexer, VariationalQuantiser):
        hashed = torch.cat([indexer.codes(part) for part in embeddings.split(CHUNK)])
        return Survey(hashed.cpu().numpy(), indexer.sizes, learned=False)
    quantiser = indexer
    codes, kappas = [], []
    for part in embeddings.split(CHUNK):
        said = quantiser(part, sample=False)
        codes.append(said.codes)
        kappas.append(said.kappa)
    kappa = () if quantiser.latent == "none" else tuple(torch.cat(kappas).double().mean(0).tolist())
    return Survey(torch.cat(codes).cpu().numpy(), quantiser.sizes, kappa=kappa)


def check_use(found: Survey, floor: float, kind: str, when: str) -> None:
    """Raise IndexCollapse for the first level m that uses less than `floor` of its codes:

        use_m = (perplexity_m - 1) / (min(N_m, K) - 1),   0 where all entities carry one code, 1 where all codes alike

    The first level is judged always, a deeper one where at least half of the entities share their codes so far with
    CROWD - 1 others or more: otherwise it may rightly say the same of everybody, because nothing is left to say.
    floor 0 judges nothing. kind, when: for the message ("item", "after the warm-up").
    """
    if floor == 0:
        return
    perplexity = found.health.perplexity
    for m, size in enumerate(found.sizes):
        group, members = groups(found.codes[:, :m])
        most = min(size, len(found.codes))
        if most < 2 or (m and np.median(members[group]) < CROWD):
            continue
        use = (perplexity[m] - 1) / (most - 1)
        if use < floor:
            change = ("lower indexer.lr or training.max_share, raise training.margin or regulator.reconstruction"
                      if found.learned else "choose another encoding.layer or indexer.kind")  # fmt: skip
            raise IndexCollapse(
                f"the {kind} index has collapsed {when}: level {chr(ord('a') + m)} has a perplexity of "
                f"{perplexity[m]:.2f} where {most:,} is possible, a use of {use:.4f}, and indexer.min_perplexity is "
                f"{floor:g}; give {kind}s distinct texts, keep encoding.whiten on, {change}, or set "
                "indexer.min_perplexity=0 to go on all the same"
            )
