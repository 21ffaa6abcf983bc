"""The flat trie accepts exactly the catalogue."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import random_table, table_of

from ed2rec.errors import DataError
from ed2rec.indexers.contract import IndexTable
from ed2rec.trie import AllPaths, Trie


def paths_of(trie: Trie) -> dict[tuple[int, ...], int]:
    """Every full path and its item, by walking the trie breadth first."""
    nodes, prefixes, found = torch.zeros(1, 1, dtype=torch.long), [()], {}
    for depth in range(trie.levels + trie.suffixed):
        child, code = (x[0] for x in trie.children(depth, nodes))
        alive = child >= 0
        prefixes = [prefixes[w] + (int(code[w, c]),) for w, c in alive.nonzero().tolist()]
        nodes = child[alive][None]
        if depth + 1 >= trie.levels and nodes.numel():
            items = trie.items(depth + 1, nodes)[0].tolist()
            found |= {prefix: item for prefix, item in zip(prefixes, items, strict=True) if item >= 0}
    return found


def paths_in(table: IndexTable) -> dict[tuple[int, ...], int]:
    rows = zip(table.codes.tolist(), table.suffix.tolist(), strict=True)
    return {(*codes, *([] if suffix < 0 else [suffix])): item for item, (codes, suffix) in enumerate(rows)}


@st.composite
def tables(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return table_of([list(codes) for codes in draw(st.lists(row, min_size=1, max_size=30))], sizes)


@given(tables())
def test_the_trie_holds_every_index_and_no_other(table):
    assert paths_of(Trie(table)) == paths_in(table)


@given(tables(), st.integers(0, 3))
def test_the_best_below_a_node_is_the_highest_of_the_items_whose_path_passes_it(table, seed):
    trie = Trie(table)
    values = torch.randn(2, len(table), generator=torch.Generator().manual_seed(seed))
    best, paths = trie.best_below(values), sorted((path, item) for path, item in paths_in(table).items())
    assert best[0].tolist() == [[0], [0]] and len(best) == trie.levels + trie.suffixed + 1
    for depth in range(1, len(best)):
        below: dict[tuple[int, ...], list[int]] = {}  # nodes are numbered in the order of their paths
        for path, item in paths:
            if len(path) >= depth:
                below.setdefault(path[:depth], []).append(item)
        expected = torch.stack([values[:, items].amax(1) for items in below.values()], 1)
        torch.testing.assert_close(best[depth], expected, rtol=0, atol=0)


def test_children_of_a_batch_written_out_by_hand():
    """Items 0: (0, 1), 1: (0, 2), 2: (2, 0) twice with item 3."""
    trie = Trie(table_of([[0, 1], [0, 2], [2, 0], [2, 0]], (3, 3)))
    child, code = trie.children(0, torch.zeros(1, 1, dtype=torch.long))
    assert (child.tolist(), code.tolist()) == ([[[0, 1]]], [[[0, 2]]])
    child, code = trie.children(1, torch.tensor([[1, 0], [-1, 1]]))
    assert child.tolist() == [[[2, -1], [0, 1]], [[-1, -1], [2, -1]]]
    assert code.tolist() == [[[0, -1], [1, 2]], [[-1, -1], [0, -1]]]
    assert trie.items(2, torch.tensor([[0, 1, 2, -1]])).tolist() == [[0, 1, -1, -1]]
    child, code = trie.children(2, torch.tensor([[0, 2]]))
    assert child.tolist() == [[[-1, -1], [0, 1]]]
    assert trie.items(3, child[0]).tolist() == [[-1, -1], [2, 3]]


def test_suffixes_may_have_gaps_and_a_lone_member_may_keep_its_suffix():
    table = IndexTable(np.array([[1, 1], [1, 1], [0, 0]]), np.array([5, 2, 3]), (2, 2))
    assert paths_of(Trie(table)) == {(1, 1, 5): 0, (1, 1, 2): 1, (0, 0, 3): 2}


def test_an_index_that_begins_another_is_refused_with_both_item_numbers():
    table = IndexTable(np.array([[1, 0], [0, 0], [1, 0]]), np.array([0, -1, -1]), (2, 2))
    with pytest.raises(DataError, match="items number 0 and 2 have the same index"):
        Trie(table)
    with pytest.raises(DataError, match="at least one item"):
        Trie(IndexTable(np.zeros((0, 2)), np.zeros(0), (2, 2)))


def test_indices_too_long_for_one_sort_key_are_sorted_right():
    """8 levels of 4,096 codes need 96 bits."""
    table = random_table(500, (7,), seed=3)
    codes = np.random.default_rng(0).integers(0, 4096, size=(500, 8))
    wide = IndexTable(codes, np.full(500, -1), (4096,) * 8)
    assert paths_of(Trie(wide)) == paths_in(wide)
    assert paths_of(Trie(table)) == paths_in(table)


@pytest.mark.parametrize(
    "sizes, unique",
    [((256,) * 4, True), ((256,) * 4, False), ((4, 32, 256, 256), False), ((32,) * 3, False), ((1000,) * 6, True)],
)
def test_at_most_32_bytes_per_item(sizes, unique):
    """100,000 items; (32, 32, 32) has 32,768 paths, so most items collide there."""
    table = _random_codes(100_000, sizes) if unique else random_table(100_000, sizes)
    assert Trie(table).nbytes / 100_000 <= 32


def _random_codes(items: int, sizes: tuple[int, ...]) -> IndexTable:
    codes = np.unique(np.random.default_rng(0).integers(0, sizes, size=(items, len(sizes))), axis=0)
    return IndexTable(codes, np.full(len(codes), -1), sizes)


def test_more_codes_than_16_bits_hold_keep_their_values():
    table = IndexTable(np.array([[40_000], [70_000]]), np.array([-1, -1]), (100_000,))
    assert paths_of(Trie(table)) == {(40_000,): 0, (70_000,): 1}


def test_moving_a_trie_keeps_it(tmp_path):
    table = random_table(50, (3, 3, 3))
    assert paths_of(Trie(table).to("cpu")) == paths_in(table)


def test_all_paths_is_the_full_trie():
    paths = AllPaths((2, 3))
    nodes = torch.zeros(1, 1, dtype=torch.long)
    for depth in range(2):
        nodes = paths.children(depth, nodes)[0].flatten(1)
    assert paths.items(2, nodes).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert paths.codes(np.array([0, 4])).tolist() == [[0, 0], [1, 1]]
