"""`ed2 bench baselines`: SASRec, GRU4Rec and BERT4Rec here, in Cornac and in RecBole, on one made-up log in one run.

The peers live in an environment of their own, given by its Python (`benchmarks/peers.py` runs there). Whole epochs
alternate, one tool at a time while the others wait, and a ratio is the median over rounds of the ratio within a round.
Sizes, threads and targets per step are the same on all sides; what each calls an epoch stands in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import peers
from benchmarks.machine import hardware
from benchmarks.memory import peak, resident
from benchmarks.train import GAMES, ITEMS
from ed2rec.baselines.bert4rec import BERT4Rec
from ed2rec.baselines.contract import SequenceModel
from ed2rec.baselines.gru4rec import GRU4Rec
from ed2rec.baselines.learned import Learned
from ed2rec.baselines.sasrec import SASRec
from ed2rec.baselines.sequences import Training
from ed2rec.baselines.trainer import Budget, Steps
from ed2rec.data.dataset import Histories
from ed2rec.data.splits import leave_one_out
from ed2rec.errors import ConfigError
from ed2rec.evaluation.metrics import reported

SIZES: dict[str, Any] = {
    "width": 64, "layers": 2, "heads": 2, "inner": 256, "hidden": 128, "longest": 50, "dropout": 0.5,
}  # fmt: skip
BATCH = 128  # histories in one of our steps; a row per target, the peers' and our BERT4Rec's, has as many next items
SAMPLES = 2_048  # negatives of Cornac's softmax, its default, at most the catalogue
HOW = "only ours was measured; python -m venv peers, fill it as docs/benchmarks.md says, add --peers peers/bin/python"

SAME_SIZE = "ed2rec_at_cornac_s_size"  # GRU4Rec with a state as wide as its embeddings, which is all that Cornac has

Rows = dict[str, list[dict[str, float]]]


def run(
    progress: Callable[[str, int, int, str], None] | None = None,
    python: Path | None = None,
    users: int = 1500,
    items: int = 1000,
    rounds: int = 3,
    models: tuple[str, ...] = tuple(peers.MODELS),
    ranked_users: int = sum(GAMES),
) -> dict[str, Any]:
    """Epochs, targets and users per second of each tool, ratios, and the memory of ranking for everyone in Games.

    python: that of an environment with cornac and recbole; without one the peers are left out. ranked_users: for how
    many users the memory is measured. ConfigError where the peers cannot be run.
    """
    histories = made_up(users, items)
    figures: dict[str, Any] = {
        "benchmark": "baselines",
        "hardware": hardware(torch.device("cpu")),
        "setting": {"users": users, "items": items, "interactions": len(histories.flat), "rounds": rounds,
                    "histories_per_step": BATCH, **SIZES},
        "peers": HOW if python is None else peer_versions(python),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.npz"
        write_histories(log, histories)
        for place, name in enumerate(models):
            if progress:
                progress("baselines", place, len(models) + 1, name)
            figures[name] = compare(name, histories, items, log, python, rounds)
    figures["ranking_memory"] = {"users": ranked_users, "items": ITEMS}
    for place, name in enumerate(models):
        if progress:
            progress("baselines", len(models), len(models) + 1, f"memory of ranking, {place + 1} of {len(models)}")
        figures["ranking_memory"][f"{name}_mib"] = round(ranking_memory(name, ranked_users, ITEMS) / 2**20, 1)
    return figures


def compare(name: str, histories: Histories, items: int, log: Path, python: Path | None, rounds: int) -> dict[str, Any]:
    """Per tool: epochs, targets and users per second (medians), and for a peer how many times faster ours is."""
    ours = Ours(name, histories, items)
    tools: dict[str, Ours | Theirs] = {"ed2rec": ours}
    trained: Rows = {}
    ranked: Rows = {}
    try:
        if python is not None:
            given = {**SIZES, "samples": min(SAMPLES, items), "threads": torch.get_num_threads(),
                     "batch": ours.rows_per_step}  # fmt: skip
            if name == "gru4rec":
                tools[SAME_SIZE] = Ours(name, histories, items, {**SIZES, "hidden": SIZES["width"]})
            for peer in peers.NEEDED:
                tools[peer] = Theirs(python, peer, name, log, given)
        for turn in range(rounds + 1):
            for word, rows in (("train", trained), ("rank", ranked)):
                for tool, each in tools.items():
                    answer = each.ask(word)
                    if turn:  # the first is to warm up
                        rows.setdefault(tool, []).append(answer)
    finally:
        for each in tools.values():
            each.close()
    return {tool: _summary(tool, trained, ranked) for tool in tools}


def _summary(tool: str, trained: Rows, ranked: Rows) -> dict[str, Any]:
    kinds = {"epochs": (trained, None), "targets": (trained, "targets"), "users": (ranked, "users")}

    def rates(of: str, rows: Rows, what: str | None) -> list[float]:
        return [(row[what] if what else 1) / row["seconds"] for row in rows[of]]

    def faster(one: str, other: str) -> dict[str, float]:
        pairs = {kind: zip(*(rates(of, *where) for of in (one, other)), strict=True) for kind, where in kinds.items()}
        return {kind: round(statistics.median(a / b for a, b in pair), 2) for kind, pair in pairs.items()}

    found: dict[str, Any] = {"targets_per_epoch": round(statistics.mean(row["targets"] for row in trained[tool]))}
    for kind, where in kinds.items():
        found[f"{kind}_per_second"] = float(f"{statistics.median(rates(tool, *where)):.4g}")
    if tool == SAME_SIZE:
        found["times_faster_than_cornac"] = faster(tool, "cornac")
    elif tool != "ed2rec":
        found["ours_times_faster"] = faster("ed2rec", tool)
    return found


class Ours:
    """Answers as the peers do: whole epochs as `train_baseline` takes them, and the ranks of all test targets."""

    def __init__(self, name: str, histories: Histories, items: int, sizes: Mapping[str, Any] = SIZES) -> None:
        torch.manual_seed(0)
        self.split, model = leave_one_out(histories), model_of(name, items, sizes)
        self.learned = Learned(model, items, len(histories), SIZES["longest"])
        self.next_items = int(np.maximum(self.split.train.lengths - 1, 0).sum())
        self.rows_per_step = max(2, round(BATCH * self.next_items / len(histories)))  # where a row has one next item
        batch = BATCH if model.every_position else self.rows_per_step
        budget = Budget(epochs=1, batch=batch, lr=1e-3, weight_decay=0.0, loss="softmax", negatives=None, patience=1,
                        pretraining=0, bf16=False, seed=0)  # fmt: skip
        self.steps = Steps(self.learned, self.split, budget)
        self.data = Training(self.split.train, catalogue=items, longest=SIZES["longest"],
                             whole_rows=model.every_position, batch=batch, seed=0)  # fmt: skip
        self.epoch = self.targets = 0
        self.supervised, model.supervised = model.supervised, self._counted  # type: ignore[assignment, method-assign]

    def ask(self, word: str) -> dict[str, float]:
        """word: train or rank."""
        self.targets, start = 0, time.perf_counter()
        if word == "rank":
            reported(self.learned.ranks(self.split.test))
            return {"seconds": time.perf_counter() - start, "users": len(self.split.test)}
        self.steps.epoch(self.data, self.epoch, False)
        self.epoch += 1
        return {"seconds": time.perf_counter() - start, "targets": self.targets}

    def _counted(self, *given: Any) -> Any:
        """What the model is supervised with; BERT4Rec hides as many items as the dice say, so they are counted."""
        found = self.supervised(*given)
        self.targets += len(found[1])
        return found

    def close(self) -> None:
        """Nothing is open."""


class Theirs:
    """A peer in its own process, which waits for a word whenever it is not its turn."""

    def __init__(self, python: Path, peer: str, name: str, log: Path, given: dict[str, Any]) -> None:
        self.peer, self.complaints = peer, log.with_name(f"{peer}-{name}.txt")
        with self.complaints.open("wb") as file:
            self.process = subprocess.Popen(
                [python.absolute(), peers.__file__, peer, name, log, json.dumps(given)], text=True, cwd=log.parent,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=_environment(given["threads"]),
            )  # fmt: skip

    def ask(self, word: str) -> dict[str, float]:
        """ConfigError, with the last line of its complaints, where the peer has given up."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            said = self.complaints.read_text("utf-8", "replace").strip().splitlines()
            raise ConfigError(f"{self.peer} stopped: {said[-1] if said else self.process.returncode}")
        return json.loads(answer)

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.communicate()  # closes stdin, upon which it ends


