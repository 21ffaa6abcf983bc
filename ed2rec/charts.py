"""Charts as inline SVG that takes its colours and its typeface from the page around it, light or dark.

Matplotlib draws with stand-in colours that occur nowhere else; afterwards each becomes a CSS variable of the page.
One chart can also be a file of its own, with real colours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ed2rec.errors import ConfigError
from ed2rec.files import replace_file

Curve = Sequence[tuple[float, float]]
"""(step, value) in order of the steps."""

INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
LEVELS = ("#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a")
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent"} | {
    colour: f"level{number}" for number, colour in enumerate(LEVELS)
}
PAPER = {INK: "#1d1c1a", MUTED: "#6d6a63", LINE: "#dedad0"}  # instead of the stand-ins, in a file of its own
PALETTE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
FORMATS = ("png", "svg", "pdf")
OTHER = "other"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9.5, "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titlecolor": INK,
    "ytick.left": False, "xtick.major.size": 3, "lines.linewidth": 1.7, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": LINE, "grid.linewidth": 0.6, "axes.axisbelow": True,
}  # fmt: skip


class CodeShares(NamedTuple):
    """How the first code divides groups of items.

    by: what the groups are ("category"). names: of the groups, the largest first. codes: of the columns, the most used
    code first; OTHER, the last one, stands for all the rest. counts: (names, codes) items.
    """

    by: str
    names: Sequence[str]
    codes: Sequence[str]
    counts: np.ndarray


def losses(curves: Mapping[str, Curve], frozen_from: float | None = None) -> str:
    """One small panel per named loss, because their scales differ; a shared step axis."""
    figure, axes = _panels(len(curves), columns=3)
    steps_of_all = [step for curve in curves.values() for step, _ in curve]
    for panel, (name, curve) in zip(axes, curves.items(), strict=True):
        panel.set_xlim(0, max(steps_of_all, default=1) * 1.02)
        steps, values = _smooth(curve)
        panel.plot(steps, values, color=ACCENT)
        panel.set_title(name, loc="left", color=INK)
        _shade(panel, frozen_from)
    return _svg(figure, "losses")


def learning(validation: Curve, churn: Mapping[str, Mapping[str, Curve]], frozen_from: float | None = None) -> str:
    """Validation NDCG@10, and beside it for each kind the share of codes that moved at every refresh, per level."""
    figure, axes = _panels(1 + len(churn), columns=3)
    if validation:
        steps, values = zip(*validation, strict=True)
        axes[0].plot(steps, values, color=ACCENT, marker="o", markersize=3)
        last = f"{values[-1]:.3f}"
        axes[0].annotate(
            last, (steps[-1], values[-1]), xytext=(0, 6), textcoords="offset points", ha="right", color=INK
        )
        axes[0].set_ylim(0, 1.2 * max(max(values), 1e-9))
    axes[0].set_title("validation NDCG@10", loc="left", color=INK)
    for panel, (kind, levels) in zip(axes[1:], churn.items(), strict=True):
        for (level, curve), colour in zip(levels.items(), _cycle(len(levels)), strict=True):
            steps, values = zip(*curve, strict=True)
            panel.plot(steps, values, color=colour, marker="o", markersize=2.5, label=level)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
        panel.set_ylim(bottom=0)
        panel.set_title(f"{kind}: codes that moved", loc="left", color=INK)
        panel.legend(
            frameon=False, ncols=len(levels), handlelength=1, columnspacing=1, loc="upper right", labelcolor=INK
        )
    right = max((curve[-1][0] for curve in [validation, *_every(churn)] if curve), default=1)
    for panel in axes:
        panel.set_xlim(0, right * 1.02)
        _shade(panel, frozen_from)
    return _svg(figure, "learning")


def codebooks(kind: str, counts: Sequence[np.ndarray]) -> str:
    """How many entities carry each code, the codes sorted by that, one panel per level; dashed: all used alike."""
    figure, axes = _panels(len(counts), columns=4, height=1.7)
    for level, (panel, count, colour) in enumerate(zip(axes, counts, _cycle(len(counts)), strict=True)):
        ordered = np.sort(count)[::-1]
        panel.fill_between(np.arange(len(count)), ordered, step="mid", color=colour, alpha=0.85, linewidth=0)
        panel.axhline(count.mean(), color=MUTED, linestyle=(0, (4, 3)), linewidth=0.9)
        letter, used = chr(ord("a") + level), np.count_nonzero(count)
        panel.set_title(f"level {letter}: {used:,} of {len(count):,} used", loc="left", color=INK)
        panel.set_xlim(0, len(count))
        panel.set_ylim(0, None if count.any() else 1)
    return _svg(figure, f"codebooks of {kind}")


def code_shares(shares: CodeShares) -> str:
    """Stacked bars, one per group of items, a colour per first code (Figure 4)."""
    with mpl.rc_context(STYLE):
        figure = _stacked(shares, _cycle(len(shares.codes)), rest=LINE)
    return _svg(figure, f"first code by {shares.by}")


def draw_code_shares(file: Path, shares: CodeShares, title: str = "") -> None:
    """The same as a file. Raises ConfigError for an ending that is not one of FORMATS, or where the disk refuses."""
    ending = file.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise ConfigError(f"cannot draw {file}: its name must end in .{', .'.join(FORMATS)}")
    style = {key: PAPER.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
    with mpl.rc_context(style):
        colours = [PALETTE[number % len(PALETTE)] for number in range(len(shares.codes))]
        figure = _stacked(shares, colours, rest="#cccccc")
        figure.suptitle(title, x=0.01, ha="left")
        with replace_file(file) as part:
            figure.savefig(part, format=ending, dpi=160, metadata={"CreationDate": None} if ending == "pdf" else None)


def _stacked(shares: CodeShares, colours: Sequence[str], rest: str) -> Figure:
    """colours: of the codes; rest: of OTHER. Typeface and ink are the ones in force."""
    figure = Figure(figsize=(9.6, 1.1 + 0.27 * len(shares.names)), layout="constrained")
    panel = figure.add_subplot()
    left = np.zeros(len(shares.names))
    for code, colour, count in zip(shares.codes, colours, shares.counts.T, strict=True):
        colour = rest if code == OTHER else colour
        panel.barh(np.arange(len(shares.names)), count, left=left, color=colour, label=code, height=0.75)
        left += count
    panel.set_yticks(np.arange(len(shares.names)), [_shortened(name) for name in shares.names])
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", visible=True)
    panel.set_xlabel(f"items, by {shares.by}")
    figure.legend(
        *panel.get_legend_handles_labels(), loc="outside upper right", frameon=False, handlelength=1, columnspacing=1,
        ncols=min(len(shares.codes), 7),
    )  # fmt: skip
    return figure


def _shortened(name: str, length: int = 36) -> str:
    """Names are written by strangers: they may be long, and a dollar sign would start a formula."""
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")


def _panels(count: int, columns: int, height: float = 1.95) -> tuple[Figure, list[Axes]]:
    """A grid that always has the same width, so that panels of different charts line up on the page."""
    rows = -(-count // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, height * rows), layout=ConstrainedLayoutEngine(hspace=0.12, wspace=0.06))
        axes = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
        for panel in axes:
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            panel.yaxis.set_major_locator(MaxNLocator(4))
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The drawing as an SVG element that scales with the page and is named for those who cannot see it."""
    buffer = io.StringIO()
    # The salt makes ids differ between the charts of a page and agree between two drawings of the same chart.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r' (width|height)="[\d.]+pt"', "", drawing, count=2)  # the viewBox keeps the proportions
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # names of groups, the same in every chart and never referred to
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--sans)", drawing)
    for colour, variable in VARIABLES.items():
        drawing = drawing.replace(colour, f"var(--{variable})")
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def _smooth(curve: Curve, points: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Means over neighbouring steps, so that a long noisy curve stays readable and the page small."""
    values = np.asarray(curve, dtype=np.float64).reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) > points:
        values = np.array([part.mean(axis=0) for part in np.array_split(values, points)])
    return values[:, 0], values[:, 1]


def _shade(panel: Axes, start: float | None) -> None:
    """Mark the frozen tail, in which the index no longer moves."""
    if start is not None:
        panel.axvspan(start, max(start, panel.get_xlim()[1]), color=LINE, alpha=0.45, linewidth=0, zorder=0)


def _cycle(count: int) -> list[str]:
    return [LEVELS[number % len(LEVELS)] for number in range(count)]


def _every(churn: Mapping[str, Mapping[str, Curve]]) -> list[Curve]:
    return [curve for levels in churn.values() for curve in levels.values()]
