"""From a name and settings to a baseline: how each one is fitted, and how a run's is loaded.

The only file of this folder that reads settings; every model gets plain values. A model needs a module of its name, a
line in `LEARNED_MODELS` (or, for one without gradient steps, in `FLOOR_CLASSES`), its group of settings, and a preset
of its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ed2rec.baseline_settings import FLOORS
from ed2rec.config import what_is_read
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.data.splits import GlobalTime, LeaveOneOut
from ed2rec.errors import ConfigError
from ed2rec.recommender import Recommender
from ed2rec.runs import Trained
from ed2rec.settings import Settings

if TYPE_CHECKING:
    from ed2rec.baselines.contract import SequenceModel
    from ed2rec.baselines.features import Field
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
    from ed2rec.prior import TextPrior, latent_semantics

    torch.manual_seed(settings.seed)
    learned, b = learned_of(dataset, split, settings), settings.baseline
    _check_negatives(settings, learned.model, learned.catalogue)
    device = next(learned.model.parameters()).device
    if b.prior:
        texts = latent_semantics(_texts(dataset)).to(device)
        learned = replace(learned, prior=TextPrior(texts, b.prior, b.prior_items))
    metrics = train_baseline(
        learned, split, budget_of(settings, device), workspace=workspace,
        stamp=stamp_of(settings, dataset, learned.model), resume=resume, progress=progress, watch=watch,
    )  # fmt: skip
    return Trained(metrics, learned.save)


def _check_negatives(settings: Settings, model: SequenceModel, catalogue: int) -> None:
    """ConfigError where negatives are asked for and the loss draws none, or more than there are items."""
    b = settings.baseline
    if b.negatives is None:
        return
    if b.loss == "own" and model.own_loss != "softmax":
        if b.negatives > catalogue:
            raise ConfigError(f"baseline.negatives={b.negatives}: there are {catalogue:,} items, so give no more")
        return
    mend = "leave it out" if model.own_loss == "softmax" else "set baseline.loss=own as well, or leave it out"
    raise ConfigError(f"baseline.negatives={b.negatives}: softmax, the loss here, is over the whole catalogue and "
                      f"draws none; {mend}")  # fmt: skip


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
        return _floor(settings.model).load(folder)  # type: ignore[no-any-return]
    from ed2rec.prior import TextPrior

    learned, b = learned_of(dataset, split, settings).load(folder), settings.baseline
    if not b.prior:
        return learned
    device = next(learned.model.parameters()).device
    return replace(learned, prior=TextPrior.load(folder, b.prior, b.prior_items, len(dataset.items), device))


def budget_of(settings: Settings, device: Any) -> Budget:
    from ed2rec.baselines.trainer import Budget
    from ed2rec.device import computing_type

    b = settings.baseline
    half = b.bf16 if b.bf16 != "auto" else device.type == "cuda" and computing_type("auto", device) is not None
    return Budget(
        epochs=b.epochs, batch=b.batch, lr=b.lr, weight_decay=b.weight_decay,
        loss="softmax" if b.loss == "softmax" else None, negatives=b.negatives, patience=b.patience,
        pretraining=settings.pretraining, bf16=bool(half), seed=settings.seed,
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


@dataclass(frozen=True)
class Given:
    """What a learned baseline may be made of: counts, its settings, and of the dataset what it reads beside the log."""

    items: int
    users: int
    own: Mapping[str, Any]  # the width and its own group of settings
    dropout: float
    longest: int
    dataset: Dataset
    train: Histories
    titles: bool = False  # FDSA's

    @property
    def regular(self) -> dict[str, Any]:
        return {**self.own, "dropout": self.dropout}

    @property
    def placed(self) -> dict[str, Any]:
        """For models that have an embedding per position."""
        return {**self.regular, "longest": self.longest}

    def fields(self, model: str) -> list[Field]:
        from ed2rec.baselines.features import item_fields

        return item_fields(self.dataset, model, self.titles)

    def field(self, model: str) -> Field:
        from ed2rec.baselines.features import merged

        return merged(self.fields(model))


# Name → how it is made. The module of that name is imported only then: a floor starts without torch, and one baseline
# without the others. `tests/baselines/test_learned.py` holds these names against those of the settings.
LEARNED_MODELS: Mapping[str, Callable[[Any, Given], SequenceModel]] = {
    "fmlprec": lambda module, g: module.FMLPRec(g.items, **g.placed),
    "caser": lambda module, g: module.Caser(g.items, g.users, **g.regular),
    "hgn": lambda module, g: module.HGN(g.items, g.users, **g.own),
    "gru4rec": lambda module, g: module.GRU4Rec(g.items, **g.regular),
    "srgnn": lambda module, g: module.SRGNN(g.items, **g.own),
    "magnn": lambda module, g: module.MAGNN(g.items, g.users, module.ItemGraph(g.items, g.train), **g.own),
    "bert4rec": lambda module, g: module.BERT4Rec(g.items, **g.placed),
    "sasrec": lambda module, g: module.SASRec(g.items, **g.placed),
    "fdsa": lambda module, g: module.FDSA(g.items, g.fields("fdsa"), **g.placed),
    "s3rec": lambda module, g: module.S3Rec(g.items, g.field("s3rec"), **g.placed),
    "narm": lambda module, g: module.NARM(g.items, **g.regular),
    "attrec": lambda module, g: module.AttRec(g.items, g.users, **g.regular),
}
FLOOR_CLASSES = {
    "popularity": "Popularity", "itemknn": "ItemNeighbours", "markov": "Markov", "textknn": "TextNeighbours",
}  # fmt: skip


def sequence_model(dataset: Dataset, split: LeaveOneOut | GlobalTime, settings: Settings) -> SequenceModel:
    """The learned baseline `settings.model`, untrained. DataError where the dataset lacks what it reads."""
    name, b = settings.model, settings.baseline
    own = getattr(settings, name).model_dump()
    if b.width % own.get("heads", 1) and name != "magnn":  # whose heads do not divide the width
        raise ConfigError(f"{name}.heads = {own['heads']} does not divide baseline.width = {b.width}: choose a divisor")
    own.pop("pretraining", None)  # the trainer's
    titles = own.pop("titles", False)
    given = Given(len(dataset.items), len(split.train), {"width": b.width, **own}, b.dropout, b.max_history, dataset,
                  split.train, titles)  # fmt: skip
    return LEARNED_MODELS[name](import_module(f"ed2rec.baselines.{name}"), given)


def _floor(model: str) -> Any:
    """The class of a baseline without gradient steps."""
    return getattr(import_module(f"ed2rec.baselines.{model}"), FLOOR_CLASSES[model])


def _fit_floor(dataset: Dataset, split: LeaveOneOut | GlobalTime, settings: Settings) -> Recommender:
    group = getattr(settings, settings.model, None)  # popularity has none
    own = {} if group is None else group.model_dump()
    if settings.model == "textknn":
        return _floor(settings.model).fit(_texts(dataset), **own)  # type: ignore[no-any-return]
    return _floor(settings.model).fit(split.train, len(dataset.items), **own)  # type: ignore[no-any-return]


def _texts(dataset: Dataset) -> list[str]:
    """Titles and brands only: descriptions are long, repeat the boilerplate of the shop, and lower NDCG@10."""
    return [f"{title} {brand}" for title, brand in dataset.items.select("title", "brand").iter_rows()]
