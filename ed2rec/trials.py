"""What a search keeps in its folder, and what of a training it is judged by: rows, the record, best.yaml.

A row is one line of trials.jsonl: number, state, values (setting → value), valid (metric → value), epochs, seconds, and
the error of a failed one. States: complete; pruned, given up; cut, by the end of the time; failed, with an error of its
own; interrupted, ended with the program.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ed2rec import runs, workflow
from ed2rec.config import Settings, as_preset, changed, what_is_read
from ed2rec.data.dataset import Dataset
from ed2rec.errors import ConfigError, RunError
from ed2rec.files import replace_file
from ed2rec.spaces import Space, as_plain

RECORD, TRIALS, STUDY, BEST = "search.yaml", "trials.jsonl", "study", "best.yaml"
DECIDED = ("complete", "pruned", "failed")
"""States that say all there is to say of their values; "cut" and "interrupted" ones are tried again by --resume."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Limit:
    """What a search may spend, all its trials together and those before a --resume with them.

    minutes: of training and validation, none: no limit. A trial that is under way when they are over is cut at its next
    validation, and counts with the best one that it has made.
    """

    trials: int = 20
    minutes: float | None = None

    def check(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"--trials {self.trials}, allowed: 1 or more; 1 is the start alone")
        if self.minutes is not None and self.minutes <= 0:
            raise ConfigError(f"--minutes {self.minutes:g}, allowed: more than 0, or leave it out for no limit")

    def over(self, rows: list[Row]) -> bool:
        return counted(rows) >= self.trials or self.left(rows) <= 0

    def left(self, rows: list[Row]) -> float:
        """Seconds."""
        return float("inf") if self.minutes is None else 60 * self.minutes - spent(rows)


def best_of(rows: list[Row]) -> Row | None:
    """The trial with the highest validation NDCG@10, the first of equals; pruned ones are none of them."""
    judged = [row for row in rows if row["state"] in ("complete", "cut") and row["valid"]]
    return max(judged, key=lambda row: row["valid"]["NDCG@10"], default=None)


def decided(rows: list[Row]) -> list[Row]:
    """The values that need not be tried again."""
    return [row["values"] for row in rows if row["state"] in DECIDED]


def counted(rows: list[Row]) -> int:
    """Trials that the budget has paid for: one that was cut counts until it has been made again in full."""
    done = decided(rows)
    return len(done) + sum(row["state"] == "cut" and row["values"] not in done for row in rows)


def spent(rows: list[Row]) -> float:
    """Seconds."""
    return sum(row["seconds"] or 0.0 for row in rows)


def measured(trained: runs.Trained, dataset: Dataset, settings: Settings, workspace: Path) -> Row:
    """Validation metrics and epochs of a training that came to its end."""
    if "curve" in trained.metrics:
        curve = {row["epoch"]: row for row in trained.metrics["curve"]}
        best = curve[trained.metrics["best_epoch"]]
        valid = {name.removeprefix("valid_"): value for name, value in best.items() if name.startswith("valid_")}
        return {"valid": valid, "epochs": trained.metrics["epochs"]}
    if "history" in trained.metrics:  # as `Validate` chooses
        final = round((1 - settings.training.frozen_tail) * trained.metrics["steps"])
        told = [entry for entry in trained.metrics["history"] if "valid" in entry and entry["step"] >= final]
        valid = max((entry["valid"] for entry in told), key=lambda metrics: metrics["NDCG@10"])
        return {"valid": valid, "epochs": settings.training.epochs}
    from ed2rec.baselines.build import load_baseline
    from ed2rec.evaluation.ranking import evaluate

    workspace.mkdir(parents=True, exist_ok=True)
    trained.write(workspace)
    parts = workflow.split(dataset, settings)
    return {"valid": evaluate(load_baseline(workspace, settings, dataset, parts), parts.valid).metrics, "epochs": None}


def record(dataset: Dataset, start: Settings, space: Space) -> str:
    """search.yaml: all that makes two searches the same one, but for what they may spend."""
    settings = what_is_read(start)
    facts = {
        "model": settings.pop("model"),
        "dataset": {"name": dataset.name, **workflow.fingerprint(dataset, start.split)},
    }
    whole = {**facts, "space": as_plain(space), "settings": settings}
    return yaml.safe_dump(whole, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1000)


def open_folder(out: Path, record: str, resume: bool) -> bool:
    """Make the folder of a new search or find that of the same one; whether it is new. RunError for any other."""
    file = out / RECORD
    if not file.is_file():
        if resume:
            raise RunError(f"there is no search in {out} to go on with: leave --resume out")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out} holds something that is not a search, it is left alone: choose another --out")
        made = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {out}: {error.strerror}; choose another --out") from None
        try:
            with replace_file(file) as new:
                new.write_text(record, encoding="utf-8")
        except ConfigError:
            if made:
                out.rmdir()
            raise
        return True
    before = file.read_text(encoding="utf-8")
    if before != record:
        pairs = zip(before.splitlines(), record.splitlines(), strict=False)
        was, now = next((pair for pair in pairs if pair[0] != pair[1]), ("more", "less"))
        raise RunError(f"{out} is another search ({was.strip()}; now {now.strip()}): give the same dataset, model and "
                       "settings, or choose another --out")  # fmt: skip
    if not resume:
        raise RunError(f"{out} holds this search already: go on with --resume, or choose another --out")
    return False


def add_row(file: Path, row: Row) -> None:
    """On a line of its own, also behind one during which the machine stopped."""
    with file.open("a+b") as lines:
        start = b""
        if lines.tell():
            lines.seek(-1, os.SEEK_END)
            start = b"" if lines.read(1) == b"\n" else b"\n"
        lines.write(start + json.dumps(runs.plain(row), ensure_ascii=False).encode() + b"\n")


def whole_rows(file: Path) -> list[Row]:
    """All whole lines, none where there is no file; one during which the machine stopped is passed over."""
    rows = []
    for line in file.read_bytes().split(b"\n") if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def read_rows(file: Path) -> list[Row]:
    """All whole lines; any other is dropped from the file too."""
    rows = whole_rows(file)
    with replace_file(file) as new:
        new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return rows


def write_best(
    file: Path, dataset: str, rows: list[Row], best: Row, start: Settings, space: Space, command: str
) -> None:
    """A preset: for --config, or to be committed as presets/MODEL-DATASET.yaml."""
    head = (f"# {start.model} on {dataset}: trial {best['number']} of {counted(rows)}, {spent(rows):.0f} s, "
            f"valid NDCG@10 {best['valid']['NDCG@10']:.4f}")  # fmt: skip
    with replace_file(file) as new:
        text = as_preset(changed(start, best["values"]), space)
        new.write_text(f"{head}{': ' + command if command else ''}\n{text}", encoding="utf-8")
