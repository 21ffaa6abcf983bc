"""What a generator says by itself, and when that is a collapse."""

import numpy as np
import pytest
import torch

from ed2rec.errors import IndexCollapse
from ed2rec.indexers.health import CROWD, Survey, check_use, survey
from ed2rec.indexers.variational import VariationalQuantiser


def generator(latent="vmf", sizes=(4, 3)):
    torch.manual_seed(0)
    x = torch.randn(40, 8)
    x[1:5] = x[0]
    quantiser = VariationalQuantiser(8, (), 6, sizes, latent)
    quantiser.initialise(x)
    return quantiser, x


def test_a_survey_tells_the_codes_before_twins_are_moved_apart():
    quantiser, x = generator()
    found = survey(quantiser, x)
    np.testing.assert_array_equal(found.codes, quantiser.codes(x))
    assert found.health.largest_group >= 5 and found.health.entities == 40
    facts = found.as_dict()
    assert set(facts) == {"entities", "used", "perplexity", "colliding", "largest_group", "collision_rate", "kappa"}
    assert facts["collision_rate"] == facts["colliding"] / 40


def test_kappa_is_the_mean_concentration_of_each_level():
    quantiser, x = generator()
    for level, kappa in zip(quantiser.levels, (50.0, 300.0), strict=True):
        torch.nn.init.constant_(level.concentration.bias, float(np.log(kappa)))
    assert survey(quantiser, x).kappa == pytest.approx((50, 300), rel=1e-5)
    with torch.no_grad():  # kappa = 50 exp(w . x/|x|), which differs from entity to entity
        quantiser.levels[0].concentration.weight.normal_()
    first = quantiser.encode(x)
    first = first / first.norm(dim=1, keepdim=True)
    expected = (50 * (first @ quantiser.levels[0].concentration.weight[0]).exp()).clamp(32, 2000).mean().detach()
    assert survey(quantiser, x).kappa[0] == pytest.approx(float(expected), rel=1e-4)


def test_a_latent_without_concentration_has_no_kappa():
    assert survey(*generator("none")).kappa == ()


def test_a_survey_draws_no_random_number():
    quantiser, x = generator()
    before = torch.get_rng_state()
    survey(quantiser, x)
    assert torch.equal(torch.get_rng_state(), before)


def column(*counts):
    return np.repeat(np.arange(len(counts)), counts)


def test_the_use_of_a_level_is_the_share_of_its_perplexity_above_one():
    """Shares 1/2, 1/4, 1/4: entropy 3/2 log 2, perplexity 2 sqrt 2; of 4 codes a use of (2.83 - 1) / 3 = 0.61."""
    codes = column(4, 2, 2)[:, None]
    check_use(Survey(codes, (4,)), 0.60, "item", "now")
    with pytest.raises(IndexCollapse, match=r"perplexity of 2\.83 where 4 is possible, a use of 0\.6095"):
        check_use(Survey(codes, (4,)), 0.61, "item", "now")


def test_few_entities_need_no_more_codes_than_there_are_entities():
    check_use(Survey(np.arange(5)[:, None], (2048,)), 0.99, "item", "now")
    with pytest.raises(IndexCollapse, match="where 5 is possible"):
        check_use(Survey(np.zeros((5, 1), int), (2048,)), 0.01, "item", "now")


@pytest.mark.parametrize("size", [2, 4, 64, 2048])
def test_one_code_for_everybody_is_a_collapse_for_every_size_and_floor_but_zero(size):
    codes = np.zeros((100, 1), int)
    for floor in (1e-6, 0.02):
        with pytest.raises(IndexCollapse):
            check_use(Survey(codes, (size,)), floor, "user", "now")
    check_use(Survey(codes, (size,)), 0.0, "user", "now")


def test_a_level_that_has_nothing_left_to_say_may_say_the_same_of_everybody():
    said = np.column_stack([np.arange(50), np.zeros(50, int)])
    check_use(Survey(said, (64, 64)), 0.02, "item", "now")
    twins = np.column_stack([np.repeat(np.arange(25), 2), np.zeros(50, int)])
    check_use(Survey(twins, (64, 64)), 0.02, "item", "now")
    crowds = np.column_stack([np.repeat(np.arange(5), CROWD), np.zeros(5 * CROWD, int)])
    with pytest.raises(IndexCollapse, match="level b"):
        check_use(Survey(crowds, (64, 64)), 0.02, "item", "now")


def test_sizes_of_one_code_and_single_entities_cannot_collapse():
    check_use(Survey(np.zeros((9, 1), int), (1,)), 0.5, "item", "now")
    check_use(Survey(np.zeros((1, 2), int), (8, 8)), 0.5, "item", "now")


def test_the_message_names_kind_level_numbers_and_what_to_change():
    with pytest.raises(IndexCollapse) as caught:
        check_use(Survey(np.zeros((30, 1), int), (16,)), 0.02, "user", "at step 120")
    message = str(caught.value)
    assert message.startswith("the user index has collapsed at step 120: level a has a perplexity of 1.00")
    settings = ("indexer.min_perplexity", "indexer.lr", "training.max_share", "training.margin", "encoding.whiten",
                "regulator.reconstruction", "texts")  # fmt: skip
    assert "\n" not in message and all(name in message for name in settings)
