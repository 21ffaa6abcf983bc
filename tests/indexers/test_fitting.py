"""Warm-up of the generator."""

import math

import pytest
import torch

from ed2rec.errors import ConfigError
from ed2rec.indexers.fitting import fit, forget
from ed2rec.indexers.variational import VariationalQuantiser


def small(**options) -> tuple[VariationalQuantiser, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(200, 10) @ torch.randn(10, 10)
    return VariationalQuantiser(10, **{"code_width": 6, "sizes": (8, 8)} | options), x


@pytest.mark.parametrize("estimator", ["copy", "softmax"])
def test_fitting_a_hidden_encoder_reconstructs_better_than_its_start(estimator):
    quantiser, x = small(hidden=(16,), estimator=estimator)
    history = fit(quantiser, x, epochs=20, batch=50)
    assert len(history["recon"]) == 20
    assert history["recon"][-1] < 0.9 * history["recon"][0]


def test_the_linear_start_is_all_but_optimal():
    """Principal components and k-means: fitting neither gains nor loses much."""
    quantiser, x = small()
    history = fit(quantiser, x, epochs=20, batch=50)
    assert history["recon"][-1] == pytest.approx(history["recon"][0], rel=0.05)


@pytest.mark.parametrize("sample", [False, True])
def test_the_same_seed_fits_the_same_quantiser_and_leaves_the_callers_randomness_alone(sample):
    weights = []
    for _ in range(2):
        quantiser, x = small()
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        fit(quantiser, x, epochs=3, batch=64, sample=sample, seed=1)
        assert torch.equal(torch.rand(1), expected)
        weights.append(torch.cat([p.detach().flatten() for p in quantiser.parameters()]))
    assert torch.equal(*weights)


def test_extra_losses_are_minimised_and_recorded_and_progress_is_told():
    quantiser, x = small()
    seen = []
    history = fit(
        quantiser,
        x,
        epochs=5,
        batch=50,
        extra=lambda quantised: {"shrink": 10 * quantised.inputs.square().mean()},
        progress=lambda epoch, losses: seen.append((epoch, losses["shrink"])),
    )
    assert [loss for _, loss in seen] == history["shrink"] and [epoch for epoch, _ in seen] == [0, 1, 2, 3, 4]
    assert history["shrink"][-1] < history["shrink"][0]


def test_no_epochs_is_the_start_from_the_data():
    quantiser, x = small()
    assert fit(quantiser, x, epochs=0) == {}
    other, _ = small()
    other.initialise(x, 0)
    assert torch.equal(quantiser.codes(x), other.codes(x))


def test_a_misspelt_loss_and_a_diverging_fit_are_refused():
    quantiser, x = small()
    with pytest.raises(ConfigError, match="'reco' is unknown; the losses are recon"):
        fit(quantiser, x, weights={"reco": 1.0})
    with pytest.raises(ConfigError, match="not finite"):
        fit(quantiser, x, epochs=2, weights={"recon": math.inf})


def test_forgetting_clears_the_moments_of_the_restarted_rows_only():
    quantiser, x = small()
    optimiser = torch.optim.AdamW(quantiser.parameters())
    quantiser.losses(quantiser(x, sample=False), x)["codebook"].backward()
    optimiser.step()
    moments = optimiser.state[quantiser.levels[1].codewords]["exp_avg"]
    before = moments.clone()
    forget(optimiser, quantiser, [(1, 2)])
    assert (moments[2] == 0).all() and torch.equal(moments[[0, 1, 3, 4, 5, 6, 7]], before[[0, 1, 3, 4, 5, 6, 7]])


def test_a_fit_leaves_no_gradients_behind():
    """Joint training goes on from here and would add to them."""
    torch.manual_seed(0)
    quantiser = VariationalQuantiser(6, (), 4, (3, 2))
    fit(quantiser, torch.randn(40, 6), epochs=2, batch=16)
    assert all(weight.grad is None for weight in quantiser.parameters())
