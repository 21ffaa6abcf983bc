"""Trains and ranks with Cornac or RecBole on a plain file; `ed2 bench baselines` runs it with the peers' own Python.

    python peers.py cornac sasrec log.npz '{"threads": 2, "batch": 1024, …}'

It imports nothing of ed2rec. The file holds user, item and order (int64, one row per interaction); both peers hold a
user's last interaction out for the test and the one before it for validation. It then reads words from stdin, answering
each with one JSON line on stdout: `train` (one epoch, after which the model goes on from there) with seconds and the
targets that were learned; `rank` (all test users against all items) with seconds and users. Everything that the peers
print themselves goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MODELS = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "bert4rec": "BERT4Rec"}
NEEDED = {
    "cornac": ("numpy", "torch", "transformers", "cornac"),
    "recbole": ("numpy", "torch", "pandas", "scipy", "tqdm", "colorlog", "colorama", "sklearn", "yaml", "tensorboard",
                "thop", "tabulate", "plotly", "texttable", "psutil", "recbole"),
}  # fmt: skip
"""Modules that each peer imports."""

Answer = dict[str, float]
Words = Iterator[str]
Say = Callable[[Answer], None]


def main(arguments: list[str]) -> None:
    if len(arguments) != 4 or arguments[0] not in NEEDED or arguments[1] not in MODELS:
        raise SystemExit(f"peers.py: give {'|'.join(NEEDED)}, {'|'.join(MODELS)}, a .npz file and settings as JSON")
    peer, model, file, settings = arguments
    missing = lacking(peer)
    if missing:
        raise SystemExit(f"{sys.executable} lacks {', '.join(missing)}: docs/benchmarks.md has the commands")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the peers log on stdout

    def say(answer: Answer) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    import torch

    given = json.loads(settings)
    torch.set_num_threads(given["threads"])
    run = cornac if peer == "cornac" else recbole
    run(MODELS[model], read_log(Path(file)), given, (line.strip() for line in iter(sys.stdin.readline, "")), say)


def lacking(peer: str) -> list[str]:
    """Modules that this Python does not have."""
    return [name for name in NEEDED[peer] if importlib.util.find_spec(name) is None]


def write_log(file: Path, user: Any, item: Any, order: Any) -> None:
    """user, item, order: (n,) whole numbers; order rises within a user."""
    import numpy as np

    np.savez(file, user=np.asarray(user, np.int64), item=np.asarray(item, np.int64), order=np.asarray(order, np.int64))


def read_log(file: Path) -> tuple[Any, Any, Any]:
    """user, item, order: (n,) int64, as `write_log` was given them."""
    import numpy as np

    with np.load(file, allow_pickle=False) as kept:
        return kept["user"], kept["item"], kept["order"]


def cornac(name: str, log: tuple[Any, Any, Any], given: dict[str, Any], words: Words, say: Say) -> None:
    """One row per prefix (GRU4Rec: parallel sessions, one target of each per step); a softmax over the other targets of
    the batch and `samples` drawn items, for it has none over the catalogue."""
    from cornac import models
    from cornac.eval_methods import NextItemEvaluation
    from cornac.eval_methods.next_item_evaluation import ranking_eval
    from cornac.metrics import NDCG, HitRatio

    rows = [(f"u{user}", f"i{item}", 1.0, int(order)) for user, item, order in zip(*log, strict=True)]
    held = NextItemEvaluation.leave_last_out(rows, fmt="UIRT", mode="last")
    train, test = held.train_set, held.test_set
    targets = sum(max(len(session) - 1, 0) for session in train.sessions.values())
    common = {"batch_size": given["batch"], "n_epochs": 1, "learning_rate": 1e-3, "n_sample": given["samples"],
              "seed": 0, "device": "cpu"}  # fmt: skip
    if name == "GRU4Rec":
        # With a state wider than the embedding its initialisation transposes a matrix (3.0.1), so both are `width`.
        common["batch_size"] = min(given["batch"], len(train.sessions))  # it fails where sessions do not fill a batch
        model = models.GRU4Rec(layers=[given["width"]], dropout_p_embed=given["dropout"], **common)
    else:
        model = getattr(models, name)(
            embedding_dim=given["width"], num_blocks=given["layers"], num_heads=given["heads"],
            max_len=given["longest"], dropout=given["dropout"], loss="ce", **common,
        )  # fmt: skip

    def rank() -> Answer:
        start = time.perf_counter()
        ranking_eval(model, [HitRatio(k=10), NDCG(k=10)], train, test, mode="last")
        return {"seconds": time.perf_counter() - start, "users": len(test.sessions)}

    loop = "cornac.models.transformer_rec.recom_transformer_rec" if name == "BERT4Rec" else type(model).__module__
    # The progress bar around its epochs is the one place where they can be told apart without rebuilding the model.
    importlib.import_module(loop).trange = lambda *_, **__: _Epochs(words, say, targets, rank)  # type: ignore[attr-defined]
    model.fit(train, None)


class _Epochs:
    """In place of a progress bar around epochs: goes on when told to, and times what happens between."""

    def __init__(self, words: Words, say: Say, targets: int, rank: Callable[[], Answer]) -> None:
        self.words, self.say, self.targets, self.rank = words, say, targets, rank

    def __iter__(self) -> Iterator[int]:
        number = 0
        for word in self.words:
            if word == "rank":
                self.say(self.rank())
                continue
            number += 1
            start = time.perf_counter()
            yield number
            self.say({"seconds": time.perf_counter() - start, "targets": self.targets})

    def set_postfix(self, *_: Any, **__: Any) -> None:
        pass


def recbole(name: str, log: tuple[Any, Any, Any], given: dict[str, Any], words: Words, say: Say) -> None:
    """One row per prefix, each padded to `longest`; softmax over the catalogue. BERT4Rec hides items of each prefix."""
    prepare_for_recbole()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_logger, init_seed

    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "log" / "log.inter", log)
        config = Config(model=name, dataset="log", config_dict=recbole_settings(name, given, folder))
        init_seed(0, False)
        init_logger(config)
        train, _, test = data_preparation(config, create_dataset(config))
        model = get_model(name)(config, train._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        learned = 0

        def counted(batch: Any) -> Any:
            nonlocal learned
            learned += int((batch["MASK_INDEX"] > 0).sum()) if "MASK_INDEX" in batch else len(batch)
            return model.calculate_loss(batch)

        for epoch, word in enumerate(words):
            learned, start = 0, time.perf_counter()
            if word == "rank":
                trainer.evaluate(test, load_best_model=False)
                say({"seconds": time.perf_counter() - start, "users": len(test.dataset)})
            else:
                trainer._train_epoch(train, epoch, counted)
                say({"seconds": time.perf_counter() - start, "targets": learned})


def recbole_settings(name: str, given: dict[str, Any], folder: str) -> dict[str, Any]:
    recurrent = {"embedding_size": given["width"], "hidden_size": given["hidden"], "num_layers": 1,
                 "dropout_prob": given["dropout"]}  # fmt: skip
    attentive = {"hidden_size": given["width"], "inner_size": given["inner"], "n_layers": given["layers"],
                 "n_heads": given["heads"], "hidden_dropout_prob": given["dropout"],
                 "attn_dropout_prob": given["dropout"]}  # fmt: skip
    return {
        "data_path": folder, "checkpoint_dir": folder, "use_gpu": False, "state": "ERROR", "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": given["longest"],
        "train_neg_sample_args": None, "loss_type": "CE", "train_batch_size": given["batch"], "topk": [10],
        "metrics": ["Hit", "NDCG"], "valid_metric": "NDCG@10", "seed": 0, "reproducibility": False,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        **(recurrent if name == "GRU4Rec" else attentive),
    }  # fmt: skip


def prepare_for_recbole() -> None:
    """RecBole 1.2.1 imports a tuner it does not need here, and names that NumPy and PyTorch have given up."""
    import numpy as np
    import torch

    for name in ("ray", "ray.tune", "ray.tune.schedulers"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["ray"].tune = sys.modules["ray.tune"]  # type: ignore[attr-defined]
    sys.modules["ray.tune.schedulers"].ASHAScheduler = None  # type: ignore[attr-defined]
    old = {"bool8": np.bool_, "float_": np.float64, "complex_": np.complex128, "object0": np.object_, "str0": np.str_,
           "int0": np.intp, "uint0": np.uintp, "unicode_": np.str_}  # fmt: skip
    for name, kind in old.items():
        if name not in vars(np):
            setattr(np, name, kind)
    load = torch.load
    torch.load = lambda *a, **k: load(*a, **{"weights_only": False, **k})  # type: ignore[assignment]


def write_atomic(file: Path, log: tuple[Any, Any, Any]) -> None:
    """RecBole's format: tab-separated, with types in the head."""
    file.parent.mkdir(parents=True)
    lines = [f"u{user}\ti{item}\t{order}" for user, item, order in zip(*log, strict=True)]
    file.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
