"""`ed2 bench decode`: constrained beam search against transformers' `generate` with an exact trie, and against itself.

All runs alternate (A B A B) in one process, on the same weights, threads and number type. A ratio is the median over
rounds of the ratio within a round, so that a machine that is busy for a while slows both sides of it. Weights are
random (speed does not depend on them, agreement is the harder test) and indices synthetic.
"""

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.machine import clock, hardware
from ed2rec.decoding import Decoder
from ed2rec.device import choose_device
from ed2rec.indexers.contract import IndexTable
from ed2rec.recommender import Recommendations
from ed2rec.trie import AllPaths, Trie
from ed2rec.vocabulary import IndexVocabulary

CODES = (256, 256, 256, 256)
CATALOGUE = 9_922  # items of Instruments (paper, Table 6)
BEFORE, AFTER = 17, 8  # instruction tokens before and after the history
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 4_000, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 4},
    "smollm2-135m": {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 30,
                     "num_attention_heads": 9, "num_key_value_heads": 3},
}  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(
    progress: Callable[[str, int, int, str], None] | None = None,
    shape: str = "tiny",
    users: int = 96,
    repetitions: int = 5,
    width: int = 20,
    dtype: str = "float32",
    device: str = "cpu",
    catalogues: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000),
    seed: int = 0,
) -> dict[str, Any]:
    """All decoding figures; about 3 minutes for `tiny` on 2 cores.

    shape: "tiny" or "smollm2-135m". users: how many are decoded per run. catalogues: sizes for the scaling figures.
    """
    table = realistic_table(CATALOGUE, seed)
    place = choose_device(device, "--device")
    llm, vocabulary = _llm(shape, dtype, place, seed)
    against: dict[str, Any] = {}
    for name, lengths in (("mean 7 items", _history_lengths(users, seed)), ("20 items", np.full(users, 20))):
        prompts = _prompts(vocabulary, table, lengths, seed)
        if progress:
            progress("against generate", len(against), 2, name)
        against[name] = against_generate(llm, vocabulary, table, prompts, width, repetitions)
    if progress:
        progress("against generate", 2, 2, "done; then against itself, by size of the catalogue")
    prompts = _prompts(vocabulary, table, _history_lengths(users, seed), seed)
    return {
        "benchmark": "decode",
        "hardware": hardware(place),
        "setting": {"shape": shape, "dtype": dtype, "items": CATALOGUE, "beam": width, "users": users,
                    "repetitions": repetitions, "instruction_tokens": BEFORE + AFTER},
        "against_generate": against,
        "constrained": against_unconstrained(llm, vocabulary, table, prompts, width, repetitions),
        "catalogue": by_catalogue(llm, vocabulary, prompts, width, repetitions, catalogues, seed),
    }  # fmt: skip


def against_generate(
    llm: PreTrainedModel,
    vocabulary: IndexVocabulary,
    table: IndexTable,
    prompts: list[np.ndarray],
    width: int,
    repetitions: int,
) -> dict[str, Any]:
    """Users per second of ours and of `generate`, and how often their top 10 are the same.

    `generate` takes its log-softmax over the whole vocabulary, so agreement and the headline ratio use that
    normalisation; "level" is what ed2rec does by default. `generate` runs at the batch size that suits it best. Below
    float32 the rounding of a random LLM reorders near-ties, so agreement says nothing there.
    """
    trie = Trie(table, llm.device)
    decoders = {normalise: Decoder(llm, vocabulary, normalise) for normalise in ("vocabulary", "level")}
    theirs = Generate(llm, vocabulary, table)
    theirs.users = _fastest(lambda size: theirs.search(prompts[:32], width, size), (1, 2, 4, 8, 16, 32), llm.device)
    seconds = _alternate(
        {
            "vocabulary": lambda: decoders["vocabulary"].search(trie, prompts, width),
            "level": lambda: decoders["level"].search(trie, prompts, width),
            "generate": lambda: theirs.search(prompts, width),
        },
        repetitions,
        llm.device,
    )
    same = agreement(decoders["vocabulary"].search(trie, prompts, width, 10), theirs.search(prompts, width), 10)
    return {
        "mean_prompt_tokens": float(np.mean([len(prompt) for prompt in prompts])),
        "users_per_second": {name: len(prompts) / statistics.median(taken) for name, taken in seconds.items()},
        "times_faster": _ratio(seconds["generate"], seconds["vocabulary"]),
        "times_faster_level": _ratio(seconds["generate"], seconds["level"]),
        "generate_users_per_batch": theirs.users,
        "same_top_10": same,
    }


