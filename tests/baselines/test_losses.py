import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ed2rec.baselines import losses
from ed2rec.baselines.losses import Negatives, bce, bpr, hinge, sampled_scores, softmax, top1
from ed2rec.data.dataset import Histories


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 11, 3 * 11, 10**9], ids=["a row", "one row", "3 rows", "all rows"])
def test_softmax_is_cross_entropy_in_value_and_gradients(with_bias, chunk, monkeypatch):
    """7 states, 11 items, in chunks of 1, 1, 3 and all rows; 7 is no multiple of 3."""
    monkeypatch.setattr(losses, "CHUNK", chunk)
    torch.manual_seed(0)
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 0])
    inputs = [torch.randn(7, 5), torch.randn(11, 5), torch.randn(11) if with_bias else None]
    found, expected = ([None if x is None else x.clone().requires_grad_() for x in inputs] for _ in range(2))
    ours = softmax(*found, targets)
    logits = expected[0] @ expected[1].T + (expected[2] if with_bias else 0)
    theirs = F.cross_entropy(logits, targets)
    (3 * ours).backward()  # a factor, so that the gradient that comes in counts
    (3 * theirs).backward()
    torch.testing.assert_close(ours, theirs)
    for mine, reference in zip(found, expected, strict=True):
        assert mine is None or torch.allclose(mine.grad, reference.grad, atol=1e-6)


def test_softmax_of_great_logits_is_finite():
    states = torch.tensor([[1e4]], requires_grad=True)
    loss = softmax(states, torch.tensor([[1.0], [-1.0]]), None, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 2e4 and states.grad.item() == 2.0


def test_softmax_computes_in_float32_whatever_the_states_are():
    """Of 1 + 2^-7, which bfloat16 can hold, exp(-·) is not in bfloat16."""
    states = torch.tensor([[1 + 2**-7]], dtype=torch.bfloat16)
    loss = softmax(states, torch.tensor([[1.0], [0.0]]), None, torch.tensor([1]))
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(math.log1p(math.exp(1 + 2**-7)), rel=1e-6)


def test_sampled_scores_are_the_products_with_the_rows_asked_for():
    states, table, bias = (
        torch.tensor([[1.0, 2], [3, 4]]),
        torch.tensor([[1.0, 0], [0, 1], [1, 1]]),
        torch.tensor([8.0, 16, 32]),
    )
    items = torch.tensor([[0, 2], [1, 1]])
    assert sampled_scores(states, table, None, items).tolist() == [[1, 3], [4, 4]]
    assert sampled_scores(states, table, bias, items).tolist() == [[9, 35], [20, 20]]


def logit(p: float) -> float:
    """σ of it is p."""
    return math.log(p / (1 - p))


def test_the_sampled_losses_by_hand():
    """One state with σ(s⁺) = 3/4 and negatives with σ = 1/4 and 1/2."""
    positive, negative = torch.tensor([[logit(3 / 4)]]), torch.tensor([[logit(1 / 4), logit(1 / 2)]])
    assert float(bce(positive, negative)) == pytest.approx(-math.log(3 / 4) - (math.log(3 / 4) + math.log(1 / 2)) / 2)
    # s⁺ = log 3, s⁻ = -log 3 and 0: σ(s⁺ - s⁻) = 9/10 and 3/4.
    assert float(bpr(positive, negative)) == pytest.approx(-(math.log(9 / 10) + math.log(3 / 4)) / 2)
    squared = 1 / (1 + math.exp(-(math.log(3) ** 2)))
    assert float(top1(positive, negative)) == pytest.approx((1 / 10 + squared + 1 / 4 + 1 / 2) / 2)
    # Margins 1/2: s⁺ - s⁻ = 1/4 lacks 1/4, s⁺ - s⁻ = 1 lacks nothing.
    assert float(hinge(torch.tensor([[1.0]]), torch.tensor([[3 / 4, 0.0]]))) == (1 / 4 + 0) / 2


@pytest.mark.parametrize("name", losses.SAMPLED)
def test_a_sampled_loss_is_a_mean_over_states_and_negatives(name):
    loss = losses.SAMPLED[name]
    torch.manual_seed(0)
    positive, negative = torch.randn(5, 1), torch.randn(5, 3)
    parts = [loss(positive[s : s + 1], negative[s : s + 1, c : c + 1]) for s in range(5) for c in range(3)]
    torch.testing.assert_close(loss(positive, negative), torch.stack(parts).mean())


@pytest.mark.parametrize("name", losses.SAMPLED)
def test_the_sampled_losses_push_the_target_up_and_others_down_and_stay_finite(name):
    positive, negative = torch.tensor([[0.1]], requires_grad=True), torch.tensor([[0.2]], requires_grad=True)
    losses.SAMPLED[name](positive, negative).backward()
    assert positive.grad < 0 < negative.grad
    far = losses.SAMPLED[name](torch.tensor([[-1e4]]), torch.tensor([[1e4]]))
    assert far.isfinite()


@given(st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=5), st.integers(0, 99))
def test_a_taken_item_is_never_drawn(lists, seed):
    """However much a user has taken; one who took everything gets any item, and an unknown user too."""
    sampler = Negatives(Histories.from_lists(lists), 7)
    users = torch.arange(len(lists) + 1)
    found = sampler.draw(users, 20, torch.Generator().manual_seed(seed))
    assert found.shape == (len(users), 20) and found.min() >= 0 and found.max() < 7
    for user, items in enumerate(lists):
        assert len(set(items)) == 7 or not set(items) & set(found[user].tolist())


def test_negatives_are_uniform_over_the_rest():
    """Users who took none, some, all but one and all: each free item has the same share, within five sigma."""
    lists = [[], [1, 4, 1], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]
    draws, users = 12_000, torch.arange(4)
    found = Negatives(Histories.from_lists(lists), 6).draw(users, draws, torch.Generator().manual_seed(0))
    for user, free in enumerate([[0, 1, 2, 3, 4, 5], [0, 2, 3, 5], [4], [0, 1, 2, 3, 4, 5]]):
        share = torch.bincount(found[user], minlength=6) / draws
        p = 1 / len(free)
        assert share.count_nonzero() == len(free)
        assert all(abs(float(share[item]) - p) <= 5 * math.sqrt(p * (1 - p) / draws) for item in free)


def test_negatives_follow_from_the_generator():
    sampler = Negatives(Histories.from_lists([[0, 1], [2]]), 50)
    first, again, other = (
        sampler.draw(torch.tensor([0, 1, 1]), 8, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
