import numpy as np
import pytest
import torch
from sequence_contract import CATALOGUE, LONGEST, SequenceModelContract, batch_of
from torch.nn import functional as F

from ed2rec.baselines.fmlprec import FilterBlock, FMLPRec


def kernel_of(block):
    """The kernel (longest, width) that circular convolution needs to do what the filter does."""
    weight = torch.view_as_complex(block.filter.detach()).numpy()
    return np.fft.irfft(weight, n=block.longest, axis=0)


def convolved(x, kernel):
    """y_t = Σ_s kernel_s x_{t - s mod L}, position by position."""
    length = len(x)
    rows = [sum(torch.from_numpy(kernel[s]).float() * x[(t - s) % length] for s in range(length))
            for t in range(length)]  # fmt: skip
    return torch.stack(rows)


def small(catalogue, longest, layers=2):
    """Filters that mix, as they do when trained; they start near 0."""
    model = FMLPRec(catalogue, width=8, layers=layers, inner=16, dropout=0.1, longest=longest).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.filter.mul_(20)
    return model


class TestFMLPRec(SequenceModelContract):
    def build(self, catalogue, population):
        return small(catalogue, LONGEST)

    def test_an_empty_history_says_nothing(self, model):
        assert model.states(batch_of([[]])).tolist() == [[0] * 8]


@pytest.mark.parametrize("longest", [LONGEST, LONGEST + 1, 50])
def test_states_are_those_of_a_loop_over_the_equations(longest):
    """L positions, the padding in front and 0 before each filter."""
    torch.manual_seed(0)
    model, lists = small(CATALOGUE, longest), [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5], []]
    found = model.states(batch_of(lists))
    for row, history in enumerate(lists):
        front, x = longest - len(history), torch.zeros(longest, 8)
        for t, item in enumerate(history, start=front):
            x[t] = model.norm(model.items.weight[item] + model.positions.weight[t])
        for block in model.blocks:
            mixed, x = convolved(x, kernel_of(block)), x.clone()
            for t in range(front, longest):
                y = block.norm_1(x[t] + mixed[t])
                x[t] = block.norm_2(y + block.down(F.gelu(block.up(y))))
        torch.testing.assert_close(found[row], x[-1], rtol=1e-4, atol=1e-5)


def test_one_filter_carries_the_first_item_to_the_last_position():
    torch.manual_seed(0)
    found = small(CATALOGUE, LONGEST, layers=1).states(batch_of([[0, 1, 2, 3, 4, 5, 6], [7, 1, 2, 3, 4, 5, 6]]))
    assert (found[0] - found[1]).abs().max() > 1e-4


@pytest.mark.parametrize("longest", [1, 6, 7])
def test_a_filter_is_a_circular_convolution(longest):
    """F⁻¹(F k ⊙ F x) = k ⊛ x: with the orthonormal transforms too, where W = F k is not scaled."""
    torch.manual_seed(0)
    block, x = FilterBlock(3, inner=4, dropout=0.0, longest=longest), torch.randn(longest, 3)
    torch.testing.assert_close(block.filtered(x[None])[0], convolved(x, kernel_of(block)), rtol=1e-4, atol=1e-6)


def test_items_may_stand_anywhere_among_zeros():
    torch.manual_seed(0)
    block, x = FilterBlock(3, inner=4, dropout=0.0, longest=8), torch.randn(2, 3, 3)
    for front in range(6):
        whole = block.filtered(F.pad(x, (0, 0, front, 5 - front)))
        torch.testing.assert_close(whole[:, front : front + 3], block.filtered(x), rtol=1e-4, atol=1e-6)


def test_a_filter_of_ones_changes_nothing():
    block = FilterBlock(2, inner=4, dropout=0.0, longest=5)
    with torch.no_grad():
        block.filter.copy_(torch.tensor([1.0, 0.0]).expand_as(block.filter))
    x = torch.randn(1, 4, 2)
    torch.testing.assert_close(block.filtered(x), x)


def test_of_a_history_beyond_the_filter_the_latest_items_count():
    torch.manual_seed(0)
    model = small(CATALOGUE, longest=3)
    torch.testing.assert_close(model.states(batch_of([[9, 8, 1, 2, 3]])), model.states(batch_of([[1, 2, 3]])))
