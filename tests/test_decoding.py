"""Beam search against exact scoring, against transformers' own beam search, and against itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, LogitsProcessor, LogitsProcessorList
from worlds import WORDS, Catalogue, random_table, small_catalogue, table_of, tiny_llama

from ed2rec.decoding import Decoder, constrained_beam_search, exact_scores
from ed2rec.errors import BackboneError
from ed2rec.indexers.contract import IndexTable
from ed2rec.recommender import Recommendations
from ed2rec.trie import AllPaths, Trie
from ed2rec.vocabulary import IndexVocabulary

LLMS = ["llama", "llama-tied", "gpt2"]
NORMALISE = ["level", "vocabulary"]
COLLIDING = random_table(24, (3, 2, 3), seed=1)  # 18 paths, so several groups of two to four
UNIQUE = random_table(24, (4, 4, 4), seed=1, unique=True)


def assert_ranks_all(found: Recommendations, exact: np.ndarray) -> None:
    """`found` is the complete ranking by the exact scores, and has the same scores."""
    order = np.argsort(-exact, axis=1, kind="stable")
    np.testing.assert_array_equal(found.items[:, : exact.shape[1]], order)
    np.testing.assert_allclose(found.scores[:, : exact.shape[1]], np.take_along_axis(exact, order, 1), atol=2e-5)


def test_a_wider_beam_has_fewer_users_in_a_batch(monkeypatch):
    """As many beams together, or a long list for everybody would fill a GPU at the end of an evaluation."""
    world = small_catalogue(COLLIDING, users=8)
    decoder, seen = Decoder(world.llm, world.vocabulary, users=4), []
    prefill = decoder._prefill
    monkeypatch.setattr(decoder, "_prefill", lambda prompts: seen.append(len(prompts)) or prefill(prompts))
    for width in (5, 20, 40, 500):
        decoder.search(Trie(COLLIDING), world.prompts, width, 3)
    assert seen == [4, 4, 4, 4, 2, 2, 2, 2, *[1] * 8]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("table", [COLLIDING, UNIQUE], ids=["colliding", "unique"])
@pytest.mark.parametrize("llm", LLMS)
def test_a_beam_as_wide_as_the_catalogue_equals_exact_scoring(llm, table, normalise, attention):
    world = small_catalogue(table, llm, attention=attention)
    found = constrained_beam_search(world.llm, world.vocabulary, Trie(table), world.prompts, 24, normalise=normalise)
    assert_ranks_all(found, exact_scores(world.llm, world.vocabulary, table, world.prompts, normalise))


def test_a_beam_wider_than_the_catalogue_is_padded():
    world = small_catalogue(COLLIDING)
    found = constrained_beam_search(world.llm, world.vocabulary, Trie(COLLIDING), world.prompts, 40, k=30)
    assert found.items.shape == found.scores.shape == (5, 30)
    assert_ranks_all(found, exact_scores(world.llm, world.vocabulary, COLLIDING, world.prompts))
    assert (found.items[:, 24:] == -1).all()
    assert (found.scores[:, 24:] == -np.inf).all()


class Constraint(LogitsProcessor):
    """Log-softmax over a level's codes, or over everything, then the trie: what `generate` lacks to be comparable."""

    def __init__(self, vocabulary: IndexVocabulary, table: IndexTable, prompt_length: int, normalise: str) -> None:
        self.vocabulary, self.prompt_length, self.normalise = vocabulary, prompt_length, normalise
        self.index = vocabulary.token_ids("item", table)[:, : table.levels]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # `generate` hands over log-probabilities over the vocabulary; log-softmax of a slice of them is as of logits.
        level = input_ids.shape[1] - self.prompt_length
        columns = self.vocabulary.slice_of("item", level)
        over = columns if self.normalise == "level" else slice(None)
        scores = scores[:, columns] - scores[:, over].logsumexp(-1, keepdim=True)
        masked = torch.full((len(scores), self.vocabulary.index_slice.stop), -torch.inf)
        for row, path in enumerate(input_ids[:, self.prompt_length :].tolist()):
            allowed = self.index[(self.index[:, :level] == path).all(axis=1), level]
            masked[row, allowed] = scores[row, allowed - columns.start]
        return masked


def by_generate(world: Catalogue, prompt: np.ndarray, width: int, normalise: str) -> tuple[list[int], list[float]]:
    """Item numbers and summed log-probabilities of transformers' beam search, best first."""
    constraint = Constraint(world.vocabulary, world.table, len(prompt), normalise)
    tokens = torch.from_numpy(prompt)[None]
    out = world.llm.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=world.table.levels, num_beams=width,
        num_return_sequences=width, do_sample=False, length_penalty=0.0, early_stopping=False, use_cache=True,
        renormalize_logits=False, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True, output_scores=True,
        logits_processor=LogitsProcessorList([constraint]),
    )  # fmt: skip
    item_of = {tuple(path): item for item, path in enumerate(constraint.index.tolist())}
    return [item_of[tuple(path)] for path in out.sequences[:, len(prompt) :].tolist()], out.sequences_scores.tolist()


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("width", [4, 8])
def test_equal_to_generate_with_the_same_normalisation_and_the_trie(llm, normalise, width):
    """A narrow beam, so that both must lose the same candidates at every level."""
    table = random_table(60, (8, 8, 8), seed=2, unique=True)
    world = small_catalogue(table, llm, seed=4)
    found = Decoder(world.llm, world.vocabulary, normalise).search(Trie(table), world.prompts, width)
    for user, prompt in enumerate(world.prompts):
        items, scores = by_generate(world, prompt, width, normalise)
        assert found.items[user].tolist() == items
        np.testing.assert_allclose(found.scores[user], scores, atol=2e-5)


