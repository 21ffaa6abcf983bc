"""Pictures of a run as PNG files. (The charts of report.html are SVG with the page's own colours: charts.py.)"""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure

from ed2rec.inspection import Crossing


def categories(crossing: Crossing, title: str) -> Figure:
    """The paper's Figure 4: a bar per category, as long as it has items, in pieces of one colour per code."""
    names = crossing.categories[::-1]
    figure = Figure(figsize=(9, 0.4 * len(names) + 1.6), layout="constrained")
    panel = figure.add_subplot()
    colours = mpl.colormaps["tab20" if len(crossing.codes) > 10 else "tab10"]
    left = [0] * len(names)
    for number, (code, counts) in enumerate(zip(crossing.codes, crossing.counts.T, strict=True)):
        lengths = counts[::-1].tolist()
        panel.barh(names, lengths, left=left, label=code, color=colours(number), height=0.75)
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    panel.set_xlabel("items")
    panel.set_title(title, loc="left")
    figure.legend(title="code", loc="outside right upper", frameon=False)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    return figure
