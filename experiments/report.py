"""Ours beside the paper's: Markdown, LaTeX and PNG of what `runs.collect` found."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ed2rec.evaluation.metrics import REPORTED
from ed2rec.evaluation.significance import Interval, over_seeds
from experiments.runs import Request, Row, by_variant

BESIDE = ("valid NDCG@10", "new only HR@10", "new only NDCG@10")
INK, OURS, PAPER = "#333333", "#2b6cb0", "#c8b273"


@cache
def paper() -> dict[str, Any]:
    """What the paper prints (paper.toml)."""
    return tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))


def average_degradation(full: Sequence[float], part: Sequence[float]) -> float:
    """Avg.D = 100 · mean over the metrics of (full − part) / full, in percent; NaN where a metric of full is 0."""
    whole, rest = np.asarray(full, dtype=float), np.asarray(part, dtype=float)
    return float(100 * np.mean((whole - rest) / whole)) if (whole > 0).all() else float("nan")


def values(row: Row, part: str = "test") -> list[float]:
    """The row's metrics in the order of the paper's columns."""
    return [row[part][name] for name in REPORTED]


def beside(rows: Sequence[Row]) -> list[str]:
    """What stands beside the test metrics of a variant's rows: `BESIDE`, of which the paper prints nothing."""
    parts = [("valid", "NDCG@10"), ("test, new only", "HR@10"), ("test, new only", "NDCG@10")]
    return [cell([row[part][metric] for row in rows]) for part, metric in parts]


def cell(numbers: Sequence[float], digits: int = 4, kind: str = "f") -> str:
    """mean ± half the 95 % interval over the seeds; the number alone where there is one seed. kind: "f", or "e" for
    powers of ten."""
    if not len(numbers):
        return ""
    found = over_seeds(numbers)
    form = f".{digits}{kind}"
    return f"{found.mean:{form}}" + (f" ± {half(found):{form}}" if len(numbers) > 1 else "")


