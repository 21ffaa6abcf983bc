"""A run: a folder that can be loaded. It is written whole or not at all, and never at the cost of the one before it.

    config.yaml        the resolved settings; `ed2 train --config` takes it back
    metrics.json       what training measured
    environment.json   format version, model, dataset, versions, seed, hardware, commit, and the size of every file
    …                  what the model writes: model/, indexer.safetensors, index/*.parquet, or a baseline's file

Everything is written in a folder beside the target, which then takes its name (`data/folders.py`). One writer per run
at a time.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from polars.exceptions import ComputeError

from ed2rec.config import Settings, resolve
from ed2rec.data.folders import beside, first_stranger, fresh, place, put_back, swap
from ed2rec.environment import describe
from ed2rec.errors import ConfigError, RunError

FORMAT = 1
CONFIG, METRICS, ENVIRONMENT = "config.yaml", "metrics.json", "environment.json"
RESULTS = (".json", ".parquet", ".png", ".svg", ".pdf", ".html")
"""Endings of what our commands write where they are told to: metrics, rankings, pictures, reports."""
COMPLETE = "complete"
"""An empty file in a checkpoint, written last: one without it was interrupted."""


@dataclass(frozen=True)
class Trained:
    """What a training hands over: its measurements, and how the model writes itself into a folder."""

    metrics: dict[str, Any]
    write: Callable[[Path], None]


@dataclass(frozen=True)
class RunFolder:
    """A complete run, opened: its files are all there and of this format; the weights are not loaded yet."""

    path: Path
    settings: Settings
    metrics: dict[str, Any]
    environment: dict[str, Any]

    @property
    def model(self) -> str:
        return self.settings.model

    @property
    def dataset(self) -> dict[str, Any]:
        """What the run was trained on: path, name, counts and fingerprints (`workflow.reference`)."""
        return dict(self.environment["dataset"])


def save(
    folder: Path,
    settings: Settings,
    metrics: Mapping[str, Any],
    write: Callable[[Path], None],
    dataset: Mapping[str, Any],
) -> RunFolder:
    """Write a complete run and only then let it take the place of what was there.

    write: puts the model's own files into the folder it is given. dataset: what `RunFolder.dataset` will say.
    Raises RunError where the target is not a run, or the disk refuses; the target is then as it was.
    """
    folder = place(folder)
    check_target(folder)
    try:
        new = fresh(folder)
        write(new)
        (new / CONFIG).write_text(settings.to_yaml(), encoding="utf-8")
        _write_json(new / METRICS, dict(metrics))
        sizes = {path.relative_to(new).as_posix(): path.stat().st_size for path in _files(new)}
        facts = {"format": FORMAT, "model": settings.model, "seed": settings.seed, "dataset": dict(dataset)}
        _write_json(new / ENVIRONMENT, {**facts, **describe(), "files": sizes})
        for path in _files(new):  # some writers make files that only their owner may read
            path.chmod((new / CONFIG).stat().st_mode)
        swap(new, folder)
    except Exception as error:
        if (reason := _refusal(error)) is None:
            raise
        raise RunError(f"cannot save the run {folder}: {reason}; what was there is unchanged, free some space or "
                       "choose another --out") from error  # fmt: skip
    finally:
        shutil.rmtree(beside(folder, "new"), ignore_errors=True)
    return open_run(folder)


def open_run(folder: Path) -> RunFolder:
    """Raises RunError for a folder that is missing, no run, unfinished, damaged or of another format."""
    folder = place(folder)
    put_back(folder)
    if not folder.is_dir():
        if complete_checkpoints(workspace(folder)):
            raise RunError(f"the training of {folder} has not finished: continue it with ed2 train … --resume")
        if workspace(folder).is_dir():
            raise RunError(f"the training of {folder} has not finished and has no complete checkpoint to go on from: "
                           f"train it again with ed2 train DATASET --out {folder}")  # fmt: skip
        raise RunError(f"no run at {folder}: train one with ed2 train DATASET --out {folder}")
    if (folder / "dataset.json").is_file():
        raise RunError(f"{folder} is a dataset folder, not a run: give what ed2 train {folder} --out RUN wrote")
    if not (folder / ENVIRONMENT).is_file():
        raise RunError(
            f"{folder} is no run, or half of one: it has no {ENVIRONMENT}; make one with ed2 train --out RUN"
        )
    environment = _read_json(folder / ENVIRONMENT)
    if environment.get("format") != FORMAT:
        raise RunError(f"{folder} is a run of format {environment.get('format')}, this version reads format {FORMAT}: "
                       f"train it again, or install ed2rec {environment.get('ed2rec', 'of that time')}")  # fmt: skip
    dataset = environment.get("dataset")
    if not isinstance(dataset, dict) or not {"path", "name", "entities"} <= {*dataset}:
        raise RunError(f"{folder / ENVIRONMENT} does not say what was trained on: copy or train the run again")
    if not isinstance(environment.get("files"), dict):
        raise RunError(f"{folder / ENVIRONMENT} does not say which files there are: copy or train the run again")
    _check_files(folder, environment["files"])
    try:
        settings = resolve(file=folder / CONFIG)
    except ConfigError as error:
        raise RunError(f"{folder} cannot be used by this version: {error}") from None
    if settings.model != environment.get("model"):
        raise RunError(f"{folder / CONFIG} says {settings.model}, but {environment.get('model')} was trained: "
                       "put its model back, or train another run")  # fmt: skip
    metrics = _read_json(folder / METRICS)
    if not isinstance(metrics.get("history", []), list):
        raise RunError(f"{folder / METRICS} has a history that is no list: copy or train the run again")
    return RunFolder(folder, settings, metrics, environment)


def check_target(folder: Path) -> None:
    """RunError if a run must not be written there: it is a file, or a folder with something else in it.

    A run may hold what it was saved with, and beside that what can be made from it again (RESULTS). Called before
    training as well, because a mistyped --out should not be found out after hours of work.
    """
    folder = place(folder)
    put_back(folder)
    if folder.is_dir():
        results = [path.name for path in folder.iterdir() if path.suffix.lower() in RESULTS]
        if stranger := first_stranger(
            folder, ENVIRONMENT, lambda said: [*said["files"], *results] if said["ed2rec"] else ()
        ):
            raise RunError(f"{folder} holds files that are not a run's ({stranger}), they are left alone: "
                           "choose another --out")  # fmt: skip
    elif os.path.lexists(folder):
        raise RunError(f"{folder} is a file, not a folder: choose another --out")
    parent = next(path for path in folder.parents if path.exists())
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise RunError(f"cannot write into {parent}: choose another --out or change its permissions")


def plain(value: Any) -> Any:
    """The value in JSON's own types: NumPy numbers as numbers, NaN and infinities as null, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def workspace(folder: Path) -> Path:
    """Where an unfinished training of this run keeps its checkpoints: beside the run, which stays complete."""
    return beside(place(folder), "training")


