"""Random hyperplanes by hand."""

import torch

from ed2rec.indexers.lsh import RandomHyperplanes


def test_a_code_is_the_sum_of_its_bits_around_the_mean():
    lsh = RandomHyperplanes(2, bits=2, levels=2)
    lsh.initialise(torch.tensor([[4.0, 10.0], [6.0, 10.0]]))
    assert lsh.centre.tolist() == [5.0, 10.0]
    lsh.planes.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [1.0, 1.0]]]))
    # x - centre = (1, -2): level 1 has bits [1 > 0, -2 > 0] = 1, 0 -> 1 + 0; level 2 [-1 > 0, -1 > 0] = 0, 0 -> 0.
    # x - centre = (-1, 3): level 1 bits 0, 1 -> 2; level 2 bits 1, 1 -> 3.
    assert lsh.codes(torch.tensor([[6.0, 8.0], [4.0, 13.0]])).tolist() == [[1, 0], [2, 3]]


def test_a_wrong_bit_costs_the_distance_to_its_plane():
    lsh = RandomHyperplanes(2, bits=2, levels=1)
    lsh.planes.copy_(torch.eye(2)[None])
    _, (logits,) = lsh.walk(torch.tensor([[0.5, -3.0]]))
    best = logits[0, 1]
    assert (best - logits[0]).tolist() == [0.5, 0.0, 3.5, 3.0]


def test_embeddings_with_a_large_common_part_still_spread_over_the_codes():
    torch.manual_seed(0)
    x = torch.randn(1000, 16) + 100
    lsh = RandomHyperplanes(16)
    lsh.initialise(x)
    assert len(lsh.codes(x)[:, 0].unique()) > 128
