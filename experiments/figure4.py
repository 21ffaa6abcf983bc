"""Figure 4: which categories the first index token stands for, with [4, 32, 256, 256] codes.

    python -m experiments.figure4 datasets/games --out runs/figure4 --preset small

Beside the picture stand two numbers: purity, the share of items that have the most frequent category of their first
code (to be compared with the share of the largest category), and the mutual information of code and category as a share
of the mean entropy of both (0: they say nothing of each other, 1: they are the same). The picture is the first seed's,
the one that `ed2 index RUN stats --picture` draws of its run.
"""

from collections.abc import Sequence

from sklearn.metrics import normalized_mutual_info_score

from ed2rec.errors import DataError
from ed2rec.inspection import Crossing, categories_by_code, draw, tables, telling_categories
from ed2rec.runs import open_run
from experiments.report import cell, facts, markdown, paper, write
from experiments.runs import Variant, ask, collect, command

VARIANTS = [Variant("ED², 4 first codes", "figure4")]


def main(arguments: Sequence[str] | None = None) -> None:
    request = ask(__doc__, VARIANTS, arguments, seeds=1, toy_seeds=1)
    items = request.items
    if not any(telling_categories(items["categories"].to_list(), items["brand"].to_list())):
        raise DataError(f"no item of {request.name} has categories or a brand, so there is nothing to count by code")
    rows = collect(request)
    found = [categories_by_code(tables(open_run(request.out / row["run"]))["items"], items) for row in rows]
    shown = draw(found[0], request.out / "figure4.png", request.name)
    lines = [[name, *map(str, counts)] for name, counts in zip(shown.names, shown.counts.tolist(), strict=True)]
    header = [shown.by, *(f"`{code}`" for code in shown.codes)]
    said = "\n".join(f"- {sentence}" for sentence in paper()["figure4"]["said"])
    text = (
        f"# Figure 4: categories of the first index token\n\n{markdown(header, lines)}\n\n"
        f"Shown: {shown.counts.sum():,} of {found[0].counts.sum():,} items with a {shown.by}. Of all of them: purity "
        f"{cell([purity(one) for one in found])} (largest {shown.by} {cell([largest(one) for one in found])}), mutual "
        f"information {cell([information(one) for one in found])}.\n{facts(request, rows)}\n\n"
        f"The paper, on Instruments with {paper()['figure4']['sizes']} codes, says (no numbers are printed):\n\n{said}"
    )
    write(request, "figure4", text)


def purity(crossing: Crossing) -> float:
    """Share of the items that have the most frequent category of their code."""
    return float(crossing.counts.max(axis=0).sum() / max(crossing.counts.sum(), 1))


def largest(crossing: Crossing) -> float:
    """Share of the items in the largest category: the purity of an index with one code."""
    return float(crossing.counts.sum(axis=1).max() / max(crossing.counts.sum(), 1))


def information(crossing: Crossing) -> float:
    """2 I(category; code) / (H(category) + H(code))."""
    pairs = [(category, code) for category, row in enumerate(crossing.counts.tolist())
             for code, count in enumerate(row) for _ in range(count)]  # fmt: skip
    return float(normalized_mutual_info_score(*zip(*pairs, strict=True)))


if __name__ == "__main__":
    command(main)
