"""The regulator's losses against arithmetic by hand."""

import math
from math import exp, log

import pytest
import torch
import torch.nn.functional as F

from ed2rec.indexers.variational import VariationalQuantiser
from ed2rec.regulator import LITERAL_FLOOR, Regulator, index_alignment, token_alignment

EAST, NORTH, WEST = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])


def test_index_alignment_is_infonce_of_cosines():
    torch.manual_seed(0)
    index, text = torch.randn(6, 5), torch.randn(6, 5)
    logits = F.cosine_similarity(index[:, None], text[None], dim=-1) / 0.07
    torch.testing.assert_close(index_alignment(index, text), F.cross_entropy(logits, torch.arange(6)))


def test_index_alignment_by_hand():
    """Cosines are 1 on the diagonal and 0 off it: -log(e^2 / (e^2 + 1)) at tau = 1/2."""
    pair = torch.stack([3 * EAST, 2 * NORTH])
    assert float(index_alignment(pair, pair, temperature=0.5)) == pytest.approx(-log(exp(2) / (exp(2) + 1)))


def test_index_alignment_literal_is_minus_the_mean_probability():
    pair = torch.stack([3 * EAST, 2 * NORTH])
    assert float(index_alignment(pair, pair, literal=True)) == pytest.approx(-exp(1) / (exp(1) + 1))


def test_another_row_of_the_same_entity_is_no_negative():
    index = torch.stack([EAST, EAST, NORTH])
    entities = torch.tensor([4, 4, 9])
    # Rows 0 and 1: e^1 / (e^1 + e^0); row 2: e^1 / (e^1 + 2 e^0).
    expected = -(2 * log(exp(1) / (exp(1) + 1)) + log(exp(1) / (exp(1) + 2))) / 3
    assert float(index_alignment(index, index, entities, temperature=1.0)) == pytest.approx(expected)
    assert float(index_alignment(index[:1], index[:1], entities[:1])) == 0


def test_the_text_is_the_teacher_unless_literal():
    index, text = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    index_alignment(index, text).backward()
    assert index.grad.abs().sum() > 0 and text.grad is None
    index_alignment(index, text, literal=True).backward()
    assert text.grad.abs().sum() > 0


def test_token_alignment_equals_infonce_when_all_weights_are_one():
    """All inputs point the same way, so w = 1 everywhere."""
    torch.manual_seed(0)
    inputs = torch.randn(1, 3, 4).expand(5, -1, -1) * torch.rand(5, 3, 1).add(0.5)
    codewords, codes = torch.randn(5, 3, 4), torch.arange(15).reshape(5, 3)
    logits = F.cosine_similarity(inputs[:, None], codewords[None], dim=-1) / 0.07
    expected = sum(F.cross_entropy(logits[:, :, m], torch.arange(5)) for m in range(3)) / 3
    torch.testing.assert_close(token_alignment(inputs, codewords, codes), expected)


def test_token_alignment_by_hand():
    """Two entities at a right angle, codewords on them: s = 1 and 0, w = (1 + 0)/2 = 1/2, 1/w = 2, tau = 1."""
    x = torch.stack([EAST, NORTH])[:, None]
    loss = token_alignment(x, 5 * x, torch.tensor([[0], [1]]), temperature=1.0)
    assert float(loss) == pytest.approx(-log(exp(1) / (exp(1) + 2 * exp(0))))


def test_token_alignment_is_finite_for_opposite_vectors():
    """Cosine -1 gives w = 0, clipped to 1/10: the negative counts ten times."""
    x = torch.stack([EAST, WEST])[:, None]
    codes = torch.tensor([[0], [1]])
    loss = token_alignment(x, x, codes, temperature=1.0)
    assert float(loss) == pytest.approx(-log(exp(1) / (exp(1) + 10 * exp(-1))))
    assert token_alignment(x, x, codes).isfinite()