def complete_checkpoints(workspace: Path) -> list[Path]:
    """What an unfinished training can go on from, in no order."""
    return [marker.parent for marker in workspace.glob(f"checkpoint-*/{COMPLETE}")]


def disk_is_full(error: BaseException) -> bool:
    """Whether this came from a disk without room, whoever wrote. Rust writers report the system's error as text, and
    PyTorch only that its archive is not as long as it should be."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(sign in str(error) for sign in ("os error 28", "PytorchStreamWriter", "inline_container"))


def _refusal(error: Exception) -> str | None:
    """Why the disk refused, or None for any other fault. Rust writers (Parquet, safetensors, tokenizers) report the
    system's error as text in exceptions of their own."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return error.strerror or text
    return text if isinstance(error, ComputeError) or "os error" in text else None


def _check_files(folder: Path, sizes: Mapping[str, int]) -> None:
    for name, size in {CONFIG: 0, METRICS: 0, **sizes}.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{folder} is incomplete, {name} is missing: copy the run again or train it again")
        # The two text files may be edited or added to; a weight or table of another size is a truncated copy.
        if name not in (CONFIG, METRICS) and path.stat().st_size != size:
            raise RunError(f"{folder} is damaged, {name} has {path.stat().st_size:,} bytes and {size:,} were written: "
                           "copy the run again or train it again")  # fmt: skip


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({' '.join(str(error).split())}): copy or train the run again") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} must hold one JSON object: copy or train the run again")
    return value
