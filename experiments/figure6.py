"""Figure 6: how much the weights of the regulator matter, beta1 and beta2 in {0.1, 0.5, 1, 1.5, 2}.

    python -m experiments.figure6 datasets/industrial --out runs/figure6 --preset small --seeds 1
    python -m experiments.figure6 datasets/industrial --out runs/figure6 --variants 0.1,0.5 0.5,0.1      # only these

25 runs a seed. The cells are named beta1,beta2.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.report import INK, cell, facts, markdown, paper, write
from experiments.runs import Row, Variant, ask, by_variant, collect, command

BETA = paper()["figure6"]["beta"]
METRIC = "NDCG@10"
VARIANTS = [
    Variant(f"{one:g},{two:g}", settings=(f"regulator.beta1={one}", f"regulator.beta2={two}"))
    for one in BETA for two in BETA
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    request = ask(__doc__, VARIANTS, arguments, seeds=1, toy_seeds=1)
    rows = collect(request)
    found = by_variant(rows)

    def scores(one: float, two: float) -> list[float]:
        return [row["test"][METRIC] for row in found.get(f"{one:g},{two:g}", [])]

    header = ["beta1 \\ beta2", *(f"{two:g}" for two in BETA)]
    lines = [[f"{one:g}", *(cell(scores(one, two)) for two in BETA)] for one in BETA]
    said = "\n".join(f"- {sentence}" for sentence in paper()["figure6"]["said"])
    text = (
        f"# Figure 6: weights of the regulator, test {METRIC}\n\n{markdown(header, lines)}\n\n{summary(grid(rows))}\n"
        f"{facts(request, rows)}\n\nThe paper, on Instruments, says (the cells are not printed):\n\n{said}"
    )
    write(request, "figure6", text, draw(grid(rows), f"test {METRIC} on {request.name}"))


def grid(rows: Sequence[Row]) -> np.ndarray:
    """(beta1, beta2) mean over the seeds; NaN where there is no run."""
    found = by_variant(rows)
    means = [np.mean([row["test"][METRIC] for row in found[v.name]]) if v.name in found else np.nan for v in VARIANTS]
    return np.array(means).reshape(len(BETA), len(BETA))


def summary(cells: np.ndarray) -> str:
    """The paper's two statements, measured: the spread of the grid, and where it is best."""
    one, two = np.meshgrid(np.arange(len(cells)), np.arange(len(cells)), indexing="ij")
    known = np.isfinite(cells)
    parts = {"beta1 < beta2": one < two, "beta1 = beta2": one == two, "beta1 > beta2": one > two}
    means = ", ".join(f"{name} {cells[where & known].mean():.4f}" for name, where in parts.items()
                      if (where & known).any())  # fmt: skip
    if not known.any():
        return "No runs yet."
    return f"Standard deviation over {known.sum()} cells: {cells[known].std():.1e}. Mean where {means}."


def draw(cells: np.ndarray, title: str) -> Figure:
    figure = Figure(figsize=(5.5, 4.6), layout="constrained")
    panel = figure.add_subplot()
    image = panel.imshow(cells, origin="lower", cmap="viridis")
    for (one, two), value in np.ndenumerate(cells):
        if np.isfinite(value):
            bright = value > (np.nanmin(cells) + np.nanmax(cells)) / 2
            colour = INK if bright else "white"
            panel.text(two, one, f"{value:.4f}", ha="center", va="center", color=colour, fontsize=8)
    panel.set_xticks(range(len(BETA)), [f"{value:g}" for value in BETA])
    panel.set_yticks(range(len(BETA)), [f"{value:g}" for value in BETA])
    panel.set_xlabel("beta2 (L_Token)")
    panel.set_ylabel("beta1 (L_ID)")
    panel.set_title(title, loc="left")
    figure.colorbar(image, ax=panel, shrink=0.85)
    return figure


if __name__ == "__main__":
    command(main)
