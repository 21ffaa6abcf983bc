"""The prefix trie of all indices, in flat arrays: which codes may follow, and which item a full index is.

Nodes of one depth are numbered in the order of their paths, so the children of a node are neighbours at the next
depth and two arrays per depth say everything (compressed sparse rows):

    code[d][node]     the code that leads to the node
    first[d][node]    its first child at depth d + 1; the children end where those of node + 1 begin
    item[d][node]     the item whose index ends here, -1 where the path goes on (depths M and M + 1 only)

Depth 0 is the root, depth M a full index, depth M + 1 the suffix of colliding items. About 10 to 16 bytes per item.

Shape letters: B users, W beams, C most children of any of the given nodes, M levels, K items.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ed2rec.errors import DataError
from ed2rec.indexers.contract import IndexTable


class Paths(Protocol):
    """What beam search asks of a trie."""

    levels: int
    suffixed: bool  # whether any path goes on below depth M

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W) nodes at `depth`, -1 for none -> (B, W, C) children, -1 for none, and the codes that lead there."""

    def items(self, depth: int, nodes: Tensor) -> Tensor:
        """(B, W) nodes at `depth` >= M -> (B, W) item numbers, -1 where the node is -1 or its path goes on."""

    def best_below(self, values: Tensor) -> list[Tensor]:
        """(B, K) a value of every item -> by depth, (B, nodes) the highest of the items below; 0 for the root."""


class Trie:
    """The prefix trie of an index table; read-only. `children` costs the same for any size of catalogue.

    Raises DataError if an item's index is another one's or the beginning of another one's.
    """

    def __init__(self, table: IndexTable, device: torch.device | str = "cpu") -> None:
        if len(table) == 0:
            raise DataError("an index table without rows: a trie needs at least one item")
        self.levels = table.levels
        self.suffixed = bool((table.suffix >= 0).any())
        order = _path_order(table)
        columns = [table.codes[order, level] for level in range(self.levels)] + [table.suffix[order]]
        # rows[d]: the rows, in path order, at which a node of depth d begins.
        rows, starts = [np.zeros(1, dtype=np.int64)], np.zeros(len(order), dtype=bool)
        starts[0] = True
        for column in columns[:-1]:
            starts[1:] |= column[1:] != column[:-1]
            rows.append(np.flatnonzero(starts))
        _check_prefix_free(order, columns[-1], rows[-1], starts)
        rows.append(np.flatnonzero(columns[-1] >= 0))
        numbers = order.astype(np.int32)
        leaf = np.where(columns[-1][rows[-2]] >= 0, np.int32(-1), numbers[rows[-2]])
        small = max(*table.sizes, int(table.suffix.max()) + 1) <= 2**15
        width = np.int16 if small else np.int32
        self.code = [_tensor(column[row], width, device) for column, row in zip(columns, rows[1:], strict=True)]
        self.first = [_tensor(_first_children(*pair, len(order)), np.int32, device) for pair in pairwise(rows)]
        self.item = [_tensor(leaf, np.int32, device), _tensor(numbers[rows[-1]], np.int32, device)]
        if not self.suffixed:
            del self.code[-1], self.first[-1], self.item[-1]

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W) nodes -> (B, W, C) int64 children and their codes, both -1 where there is none; C >= 1."""
        first = self.first[depth]
        alive = nodes.clamp(min=0)
        start = first[alive].long()
        count = (first[alive + 1] - start).masked_fill_(nodes < 0, 0)
        ragged = torch.arange(max(int(count.max()), 1), device=nodes.device)
        none = ragged >= count[..., None]
        child = (start[..., None] + ragged).masked_fill_(none, 0)
        code = self.code[depth][child].long()
        return child.masked_fill_(none, -1), code.masked_fill_(none, -1)

    def items(self, depth: int, nodes: Tensor) -> Tensor:
        """(B, W) nodes at depth M or M + 1 -> (B, W) int64 item numbers, -1 for none."""
        return self.item[depth - self.levels][nodes.clamp(min=0)].long().masked_fill_(nodes < 0, -1)

    def best_below(self, values: Tensor) -> list[Tensor]:
        """(B, K) a value of every item -> by depth, (B, nodes) the highest of the items below; 0 for the root."""
        values_KB = values.T.contiguous()
        best = [values_KB[item.clamp(min=0)] for item in self.item]
        if self.suffixed:
            best[0] = torch.where(self.item[0][:, None] >= 0, best[0], self._highest(best[1], self.levels))
        for depth in range(self.levels - 1, 0, -1):
            best.insert(0, self._highest(best[0], depth))
        return [torch.zeros_like(values[:, :1]), *(level.T for level in best)]

    def _highest(self, children: Tensor, depth: int) -> Tensor:
        """(children, B) values at depth + 1 -> (nodes, B) the highest of every node's children, -inf without any."""
        return torch.segment_reduce(children, "max", offsets=self.first[depth], axis=0, initial=-torch.inf)

    def to(self, device: torch.device | str) -> "Trie":
        """The same trie with its arrays on another device."""
        moved = object.__new__(Trie)
        moved.levels, moved.suffixed = self.levels, self.suffixed
        for name in ("code", "first", "item"):
            setattr(moved, name, [array.to(device) for array in getattr(self, name)])
        return moved

    @property
    def device(self) -> torch.device:
        return self.code[0].device

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        return sum(array.nbytes for array in (*self.code, *self.first, *self.item))


