"""Figure 7: how much the learning rate matters.

    python -m experiments.figure7 datasets/industrial --out runs/figure7 --preset small --seeds 3

The paper's rates are those of a pretrained LLM of 7 billion weights. "base" is the rate of the base settings, which for
a small LLM from scratch lies above them.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ed2rec.evaluation.metrics import REPORTED
from ed2rec.evaluation.significance import over_seeds
from experiments.report import INK, cell, facts, half, markdown, paper, values, write
from experiments.runs import Row, Variant, ask, by_variant, collect, command

VARIANTS = [
    Variant("base"),
    *(Variant(f"{rate:g}", settings=(f"training.lr={rate}",)) for rate in paper()["figure7"]["rates"]),
]


def main(arguments: Sequence[str] | None = None) -> None:
    request = ask(__doc__, VARIANTS, arguments, toy_seeds=1)
    rows = collect(request)
    rates = {variant.name: request.settings(variant, 0).training.lr for variant in VARIANTS}
    found = by_variant(rows)
    if sum(rate == rates["base"] for rate in rates.values()) > 1:
        found.pop("base", None)  # it is one of the paper's
    lines = [
        [f"{rates[name]:g}" + (" (base)" if name == "base" else ""), str(len(own)),
         *(cell(column) for column in zip(*map(values, own), strict=True))]
        for name, own in sorted(found.items(), key=lambda pair: -rates[pair[0]])
    ]  # fmt: skip
    said = "\n".join(f"- {sentence}" for sentence in paper()["figure7"]["said"])
    text = (
        f"# Figure 7: learning rate, test split\n\n{markdown(['learning rate', 'seeds', *REPORTED], lines)}\n\n"
        f"{facts(request, rows)}\n\nThe paper, on Instruments, says (the curves are not printed):\n\n{said}"
    )
    write(request, "figure7", text, draw(found, rates, f"{request.name}, test"))


def draw(found: dict[str, list[Row]], rates: dict[str, float], title: str) -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    panel = figure.add_subplot()
    names = sorted(found, key=rates.__getitem__)
    for metric in REPORTED:
        spread = [over_seeds([row["test"][metric] for row in found[name]]) for name in names]
        bars = [half(one) if len(found[name]) > 1 else 0.0 for name, one in zip(names, spread, strict=True)]
        x, y = [rates[name] for name in names], [one.mean for one in spread]
        panel.errorbar(x, y, yerr=bars, marker="o", markersize=4, capsize=3, label=metric)
    panel.axvline(paper()["figure7"]["best"], color=INK, linewidth=0.8, linestyle="--", label="the paper's best")
    panel.set_xscale("log")
    panel.set_xlabel("learning rate of the LLM")
    panel.set_title(title, loc="left")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


if __name__ == "__main__":
    command(main)
