"""The similarity task: who is near whom, and walks from neighbour to neighbour."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ed2rec.instructions import neighbours
from ed2rec.instructions.neighbours import nearest, walks


def test_neighbours_on_a_line_of_angles_are_those_beside():
    """Items 0…5 at 0°, 10°, 28°, 60°, 100° and 150°."""
    angles = torch.deg2rad(torch.tensor([0.0, 10, 28, 60, 100, 150]))
    found = nearest(torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 7)[:, None], count=2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 4], [3, 5], [4, 3]]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_neighbours_are_the_largest_cosines_however_they_are_computed(chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    x = np.random.default_rng(0).normal(size=(9, 5))
    cosines = (x @ x.T) / np.outer(*[np.linalg.norm(x, axis=1)] * 2)
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_array_equal(nearest(torch.tensor(x), count=4), np.argsort(-cosines, axis=1)[:, :4])


def test_items_without_text_have_no_neighbours_and_are_nobody_s():
    known = np.array([True, False, True, True, False])
    found = nearest(torch.randn(5, 3), count=4, known=known)
    assert (found[~known] == -1).all() and (found[known][:, 2:] == -1).all()
    assert set(found[found >= 0].tolist()) <= {0, 2, 3}


@pytest.mark.parametrize("known", [[False, False], [True, False]])
def test_where_nobody_has_a_neighbour_nobody_walks(known):
    found = nearest(torch.randn(2, 3), known=np.array(known))
    assert (found == -1).all()
    assert [walk.tolist() for walk in walks(found, np.array([0]), 3, np.random.default_rng(0))] == [[0]]


@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32))
def test_every_step_goes_to_a_new_neighbour_of_an_item_before(items, count, steps, seed):
    near = nearest(torch.randn(items, 3, generator=torch.Generator().manual_seed(seed % 1000)), count)
    starts = np.arange(items)
    for start, walk in zip(starts, walks(near, starts, steps, np.random.default_rng(seed)), strict=True):
        assert walk[0] == start and 1 <= len(walk) <= steps + 1 and len(set(walk.tolist())) == len(walk)
        for place in range(1, len(walk)):
            assert walk[place] in near[walk[:place]]


def test_nearer_items_follow_more_often():
    near = nearest(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), 10)
    starts = np.zeros(3000, np.int64)
    seconds = [int(walk[1]) for walk in walks(near, starts, 1, np.random.default_rng(0))]
    counts = [seconds.count(int(item)) for item in near[0]]
    assert counts[0] > 2 * counts[3] > 0 and sum(counts) == 3000
