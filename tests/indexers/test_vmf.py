"""The von Mises-Fisher functions against scipy, quadrature and the distribution's known moments."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ive

from ed2rec.indexers import vmf

KAPPAS = [1e-3, 1.0, 10.0, 32.0, 64.0, 256.0, 1e3, 1e4]
CASES = [(dim, kappa) for dim in (3, 64) for kappa in (1.0, 10.0, 32.0, 64.0, 256.0, 1e3, 1e4)]


def scipy_log_normaliser(kappa: np.ndarray, dim: int) -> np.ndarray:
    order = dim / 2 - 1
    return order * np.log(kappa) - dim / 2 * np.log(2 * np.pi) - np.log(ive(order, kappa)) - kappa


@pytest.mark.parametrize("dim", [3, 10, 64, 128])
def test_log_normaliser_and_mean_equal_scipy(dim):
    kappa = np.array(KAPPAS)
    wide = torch.tensor(kappa, dtype=torch.float64)
    assert np.abs(vmf.log_normaliser(wide, dim).numpy() - scipy_log_normaliser(kappa, dim)).max() < 2e-6
    mean = ive(dim / 2, kappa) / ive(dim / 2 - 1, kappa)
    np.testing.assert_allclose(vmf.mean_resultant(wide, dim).numpy(), mean, rtol=1e-7)


def test_log_normaliser_in_three_dimensions_is_the_closed_form():
    kappa = torch.tensor([0.5, 2.0, 20.0], dtype=torch.float64)
    expected = (kappa / (4 * math.pi * kappa.sinh())).log()
    torch.testing.assert_close(vmf.log_normaliser(kappa, 3), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dim", [3, 64, 1024])
def test_float32_agrees_with_float64_to_its_own_rounding(dim):
    kappa = torch.tensor([0.0, *KAPPAS])
    for function in (vmf.mean_resultant, vmf.log_normaliser, vmf.kl_to_uniform, vmf.entropy):
        result = function(kappa, dim)
        assert result.dtype == torch.float32 and result.isfinite().all()
        torch.testing.assert_close(result.double(), function(kappa.double(), dim), rtol=1e-6, atol=1e-6)


def test_minus_the_mean_is_the_derivative_of_the_log_normaliser():
    kappa = torch.tensor([0.0, 1.0, 50.0, 2000.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(vmf.log_normaliser(kappa, 64).sum(), kappa)
    torch.testing.assert_close(slope, -vmf.mean_resultant(kappa.detach(), 64), rtol=1e-5, atol=1e-8)


def test_kl_to_uniform_is_zero_at_zero_never_negative_and_grows():
    kl = vmf.kl_to_uniform(torch.tensor([0.0, 0.01, 1.0, 10.0, 100.0, 1e4], dtype=torch.float64), 64)
    assert abs(kl[0]) < 1e-6
    assert (kl[1:].diff() > 0).all() and kl[1] > -1e-6


def test_the_surface_of_the_unit_sphere_is_four_pi():
    assert math.isclose(vmf.log_surface(3), math.log(4 * math.pi))


@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_samples_have_the_mean_and_variance_of_the_distribution(dim, kappa):
    torch.manual_seed(0)
    draws = 40_000
    w = vmf.cosine(torch.full((draws,), kappa), dim).double()
    mean = vmf.mean_resultant(torch.tensor(kappa, dtype=torch.float64), dim)
    variance = 1 - mean**2 - (dim - 1) * mean / kappa
    assert abs(w.mean() - mean) < 5 * (variance / draws).sqrt()
    assert abs(w.var() / variance - 1) < 0.06


@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_the_gradient_of_the_mean_cosine_is_within_two_percent(dim, kappa):
    """dE[w]/dkappa = Var[w], the variance by quadrature of the density, scaled by its greatest value."""
    mean = float(vmf.mean_resultant(torch.tensor(kappa, dtype=torch.float64), dim))

    def log_density(w: float) -> float:
        return kappa * (w - mean) + (dim - 3) / 2 * (math.log1p(-w * w) - math.log1p(-mean * mean))

    spread = math.sqrt(1 - mean**2 - (dim - 1) * mean / kappa)
    low, high = max(-1 + 1e-12, mean - 30 * spread), min(1 - 1e-12, mean + 30 * spread)
    mass = quad(lambda w: math.exp(log_density(w)), low, high, limit=200)[0]
    variance = quad(lambda w: (w - mean) ** 2 * math.exp(log_density(w)), low, high, limit=200)[0] / mass

    torch.manual_seed(1)
    concentration = torch.full((40_000,), kappa, requires_grad=True)
    (slope,) = torch.autograd.grad(vmf.cosine(concentration, dim).mean(), concentration)
    assert abs(float(slope.sum()) / variance - 1) < 0.02


def test_samples_lie_on_the_sphere_around_their_mean_even_for_one_row_and_the_first_axis():
    torch.manual_seed(0)
    mu = torch.eye(64)[:1]
    sample = vmf.sample(mu, torch.tensor([500.0]))
    assert sample.shape == (1, 64)
    torch.testing.assert_close(sample.norm(dim=-1), torch.ones(1))
    many = vmf.sample(mu.expand(4000, -1), torch.full((4000,), 500.0))
    torch.testing.assert_close(many.mean(0)[0], vmf.mean_resultant(torch.tensor(500.0), 64), atol=1e-3, rtol=0)
    assert many.mean(0)[1:].abs().max() < 0.01


def test_sampling_passes_gradients_to_direction_and_concentration():
    torch.manual_seed(0)
    mu = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1).requires_grad_()
    kappa = torch.full((5,), 50.0, requires_grad=True)
    (vmf.sample(mu, kappa) @ torch.randn(8)).sum().backward()
    assert mu.grad.isfinite().all() and mu.grad.abs().min() > 0
    assert kappa.grad.isfinite().all() and kappa.grad.abs().min() > 0


def test_no_concentration_samples_the_whole_sphere():
    torch.manual_seed(0)
    w = vmf.cosine(torch.zeros(20_000), 64)
    assert abs(w.mean()) < 0.005 and abs(w.var() * 64 - 1) < 0.05