def test_the_printed_form_divides_by_no_weight_and_no_sum_nearer_to_zero_than_its_floor():
    """w = 0 at a right angle, 1/w = 1/floor; opposite ones, w = -1, with codewords that are all alike: e - e = 0."""
    orthogonal, opposite = torch.stack([EAST, NORTH])[:, None], torch.stack([EAST, WEST])[:, None]
    codes, alike = torch.tensor([[0], [1]]), torch.stack([NORTH, NORTH])[:, None]
    loss = token_alignment(orthogonal, orthogonal, codes, literal=True)
    assert float(loss) == pytest.approx(-exp(1) / (exp(1) + 1 / LITERAL_FLOOR))
    assert float(token_alignment(opposite, alike, codes, literal=True)) == pytest.approx(-1 / LITERAL_FLOOR)


def test_token_alignment_literal_by_hand():
    """cos 60 degrees = 1/2 for the inputs, so 1/w = 2; codewords on the inputs, s = 1 and 1/2."""
    x = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2]])[:, None]
    loss = token_alignment(x, x, torch.tensor([[0], [0]]), literal=True)
    assert float(loss) == pytest.approx(-exp(1) / (exp(1) + 2 * exp(0.5)))


def test_a_row_with_the_same_code_leaves_the_denominator_at_that_level_only():
    x = torch.stack([EAST, EAST, NORTH])[:, None].expand(-1, 2, -1)
    codes = torch.tensor([[0, 0], [0, 1], [2, 2]])
    e = exp(1)
    shared = (2 * log(e / (e + 2)) + log(e / (e + 4))) / 3  # rows 0 and 1 see only row 2, at 1/w = 2
    apart = (2 * log(e / (e + e + 2)) + log(e / (e + 4))) / 3  # and here each other too, at w = 1
    assert float(token_alignment(x, x, codes, temperature=1.0)) == pytest.approx(-(shared + apart) / 2)


def test_token_alignment_repels_the_unlike_more_than_the_like():
    x = torch.stack([EAST, F.normalize(torch.tensor([1.0, 0.1]), dim=0), WEST])[:, None]
    codewords = torch.stack([EAST, NORTH, NORTH])[:, None].clone().requires_grad_()
    loss = token_alignment(x, codewords, torch.tensor([[0], [1], [2]]), temperature=1.0)
    (gradient,) = torch.autograd.grad(loss, codewords)
    assert gradient[2].norm() > gradient[1].norm()


@pytest.mark.parametrize("literal", [False, True])
def test_zero_residuals_have_finite_losses_and_gradients(literal):
    inputs = torch.zeros(4, 2, 3, requires_grad=True)
    codewords = torch.randn(4, 2, 3, requires_grad=True)
    token_alignment(inputs, codewords, torch.arange(8).reshape(4, 2), literal=literal).backward()
    assert inputs.grad.isfinite().all() and codewords.grad.isfinite().all()


def test_losses_stay_in_float32_under_autocast():
    torch.manual_seed(0)
    index, text = torch.randn(8, 16), torch.randn(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = index_alignment(index, text)
    assert torch.equal(inside, index_alignment(index, text))


def test_the_regulator_names_and_weighs_its_losses_and_skips_what_weighs_nothing():
    torch.manual_seed(0)
    x, states = torch.randn(20, 8), torch.randn(20, 5)
    quantiser = VariationalQuantiser(8, code_width=4, sizes=(4, 4))
    quantiser.initialise(x)
    z = quantiser(x)
    regulator = Regulator(beta1=0.5, beta2=2.0)
    assert regulator.index("item", states, states.flip(0)) == {
        "index_item": 0.5 * index_alignment(states, states.flip(0))
    }
    assert regulator.token("user", z) == {"token_user": 2 * token_alignment(z.inputs, z.codewords, z.codes)}
    silent = Regulator(beta1=0.0, beta2=0.0)
    assert silent.index("item", states, states) == {} and silent.token("item", z) == {}
