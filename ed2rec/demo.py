"""`ed2 demo`: MovieLens-100K from the download to report.html, with nothing but what the other verbs use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2rec import workflow
from ed2rec.config import Settings, resolve
from ed2rec.data.prepare import prepare
from ed2rec.report import Example, check_report, write_report
from ed2rec.summary import examples_of, headline, summarise, telling_users
from ed2rec.workflow import Progress

DATASET = "ml-100k"


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows at its end. rows: metrics of the model, then of popularity."""

    rows: list[dict[str, Any]]
    users: int
    example: Example
    report: Path
    seconds: float


def run_demo(
    out: Path, settings: Settings, *, source: Path | None, user_id: str | None, progress: Progress
) -> DemoResult:
    """Fetch (unless `source` is a local copy), prepare, train, evaluate beside popularity, recommend, report.

    Everything is left in `out`: downloads/, dataset/, the runs, report.html. Run again, it fetches nothing twice.
    """
    start = time.perf_counter()
    dataset_folder, report = out / "dataset", out / "report.html"
    check_report(report)
    dataset = prepare(source or _fetched(out, progress), DATASET, dataset_folder)
    if user_id is not None:
        dataset.user_number(user_id)  # a mistyped id should not be found out after the training
    begun = time.perf_counter()
    rows, loaded, results = [], [], []
    for model in dict.fromkeys([settings.model, "popularity"]):
        chosen = settings if model == settings.model else resolve(extra={"model": model, "seed": settings.seed})
        workflow.train(dataset_folder, out / model, chosen, progress=progress)
        if model == settings.model:
            trained = time.perf_counter() - begun
        run = workflow.load(out / model, dataset_folder)
        result = workflow.evaluate_run(run, progress=progress)
        rows.append(result.row(dataset.name, "test", model))
        loaded.append(run)
        results.append(result)
    shown = telling_users(results[0]) if user_id is None else [dataset.user_number(user_id)]
    examples = examples_of(loaded[0], "test", shown)
    figures = [*headline(rows)[:3], (_duration(trained), f"training on {_where(loaded[0])}")]
    write_report(report, summarise(loaded[0], rows, examples, figures))
    return DemoResult(rows, len(dataset.users), examples[0], report, time.perf_counter() - start)


def _fetched(out: Path, progress: Progress) -> Path:
    from ed2rec.data.fetch import fetch

    progress("fetching", 0, 1, DATASET)
    origin = Path(fetch(DATASET, out / "downloads"))
    progress("fetching", 1, 1, str(origin))
    return origin


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _where(run: workflow.LoadedRun) -> str:
    hardware = run.folder.environment["hardware"]
    accelerators: Sequence[str] = hardware["accelerators"]
    return accelerators[0] if accelerators else f"{hardware['cores']} cores"
