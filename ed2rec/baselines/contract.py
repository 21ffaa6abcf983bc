"""What one trainer, one set of losses and one evaluator need to know of a learned baseline.

    score(j | history, user) = <state(history, user), v_j> + b_j

All twelve have this form (AttRec's distance too, up to what does not depend on j), so full softmax, sampled losses and
ranking are written once. A model is an `nn.Module` that knows neither its trainer nor any settings.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ed2rec.baselines.sequences import Sequences

Loss = Literal["softmax", "bce", "bpr", "top1", "hinge"]


class SequenceModel(nn.Module):
    """The contract, with what most members share. Stability: full.

    every_position: whether `states` answers at each position from what stands before it (and at it) alone; then a
    training row is a user's whole history, whose targets are learned in one pass, else one target and what is before it
    (`Training`). own_loss, own_negatives: what its paper trains with.
    """

    every_position: ClassVar[bool] = False
    own_loss: ClassVar[Loss] = "softmax"
    own_negatives: ClassVar[int] = 1

    def states(self, batch: Sequences) -> Tensor:
        """(B, L, H) where `every_position`, else (B, H) after the last item. Finite for an empty history too."""
        raise NotImplementedError

    def output(self) -> tuple[Tensor, Tensor | None]:
        """v: (K, H), and b: (K,) or None."""
        raise NotImplementedError

    def final(self, batch: Sequences) -> Tensor:
        """(B, H): the state from which the next item is recommended."""
        found = self.states(batch)
        return batch.last(found) if self.every_position else found

    def supervised(self, batch: Sequences, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States (S, H), targets (S,) and users (S,) of one training batch. draw: for models that mask at random."""
        assert batch.targets is not None
        asked = batch.targets < batch.catalogue
        found = self.states(batch)
        users = batch.users[:, None].expand_as(asked)[asked]
        # Where there is one state a row, there is one target a row, and both are in order of rows.
        return found[asked] if self.every_position else found, batch.targets[asked], users

    def pretraining_loss(self, batch: Sequences, draw: torch.Generator) -> Tensor:
        """Scalar: what is minimised before the recommendation loss, in models that are pre-trained (S³-Rec)."""
        raise NotImplementedError


class TiedModel(SequenceModel):
    """v_j = e_j, the item's embedding (`items`), as in the papers; after `untie` a vector of its own.

    With tied weights a state that says "alike to the last item" scores that item highest: what passes by a residual
    connection is the item itself. A model has to learn against its own geometry not to repeat it, and with thousands
    of items some never do, which costs HR@1 above all where a log has each item once.
    """

    items: nn.Embedding

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("own_table", None)

    def untie(self) -> None:
        """Score with a table of its own from now on, N(0, 0.02²) like the embeddings."""
        self.own_table = nn.Parameter(torch.empty_like(self.items.weight[:-1]).normal_(std=0.02))

    def table(self) -> Tensor:
        """(K, H)."""
        return self.items.weight[:-1] if self.own_table is None else self.own_table

    def output(self) -> tuple[Tensor, Tensor | None]:
        return self.table(), None


def padded_embedding(count: int, width: int) -> nn.Embedding:
    """(count + 1, width), the last row zero and never trained: that of the padding. N(0, 0.02²)."""
    table = nn.Embedding(count + 1, width, padding_idx=count)
    nn.init.normal_(table.weight, std=0.02)
    with torch.no_grad():
        table.weight[count] = 0
    return table