class AllPaths:
    """The trie in which every path exists: decoding without a constraint, to measure what the constraint costs.

    A node, and the "item" it ends in, is its path read as a mixed-radix number, most significant level first.
    """

    suffixed = False

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.levels = len(self.sizes)

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """As Trie.children, with C = codes of the level."""
        code = torch.arange(self.sizes[depth], device=nodes.device)
        child = torch.where(nodes[..., None] < 0, -1, nodes[..., None] * self.sizes[depth] + code)
        return child, code.expand_as(child)

    def items(self, depth: int, nodes: Tensor) -> Tensor:
        """The nodes themselves."""
        return nodes

    def best_below(self, values: Tensor) -> list[Tensor]:
        """Not known: what no catalogue holds has no value."""
        raise NotImplementedError("a prior needs a catalogue's trie")

    def codes(self, items: np.ndarray) -> np.ndarray:
        """(…,) path numbers -> (…, M) codes."""
        return np.stack(np.unravel_index(items, self.sizes), axis=-1)


def _path_order(table: IndexTable) -> np.ndarray:
    """(K,) item numbers in lexicographic order of their paths; the suffix counts last.

    Columns are packed into as few 63-bit keys as hold them, since one sort of one column is several times faster.
    """
    keys: list[np.ndarray] = []
    room = 1
    columns = [(table.codes[:, level], size) for level, size in enumerate(table.sizes)]
    columns.append((table.suffix + 1, int(table.suffix.max()) + 2))
    for column, size in columns:
        if keys and room * size < 2**63:
            keys[-1] *= size
            keys[-1] += column
            room *= size
        else:
            keys.append(column.astype(np.int64))
            room = size
    return np.argsort(keys[0]) if len(keys) == 1 else np.lexsort(keys[::-1])


def _check_prefix_free(order: np.ndarray, suffix: np.ndarray, full: np.ndarray, starts: np.ndarray) -> None:
    """Rows of one full index need suffixes of their own. `suffix` and `starts` are in path order."""
    same = np.flatnonzero(~starts)  # rows with the same M codes as the row before
    clash = same[(suffix[same] == suffix[same - 1]) | (suffix[same - 1] < 0)]
    if len(clash):
        one, other = sorted((int(order[clash[0] - 1]), int(order[clash[0]])))
        raise DataError(
            f"items number {one} and {other} have the same index, or one's is the beginning of the other's "
            f"({len(clash)} such pairs): give each of them a suffix of its own (ed2rec.indexers.collisions)"
        )


def _first_children(parents: np.ndarray, children: np.ndarray, end: int) -> np.ndarray:
    """For rows at which parents and children begin: (parents + 1,) the first child of each, then their number."""
    return np.searchsorted(children, np.append(parents, end))


def _tensor(array: np.ndarray, dtype: type, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype)).to(device)
