"""The folder of an unfinished training: its checkpoints, and a record of what it reads, as a --resume has to."""

import hashlib
import json
import shutil
from pathlib import Path

import yaml

from ed2rec.config import what_is_read
from ed2rec.data.dataset import Dataset
from ed2rec.errors import RunError
from ed2rec.instructions.templates import read_wordings
from ed2rec.runs import complete_checkpoints
from ed2rec.settings import Settings

RECORD = "settings.yaml"


def record_of(settings: Settings, dataset: Dataset, processes: int) -> str:
    """Settings, data, wordings and processes: tokenizer, embeddings and tasks are made again from them when a training
    goes on, and have to fit its weights."""
    read = yaml.safe_dump(what_is_read(settings), sort_keys=False)
    return f"{read}# data {dataset.checksum()}\n{_prompts(settings)}# processes {processes}\n"


def clear(workspace: Path, record: str) -> None:
    """An empty workspace with its record."""
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    (workspace / RECORD).write_text(record)


def go_on_from(workspace: Path, record: str) -> Path:
    """The latest complete checkpoint. RunError where there is none, or the record is of another training."""
    checkpoint, known = last_checkpoint(workspace), workspace / RECORD
    if known.exists() and known.read_text() != record:
        old, new = known.read_text().splitlines(), record.splitlines()
        was, now = next((pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]), ("", ""))
        raise RunError(
            "the interrupted training is of other settings or data, or of another number of processes "
            f"({was.strip()!r}, now {now.strip()!r}): resume with the same ones, or train without --resume"
        )
    return checkpoint


def last_checkpoint(workspace: Path) -> Path:
    """The latest complete checkpoint. RunError where there is none."""
    found = complete_checkpoints(workspace)
    if not found:
        raise RunError(f"no complete checkpoint in {workspace}: train without --resume")
    return max(found, key=lambda folder: int(folder.name.split("-")[1]))


def _prompts(settings: Settings) -> str:
    """A line that names the wordings of `tasks.prompts`; none where there is no such file."""
    if not settings.tasks.prompts:
        return ""
    wordings = json.dumps(read_wordings(Path(settings.tasks.prompts), settings.training.instruction), sort_keys=True)
    return f"# prompts {hashlib.sha256(wordings.encode()).hexdigest()}\n"