def against_unconstrained(
    llm: PreTrainedModel,
    vocabulary: IndexVocabulary,
    table: IndexTable,
    prompts: list[np.ndarray],
    width: int,
    repetitions: int,
) -> dict[str, float]:
    """Time with the trie over time without any constraint."""
    decoder, trie, free = Decoder(llm, vocabulary), Trie(table, llm.device), AllPaths(table.sizes)
    seconds = _alternate(
        {
            "constrained": lambda: decoder.search(trie, prompts, width),
            "unconstrained": lambda: decoder.search(free, prompts, width),
        },
        3 * repetitions,
        llm.device,
    )
    return {"over_unconstrained": _ratio(seconds["constrained"], seconds["unconstrained"])}


def by_catalogue(
    llm: PreTrainedModel,
    vocabulary: IndexVocabulary,
    prompts: list[np.ndarray],
    width: int,
    repetitions: int,
    catalogues: tuple[int, ...],
    seed: int,
) -> dict[str, Any]:
    """Per size of catalogue: bytes per item, seconds to build the trie, milliseconds per user, and over the first."""
    decoder = Decoder(llm, vocabulary)
    tries, build = {}, {}
    for items in catalogues:
        table = uniform_table(items, seed)
        start = clock(llm.device)
        tries[items] = Trie(table, llm.device)
        build[items] = clock(llm.device) - start
    searches = {items: partial(decoder.search, trie, prompts, width) for items, trie in tries.items()}
    seconds = _alternate(searches, 3 * repetitions, llm.device)
    return {
        str(items): {
            "bytes_per_item": tries[items].nbytes / items,
            "build_seconds": build[items],
            "ms_per_user": 1000 * statistics.median(seconds[items]) / len(prompts),
            "time_over_smallest": _ratio(seconds[items], seconds[catalogues[0]]),
        }
        for items in catalogues
    }