def test_probabilities_are_not_renormalised_after_the_trie():
    """One item under code 0 and many under code 1: with renormalisation the lone branch would cost nothing."""
    table = table_of([[0, 0], *([1, code] for code in range(8))], (2, 8))
    world = small_catalogue(table)
    found = constrained_beam_search(world.llm, world.vocabulary, Trie(table), world.prompts, 9)
    exact = exact_scores(world.llm, world.vocabulary, table, world.prompts)
    assert_ranks_all(found, exact)
    assert (np.exp(exact).sum(axis=1) < 0.999).all()


@st.composite
def searches(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    table = table_of([list(codes) for codes in draw(st.lists(row, min_size=1, max_size=20))], sizes)
    return table, draw(st.integers(1, 25)), draw(st.sampled_from(LLMS)), draw(st.integers(0, 3))


@settings(max_examples=40, deadline=None)
@given(searches())
def test_only_items_that_exist_come_out_each_once_and_best_first(case):
    table, width, llm, seed = case
    world = small_catalogue(table, llm, users=3, seed=seed, suffixes=20)
    found = Decoder(world.llm, world.vocabulary).search(Trie(table), world.prompts, width)
    exact = exact_scores(world.llm, world.vocabulary, table, world.prompts)
    for items, scores, truth in zip(found.items, found.scores, exact, strict=True):
        real = items >= 0
        assert np.array_equal(real, scores > -np.inf)
        assert real[: real.sum()].all()
        assert len(set(items[real].tolist())) == real.sum() >= min(width, 1)
        assert (items[real] < len(table)).all()
        assert (np.diff(scores[real]) <= 0).all()
        np.testing.assert_allclose(scores[real], truth[items[real]], atol=2e-5)


@pytest.mark.parametrize("table", [COLLIDING, UNIQUE], ids=["colliding", "unique"])
def test_a_prior_is_added_to_the_score_of_every_item(table):
    """With every item in the beam, in batches of which each has its own rows of the prior."""
    world = small_catalogue(table, users=7)
    values = torch.randn(7, 24, generator=torch.Generator().manual_seed(3)) * 5
    decoder = Decoder(world.llm, world.vocabulary, users=3)
    found = decoder.search(Trie(table), world.prompts, 24, prior=lambda rows: values[torch.as_tensor(rows)])
    exact = exact_scores(world.llm, world.vocabulary, table, world.prompts)
    assert_ranks_all(found, exact + values.numpy())


@pytest.mark.parametrize("table", [COLLIDING, UNIQUE], ids=["colliding", "unique"])
def test_an_item_that_the_prior_favours_is_not_lost_on_the_way(table):
    """A beam of one finds the one item that a strong prior is for, wherever it stands."""
    world = small_catalogue(table, users=24)
    found = Decoder(world.llm, world.vocabulary).search(
        Trie(table), world.prompts, 1, prior=lambda rows: 100 * torch.eye(24)[torch.as_tensor(rows)]
    )
    assert found.items[:, 0].tolist() == list(range(24))


def test_batch_padding_and_order_of_users_do_not_matter():
    """Alone (no padding, no shared prefix), in odd batches, and in another order."""
    world = small_catalogue(COLLIDING, users=11)
    trie = Trie(COLLIDING)
    together = Decoder(world.llm, world.vocabulary, users=11).search(trie, world.prompts, 6)
    for users in (1, 2, 3, 64):
        again = Decoder(world.llm, world.vocabulary, users=users).search(trie, world.prompts, 6)
        np.testing.assert_array_equal(again.items, together.items)
        np.testing.assert_allclose(again.scores, together.scores, atol=2e-5)
    order = np.random.default_rng(0).permutation(11)
    shuffled = Decoder(world.llm, world.vocabulary, users=4).search(trie, [world.prompts[u] for u in order], 6)
    np.testing.assert_array_equal(shuffled.items, together.items[order])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("llm", LLMS)
def test_a_beginning_that_all_prompts_share_is_read_once_and_changes_nothing(llm, attention):
    world = small_catalogue(COLLIDING, llm, users=8, attention=attention)
    prompts = [np.concatenate([np.arange(3, 15), prompt]) for prompt in world.prompts]
    found = Decoder(world.llm, world.vocabulary).search(Trie(COLLIDING), prompts, 24)
    assert_ranks_all(found, exact_scores(world.llm, world.vocabulary, COLLIDING, prompts))
    same = Decoder(world.llm, world.vocabulary).search(Trie(COLLIDING), [prompts[0]] * 3, 24)
    np.testing.assert_array_equal(same.items, np.tile(same.items[:1], (3, 1)))


@pytest.mark.parametrize("normalise", NORMALISE)
def test_an_llm_whose_logits_are_not_its_head_alone_is_decoded_right_too(normalise):
    """Gemma 2 caps its logits with a tanh, so a slice of the head is not a slice of the logits."""
    table = COLLIDING
    vocabulary = IndexVocabulary(len(WORDS), table.sizes, item_suffixes=8)
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(WORDS) + len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
        final_logit_softcapping=2.0, attn_implementation="eager", pad_token_id=None, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    llm = Gemma2ForCausalLM(config).eval()
    prompts = small_catalogue(table).prompts
    decoder = Decoder(llm, vocabulary, normalise)
    assert not decoder.plain_head
    found = decoder.search(Trie(table), prompts, 24)
    assert_ranks_all(found, exact_scores(llm, vocabulary, table, prompts, normalise))
    assert Decoder(tiny_llama(len(WORDS) + len(vocabulary)), vocabulary).plain_head


def test_a_head_with_a_bias_is_used_with_its_bias():
    world = small_catalogue(COLLIDING)
    head = world.llm.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.randn(head.out_features, generator=torch.Generator().manual_seed(0)))
    decoder = Decoder(world.llm, world.vocabulary)
    assert decoder.plain_head
    exact = exact_scores(world.llm, world.vocabulary, COLLIDING, world.prompts)
    assert_ranks_all(decoder.search(Trie(COLLIDING), world.prompts, 24), exact)


