"""Learned baselines small enough to be trained in a test, from their own presets."""

from pathlib import Path
from typing import Any

import torch

from ed2rec.baselines.build import budget_of, learned_of
from ed2rec.baselines.learned import Learned
from ed2rec.baselines.trainer import train_baseline
from ed2rec.config import for_model, resolve
from ed2rec.data.dataset import Dataset
from ed2rec.data.splits import leave_one_out
from ed2rec.settings import Settings

SIZES = {
    "sasrec": ["inner=32"], "fdsa": ["inner=32"], "s3rec": ["inner=32", "pretraining=2"], "bert4rec": ["inner=32"],
    "fmlprec": ["inner=32"], "gru4rec": ["hidden=16"], "narm": ["hidden=16"], "magnn": ["heads=2", "units=4"],
    "caser": ["horizontal=4"],
}  # fmt: skip


def settings_of(name: str, *overrides: str) -> Settings:
    """Two epochs at width 16 on the processor, and for the rest the model's preset."""
    small = ["width=16", "epochs=2", "batch=16", "max_history=12", "device=cpu", "bf16=false", *SIZES.get(name, [])]
    return resolve(for_model(name, None), [*small, *overrides], extra={"model": name})


def untrained(dataset: Dataset, settings: Settings) -> Learned:
    torch.manual_seed(settings.seed)
    return learned_of(dataset, leave_one_out(dataset.histories), settings)


def trained(
    dataset: Dataset, settings: Settings, workspace: Path, *, stamp: str = "", **options: Any
) -> tuple[Learned, dict[str, Any]]:
    """The model at its best epoch and what training measured. options: of `train_baseline`."""
    learned = untrained(dataset, settings)
    split = leave_one_out(dataset.histories)
    budget = budget_of(settings, torch.device("cpu"))
    return learned, train_baseline(learned, split, budget, workspace=workspace, stamp=stamp, **options)
