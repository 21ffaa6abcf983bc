"""What texts say beside the LLM, against the sum written out."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import shop, small_settings

from ed2rec.errors import RunError
from ed2rec.prior import FILE, TextPrior, latent_semantics
from ed2rec.training.parts import build_parts

CPU = torch.device("cpu")


def texts(items: int = 9, width: int = 4) -> torch.Tensor:
    made = torch.randn(items, width, generator=torch.Generator().manual_seed(0))
    made[4] = 0  # an item without a text
    return torch.nn.functional.normalize(made, dim=1)


@pytest.mark.parametrize("last", [1, 3])
def test_it_sums_the_cosines_with_the_last_items_of_which_none_speaks_for_itself(last):
    x = texts().numpy().astype(np.float64)
    histories = [np.array(items) for items in ([7, 0, 3, 2], [5], [4, 1], [6, 6, 1], [])]
    expected = np.zeros((len(histories), len(x)))
    for row, history in enumerate(histories):
        for i in history[-last:]:
            for j in range(len(x)):
                if i != j:
                    expected[row, j] += 0.5 * x[i] @ x[j]
    found = TextPrior(texts(), weight=0.5, last=last)(histories)
    assert found.shape == (5, 9) and found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[:, 4] == 0).all() and (found[4] == 0).all()


def test_it_stays_in_float32_under_autocast():
    """As a decoder in bfloat16 calls it: on a GPU, and on a processor that computes in it."""
    prior, histories = TextPrior(texts(), 2.0, 3), [np.array([7, 0, 3, 2]), np.array([5])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = prior(histories)
    assert torch.equal(under, prior(histories))


def test_it_comes_back_as_it_was_written(tmp_path):
    prior = TextPrior(texts(), 2.0, 3)
    prior.save(tmp_path)
    again = TextPrior.load(tmp_path, 2.0, 3, 9, CPU)
    assert torch.equal(again([np.array([1, 2])]), prior([np.array([1, 2])]))


def test_a_file_that_is_missing_damaged_or_of_another_catalogue_gets_one_line(tmp_path):
    with pytest.raises(RunError, match=f"{FILE} cannot be read .* copy the run again"):
        TextPrior.load(tmp_path, 1.0, 3, 9, CPU)
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(RunError, match=f"{FILE} cannot be read"):
        TextPrior.load(tmp_path, 1.0, 3, 9, CPU)
    save_file({"items": texts(8)}, tmp_path / FILE)
    with pytest.raises(RunError, match="texts of 8 items where the run has 9"):
        TextPrior.load(tmp_path, 1.0, 3, 9, CPU)


@pytest.mark.parametrize("width", [256, 8], ids=["as counted", "in few directions"])
def test_latent_semantics_are_near_where_words_are_shared(width):
    random = np.random.default_rng(0)
    words = [[f"{topic}{n}" for n in range(12)] for topic in "abc"]
    written = [" ".join(random.choice(words[item % 3], 6, replace=False)) for item in range(60)]
    x = latent_semantics([*written, written[0], ""], width)
    assert len(x) == 62 and x.shape[1] <= 36 and x.dtype == torch.float32
    np.testing.assert_allclose(x.norm(dim=1), [1.0] * 61 + [0.0], atol=1e-5)
    cosine = (x @ x.T).numpy()
    alike = np.arange(60)[:, None] % 3 == np.arange(60) % 3
    assert cosine[0, 60] == pytest.approx(1) and cosine[:60, :60][~alike].max() < 0.05 + cosine[:60, :60][alike].min()
    assert torch.equal(x, latent_semantics([*written, written[0], ""], width))


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"last": 0}])
def test_a_prior_that_says_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="give a weight above 0 and at least one item"):
        TextPrior(texts(), **({"weight": 1.0, "last": 1} | wrong))


def test_it_is_made_from_what_the_index_is_made_from_and_stays_as_it_was():
    """X_T as the generators read them at the start: what is learned from behaviour later is the LLM's to say."""
    parts = build_parts(shop(), small_settings("decoding.prior=2", "indexer.behaviour=1"), lambda *_: None)
    assert parts.prior is not None and (parts.prior.weight, parts.prior.last) == (2.0, 2)
    x = parts.prior.texts_KE
    items = parts.model.items.embeddings[:, : x.shape[1]]
    torch.testing.assert_close(x, torch.nn.functional.normalize(items, dim=1), rtol=1e-4, atol=1e-5)
    parts.model.items.embeddings += 1
    assert torch.equal(x, parts.prior.texts_KE)
