"""The transformer blocks that SASRec, BERT4Rec, FDSA and S³-Rec share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """What stands around the blocks and starts as they do."""
    return start_small(nn.Linear(inputs, outputs, bias=bias))


def start_small(layer: nn.Linear) -> nn.Linear:
    """Weights N(0, 0.02²), bias 0; the layer itself."""
    nn.init.normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """x ← LayerNorm(x + Attention(x));  x ← LayerNorm(x + W2 GELU(W1 x))   (post-norm, as in BERT)."""

    def __init__(self, width: int, *, heads: int, inner: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal, self.rate = heads, causal, dropout
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        b, t, width = x.shape
        q, k, v = self.attend(x).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, is_causal=self.causal, dropout_p=self.rate if self.training else 0.0
        )
        x = self.norm_1(x + self.dropout(self.project(mixed.transpose(1, 2).reshape(b, t, width))))
        return self.norm_2(x + self.dropout(self.down(F.gelu(self.up(x)))))


class Transformer(nn.Module):
    """(B, T, width) → (B, T, width). All linear weights N(0, 0.02²), biases 0."""

    def __init__(self, width: int, *, layers: int, heads: int, inner: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads=heads, inner=inner, dropout=dropout, causal=causal) for _ in range(layers)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                start_small(module)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """real: (B, T) bool, the positions that may be attended to; none: all (a causal model with padding behind).
        A row without any real position attends to its first one, so that nothing becomes NaN."""
        visible = None
        if real is not None:
            real = real.clone()
            real[:, 0] |= ~real.any(1)
            visible = real[:, None, None, :]
        for block in self.blocks:
            x = block(x, visible)
        return x
