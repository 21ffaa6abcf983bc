"""`ed2 bench train`: dense, packed supervision against one padded example per prefix, on histories as long as Games'.

All ways compute the same losses of the same model on the same machine and take whole steps (forward, backward,
AdamW); they alternate in one process, and a ratio is the median over rounds. Dense supervision is measured at two
sizes of a step: as many tokens as the other way has, and so few that a step has hardly more targets than there, so that
equal targets are nearly equal steps, and what is learned from them can be compared. The share of the peak
divides the arithmetic a step needs by the time it took and by what a large matrix product reaches in the same number
type, in the same run.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.decode import CODES, DTYPES, SHAPES, realistic_table
from benchmarks.machine import clock, hardware, matrix_peak
from ed2rec.adaptation import compile_errors_explained, compile_layers
from ed2rec.backbone import layers_of
from ed2rec.data.dataset import Histories
from ed2rec.device import choose_device, computing_type
from ed2rec.indexers.contract import IndexTable
from ed2rec.indexers.variational import VariationalQuantiser
from ed2rec.instructions.examples import Batch
from ed2rec.instructions.packing import PackedBatches
from ed2rec.instructions.sequential import SequentialPlan
from ed2rec.instructions.templates import Wording
from ed2rec.model import Branch, JointModel
from ed2rec.regulator import Regulator
from ed2rec.vocabulary import IndexVocabulary

# Users of Games with 3, 4, … training interactions (of 50,546; the last entry: 40 or more, taken as 60).
GAMES = (15939, 9437, 6175, 4172, 2954, 2141, 1668, 1238, 946, 889, 657, 526, 418, 365, 322, 273, 220, 197, 177, 143,
         130, 116, 100, 107, 87, 76, 77, 69, 64, 70, 58, 44, 37, 36, 35, 33, 20, 582)  # fmt: skip
ITEMS = 16_859
INSTRUCTION = 20  # text tokens
NAIVE = "one per prefix, padded"
WAYS = {"dense packed": 4096, "dense packed, small steps": 768, NAIVE: 4096}  # tokens of a step, 64 examples if naive
ACCELERATED = 8  # times as much in a step of an accelerator


@compile_errors_explained()
def run(
    progress: Callable[[str, int, int, str], None] | None = None,
    shape: str = "tiny",
    dtypes: tuple[str, ...] | None = None,
    users: int = 1500,
    rounds: int = 5,
    seconds: float = 4.0,
    device: str = "cpu",
    compile: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Targets per second of each way, their ratio, and the share of the peak; about 3 minutes for `tiny`.

    dtypes: by default float32, and bfloat16 where the device computes in it; emulated, one step takes minutes.
    compile: all ways with compiled layers; the first round, in which most of the compiling is done, does not count.
    """
    place = choose_device(device, "--device")
    if dtypes is None:
        dtypes = ("float32",) if computing_type("auto", place) is None else ("float32", "bfloat16")
    size = 1 if place.type == "cpu" else ACCELERATED
    figures: dict[str, Any] = {
        "benchmark": "train",
        "hardware": hardware(place),
        "setting": {"shape": shape, "users": users, "rounds": rounds, "instruction_tokens": INSTRUCTION,
                    "compiled": compile},
    }  # fmt: skip
    for dtype in dtypes:
        model = joint_model(shape, DTYPES[dtype], place, seed)
        if compile:
            compile_layers(layers_of(model.llm))
        optimiser = torch.optim.AdamW(model.llm.parameters(), lr=1e-4, fused=True)  # as JointTrainer
        streams = {name: endless(batches(model, users, name != NAIVE, size * tokens, seed), place)
                   for name, tokens in WAYS.items()}  # fmt: skip
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        peaks: list[float] = []
        for turn in range(rounds + 1):
            for name, stream in streams.items():
                found[name].append(steps_for(model, optimiser, stream, seconds, place))
            peaks.append(matrix_peak(DTYPES[dtype], place))
            if progress:
                progress(f"training in {dtype}", turn + 1, rounds + 1, "")
        figures[dtype] = {name: summary(rows[1:], found[NAIVE][1:], peaks[1:]) for name, rows in found.items()}
        figures[dtype]["matrix_peak_gflops"] = round(statistics.median(peaks[1:]) / 1e9, 1)
    return figures


