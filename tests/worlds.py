"""Tiny worlds: LLMs of two layers, a word tokenizer, small catalogues. No network, made in milliseconds."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ed2rec.indexers.contract import IndexTable
from ed2rec.vocabulary import IndexVocabulary

TEXT = "<unk> <s> </s> the user has bought these items recommend a next item for history in order answer : ,"
WORDS = TEXT.split()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or punctuation mark of WORDS; everything else is <unk>."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def tiny_llama(
    vocabulary_size: int = len(WORDS), tied: bool = False, attention: str = "sdpa", seed: int = 0
) -> PreTrainedModel:
    """Two layers, width 32, four heads over two key-value heads; sharp enough that no two items tie."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, pad_token_id=None, attn_implementation=attention,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tiny_gpt2(vocabulary_size: int = len(WORDS), attention: str = "sdpa", seed: int = 0) -> PreTrainedModel:
    """Two layers, width 32, learned positions, tied head."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary_size, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, attn_implementation=attention,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def tiny_llm(kind: str, vocabulary_size: int = len(WORDS), attention: str = "sdpa", seed: int = 0) -> PreTrainedModel:
    """kind: "llama", "llama-tied" or "gpt2"."""
    if kind == "gpt2":
        return tiny_gpt2(vocabulary_size, attention, seed)
    return tiny_llama(vocabulary_size, kind == "llama-tied", attention, seed)


def table_of(codes: list[list[int]] | np.ndarray, sizes: tuple[int, ...]) -> IndexTable:
    """A table of these codes, colliding rows numbered in their order."""
    rows = np.asarray(codes, dtype=np.int32).reshape(-1, len(sizes))
    _, group, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    suffix = np.full(len(rows), -1, dtype=np.int32)
    seen: dict[int, int] = {}
    for row, member in enumerate(group.ravel()):
        if count[member] > 1:
            suffix[row] = seen.get(int(member), 0)
            seen[int(member)] = suffix[row] + 1
    return IndexTable(rows, suffix, tuple(sizes), 0)


def random_table(items: int, sizes: tuple[int, ...], seed: int = 0, unique: bool = False) -> IndexTable:
    """Uniform random codes; with `unique`, without collisions."""
    generator = np.random.default_rng(seed)
    paths = int(np.prod(sizes, dtype=np.int64))
    drawn = generator.choice(paths, size=items, replace=not unique)
    return table_of(np.stack(np.unravel_index(drawn, sizes), axis=1), sizes)


@dataclass(frozen=True)
class Catalogue:
    """A catalogue, an LLM that knows its index tokens (with random weights), and prompts of several lengths."""

    llm: PreTrainedModel
    vocabulary: IndexVocabulary
    table: IndexTable
    prompts: list[np.ndarray]


def small_catalogue(
    table: IndexTable, llm: str = "llama", users: int = 5, attention: str = "sdpa", seed: int = 0, suffixes: int = 8
) -> Catalogue:
    """Prompts: an instruction of 4 words or (odd users) 12, then 0 to 5 items."""
    vocabulary = IndexVocabulary(len(WORDS), table.sizes, item_suffixes=suffixes)
    model = tiny_llm(llm, len(WORDS) + len(vocabulary), attention, seed)
    generator = np.random.default_rng(seed)
    tokens = vocabulary.token_ids("item", table)
    prompts = []
    for user in range(users):
        history = tokens[generator.integers(0, len(table), size=generator.integers(0, 6))]
        words = np.arange(3, 15 if user % 2 else 7)
        prompts.append(np.concatenate([words, history[history >= 0]]).astype(np.int64))
    return Catalogue(model, vocabulary, table, prompts)
