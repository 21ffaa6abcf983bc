"""What the command line prints: progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ed2rec.doctor import Findings
from ed2rec.environment import launched
from ed2rec.evaluation.metrics import REPORTED
from ed2rec.report import Example
from ed2rec.runs import plain


@contextmanager
def progress() -> Iterator[Any]:
    """Yields progress(stage, done, total, note=""): a live bar per stage on a terminal, else a line every tenth.

    Of several processes that a launcher started, only the first one speaks.
    """
    if launched()[0] > 0:
        yield lambda *_: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"), console=console,
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in tasks or bars.tasks[tasks[stage]].completed > done:  # a stage that starts again
            tasks[stage] = bars.add_task(stage, total=total, note=note)
        bars.update(tasks[stage], completed=done, total=total, note=note)

    with bars:
        yield report


class _Lines:
    """Progress for log files and pipes."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        tenth = 10 * done // max(total, 1)
        if self._shown.get(stage) != tenth:
            self._shown[stage] = tenth
            _tell(f"{stage}: {done:,} of {total:,}  {note}".rstrip())


def as_json(value: Mapping[str, Any]) -> str:
    """One JSON object as text, ending in a newline; NaN and infinities are null."""
    return json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n"


def print_json(value: Mapping[str, Any]) -> None:
    """One object on stdout and nothing else."""
    sys.stdout.write(as_json(value))


def say(text: str) -> None:
    """A remark for the person in front, on stderr, so that stdout stays for results."""
    if launched()[0] == 0:
        _tell(text)