def summary(rows: list[dict[str, float]], naive: list[dict[str, float]], peaks: list[float]) -> dict[str, float]:
    """One way's figures over the rounds; the ratio is to the naive way."""
    rate, other = ([row["targets"] / row["seconds"] for row in way] for way in (rows, naive))
    share = [row["flop"] / row["seconds"] / peak for row, peak in zip(rows, peaks, strict=True)]
    last = rows[-1]
    return {
        "targets_per_second": round(statistics.median(rate), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(rate, other, strict=True)), 2),
        "share_of_peak": round(statistics.median(share), 3),
        "targets_per_step": round(last["targets"] / last["steps"], 1),
        "tokens_per_target": round(last["tokens"] / last["targets"], 1),
        "share_of_real_tokens": round(last["real"] / last["tokens"], 3),
    }


def joint_model(shape: str, dtype: torch.dtype, device: torch.device, seed: int) -> JointModel:
    """A random LLM of this shape with a static index; only the speed matters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    vocabulary = IndexVocabulary(int(SHAPES[shape]["vocab_size"]), CODES, (), 1)
    config = LlamaConfig(
        **SHAPES[shape] | {"vocab_size": len(vocabulary) + vocabulary.text_size}, tie_word_embeddings=True
    )
    table = realistic_table(ITEMS, seed)
    quantiser = VariationalQuantiser(8, (), 8, CODES)
    nothing = torch.zeros(len(table), 8)
    branch = Branch("item", quantiser, nothing, nothing, IndexTable(table.codes, table.suffix, table.sizes))
    half = dtype if dtype is not torch.float32 else None
    model = JointModel(LlamaForCausalLM(config), vocabulary, branch, None, Regulator(0, 0), dtype=half)
    model.freeze_index()
    return model.train().to(device)


def batches(model: JointModel, users: int, dense: bool, tokens: int, seed: int) -> PackedBatches:
    """Random items in histories with Games' lengths. The naive way: prefixes, 64 padded ones as 4,096 tokens."""
    random = np.random.default_rng(seed)
    lengths = random.choice(np.append(np.arange(3, 3 + len(GAMES) - 1), 60), users, p=np.array(GAMES) / sum(GAMES))
    histories = Histories.from_lists([random.integers(0, ITEMS, length) for length in lengths])
    wording = Wording("", (random.integers(0, 1000, INSTRUCTION), "user", "history"))
    plan = SequentialPlan(histories, [wording], None, has_users=False, dense=dense)
    ahead = model.items.embeddings.device.type != "cpu"  # as in training
    way = PackedBatches(plan, model.index_tokens, 0, tokens, dense, seed, ahead)
    if not dense:
        way.steps_per_epoch = max(1, len(way._rows) // (64 * tokens // WAYS[NAIVE]))
    way.steps = 10**9
    return way


def endless(way: PackedBatches, device: torch.device) -> Iterator[Batch]:
    step = 0
    while True:
        yield Batch(*(column.to(device) for column in way[step]))
        step += 1


def steps_for(
    model: JointModel,
    optimiser: torch.optim.Optimizer,
    stream: Iterator[Batch],
    seconds: float,
    device: torch.device,
) -> dict[str, float]:
    """Whole training steps, making the batches included, for about so many seconds."""
    totals = {"steps": 0.0, "targets": 0.0, "tokens": 0.0, "real": 0.0, "flop": 0.0}
    start = clock(device)
    while clock(device) - start < seconds:
        batch = next(stream)
        optimiser.zero_grad()
        model(batch).loss.backward()
        optimiser.step()
        totals["steps"] += 1
        totals["targets"] += batch.targets
        totals["tokens"] += batch.input_ids.numel()
        totals["real"] += int((batch.segment > 0).sum())
        totals["flop"] += arithmetic(model, batch)
    return totals | {"seconds": clock(device) - start}


def arithmetic(model: JointModel, batch: Batch) -> float:
    """Floating-point operations of the matrix products of one step: 2 per weight and token forward, 4 backward.

    Attention counts its full T × T products, which is what is computed; the head only the level's columns.
    """
    config = model.llm.config
    matrices = sum(
        weight.numel() for name, weight in model.llm.named_parameters() if weight.ndim == 2 and "embed" not in name
    )
    rows, width = batch.input_ids.shape
    attention = 2 * config.num_hidden_layers * width * config.hidden_size  # per token: scores and mix, 1 multiply each
    head = int((batch.label_level >= 0).sum()) * CODES[0] * config.hidden_size
    return 6.0 * (rows * width * (matrices + attention) + head)