def test_an_adapted_llm_is_decoded_with_its_adapters():
    world = small_catalogue(COLLIDING)
    plain = exact_scores(world.llm, world.vocabulary, COLLIDING, world.prompts)
    llm = get_peft_model(world.llm, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    exact = exact_scores(llm, world.vocabulary, COLLIDING, world.prompts)
    assert np.abs(plain - exact).max() > 0.1
    assert_ranks_all(Decoder(llm, world.vocabulary).search(Trie(COLLIDING), world.prompts, 24), exact)


def test_without_a_constraint_every_path_is_found_and_the_trie_only_removes():
    world = small_catalogue(UNIQUE)
    decoder = Decoder(world.llm, world.vocabulary)
    free = decoder.search(AllPaths(UNIQUE.sizes), world.prompts, 64)
    np.testing.assert_allclose(np.exp(free.scores).sum(axis=1), 1.0, atol=1e-4)
    number = np.ravel_multi_index(UNIQUE.codes.T, UNIQUE.sizes)
    for row, path in enumerate(free.items):
        kept = path[np.isin(path, number)]
        bound = decoder.search(Trie(UNIQUE), [world.prompts[row]], 24).items[0]
        assert number[bound].tolist() == kept.tolist()


def test_bfloat16_gives_nearly_the_same_scores():
    world = small_catalogue(COLLIDING)
    found = Decoder(world.llm, world.vocabulary, dtype=torch.bfloat16).search(Trie(COLLIDING), world.prompts, 24)
    exact = exact_scores(world.llm, world.vocabulary, COLLIDING, world.prompts)
    assert found.scores.dtype == np.float32
    assert (np.sort(found.items, axis=1) == np.arange(24)).all()
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, found.items, 1), atol=0.5)


def test_new_weights_count_at_the_next_search_and_training_mode_is_left_as_it_was():
    world = small_catalogue(COLLIDING)
    decoder = Decoder(world.llm, world.vocabulary)
    world.llm.train()
    with torch.no_grad():
        world.llm.get_output_embeddings().weight.mul_(1.5)
    found = decoder.search(Trie(COLLIDING), world.prompts, 24)
    assert world.llm.training
    world.llm.eval()
    assert_ranks_all(found, exact_scores(world.llm, world.vocabulary, COLLIDING, world.prompts))


def test_what_cannot_be_decoded_is_refused_in_one_line():
    world = small_catalogue(COLLIDING)
    decoder, trie = Decoder(world.llm, world.vocabulary), Trie(COLLIDING)
    with pytest.raises(BackboneError, match=r"200 tokens, where this LLM takes 1 to 124.*shorten the history"):
        decoder.search(trie, [np.ones(200, dtype=np.int64)], 3)
    with pytest.raises(BackboneError, match="a prompt of 0 tokens"):
        decoder.search(trie, [np.zeros(0, dtype=np.int64)], 3)
    with pytest.raises(ValueError, match="k = 4 of a beam of width 3"):
        decoder.search(trie, world.prompts, 3, k=4)
    with pytest.raises(ValueError, match="'level' or 'vocabulary'"):
        Decoder(world.llm, world.vocabulary, "codes")  # type: ignore[arg-type]
    world.llm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(BackboneError, match="takes no 4-D mask"):
        Decoder(world.llm, world.vocabulary)


def test_no_users_give_an_empty_answer():
    world = small_catalogue(COLLIDING)
    assert Decoder(world.llm, world.vocabulary).search(Trie(COLLIDING), [], 5).items.shape == (0, 5)