def _tell(text: str) -> None:
    """A line on stderr. That its reader has gone is no reason to end a training: what follows then goes nowhere."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def print_metrics(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """A table of metrics, one row per model; the best of each column stands out where there are several. A model that
    was asked in several wordings shows mean ± standard deviation, and a row for each of them below."""
    table = Table(header_style="bold")
    table.add_column("model")
    for name in REPORTED:
        table.add_column(name, justify="right")
    best = {name: max(row[name] for row in rows) for name in REPORTED}
    for row in rows:
        leads = {name for name in REPORTED if len(rows) > 1 and row[name] == best[name]}
        spread = {name: f" ± {value:.4f}" for name, value in row.get("std", {}).items()}
        cells = [f"{row[name]:.4f}{spread.get(name, '')}" for name in REPORTED]
        styles = ["bold" if name in leads else "" for name in REPORTED]
        table.add_row(Text(str(row["model"])), *map(Text, cells, styles))
        for part in row["per_instruction"] if spread else ():
            cells = [f"  {part['instruction']}", *(f"{part[name]:.4f}" for name in REPORTED)]
            table.add_row(*(Text(cell, "dim") for cell in cells))
    _print(title, table)


def print_columns(columns: Mapping[str, Sequence[object]], title: str, right: Sequence[str] = ()) -> None:
    """A plain table; columns named in `right` are aligned right."""
    table = Table(header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(Text(str(cell)) for cell in cells))
    _print(title, table)


def print_beside(left: tuple[str, Sequence[str]], right: tuple[str, Sequence[str]]) -> None:
    """Two lists next to one another under their headings, such as a history and what is recommended after it."""
    rows = max(len(left[1]), len(right[1]))
    columns = {head: [*lines, *[""] * (rows - len(lines))] for head, lines in (left, right)}
    print_columns(columns, title="")


def print_likely_users(found: Mapping[str, Any]) -> None:
    """`ed2 recommend RUN --item ID`."""
    columns = {name: [row[name] for row in found["users"]] for name in ("rank", "user_id")}
    columns["score"] = [f"{row['score']:.2f}" for row in found["users"]]
    title = f"users who may take {found['title']} ({found['takers']:,} took it)"
    print_columns(columns, title, right=("rank", "score"))


def print_explanation(found: Mapping[str, Any]) -> None:
    """`ed2 explain`: the latest items, recommendations beside the titles that the LLM writes, and the preference."""
    history = [item["title"] for item in found["history"]]
    print_columns({"item": history[-10:]}, f"history of user {found['user']} ({len(history)} items, the latest last)")
    rows = found["recommendations"]
    target = found["target"] or {}
    columns: dict[str, list[object]] = {
        "rank": [row["rank"] for row in rows],
        "score": [f"{row['score']:.2f}" for row in rows],
        "title": [row["title"] + ("  ● taken next" if row["item_id"] == target.get("item_id") else "") for row in rows],
    }
    if any("written_title" in row for row in rows):
        columns["title as the model writes it"] = [row["written_title"] for row in rows]
    print_columns(columns, "recommended", right=("rank", "score"))
    if target and all(row["item_id"] != target["item_id"] for row in rows):
        print_columns({"item": [target["title"]]}, "taken next")
    if found["preference"] is not None:
        print_columns({"in the model's words": [found["preference"]]}, "preference")
    if found["comment"] is not None:
        print_columns({"in the model's words": [found["comment"]]}, "what they might say of the first one")


def print_index_stats(stats: Mapping[str, Any]) -> None:
    """`ed2 index RUN stats`."""
    for kind in ("items", "users"):
        if kind not in stats:
            continue
        table = stats[kind]
        letters = [chr(ord("a") + level) for level in range(len(table["sizes"]))]
        churn = [[refresh[letter] for refresh in table["churn"] if letter in refresh] for letter in letters]
        highest = max((max(shares) for shares in churn if shares), default=0.0)
        generator = table["generator"]
        title = f"{kind}: {table['entities']:,}, table version {table['version']}"
        title += f"\n  before the suffix {_sharing(table)}"
        if generator:
            title += f"\n  before twins are moved apart {_sharing(generator)}"
        print_columns(
            {
                "level": letters,
                "codes": table["sizes"],
                "used": table["used"],
                "perplexity": [f"{value:.1f}" for value in table["perplexity"]],
                "mean κ": [f"{value:.1f}" for value in generator.get("kappa") or ()] or ["–"] * len(letters),
                "last churn": [f"{shares[-1]:.1%}" if shares else "–" for shares in churn],
                "churn": [sparkline(shares, highest) for shares in churn],
            },
            title=title,
            right=("codes", "used", "perplexity", "mean κ", "last churn"),
        )


def sparkline(values: Sequence[float], highest: float) -> str:
    """One block a value, from ▁ for 0 to █ for `highest`."""
    return "".join("▁▂▃▄▅▆▇█"[round(7 * value / highest) if highest else 0] for value in values)


def _sharing(health: Mapping[str, Any]) -> str:
    """health: of a table or of a generator."""
    rate = health["colliding"] / max(health["entities"], 1)
    return f"{health['colliding']:,} share their codes ({rate:.2%}, at most {health['largest_group']} together)"


def print_item_index(shown: Mapping[str, Any]) -> None:
    """`ed2 index RUN show ITEM_ID`."""
    rows = [{**shown, "shared": ""}, *shown["neighbours"]]
    columns = {name: [row[name] for row in rows] for name in ("shared", "index", "item_id", "title")}
    print_columns(columns, title=f"{shown['title'] or shown['item_id']} and its neighbours", right=("shared",))


def print_trials(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any], title: str) -> None:
    """`ed2 tune`: its trials in order; ● marks the best."""
    columns: dict[str, Sequence[object]] = {
        "": ["●" if row is best else "" for row in rows],
        "trial": [row["number"] for row in rows],
        "state": [row["state"] for row in rows],
        **{key.rpartition(".")[2]: [row["values"].get(key, "–") for row in rows] for key in best["values"]},
        "valid NDCG@10": [f"{row['valid']['NDCG@10']:.4f}" if row["valid"] else "–" for row in rows],
        "epochs": ["–" if row["epochs"] is None else f"{row['epochs']:g}" for row in rows],
        "seconds": ["–" if row["seconds"] is None else f"{row['seconds']:.1f}" for row in rows],
    }
    print_columns(columns, title, right=[name for name in columns if name not in ("", "state")])


def print_findings(found: Findings) -> None:
    """`ed2 doctor`: everything that was looked at, with the command that mends it."""
    marks = {"ok": "✓", "note": "•", "missing": "✗"}
    print_columns(
        {
            "": [marks[finding.state] for finding in found.findings],
            "what": [finding.what for finding in found.findings],
            "found": [finding.found for finding in found.findings],
            "mend": [finding.mend for finding in found.findings],
        },
        title="ed2 doctor: " + ("all well" if found.healthy else "something is missing"),
    )


def print_example(example: Example) -> None:
    """A user's latest items beside what is recommended; ● marks what the user really took next."""
    last = list(example.history[-max(10, len(example.recommended)) :])
    earlier = len(example.history) - len(last)
    head = f"history of user {example.user}" + (f" ({earlier} earlier)" if earlier else "")
    lines = [
        f"{rank:>2}. {title}" + ("  ● taken next" if rank == example.place else "")
        for rank, title in enumerate(example.recommended, start=1)
    ]
    print_beside((head, last), ("recommended", lines))


def _print(title: str, table: Table) -> None:
    # Piped output has no width of its own; 80 columns would fold every title.
    console = Console(width=None if sys.stdout.isatty() else 140)
    if title:  # not the table's own title, which folds to the width of the table
        console.print(Text(title, style="bold"))
    console.print(table)
