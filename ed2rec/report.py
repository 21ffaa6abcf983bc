"""report.html: one run on one page, in one file that needs nothing else: no network, no scripts.

Takes plain values (ReportData), so that anything can be reported: a run, a demo, an experiment. All text that comes
from data is escaped; titles of a catalogue are written by strangers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ed2rec import charts
from ed2rec.charts import CodeShares, Curve
from ed2rec.errors import ConfigError
from ed2rec.evaluation.metrics import REPORTED
from ed2rec.evaluation.ranking import conditions
from ed2rec.files import replace_file
from ed2rec.runs import plain

PAGE = Path(__file__).parent / "report.html"
GENERATOR = b'<meta name="generator" content="ed2rec">'  # by which a report of ours is known again
TAKEN = "taken next"


@dataclass(frozen=True)
class Example:
    """One user's history, oldest first, beside what was recommended, best first; titles, not ids.
    target: what the user really took next, "" where that is not known; place: its rank in `recommended`, 0 for none
    (titles do not tell: two items may share one)."""

    user: str
    history: Sequence[str]
    recommended: Sequence[str]
    target: str = ""
    place: int = 0


@dataclass(frozen=True)
class ReportData:
    """Everything on the page; what is empty is left out.

    rows: metrics per model (keys "model" and REPORTED), the reported model first. figures: (number, what it is) for
    the head of the page. losses: name -> curve over steps. validation: NDCG@10 over steps. churn: kind -> level ->
    share that moved. frozen_from: the step at which the index stops moving. codes: kind -> per level, entities per
    code. first_codes: how the first code divides the items by category.
    """

    title: str
    subtitle: str
    rows: Sequence[Mapping[str, Any]]
    figures: Sequence[tuple[str, str]] = ()
    losses: Mapping[str, Curve] = field(default_factory=dict)
    validation: Curve = ()
    churn: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    frozen_from: float | None = None
    codes: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    first_codes: CodeShares | None = None
    examples: Sequence[Example] = ()
    settings: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


def check_report(path: Path) -> None:
    """ConfigError if a report must not be written there: it is a folder, or a file that is no report of ours."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, where the report would go: choose another place")
    if path.exists():
        with path.open("rb") as file:
            if GENERATOR not in file.read(2000):
                raise ConfigError(f"{path} is not a report of ours, it is left alone: choose another place")


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, whole or not at all. Raises ConfigError where the disk refuses."""
    page = render(data)
    with replace_file(path) as file:
        file.write_text(page, encoding="utf-8")


def render(data: ReportData) -> str:
    """The page as text."""
    sections = [_metrics(data.rows), _training(data), _codebooks(data), _examples(data.examples), _details(data)]
    environment = data.environment
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(data.title),
        subtitle=escape(data.subtitle),
        figures="".join(
            f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in data.figures
        ),
        sections="\n".join(section for section in sections if section),
        footer=escape(f"ed2rec {environment['ed2rec']}") if "ed2rec" in environment else "ed2rec",
    )


def _metrics(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    highest = {name: max(float(row[name]) for row in rows) or 1.0 for name in REPORTED}
    body = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{row[name]:.4f}{_bar(row[name] / highest[name])}</td>" for name in REPORTED)
        place = "first" if number == 0 else "other"
        body.append(f'<tr class="{place}"><td>{escape(str(row["model"]))}</td>{cells}</tr>')
    heads = "".join(f"<th>{name}</th>" for name in REPORTED)
    return _section(
        "Accuracy",
        f"{_protocol(rows[0])} on the {tested(rows)} items. {_ranked(rows[0])} for every user, and ties "
        "count against the model. HR@k is the share of users whose next item is among the first k; NDCG@k also "
        "rewards a better place.",
        f'<div class="scroll"><table><thead><tr><th>model</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>",
    )


def _protocol(row: Mapping[str, Any]) -> str:
    """ "Leave-one-out", "Split by global-time, history left out" """
    said = [*([] if "protocol" in row else ["leave-one-out"]), *conditions(row)]
    return ", ".join(said).capitalize()


def _ranked(row: Mapping[str, Any]) -> str:
    return "All items outside the history are ranked" if "exclude_history" in row else "The whole catalogue is ranked"


def tested(rows: Sequence[Mapping[str, Any]]) -> str:
    """ "validation" or "test": which items the rows are about."""
    return "validation" if rows[0].get("split") == "valid" else "test"


def _training(data: ReportData) -> str:
    parts = []
    if data.validation or data.churn:
        parts.append(_figure(charts.learning(data.validation, data.churn, data.frozen_from)))
    if data.losses:
        parts.append("<h3>losses</h3>" + _figure(charts.losses(data.losses, data.frozen_from)))
    tail = " Shaded: the index is frozen and only the LLM learns." if data.frozen_from is not None else ""
    note = "Steps of joint training from left to right: quality on validation items beside how much the index moved."
    return _section("Training", note + tail, "".join(parts)) if parts else ""


def _codebooks(data: ReportData) -> str:
    codes, shares = data.codes, data.first_codes
    parts = [f"<h3>{escape(kind)}</h3>" + _figure(charts.codebooks(kind, counts)) for kind, counts in codes.items()]
    if shares is not None:
        parts.append(f"<h3>the first code of items by {escape(shares.by)}</h3>" + _figure(charts.code_shares(shares)))
    note = (
        "How many entities carry each code of a level, most used first. The dashed line is where all are used alike; "
        "a cliff towards the left is a collapsed codebook."
    )
    return _section("Codebook use", note, "".join(parts)) if parts else ""


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    note = "What was recommended after a user's history. A marked line is the item that the user really took next. "
    note += "Where several users are shown, they are a hit at the top, one further down, and a miss."
    return _section("Recommendations", note, "".join(map(_example, examples)))


def _example(example: Example) -> str:
    earlier = len(example.history) - len(example.history[-12:])
    head = f"history of user {example.user}" + (f", the last {len(example.history) - earlier} items" if earlier else "")
    history = _list(((earlier + place, title, "") for place, title in enumerate(example.history[-12:], start=1)))
    recommended = _list(
        (rank, title, TAKEN if rank == example.place else "") for rank, title in enumerate(example.recommended, start=1)
    )
    missed = bool(example.target) and not example.place
    taken = f"<h3>{TAKEN}</h3>{_list([('–', example.target, 'not among them')])}" if missed else ""
    return (
        f'<div class="user"><div class="beside"><div><h3>{escape(head)}</h3>{history}</div>'
        f"<div><h3>recommended</h3>{recommended}{taken}</div></div></div>"
    )


def _details(data: ReportData) -> str:
    parts = []
    if data.settings:
        parts.append(f"<details><summary>Settings</summary><pre>{escape(data.settings)}</pre></details>")
    if data.environment:
        text = json.dumps(plain(data.environment), indent=2, ensure_ascii=False)
        parts.append(f"<details><summary>Environment</summary><pre>{escape(text)}</pre></details>")
    return _section("How it was made", "", "".join(parts)) if parts else ""


def _list(lines: Iterable[tuple[object, str, str]]) -> str:
    items = (
        f"<li{' class=hit' if mark == TAKEN else ''}><i>{escape(str(place))}</i><span>{escape(title)}</span>"
        f"<small>{escape(mark)}</small></li>"
        for place, title, mark in lines
    )
    return f"<ol>{''.join(items)}</ol>"


def _bar(share: float) -> str:
    return f'<span class="bar"><i style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></i></span>'


def _figure(drawing: str) -> str:
    return f"<figure>{drawing}</figure>"


def _section(title: str, note: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{f'<p class=note>{escape(note)}</p>' if note else ''}{body}</section>"