def peer_versions(python: Path) -> dict[str, str]:
    """Versions of what is measured there. ConfigError where there is no such interpreter or something is missing."""
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise ConfigError(
            f"--peers {python} is no Python: make one as docs/benchmarks.md says and give peers/bin/python"
        )
    ask = ("import json; from importlib.metadata import version as of; "
           "print(json.dumps({name: of(name) for name in ('cornac', 'recbole', 'torch')}))")  # fmt: skip
    done = subprocess.run([python.absolute(), "-c", ask], capture_output=True, text=True, env=_environment(1))
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"--peers {python} lacks a peer ({reason}): docs/benchmarks.md has the commands")
    return json.loads(done.stdout)


def _environment(threads: int) -> dict[str, str]:
    """Ours, without what would point the other Python at our packages."""
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return ours | {"OMP_NUM_THREADS": str(threads)}


def model_of(name: str, items: int, sizes: Mapping[str, Any] = SIZES) -> SequenceModel:
    """Untrained."""
    if name == "gru4rec":
        return GRU4Rec(items, layers=1, **{key: sizes[key] for key in ("width", "hidden", "dropout")})
    sizes = {key: value for key, value in sizes.items() if key != "hidden"}
    return SASRec(items, **sizes) if name == "sasrec" else BERT4Rec(items, **sizes, masked=0.2, only_last=0.5)


def made_up(users: int, items: int, seed: int = 0) -> Histories:
    """Random items in histories of 5 and more, 10 in the mean (geometric)."""
    random = np.random.default_rng(seed)
    return Histories.from_lists([random.integers(0, items, length) for length in 4 + random.geometric(1 / 6, users)])


def as_long_as_games(users: int, items: int, seed: int = 0) -> Histories:
    """Random items in histories as long as those of Games: what its users have in training, and two held out."""
    random = np.random.default_rng(seed)
    lengths = random.choice(np.append(np.arange(3, 2 + len(GAMES)), 60), users, p=np.array(GAMES) / sum(GAMES))
    return Histories.from_lists([random.integers(0, items, 2 + length) for length in lengths])


def write_histories(file: Path, histories: Histories) -> None:
    """As the peers read them: one row per interaction."""
    lengths = histories.lengths
    order = np.arange(len(histories.flat)) - np.repeat(histories.offsets[:-1], lengths)
    peers.write_log(file, np.repeat(np.arange(len(histories)), lengths), histories.flat, order)


def ranking_memory(name: str, users: int, items: int) -> int:
    """Bytes by which a fresh process grows, at its peak, while it ranks every user's last item among all items; what
    it holds before (libraries, model, log) is not counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (name, users, items))


def _growth(name: str, users: int, items: int) -> int:
    split = leave_one_out(as_long_as_games(users, items))
    learned = Learned(model_of(name, items), items, users, SIZES["longest"])
    before = resident()
    learned.ranks(split.test)
    return max(0, peak() - before)
