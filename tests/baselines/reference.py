"""What the transformer baselines are compared with: a block written as a loop, and what is said of twelve items."""

import math

import torch
from torch.nn import functional as F

from ed2rec.baselines.features import Field

CATEGORIES = Field(torch.tensor([[0, 1, 5], [2, 5, 5], [5, 5, 5], [0, 3, 4], [1, 5, 5], [2, 4, 5]] * 2), 5)
BRANDS = Field(torch.tensor([[0], [3], [3], [1], [2], [1]] * 2), 3)
"""Items 2 and 8 have neither; items 1 and 7 no brand; item n + 6 is told like item n."""


def block(layer, x, heads, causal):
    """One post-norm block over (T, width), position by position and head by head."""
    q, k, v = (part.chunk(heads, dim=1) for part in layer.attend(x).chunk(3, dim=1))
    rows = []
    for t in range(len(x)):
        seen = t + 1 if causal else len(x)
        mixed = []
        for h in range(heads):
            weight = torch.softmax(k[h][:seen] @ q[h][t] / math.sqrt(q[h].shape[1]), dim=0)
            mixed.append(weight @ v[h][:seen])
        y = layer.norm_1(x[t] + layer.project(torch.cat(mixed)))
        rows.append(layer.norm_2(y + layer.down(F.gelu(layer.up(y)))))
    return torch.stack(rows)