def half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """The same table for a paper (booktabs). Cells are those of `markdown`; what LaTeX reads otherwise is escaped."""
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (header, *rows)]
    middle = "\n".join(lines[1:])
    columns = "l" + "r" * (len(header) - 1)
    return (
        f"\\begin{{table}}\n\\caption{{{_escaped(caption)}}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines[0]}\n"
        f"\\midrule\n{middle}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _escaped(text: str) -> str:
    bold = text.count("**") == 2
    for letter, form in (("\\", ""), ("**", ""), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"),
                         ("±", r"$\pm$"), ("²", r"$^2$"), ("−", "$-$"), ("*", "$^{*}$"), ("<", "$<$")):  # fmt: skip
        text = text.replace(letter, form)
    return rf"\textbf{{{text}}}" if bold else text


def facts(request: Request, rows: Sequence[Row]) -> str:
    """Where the numbers come from: dataset, settings, seeds, machines, commits."""
    seeds = {row["seed"] for row in rows}
    machines = {f"{row['hardware']['cores']} cores of {row['hardware']['processor']}"
                + "".join(f", {name}" for name in row["hardware"]["accelerators"]) for row in rows}  # fmt: skip
    commits: dict[str, list[str]] = {}  # → whose rows
    for row in rows:
        commits.setdefault(row["commit"] or "unknown", []).append(row["variant"])
    spread = "; mean ± half the 95 % t-interval over them" if len(seeds) > 1 else ""
    lines = [
        f"Dataset: {request.name}. Presets: {', '.join(request.presets) or 'none'}."
        + (f" Set: {', '.join(f'`{text}`' for text in request.overrides)}." if request.overrides else ""),
        f"Seeds: {', '.join(map(str, sorted(seeds))) or 'no runs yet'}{spread}. Machine: "
        f"{'; '.join(sorted(machines)) or 'none'}."
        + (f" Commit: {', '.join(commits) or 'unknown'}." if len(commits) < 2 else ""),
        *([_several(commits)] if len(commits) > 1 else []),
        *(f"Left out: {name} ({reason})." for name, reason in request.left_out.items()),
    ]
    return "\n".join(lines)


def _several(commits: Mapping[str, Sequence[str]]) -> str:
    """commits: → the variant of each of its rows. What one table puts side by side may come from different code."""
    whose = (f"{commit} ({', '.join(dict.fromkeys(names))})" for commit, names in commits.items())
    return f"Not all of one version, rows of several commits: {'; '.join(whose)}."


def write(request: Request, name: str, text: str, figure: Figure | None = None) -> None:
    """OUT/NAME.md and OUT/NAME.png, and the Markdown on stdout. figure: None where its picture is drawn elsewhere."""
    if figure is not None:
        figure.savefig(request.out / f"{name}.png", dpi=150)
    (request.out / f"{name}.md").write_text(f"{text}\n\n![{name}]({name}.png)\n", encoding="utf-8")
    print(text)


# Tables 2 and 3: variants against the full model, the first one.


def ablation(request: Request, rows: Sequence[Row], table: str, title: str) -> tuple[str, Figure]:
    """table: "table2" or "table3" in paper.toml. Ours above the paper's, row by row, and the picture of both."""
    printed = dict(paper()[table])
    averages = printed.pop("Avg.D %")
    ours, full = by_variant(rows), request.variants[0].name
    header = ["", "seeds", *REPORTED, "Avg.D %", "codes", "steps", *BESIDE]
    lines = []
    for name in dict.fromkeys([*(variant.name for variant in request.variants), *printed]):
        own = ours.get(name, [])
        if own:
            metrics = [cell(column) for column in zip(*map(values, own), strict=True)]
            average = cell(degradations(ours.get(full, []), own), 2) if name != full else ""
            cost = [codes(own[0]), str(own[0].get("steps") or "")]
            lines.append([f"**{name}**", str(len(own)), *metrics, average, *cost, *beside(own)])
        if name in printed:
            theirs = [f"{value:.4f}" for value in printed[name]]
            average = f"{averages[name]:.2f}" if name in averages else ""
            lines.append([f"{name}, paper", "", *theirs, average, *[""] * 5])
    notes = (
        f"{facts(request, rows)}\n"
        "Avg.D: average degradation against the full model with the same seed. Codes: per level, items / users. Steps: "
        "of joint training; all variants see each history as often, and one with fewer tokens a history or with fewer "
        "tasks takes fewer steps for it. New only: the history is left out of the ranking. All are asked in one "
        "wording, the paper's in several. Paper: Instruments, one printed number each."
    )
    return f"# {title}\n\n{markdown(header, lines)}\n\n{notes}", _ablation_figure(request, ours, full, averages)


def degradations(full: Sequence[Row], part: Sequence[Row]) -> list[float]:
    """Avg.D of each seed that both have, where it is defined."""
    whole = {row["seed"]: values(row) for row in full}
    found = [average_degradation(whole[row["seed"]], values(row)) for row in part if row["seed"] in whole]
    return [value for value in found if np.isfinite(value)]


def codes(row: Row) -> str:
    """ "256·256 / 64·64" """
    return " / ".join("·".join(map(str, row["sizes"][kind])) or "none" for kind in ("items", "users"))


def _ablation_figure(
    request: Request, ours: Mapping[str, list[Row]], full: str, averages: Mapping[str, float]
) -> Figure:
    names = [variant.name for variant in request.variants][::-1]
    figure = Figure(figsize=(10, 0.55 * len(names) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(names))
    for y, name in zip(place, names, strict=True):
        if own := ours.get(name):
            found = over_seeds([row["test"]["NDCG@10"] for row in own])
            left.barh(y, found.mean, color=OURS, height=0.6)
            if len(own) > 1:
                left.errorbar(found.mean, y, xerr=half(found), color=INK, capsize=3)
        if own and (drops := degradations(ours.get(full, []), own)):
            right.barh(y + 0.18, np.mean(drops), color=OURS, height=0.34)
        if name in averages:
            right.barh(y - 0.18, averages[name], color=PAPER, height=0.34)
    left.set_yticks(place, names)
    left.set_xlim(left=0)
    left.set_xlabel(f"NDCG@10 on {request.name}")
    right.axvline(0, color=INK, linewidth=0.8)
    right.set_xlabel("Avg.D in % (blue: ours, sand: the paper's on Instruments)")
    return figure
