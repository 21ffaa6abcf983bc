"""SR-GNN: a gated graph network over the items of a history (Wu et al. 2019), as RecBole sizes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ed2rec.baselines.contract import Loss, TiedModel, padded_embedding
from ed2rec.baselines.sequences import Sequences


@dataclass(frozen=True)
class SessionGraphs:
    """One graph per history: a node per distinct item, an edge from each item to the one that was taken after it.

    nodes: (B, L) the distinct items in order of item number, K in the slots that are no node. place: (B, L) the slot
    of each position's item; that of a padding is no node. incoming: (B, L, L), row i holds 1 / in-degree(i) where an
    edge comes from; outgoing: row i holds 1 / out-degree(i) where one goes to. Rows without edges are 0.
    """

    nodes: Tensor
    place: Tensor
    incoming: Tensor
    outgoing: Tensor


def session_graphs(items: Tensor, catalogue: int) -> SessionGraphs:
    """items: (B, L) with K = catalogue behind the last item. An edge counts once, however often it was walked: so do
    the authors' and RecBole's code, while the paper's text counts repetitions (where nothing repeats, it is the same).
    """
    b, length = items.shape
    ordered, order = items.sort(1)  # the padding comes last: the slots in front of it are the real nodes
    number = torch.zeros_like(items)
    number[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    nodes = torch.full_like(items, catalogue).scatter_(1, number, ordered)
    place = torch.empty_like(items).scatter_(1, order, number)
    # Steps into the padding write 0 into a slot that is no node, so they meet no edge.
    walked = (items[:, 1:] < catalogue).to(torch.get_default_dtype())
    edges = walked.new_zeros(b, length * length)
    edges = edges.scatter_(1, place[:, :-1] * length + place[:, 1:], walked).view(b, length, length)
    return SessionGraphs(nodes, place, _rows_to_one(edges.mT), _rows_to_one(edges))


def _rows_to_one(edges: Tensor) -> Tensor:
    return edges / edges.sum(2, keepdim=True).clamp(min=1)


class SRGNN(TiedModel):
    """h_i ← GRU([A_in (W_in h) + b ; A_out (W_out h) + b'], h_i), `steps` times, over the nodes i of the history;
    α_t = q · σ(W1 h_last + W2 h_t);  state = W3 [Σ_t α_t h_t ; h_last];  score(j) = <state, e_j>   (tied).

    α has no softmax. PyTorch's GRU cell is the paper's with z and 1 - z exchanged, the same family of functions. The
    graph changes with each item, so a state is computed after the last one only. All weights uniform in ±1/√width.
    """

    every_position: ClassVar[bool] = False
    own_loss: ClassVar[Loss] = "softmax"

    def __init__(self, catalogue: int, *, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.items = padded_embedding(catalogue, width)
        self.from_in, self.from_out = nn.Linear(width, width), nn.Linear(width, width)
        self.bias_in, self.bias_out = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.cell = nn.GRUCell(2 * width, width)
        self.from_last, self.from_each = nn.Linear(width, width), nn.Linear(width, width)
        self.attend = nn.Linear(width, 1, bias=False)
        self.merge = nn.Linear(2 * width, width)
        for weight in self.parameters():
            nn.init.uniform_(weight, -(width**-0.5), width**-0.5)
        self.items.weight.data[-1] = 0

    def states(self, batch: Sequences) -> Tensor:
        graphs = session_graphs(batch.items, batch.catalogue)
        at_nodes = self._propagate(graphs, graphs.nodes < batch.catalogue)
        h = at_nodes.gather(1, graphs.place[:, :, None].expand(-1, -1, at_nodes.shape[2]))  # (B, L, width)
        last = batch.last(h)
        share = self.attend(torch.sigmoid(self.from_last(last)[:, None] + self.from_each(h)))
        return self.merge(torch.cat([(share * h).sum(1), last], dim=1))  # h is 0 at a padding

    def _propagate(self, graphs: SessionGraphs, real: Tensor) -> Tensor:
        """(B, L, width) states of the nodes, 0 in the other slots."""
        incoming, outgoing = (graph.to(self.bias_in.dtype) for graph in (graphs.incoming, graphs.outgoing))
        h = self.items(graphs.nodes)
        for _ in range(self.steps):
            heard = torch.cat(
                [incoming @ self.from_in(h) + self.bias_in, outgoing @ self.from_out(h) + self.bias_out], dim=2
            )
            h = self.cell(heard.flatten(0, 1), h.flatten(0, 1)).view_as(h) * real[:, :, None]
        return h
