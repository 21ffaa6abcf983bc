"""The variational quantiser: planted trees, residual identities, gradients, an oracle."""

import pytest
import torch
from torch import Tensor

from ed2rec.errors import ConfigError
from ed2rec.indexers.variational import LOSS_WEIGHTS, VariationalQuantiser


def planted_tree(branching=(4, 3, 2), leaves=5, width=16, noise=0.01) -> tuple[Tensor, Tensor]:
    """Embeddings that are sums of one vector per level, each level ten times shorter, and the true codes."""
    random = torch.Generator().manual_seed(3)
    directions = torch.linalg.qr(torch.randn(width, width, generator=random))[0]
    paths = torch.cartesian_prod(*map(torch.arange, branching)).repeat_interleave(leaves, 0)
    first = torch.cumsum(torch.tensor([0, *branching]), 0)
    x = sum(10.0 ** (1 - m) * directions[first[m] + paths[:, m]] for m in range(len(branching)))
    return x + noise * 0.1 * torch.randn(x.shape, generator=random), paths


def quantiser_and_data(seed=0, entities=64, **options):
    torch.manual_seed(seed)
    x = torch.randn(entities, 12)
    quantiser = VariationalQuantiser(12, **{"code_width": 6, "sizes": (8, 8, 4)} | options)
    quantiser.initialise(x)
    return quantiser, x


@pytest.mark.parametrize("latent", ["vmf", "gaussian", "none"])
def test_a_planted_tree_is_recovered(latent):
    """As many codes as branches: entities share a prefix if and only if they share the branch."""
    x, paths = planted_tree()
    quantiser = VariationalQuantiser(16, code_width=16, sizes=(4, 3, 2), latent=latent)
    quantiser.initialise(x)
    codes = quantiser.codes(x)
    for depth in (1, 2, 3):
        true = (paths[:, None, :depth] == paths[None, :, :depth]).all(-1)
        found = (codes[:, None, :depth] == codes[None, :, :depth]).all(-1)
        assert torch.equal(found, true)
    assert quantiser.losses(quantiser(x, sample=False), x)["recon"] < 1e-4


@pytest.mark.parametrize("sample", [True, False])
def test_the_input_is_the_sum_of_its_codewords_and_the_last_residual(sample):
    quantiser, x = quantiser_and_data()
    z = quantiser(x, sample=sample)
    last = z.inputs[:, -1] - z.codewords[:, -1]
    torch.testing.assert_close(z.inputs[:, 0], z.codewords.sum(1) + last)
    torch.testing.assert_close(z.inputs[:, 0], quantiser.encode(x))


@pytest.mark.parametrize("given", [False, True])
def test_straight_through_weights_are_the_one_hot_of_the_code_forward(given):
    quantiser, x = quantiser_and_data()
    table = torch.stack([torch.randint(size, (64,)) for size in quantiser.sizes], 1) if given else None
    z = quantiser(x, table)
    if given:
        assert torch.equal(z.codes, table)
    for m, weights in enumerate(z.straight_through):
        hard = torch.nn.functional.one_hot(z.codes[:, m], quantiser.sizes[m]).float()
        assert torch.equal(weights, hard)
        assert torch.equal(weights @ quantiser.levels[m].codewords, z.codewords[:, m])