class Generate:
    """Beam search as LC-Rec and others do it: `generate`, and a callback that looks every beam's codes up in a trie.

    Well-meant: prompts sorted by length and padded on the left, the trie a dict from the codes so far to a ready
    tensor of the tokens that may follow, so a beam costs one tolist, one slice and one look-up.
    """

    def __init__(self, llm: PreTrainedModel, vocabulary: IndexVocabulary, table: IndexTable) -> None:
        self.llm, self.levels, self.users = llm, table.levels, 8
        paths = vocabulary.token_ids("item", table)[:, : table.levels].tolist()
        self.item = {tuple(path): item for item, path in enumerate(paths)}
        follows: dict[tuple[int, ...], set[int]] = {}
        for path in paths:
            for level in range(table.levels):
                follows.setdefault(tuple(path[:level]), set()).add(path[level])
        self.follows = {prefix: torch.tensor(sorted(of), device=llm.device) for prefix, of in follows.items()}

    @torch.inference_mode()
    def search(self, prompts: list[np.ndarray], width: int, users: int | None = None) -> Recommendations:
        """The `width` best items, scores normalised over the whole vocabulary."""
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        items = np.empty((len(prompts), width), dtype=np.int64)
        scores = np.empty((len(prompts), width), dtype=np.float32)
        for start in range(0, len(order), users or self.users):
            rows = order[start : start + (users or self.users)]
            items[rows], scores[rows] = self._batch([prompts[row] for row in rows], width)
        return Recommendations(items, scores)

    def _batch(self, prompts: list[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
        longest = max(len(prompt) for prompt in prompts)
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.from_numpy(prompt)
            mask[row, longest - len(prompt) :] = 1

        def allowed(_: int, sentence: Tensor) -> Tensor:
            return self.follows[tuple(sentence[longest:].tolist())]

        device = self.llm.device
        found: Any = self.llm.generate(  # type: ignore[operator]
            tokens.to(device), attention_mask=mask.to(device),
            max_new_tokens=self.levels, num_beams=width, num_return_sequences=width,
            do_sample=False, length_penalty=0.0, early_stopping=False, eos_token_id=None, pad_token_id=0,
            prefix_allowed_tokens_fn=allowed, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        items = [self.item[tuple(path)] for path in found.sequences[:, longest:].tolist()]
        return np.reshape(items, (-1, width)), found.sequences_scores.float().cpu().numpy().reshape(-1, width)


def agreement(ours: Recommendations, theirs: Recommendations, k: int, tie: float = 1e-4) -> float:
    """Share of users with the same top k outside ties: another item at a rank only with scores within `tie`."""
    same = ours.items[:, :k] == theirs.items[:, :k]
    tied = np.abs(ours.scores[:, :k] - theirs.scores[:, :k]) <= tie
    return float((same | tied).all(axis=1).mean())


def realistic_table(items: int, seed: int = 0) -> IndexTable:
    """Collision-free 4 × 256 codes as residual quantisers give: uneven first levels, deep branches mostly single."""
    generator = np.random.default_rng(seed)
    first = generator.dirichlet(np.full(256, 2.0))
    second = generator.dirichlet(np.full(256, 0.3), size=256)
    rows: np.ndarray = np.empty((0, 4), dtype=np.int64)
    while len(rows) < items:
        a = generator.choice(256, size=items, p=first)
        b = (second[a].cumsum(axis=1) < generator.random((items, 1))).sum(axis=1).clip(max=255)
        rows = np.unique(np.vstack([rows, np.column_stack([a, b, generator.integers(0, 256, (items, 2))])]), axis=0)
    rows = generator.permutation(rows)[:items]
    return IndexTable(rows, np.full(items, -1), CODES)


def uniform_table(items: int, seed: int = 0) -> IndexTable:
    """Collision-free uniform 4 × 256 codes, for any number of items up to tens of millions."""
    generator = np.random.default_rng(seed)
    paths = np.unique(generator.integers(0, 256**4, size=items + items // 50 + 100))
    rows = np.stack(np.unravel_index(generator.permutation(paths)[:items], CODES), axis=1)
    return _without_checks(rows.astype(np.int32))


def _without_checks(codes: np.ndarray) -> IndexTable:
    """A table whose rows are known to differ: checking ten million rows takes longer than all of the benchmark."""
    table = object.__new__(IndexTable)
    for name, value in (
        ("codes", codes),
        ("suffix", np.full(len(codes), -1, np.int32)),
        ("sizes", CODES),
        ("version", 0),
    ):
        object.__setattr__(table, name, value)
    return table


def _llm(shape: str, dtype: str, device: torch.device, seed: int) -> tuple[PreTrainedModel, IndexVocabulary]:
    """A random LLaMA whose vocabulary ends in the item tokens; wide weights make its choices as sharp as trained."""
    if shape not in SHAPES or dtype not in DTYPES:
        raise ValueError(f"shape {shape!r} and dtype {dtype!r}: choose from {list(SHAPES)} and {list(DTYPES)}")
    torch.manual_seed(seed)
    vocabulary = IndexVocabulary(SHAPES[shape]["vocab_size"], CODES)
    config = LlamaConfig(
        **SHAPES[shape] | {"vocab_size": SHAPES[shape]["vocab_size"] + len(vocabulary)}, tie_word_embeddings=True,
        max_position_embeddings=2_048, initializer_range=0.08, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    llm = LlamaForCausalLM(config).eval()
    llm.to(device, DTYPES[dtype])  # type: ignore[arg-type]
    return llm, vocabulary


def _history_lengths(users: int, seed: int) -> np.ndarray:
    """(users,) items: 4 to 20, mean 7, most of them short, as after a 5-core filter. The same spread for any number."""
    spread = 3 + np.ceil(np.log(1 - (np.arange(users) + 0.5) / users) / np.log(0.75))  # quantiles of a geometric law
    return np.random.default_rng(seed).permutation(spread.clip(max=20).astype(np.int64))


def _prompts(vocabulary: IndexVocabulary, table: IndexTable, lengths: np.ndarray, seed: int) -> list[np.ndarray]:
    """An instruction that is the same for all users, with the index tokens of random items in it."""
    generator = np.random.default_rng(seed)
    words = generator.integers(3, vocabulary.text_size, size=BEFORE + AFTER)
    tokens = vocabulary.token_ids("item", table)[:, : table.levels]
    histories = [tokens[generator.integers(0, len(table), size=length)].ravel() for length in lengths]
    return [np.concatenate([words[:BEFORE], history, words[BEFORE:]]) for history in histories]


def _alternate(
    searches: Mapping[Any, Callable[[], object]], rounds: int, device: torch.device
) -> dict[Any, list[float]]:
    """Seconds of each in every round, run in turn; one round before them is not counted."""
    taken = [{name: _seconds(search, device) for name, search in searches.items()} for _ in range(rounds + 1)]
    return {name: [each[name] for each in taken[1:]] for name in searches}


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _fastest(search: Callable[[int], object], sizes: tuple[int, ...], device: torch.device) -> int:
    """The batch size with the lowest time, best of two."""
    return min(sizes, key=lambda size: min(_seconds(lambda: search(size), device) for _ in range(2)))


def _seconds(search: Callable[[], object], device: torch.device) -> float:
    start = clock(device)
    search()
    return clock(device) - start
