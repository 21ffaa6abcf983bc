"""Tables from an indexer: the first one, and later ones with controlled churn.

A recommender that has learned an index must be able to follow when the index moves. An unchecked re-indexing of an
indexer that trains along changes almost every index, because residuals at deep levels are small and flip; so an entity
keeps its code unless another is better by a margin, and only a share of the entities may move at once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ed2rec.indexers.collisions import bound, suffixes
from ed2rec.indexers.collisions import separate as separated
from ed2rec.indexers.contract import Indexer, IndexTable

CHUNK = 8192  # entities per pass


@dataclass(frozen=True)
class Churn:
    """Shares of the entities whose index differs from the table before."""

    levels: tuple[float, ...]  # whose code at level m changed
    codes: float  # with any code changed; what `max_share` bounds
    suffix: float  # whose suffix changed; a group renumbers when a member joins or leaves
    total: float  # with any change of codes or suffix
    wanted: float  # who preferred other codes; more than `codes` where the budget ended or the place was taken


def build(indexer: Indexer, embeddings: Tensor, separate: bool = True, limit: int = 256) -> IndexTable:
    """The first table, version 0. embeddings: (K, E), row k is entity number k.

    separate: move twins apart at the last level (`collisions.separate`). limit: codes of the suffix level, which no
    group outgrows (`collisions.bound`); ConfigError where the codes of a prefix times `limit` are too few for it.
    """
    codes, last, _ = _modes(indexer, embeddings, None, ())
    if separate:
        codes = separated(codes, last)
    codes = bound(codes, last, limit)
    return IndexTable(codes, suffixes(codes, limit), indexer.sizes)


def refresh(
    indexer: Indexer,
    embeddings: Tensor,
    table: IndexTable,
    margin: float | Sequence[float] = 1.0,
    max_share: float = 0.05,
    separate: bool = True,
    limit: int = 256,
) -> tuple[IndexTable, Churn]:
    """The next version of `table`, and what changed.

    Level by level an entity keeps its code unless another one's logit is more than `margin` (one number, or one per
    level) greater; deeper residuals follow the codes so chosen. Of those who want to move, the floor(max_share K) with
    the greatest gain (sum over the levels of logit new - logit old) do. With `separate`, one that would land on an
    occupied index takes the best free last code of its new prefix instead, or stays when that is no better. Nobody
    joins a group of `limit` entities.

    margin = inf changes nothing; margin = 0, max_share = 1, separate = False is a plain recomputation.
    """
    margins = [float(margin)] * table.levels if isinstance(margin, int | float) else list(margin)
    wanted, last, gain = _modes(indexer, embeddings, table.codes, margins)
    movers = np.flatnonzero((wanted != table.codes).any(1))
    movers = movers[np.argsort(-gain[movers], kind="stable")]
    budget = int(max_share * len(table) + 1e-9)
    codes = _move(table.codes, wanted, movers, budget, last if separate else None, margins[-1], limit)
    refreshed = IndexTable(codes, suffixes(codes, limit), table.sizes, table.version + 1)
    return refreshed, churn_between(table, refreshed, len(movers))


def _move(
    old: np.ndarray,
    wanted: np.ndarray,
    movers: np.ndarray,
    budget: int,
    last: np.ndarray | None,
    margin: float,
    limit: int,
) -> np.ndarray:
    """Give the movers, greatest gain first, the codes they want until the budget is spent; `last` logits separate."""
    codes = old.copy()
    carried = Counter(map(bytes, codes))  # how many entities carry an index at this moment
    for entity in movers:
        if budget == 0:
            break
        before, after = old[entity], wanted[entity].copy()
        if last is not None and carried[after.tobytes()]:
            after[-1] = _best_free(after, last[entity], carried, before)
            better = last[entity, after[-1]] - last[entity, before[-1]] > margin
            if (after[:-1] == before[:-1]).all() and not better:
                continue
        if carried[after.tobytes()] >= limit:
            continue  # the suffix could not tell them apart
        carried[before.tobytes()] -= 1
        carried[after.tobytes()] += 1
        codes[entity] = after
        budget -= 1
    return codes


def _best_free(codes: np.ndarray, logits: np.ndarray, carried: Counter[bytes], own: np.ndarray) -> int:
    """The last code with the greatest logit among those that the fewest other entities carry along this prefix."""
    places = np.repeat(codes[None], len(logits), axis=0)
    places[:, -1] = np.arange(len(logits))
    others = np.array([carried[place.tobytes()] for place in places]) - (places == own).all(1)
    return int(np.lexsort((-logits, others))[0])


@torch.no_grad()
def _modes(
    indexer: Indexer, embeddings: Tensor, keep: np.ndarray | None, margins: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (K, M) int32, their last-level logits (K, N_M), and their gain (K,) over the codes to keep."""
    codes, last, gains = [], [], []
    for start in range(0, len(embeddings), CHUNK):
        part = embeddings[start : start + CHUNK]
        kept = None if keep is None else torch.from_numpy(keep[start : start + CHUNK]).long().to(part.device)
        chosen, logits = indexer.walk(part, kept, margins)
        gain = torch.zeros(len(part), device=part.device)
        if kept is not None:
            for m, level in enumerate(logits):
                gain += (level.gather(1, chosen[:, m, None]) - level.gather(1, kept[:, m, None])).squeeze(1)
        codes.append(chosen.cpu().int())
        last.append(logits[-1].cpu())
        gains.append(gain.cpu())
    return torch.cat(codes).numpy(), torch.cat(last).numpy(), torch.cat(gains).numpy()


def churn_between(before: IndexTable, after: IndexTable, movers: int | None = None) -> Churn:
    """movers: how many preferred other codes; by default those who moved."""
    moved, renumbered = before.codes != after.codes, before.suffix != after.suffix
    size = max(len(before), 1)
    return Churn(
        levels=tuple(float(share) for share in moved.sum(0) / size),
        codes=float(moved.any(1).sum() / size),
        suffix=float(renumbered.sum() / size),
        total=float((moved.any(1) | renumbered).sum() / size),
        wanted=float(moved.any(1).sum() if movers is None else movers) / size,
    )