def test_straight_through_weights_carry_the_gradient_of_the_softmax():
    quantiser, x = quantiser_and_data()
    quantiser.temperature = 0.5
    z = quantiser(x, quantiser.codes(x), sample=False)
    random = torch.randn(64, 8)
    (found,) = torch.autograd.grad((z.straight_through[0] * random).sum(), z.logits[0], retain_graph=True)
    (expected,) = torch.autograd.grad(((z.logits[0] / 0.5).softmax(-1) * random).sum(), z.logits[0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("latent", ["vmf", "gaussian"])
def test_gradients_of_the_soft_route_reach_every_part_of_the_generator(latent):
    quantiser, x = quantiser_and_data(latent=latent)
    z = quantiser(x, quantiser.codes(x), sample=True)
    sum((y * torch.randn_like(y)).sum() for y in z.straight_through).backward()
    for name, parameter in quantiser.named_parameters():
        if not name.startswith("decoder"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_the_mode_ignores_the_seed_and_sampling_does_not():
    quantiser, x = quantiser_and_data()
    modes = [quantiser(x, sample=False).codes for _ in range(2)]
    draws = [quantiser(x, sample=True).codes for _ in range(2)]
    assert torch.equal(*modes) and torch.equal(modes[0], quantiser.codes(x)) and not torch.equal(*draws)


def test_codes_are_drawn_from_the_softmax_of_their_logits():
    quantiser, x = quantiser_and_data(latent="none", sizes=(8,))
    x = x[:1].expand(20_000, -1)
    quantiser.temperature = 4.0
    z = quantiser(x, sample=True)
    share = torch.bincount(z.codes[:, 0], minlength=8) / len(x)
    torch.testing.assert_close(share, (z.logits[0][0] / 4).softmax(-1), atol=0.015, rtol=0)


def test_concentration_starts_at_200_and_is_absent_without_a_latent():
    quantiser, x = quantiser_and_data()
    torch.testing.assert_close(quantiser(x).kappa, torch.full((64, 3), 200.0))
    without, x = quantiser_and_data(latent="none")
    assert without(x).kappa.isinf().all() and without.losses(without(x), x)["kl"] == 0


def test_codes_stay_in_float32_under_autocast():
    quantiser, x = quantiser_and_data()
    plain = quantiser(x, sample=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantiser(x, sample=False)
    assert cast.logits[0].dtype == torch.float32
    assert torch.equal(cast.codes, plain.codes) and torch.equal(cast.reconstruction, plain.reconstruction)


def test_residual_quantisation_equals_vector_quantize_pytorch():
    oracle_module = pytest.importorskip("vector_quantize_pytorch", reason="the oracle is not installed")
    quantiser, x = quantiser_and_data(entities=200, latent="none")
    oracle = oracle_module.ResidualVQ(dim=6, num_quantizers=2, codebook_size=8)
    for layer, level in zip(oracle.layers, quantiser.levels, strict=False):
        layer._codebook.embed.data.copy_(level.codewords.detach()[None])
        layer._codebook.initted.data.fill_(True)
    first = quantiser.encode(x).detach()
    total, codes, _ = oracle.eval()(first[None])
    z = quantiser(x, sample=False)
    assert torch.equal(z.codes[:, :2], codes[0])
    torch.testing.assert_close(z.codewords[:, :2].sum(1), total[0])


def test_losses_of_a_perfect_and_of_a_trivial_code():
    x = torch.eye(4).repeat(5, 1)
    quantiser = VariationalQuantiser(4, code_width=4, sizes=(4,))
    quantiser.initialise(x)
    losses = quantiser.losses(quantiser(x, sample=False), x)
    assert losses.keys() == LOSS_WEIGHTS.keys()
    for name in ("recon", "codebook", "commitment"):
        assert losses[name] < 1e-10
    assert losses["diversity"] < 1e-3  # four codes, five entities each
    with torch.no_grad():
        quantiser.levels[0].codewords.zero_()
    losses = quantiser.losses(quantiser(x, sample=False), x)
    torch.testing.assert_close(losses["recon"], torch.tensor(1.0))  # the mean explains no variance


def test_commitment_moves_the_encoder_only_and_codebook_the_codewords_only():
    quantiser, x = quantiser_and_data(sizes=(8,))
    losses = quantiser.losses(quantiser(x, sample=False), x)
    encoder, codewords = quantiser.encoder[0].weight, quantiser.levels[0].codewords
    for name, moved, still in (("commitment", encoder, codewords), ("codebook", codewords, encoder)):
        grads = torch.autograd.grad(losses[name], [moved, still], retain_graph=True, allow_unused=True)
        assert grads[0].abs().sum() > 0 and grads[1] is None


def test_euclidean_logits_rank_codewords_by_distance():
    quantiser, x = quantiser_and_data(latent="none")
    z = quantiser(x, sample=False)
    distance = torch.cdist(z.inputs[:, 0], quantiser.levels[0].codewords)
    assert torch.equal(z.codes[:, 0], distance.argmin(-1))


def test_fewer_entities_than_codes_and_equal_entities_are_fine():
    x = torch.randn(3, 12).repeat(4, 1)
    quantiser = VariationalQuantiser(12, code_width=6, sizes=(16, 16))
    quantiser.initialise(x)
    z = quantiser(x)
    codes = quantiser.codes(x)
    assert len(codes.unique(dim=0)) == 3 and torch.equal(codes[:3], codes[3:6])
    torch.stack([*quantiser.losses(z, x).values(), z.straight_through[0][:, 0].sum()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in quantiser.parameters())


def test_one_entity_and_constant_embeddings_are_fine():
    for x in (torch.ones(1, 12), torch.ones(20, 12), torch.zeros(20, 12)):
        quantiser = VariationalQuantiser(12, code_width=6, sizes=(4, 4))
        quantiser.initialise(x)
        assert quantiser.codes(x).unique(dim=0).shape == (1, 2)
        assert all(loss.isfinite() for loss in quantiser.losses(quantiser(x), x).values())


def test_unused_codes_restart_on_data_and_used_ones_stay():
    quantiser, x = quantiser_and_data()
    with torch.no_grad():
        quantiser.levels[1].codewords[3] = 1e3  # nobody is near
    before = quantiser.levels[1].codewords.clone()
    z = quantiser(x, sample=False)
    for _ in range(10):
        quantiser.observe(z.codes, decay=0.5)
    unused = [(m, n) for m, size in enumerate(quantiser.sizes) for n in range(size) if n not in z.codes[:, m]]
    assert (1, 3) in unused and quantiser.restart_dead(z) == unused
    after = quantiser.levels[1].codewords
    kept = [n for n in range(8) if (1, n) not in unused]
    assert torch.equal(after[kept], before[kept])
    assert torch.cdist(after[3:4], z.inputs[:, 1]).min() < 0.1
    assert quantiser.restart_dead(z) == []  # a restarted code gets its time


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ()}, "at least one level"),
        ({"sizes": (4, 0)}, "at least one level"),
        ({"latent": "vfm"}, "latent is 'vfm'; choose one of vmf"),
        ({"distance": "dot"}, "distance is 'dot'"),
        ({"estimator": "x"}, "estimator is 'x'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        VariationalQuantiser(12, **options)
