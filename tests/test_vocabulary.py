"""Index tokens in tokenizer, embedding and head."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from worlds import WORDS, table_of, tiny_llm, word_tokenizer

from ed2rec.errors import BackboneError, ConfigError
from ed2rec.vocabulary import IndexVocabulary

VOCABULARY = IndexVocabulary(len(WORDS), item_sizes=(3, 4), user_sizes=(2, 2), item_suffixes=2, user_suffixes=1)
LLMS = ["llama", "llama-tied", "gpt2"]


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer as GPT-2, LLaMA-3 and SmolLM have, which would split `<a_17>` into many pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the user <a bought_1> items"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_the_levels_follow_one_another_in_the_order_of_the_design():
    assert VOCABULARY.tokens() == [
        "<a_0>", "<a_1>", "<a_2>", "<b_0>", "<b_1>", "<b_2>", "<b_3>", "<p_0>", "<p_1>",
        "<ua_0>", "<ua_1>", "<ub_0>", "<ub_1>", "<up_0>", "<ua_unk>",
    ]  # fmt: skip
    first = len(WORDS)
    assert VOCABULARY.slice_of("item", 1) == slice(first + 3, first + 7)
    assert VOCABULARY.slice_of("item", 2) == slice(first + 7, first + 9)
    assert VOCABULARY.slice_of("user", 0) == slice(first + 9, first + 11)
    assert VOCABULARY.slice_of("user", 2) == slice(first + 13, first + 14)
    assert VOCABULARY.unknown_user == first + 14
    assert VOCABULARY.index_slice == slice(first, first + 15)
    assert len(VOCABULARY) == 15


def test_token_ids_of_a_table_written_out_by_hand():
    table = table_of([[0, 3], [2, 1], [0, 3]], (3, 4))
    first = len(WORDS)
    expected = [[first + 0, first + 6, first + 7], [first + 2, first + 4, -1], [first + 0, first + 6, first + 8]]
    ids = VOCABULARY.token_ids("item", table)
    assert ids.tolist() == expected
    assert ids.dtype == np.int64


def test_parse_is_the_inverse_of_naming():
    parsed = [VOCABULARY.parse(token) for token in VOCABULARY.tokens()[:-1]]
    for token_id, (kind, level, code) in enumerate(parsed, start=VOCABULARY.text_size):
        assert VOCABULARY.slice_of(kind, level).start + code == token_id
    for stranger in ("<a_3>", "<c_0>", "<a_00>", "<q_0>", "a_0", "<ua_unk>", "<up_1>"):
        with pytest.raises(ValueError, match="is not an index token"):
            VOCABULARY.parse(stranger)


def test_a_table_that_does_not_fit_says_which_setting_to_change():
    with pytest.raises(ConfigError, match=r"\[4, 4\] codes per level.*\[3, 4\]"):
        VOCABULARY.token_ids("item", table_of([[0, 0]], (4, 4)))
    with pytest.raises(ConfigError, match=r"3 items share one index.*set item_suffixes to at least 3"):
        VOCABULARY.token_ids("item", table_of([[0, 0]] * 3, (3, 4)))
    with pytest.raises(ConfigError, match="1 to 15 sizes"):
        IndexVocabulary(10, (4,) * 16)


@pytest.mark.parametrize("make", [word_tokenizer, byte_level_tokenizer])
def test_an_index_token_is_one_token_wherever_it_stands_and_comes_back(make, tmp_path):
    tokenizer = make()
    vocabulary = IndexVocabulary(len(tokenizer), (3, 4), (2, 2), 2, 1)
    vocabulary.extend(tokenizer, tiny_llm("llama", len(tokenizer)))
    for token_id, token in enumerate(vocabulary.tokens(), start=vocabulary.text_size):
        assert tokenizer.encode(token, add_special_tokens=False) == [token_id]
    text = "the user <ua_1><ub_0> bought items <a_2><b_3><p_1>,the<a_0>item<b_1>"
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = each.encode(text, add_special_tokens=False)
        index = [token_id for token_id in ids if token_id >= vocabulary.text_size]
        assert each.convert_ids_to_tokens(index) == ["<ua_1>", "<ub_0>", "<a_2>", "<b_3>", "<p_1>", "<a_0>", "<b_1>"]
        assert each.decode(ids).replace(" ", "") == text.replace(" ", "")
        assert IndexVocabulary.from_tokenizer(each) == vocabulary


def test_extending_a_tokenizer_leaves_its_text_alone():
    tokenizer = byte_level_tokenizer()
    text = "the user bought <a item> a_1 <b"
    before = tokenizer.encode(text)
    IndexVocabulary(len(tokenizer), (3,)).extend(tokenizer, tiny_llm("llama", len(tokenizer)))
    assert tokenizer.encode(text) == before


@pytest.mark.parametrize("kind", LLMS)
@pytest.mark.parametrize("spare", [0, 4, 40])
def test_embedding_and_head_grow_and_text_logits_stay(kind, spare):
    """`spare` padding rows are used before the matrices grow."""
    llm, tokenizer = tiny_llm(kind, len(WORDS) + spare), word_tokenizer()
    tokens = torch.arange(len(WORDS))[None]
    with torch.no_grad():
        before = llm(input_ids=tokens).logits[..., : len(WORDS)]
    VOCABULARY.extend(tokenizer, llm)
    rows = max(len(WORDS) + spare, len(WORDS) + 15)
    embedding, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    assert embedding.shape == head.shape == (rows, 32)
    assert (embedding is head) == (kind != "llama")
    assert llm.config.vocab_size == rows
    with torch.no_grad():
        torch.testing.assert_close(llm(input_ids=tokens).logits[..., : len(WORDS)], before)
        assert llm(input_ids=torch.tensor([[VOCABULARY.unknown_user]])).logits.isfinite().all()


@pytest.mark.parametrize("kind", LLMS)
def test_new_rows_are_the_mean_of_the_text_rows_plus_noise_of_the_seed(kind):
    made = []
    for noise, seed in ((0.0, 0), (0.1, 0), (0.1, 0), (0.1, 1)):
        llm = tiny_llm(kind)
        VOCABULARY.extend(word_tokenizer(), llm, noise=noise, seed=seed)
        made.append([module.weight.detach() for module in (llm.get_input_embeddings(), llm.get_output_embeddings())])
    for still, noisy, again, other in zip(*made, strict=True):
        text, columns = still[: len(WORDS)], VOCABULARY.index_slice
        torch.testing.assert_close(still[columns], text.mean(0).expand(15, -1))
        assert 0.05 < (noisy[columns] - text.mean(0)).std() / text.std() < 0.15
        assert torch.equal(noisy, again)
        assert not torch.equal(noisy[columns], other[columns])


def test_a_tokenizer_that_has_such_tokens_is_refused_by_name_and_nothing_changes():
    tokenizer, llm = word_tokenizer(), tiny_llm("llama", len(WORDS) + 1)
    tokenizer.add_tokens(["<b_2>"])
    vocabulary = IndexVocabulary(len(tokenizer), (3, 4))
    with pytest.raises(BackboneError, match=r"already has 1 of the index tokens.*<b_2>"):
        vocabulary.extend(tokenizer, llm)
    assert len(tokenizer) == len(WORDS) + 1
    assert llm.get_input_embeddings().weight.shape[0] == len(WORDS) + 1
    with pytest.raises(BackboneError, match=r"text_size = len\(tokenizer\)"):
        IndexVocabulary(5, (3, 4)).extend(word_tokenizer(), llm)


def test_a_tokenizer_without_index_tokens_or_with_others_behind_is_told_apart():
    tokenizer = word_tokenizer()
    with pytest.raises(BackboneError, match="no index tokens"):
        IndexVocabulary.from_tokenizer(tokenizer)
    VOCABULARY.extend(tokenizer, tiny_llm("llama"))
    tokenizer.add_tokens(["<c_0>"])
    with pytest.raises(BackboneError, match="changed after it was extended"):
        IndexVocabulary.from_tokenizer(tokenizer)


@pytest.mark.parametrize("kind", LLMS)
def test_start_rows_sets_one_level_at_the_norm_of_the_text_rows(kind):
    llm = tiny_llm(kind)
    VOCABULARY.extend(word_tokenizer(), llm)
    embedding, head = llm.get_input_embeddings().weight.detach(), llm.get_output_embeddings().weight.detach()
    before, head_before = embedding.clone(), head.clone()
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 50
    vectors[2] = 0
    VOCABULARY.start_rows(llm, "item", 1, vectors)
    rows = embedding[VOCABULARY.slice_of("item", 1)]
    given = torch.tensor([0, 1, 3])
    torch.testing.assert_close(rows[given].norm(dim=1).mean(), before[: len(WORDS)].norm(dim=1).mean())
    torch.testing.assert_close(torch.cosine_similarity(rows[given], vectors[given]), torch.ones(3))
    changed = (embedding != before).any(1).nonzero().ravel()
    assert changed.tolist() == [len(WORDS) + 3, len(WORDS) + 4, len(WORDS) + 6]  # not the zero vector's row
    if kind == "llama":
        assert torch.equal(head, head_before)
        VOCABULARY.start_rows(llm, "item", 1, vectors, vectors)
        assert (head != head_before).any(1).nonzero().ravel().tolist() == changed.tolist()
    with pytest.raises(ValueError, match=r"expected \(4, 32\)"):
        VOCABULARY.start_rows(llm, "item", 1, vectors[:3])


@pytest.mark.parametrize("kind", LLMS)
def test_training_rows_moves_the_index_rows_and_no_other_parameter(kind):
    llm = tiny_llm(kind)
    VOCABULARY.extend(word_tokenizer(), llm)
    llm.requires_grad_(False)
    rows = VOCABULARY.train_rows(llm)
    assert len(rows) == (2 if kind == "llama" else 1)
    before = {name: parameter.detach().clone() for name, parameter in llm.named_parameters()}
    tokens = torch.arange(llm.config.vocab_size)[None]
    optimiser = torch.optim.AdamW(rows, lr=0.1, weight_decay=0.0)
    llm(input_ids=tokens, labels=tokens).loss.backward()
    optimiser.step()
    for name, parameter in llm.named_parameters():
        moved = (parameter.detach() != before[name]).reshape(len(parameter), -1).any(1)
        expected = torch.zeros_like(moved)
        if any(parameter is row for row in rows):
            expected[VOCABULARY.index_slice] = True
        # The last token is not an input of any label: its embedding may have no gradient where the head is untied.
        assert torch.equal(moved[:-1], expected[:-1]), name


def test_under_lora_the_adapters_and_the_index_rows_move_and_nothing_else():
    llm = tiny_llm("llama-tied")
    VOCABULARY.extend(word_tokenizer(), llm)
    adapted = get_peft_model(llm, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    (rows,) = VOCABULARY.train_rows(adapted)
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    optimiser = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=0.1, weight_decay=0.0)
    tokens = torch.arange(llm.config.vocab_size)[None]
    adapted(input_ids=tokens, labels=tokens).loss.backward()
    optimiser.step()
    for name, parameter in adapted.named_parameters():
        moved = parameter.detach() != before[name]
        if parameter is rows:
            assert moved.any(1).nonzero().ravel().tolist() == list(range(len(WORDS), len(WORDS) + 15))
        else:
            assert moved.any() == ("lora_" in name), name


@given(
    text=st.integers(0, 50),
    items=st.lists(st.integers(1, 5), min_size=1, max_size=15),
    users=st.lists(st.integers(1, 5), max_size=15),
    suffixes=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_slices_tile_the_index_tokens_without_gaps(text, items, users, suffixes):
    vocabulary = IndexVocabulary(text, tuple(items), tuple(users), *suffixes)
    slices = [vocabulary.slice_of("item", level) for level in range(len(items) + 1)]
    slices += [vocabulary.slice_of("user", level) for level in range(len(users) + 1)]
    assert [s.start for s in slices] == [text, *(s.stop for s in slices[:-1])]
    assert slices[-1].stop == vocabulary.unknown_user
    assert len(vocabulary.tokens()) == len(set(vocabulary.tokens())) == len(vocabulary)
