"""From a name and settings to a baseline: how each one is fitted, and how a run's is loaded.

The only file of this folder that reads settings; every model gets plain values. A model needs its line in
`sequence_model` (or, for one without gradient steps, in `_fit_floor` and `_load_floor`), its group of settings, and a
preset of its name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ed2rec.baseline_settings import FLOORS
from ed2rec.config import what_is_read
from ed2rec.data.dataset import Dataset
from ed2rec.data.splits import GlobalTime, LeaveOneOut
from ed2rec.errors import ConfigError
from ed2rec.recommender import Recommender
from ed2rec.runs import Trained
from ed2rec.settings import Settings

if TYPE_CHECKING:
    from ed2rec.baselines.contract import SequenceModel
    from ed2rec.baselines.learned import Learned
    from ed2rec.baselines.trainer import Budget, Progress, Watch


def fit_baseline(
    dataset: Dataset,
    split: LeaveOneOut | GlobalTime,
    settings: Settings,
    workspace: Path,
    *,
    resume: bool = False,
    progress: Progress = lambda *_: None,
    watch: Watch | None = None,
) -> Trained:
    """The baseline `settings.model`, trained. watch: told the validation NDCG@10 of every epoch (`ed2 tune`)."""
    if settings.model in FLOORS:
        return Trained({}, _fit_floor(dataset, split, settings).save)  # type: ignore[attr-defined]
    import torch

    from ed2rec.baselines.trainer import train_baseline

    torch.manual_seed(settings.seed)
    learned = learned_of(dataset, split, settings)
    metrics = train_baseline(
        learned, split, budget_of(settings, next(learned.model.parameters()).device), workspace=workspace,
        stamp=stamp_of(settings, dataset, learned.model), resume=resume, progress=progress, watch=watch,
    )  # fmt: skip
    return Trained(metrics, learned.save)


def stamp_of(settings: Settings, dataset: Dataset, model: SequenceModel) -> str:
    """Names what a training reads: its settings, the log, and what the model holds of the items beside it (buffers:
    categories and brands of FDSA and S³-Rec)."""
    log = "".join(dataset.log_checksums(settings.split).values())
    read = hashlib.sha256((json.dumps(what_is_read(settings)) + log).encode())
    for name, value in sorted(model.named_buffers()):
        read.update(name.encode() + value.cpu().numpy().tobytes())
    return read.hexdigest()


def load_baseline(folder: Path, settings: Settings, dataset: Dataset, split: LeaveOneOut | GlobalTime) -> Recommender:
    """The baseline of a run. split: of the dataset that the run was trained on."""
    if settings.model in FLOORS:
        return _load_floor(folder, settings.model)
    return learned_of(dataset, split, settings).load(folder)


def budget_of(settings: Settings, device: Any) -> Budget:
    from ed2rec.baselines.trainer import Budget
    from ed2rec.device import computing_type

    b = settings.baseline
    half = b.bf16 if b.bf16 != "auto" else device.type == "cuda" and computing_type("auto", device) is not None
    return Budget(
        epochs=b.epochs, batch=b.batch, lr=b.lr, weight_decay=b.weight_decay,
        loss="softmax" if b.loss == "softmax" else None, negatives=b.negatives, patience=b.patience,
        pretraining=settings.s3rec.pretraining if settings.model == "s3rec" else 0, bf16=bool(half), seed=settings.seed,
    )  # fmt: skip


def learned_of(dataset: Dataset, split: LeaveOneOut | GlobalTime, settings: Settings) -> Learned:
    """The untrained model on its device, as a recommender."""
    from ed2rec.baselines.contract import TiedModel
    from ed2rec.baselines.learned import Learned
    from ed2rec.device import choose_device

    model = sequence_model(dataset, split, settings)
    if not settings.baseline.tied:
        if not isinstance(model, TiedModel):
            raise ConfigError(f"baseline.tied=false: {settings.model} does not score with its item embeddings alone; "
                              "leave it true")  # fmt: skip
        model.untie()
    model.to(choose_device(settings.baseline.device, "baseline.device"))
    return Learned(model, len(dataset.items), len(split.train), settings.baseline.max_history)


def sequence_model(dataset: Dataset, split: LeaveOneOut | GlobalTime, settings: Settings) -> SequenceModel:
    """The learned baseline `settings.model`, untrained. DataError where the dataset lacks what it reads."""
    name, b, items, users = settings.model, settings.baseline, len(dataset.items), len(split.train)
    own = getattr(settings, name).model_dump()
    if name in ("bert4rec", "sasrec", "fdsa", "s3rec") and b.width % own["heads"]:
        raise ConfigError(f"{name}.heads = {own['heads']} does not divide baseline.width = {b.width}: choose a divisor")
    size = {"width": b.width, **own}
    regular = {**size, "dropout": b.dropout}
    placed = {**regular, "longest": b.max_history}
    if name == "fmlprec":
        from ed2rec.baselines.fmlprec import FMLPRec

        return FMLPRec(items, **placed)
    if name == "caser":
        from ed2rec.baselines.caser import Caser

        return Caser(items, users, **regular)
    if name == "hgn":
        from ed2rec.baselines.hgn import HGN

        return HGN(items, users, **size)
    if name == "gru4rec":
        from ed2rec.baselines.gru4rec import GRU4Rec

        return GRU4Rec(items, **regular)
    if name == "srgnn":
        from ed2rec.baselines.srgnn import SRGNN

        return SRGNN(items, **size)
    if name == "magnn":
        from ed2rec.baselines.magnn import MAGNN, ItemGraph

        return MAGNN(items, users, ItemGraph(items, split.train), **size)
    if name == "bert4rec":
        from ed2rec.baselines.bert4rec import BERT4Rec

        return BERT4Rec(items, **placed)
    if name == "sasrec":
        from ed2rec.baselines.sasrec import SASRec

        return SASRec(items, **placed)
    if name == "fdsa":
        from ed2rec.baselines.fdsa import FDSA
        from ed2rec.baselines.features import item_fields

        return FDSA(items, item_fields(dataset, name), **placed)
    if name == "s3rec":
        from ed2rec.baselines.features import item_fields, merged
        from ed2rec.baselines.s3rec import S3Rec

        del placed["pretraining"]
        return S3Rec(items, merged(item_fields(dataset, name)), **placed)
    if name == "narm":
        from ed2rec.baselines.narm import NARM

        return NARM(items, **regular)
    from ed2rec.baselines.attrec import AttRec

    return AttRec(items, users, **regular)


def _fit_floor(dataset: Dataset, split: LeaveOneOut | GlobalTime, settings: Settings) -> Recommender:
    train, items = split.train, len(dataset.items)
    if settings.model == "popularity":
        from ed2rec.baselines.popularity import Popularity

        return Popularity.fit(train, items)
    if settings.model == "itemknn":
        from ed2rec.baselines.itemknn import ItemNeighbours

        return ItemNeighbours.fit(train, items, **settings.itemknn.model_dump())
    if settings.model == "markov":
        from ed2rec.baselines.markov import Markov

        return Markov.fit(train, items, **settings.markov.model_dump())
    from ed2rec.baselines.textknn import TextNeighbours

    # Titles and brands only: descriptions are long, repeat the boilerplate of the shop, and lower NDCG@10.
    texts = [f"{title} {brand}" for title, brand in dataset.items.select("title", "brand").iter_rows()]
    return TextNeighbours.fit(texts, settings.textknn.last)


def _load_floor(folder: Path, model: str) -> Recommender:
    if model == "popularity":
        from ed2rec.baselines.popularity import Popularity

        return Popularity.load(folder)
    if model == "itemknn":
        from ed2rec.baselines.itemknn import ItemNeighbours

        return ItemNeighbours.load(folder)
    if model == "markov":
        from ed2rec.baselines.markov import Markov

        return Markov.load(folder)
    from ed2rec.baselines.textknn import TextNeighbours

    return TextNeighbours.load(folder)
