"""The similarity task: histories made up from the catalogue's texts, so that alike items follow one another.

Behaviour alone says little about an item that few took, and an index token learns what it means from few examples.
A walk through the nearest neighbours in the text embeddings X_T is read like a history of an unknown user. It teaches
the LLM to continue with items that resemble what it has seen, through the same tokens and in the same words in which it
recommends: the aim of the token regulator (§2.3), pursued with data. Not in the paper; `training.neighbours=0` is the
paper. Only item texts are used: no interaction, so nothing that could leak.
"""

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024  # items whose similarities to the whole catalogue are held at a time


def nearest(embeddings: Tensor, count: int = 10, known: np.ndarray | None = None) -> np.ndarray:
    """(K, count) item numbers by falling cosine, the item itself left out; −1 where there are not so many.

    embeddings: (K, E). known: (K,) bool, items with a text; the others have no neighbours and are nobody's.
    """
    usable = np.ones(len(embeddings), bool) if known is None else known
    candidates = torch.as_tensor(np.flatnonzero(usable), device=embeddings.device)
    found = np.full((len(embeddings), count), -1, np.int64)
    unit = torch.nn.functional.normalize(embeddings[candidates], dim=1)
    kept = min(count, len(candidates) - 1)
    if kept < 1:
        return found
    for start in range(0, len(unit), CHUNK):
        part = torch.arange(start, min(start + CHUNK, len(unit)), device=unit.device)
        similarity = unit[part] @ unit.T
        similarity[torch.arange(len(part), device=unit.device), part] = -torch.inf
        best = similarity.topk(kept, dim=1).indices
        found[candidates[part].cpu().numpy(), :kept] = candidates[best].cpu().numpy()
    return found


def walks(neighbours: np.ndarray, starts: np.ndarray, steps: int, random: np.random.Generator) -> list[np.ndarray]:
    """From every start, `steps` times a near neighbour of one of the items so far that is not among them yet.

    A neighbour of rank r comes with a probability that falls as exp(−r/3). A walk ends early where nothing is new.
    """
    made = []
    source, rank = random.random((len(starts), steps)), random.exponential(3, (len(starts), steps))
    for i, start in enumerate(starts):
        walk = [int(start)]
        for step in range(steps):
            around = neighbours[walk[int(source[i, step] * len(walk))]]
            fresh = [int(item) for item in around if item >= 0 and item not in walk]
            if not fresh:
                break
            walk.append(fresh[min(len(fresh) - 1, int(rank[i, step]))])
        made.append(np.array(walk, np.int32))
    return made
