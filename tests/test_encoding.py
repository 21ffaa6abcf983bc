"""Text embeddings against a loop over single texts, the cache, and the whitening's algebra."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from tokenizers import normalizers
from transformers import PreTrainedModel
from worlds import tiny_gpt2, tiny_llama, word_tokenizer

from ed2rec import encoding
from ed2rec.encoding import Whitening, encode_texts
from ed2rec.errors import ConfigError

TEXTS = [
    "the user has bought these items", "", "recommend a next item", "history", "the user has bought these items",
    "in order : answer", "items items items items items items items items", "unknown words only here",
]  # fmt: skip


def alone(llm: PreTrainedModel, text: str, pooling: str, layer: int) -> np.ndarray:
    """Eq. 2 for one text, without batch, padding or mask."""
    ids = torch.tensor([word_tokenizer()(text)["input_ids"]])
    states = llm.get_decoder()(ids, output_hidden_states=True).hidden_states[layer][0]
    return (states.mean(0) if pooling == "mean" else states[-1]).detach().numpy()


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("llm", [tiny_llama(), tiny_gpt2()], ids=["llama", "gpt2"])
def test_every_text_gets_the_pooled_states_that_it_has_alone(llm, pooling, layer):
    if layer == 0 and isinstance(llm, type(tiny_gpt2())):
        pytest.skip("GPT-2 adds positions to its first states; layer 0 is the token embeddings before that")
    vectors = encode_texts(llm, word_tokenizer(), TEXTS, pooling=pooling, layer=layer, batch_tokens=16)
    assert vectors.shape == (len(TEXTS), 32) and vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        expected = alone(llm, text, pooling, layer) if text else np.zeros(32)
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_layer_0_of_any_model_is_its_token_embeddings():
    llm = tiny_gpt2()
    ids = word_tokenizer()("a next item")["input_ids"]
    vector = encode_texts(llm, word_tokenizer(), ["a next item"], layer=0)[0]
    np.testing.assert_allclose(vector, llm.get_input_embeddings().weight[ids].mean(0).detach(), rtol=1e-5, atol=1e-6)


LLM = tiny_llama()


@pytest.mark.parametrize("layer", [3, -4, 99])
def test_a_layer_that_the_llm_does_not_have_is_one_line_with_the_range(layer):
    with pytest.raises(ConfigError, match=rf"encoding.layer={layer}, .* 2 layers; allowed: 0 .* to 2, or -1 .* to -3$"):
        encode_texts(LLM, word_tokenizer(), TEXTS, layer=layer)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(len(TEXTS))), batch_tokens=st.integers(1, 40))
def test_neither_the_order_nor_the_batches_matter(order, batch_tokens):
    expected = encode_texts(LLM, word_tokenizer(), TEXTS)
    vectors = encode_texts(LLM, word_tokenizer(), [TEXTS[i] for i in order], batch_tokens=batch_tokens)
    np.testing.assert_allclose(vectors, expected[list(order)], rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed(lengths, batch_tokens):
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = encoding._batches(order, lengths, batch_tokens)
    assert [i for batch in batches for i in batch] == order
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens for batch in batches)


def test_long_texts_are_cut_to_their_beginning():
    long, short = encode_texts(LLM, word_tokenizer(), ["the user has bought", "the user"], max_tokens=2)
    np.testing.assert_array_equal(long, short)


def test_no_texts_are_no_rows():
    assert encode_texts(LLM, word_tokenizer(), []).shape == (0, 32)


def test_progress_counts_distinct_texts():
    told: list[tuple[int, int]] = []
    encode_texts(LLM, word_tokenizer(), TEXTS, batch_tokens=8, progress=lambda *it: told.append(it))
    assert told[-1] == (6, 6) and [done for done, _ in told] == sorted(done for done, _ in told)


# The cache.


class Counted:
    """How many texts the model has read."""

    def __init__(self, monkeypatch) -> None:
        self.texts = 0
        pooled = encoding._pooled

        def count(llm, ids, *rest):
            self.texts += len(ids)
            return pooled(llm, ids, *rest)

        monkeypatch.setattr(encoding, "_pooled", count)


def test_what_is_in_the_cache_is_not_computed_again(tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    tokenizer = word_tokenizer()
    first = encode_texts(LLM, tokenizer, TEXTS, cache=tmp_path)
    assert counted.texts == 6
    second = encode_texts(LLM, tokenizer, TEXTS[::-1], cache=tmp_path)
    assert counted.texts == 6
    np.testing.assert_array_equal(second, first[::-1])
    encode_texts(LLM, word_tokenizer(), [*TEXTS, "one more"], cache=tmp_path)
    assert counted.texts == 7


@pytest.mark.parametrize("change", ["weights", "pooling", "layer", "max_tokens", "dtype", "tokenizer"])
def test_another_model_or_another_way_to_read_it_has_a_cache_of_its_own(change, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    llm, tokenizer, options = tiny_llama(), word_tokenizer(), {}
    encode_texts(llm, tokenizer, TEXTS, cache=tmp_path)
    if change == "weights":
        with torch.no_grad():
            llm.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    elif change == "tokenizer":
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace("these", "a")
    else:
        options = {change: {"pooling": "last", "layer": 1, "max_tokens": 3, "dtype": torch.bfloat16}[change]}
    vectors = encode_texts(llm, tokenizer, TEXTS, cache=tmp_path, **options)
    assert counted.texts == 12
    np.testing.assert_array_equal(vectors, encode_texts(llm, tokenizer, TEXTS, **options))


def shards(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def test_a_cache_that_cannot_be_written_is_found_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    counted = Counted(monkeypatch)
    with pytest.raises(ConfigError, match=r"file/cache: Not a directory; set encoding.cache") as error:
        encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path / "file/cache")
    assert counted.texts == 0 and "\n" not in str(error.value)
    expected = encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path / "known")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(encoding.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match=r"known: Permission denied; set encoding.cache"):
        encode_texts(LLM, word_tokenizer(), ["one more"], cache=tmp_path / "known")
    np.testing.assert_array_equal(encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path / "known"), expected)


@pytest.mark.parametrize("keep", [0, 5, 300, -40])
def test_a_damaged_shard_costs_only_its_own_embeddings(keep, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", 3)
    expected = encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path, batch_tokens=1)
    assert len(shards(tmp_path)) == 2
    damaged = shards(tmp_path)[0]
    damaged.write_bytes(damaged.read_bytes()[:keep])
    counted = Counted(monkeypatch)
    vectors = encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path, batch_tokens=1)
    assert counted.texts == 3
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path)
    assert counted.texts == 3, "the shard is whole again"


@pytest.mark.parametrize("shard", [2, 2048])
def test_what_was_encoded_before_an_interruption_is_not_encoded_again(shard, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "SHARD", shard)

    def stop(done: int, total: int) -> None:
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path, batch_tokens=1, progress=stop)
    assert len(shards(tmp_path)) == -(-5 // shard)
    counted = Counted(monkeypatch)
    vectors = encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path)
    assert counted.texts == 6 - 5
    np.testing.assert_allclose(vectors, encode_texts(LLM, word_tokenizer(), TEXTS), rtol=1e-4, atol=1e-5)
    assert not list(tmp_path.rglob("*.part"))


def test_a_cache_without_room_is_one_line_that_names_it(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(encoding, "save_file", full)
    with pytest.raises(ConfigError, match=r"cannot write the embedding cache \S+: .*No space left.*\$ED2_CACHE"):
        encode_texts(LLM, word_tokenizer(), TEXTS, cache=tmp_path)
    assert not list(tmp_path.rglob("*.part"))


# Whitening.

RANDOM = np.random.default_rng(0)
SKEWED = RANDOM.normal(size=(400, 6)) @ RANDOM.normal(size=(6, 6)) + 100 * RANDOM.normal(size=6)


def test_power_1_gives_every_axis_the_same_variance_and_power_0_only_turns():
    white = Whitening.fit(SKEWED, power=1.0).apply(SKEWED)
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(6), rtol=1e-3, atol=1e-3)
    turned = Whitening.fit(SKEWED, power=0.0).apply(SKEWED)
    distances, before = torch.pdist(turned), torch.pdist(torch.tensor(SKEWED - SKEWED.mean(0)).float())
    torch.testing.assert_close(distances / distances[0], before / before[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_result_is_centred_uncorrelated_and_of_unit_mean_square(power):
    x = Whitening.fit(SKEWED, power=power).apply(SKEWED)
    covariance = torch.cov(x.T, correction=0)
    torch.testing.assert_close(x.mean(0), torch.zeros(6), rtol=0, atol=1e-3)
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), rtol=0, atol=1e-3)
    assert float(x.square().mean()) == pytest.approx(1, abs=1e-3)
    assert (covariance.diagonal().diff() <= 1e-3).all(), "the axes with the most variance come first"


def test_an_axis_whose_variance_is_noise_is_dropped_so_that_twins_stay_twins():
    flat = np.concatenate([RANDOM.normal(size=(50, 3)), np.zeros((50, 2))], axis=1)
    flat[1] = flat[0] + 1e-7 * RANDOM.normal(size=5)  # one text, computed in two batches
    white = Whitening.fit(flat, power=1.0)
    x = white.apply(flat)
    assert (x[:, 3:] == 0).all() and (white.projection[:, 3:] == 0).all()
    assert (x[0] - x[1]).norm() < 1e-5 < (x[0] - x[2]).norm()


def test_new_texts_go_through_the_same_map_one_by_one():
    white = Whitening.fit(SKEWED)
    new = RANDOM.normal(size=(3, 6))
    together = white.apply(new)
    torch.testing.assert_close(together, torch.cat([white.apply(row[None]) for row in new]))
    torch.testing.assert_close(together[0], (torch.tensor(new[0]).float() - white.mean) @ white.projection)


def test_a_narrower_result_is_the_first_axes():
    x = Whitening.fit(SKEWED, width=2, power=0.0).apply(SKEWED)
    wide = Whitening.fit(SKEWED, power=0.0).apply(SKEWED)
    assert x.shape == (400, 2)
    torch.testing.assert_close(x / x.norm(), wide[:, :2] / wide[:, :2].norm(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 5])
def test_texts_that_are_all_alike_become_zeros(rows):
    x = Whitening.fit(np.ones((rows, 4))).apply(np.ones((rows, 4)))
    assert x.shape == (rows, 4) and (x == 0).all()
