"""Figure 4: which categories the first index token stands for, with [4, 32, 256, 256] codes.

    python -m experiments.figure4 datasets/games --out runs/figure4 --preset small

Beside the picture stand two numbers: purity, the share of items that have the most frequent category of their first
code (to be compared with the share of the largest category), and the mutual information of code and category as a share
of the mean entropy of both (0: they say nothing of each other, 1: they are the same). The picture is the first seed's.
"""

from collections.abc import Sequence

from sklearn.metrics import normalized_mutual_info_score

from ed2rec.charts import CodeShares, draw_code_shares
from ed2rec.data.dataset import Dataset
from ed2rec.errors import DataError
from ed2rec.inspection import Crossing, categories_by_code, telling_categories
from experiments.report import cell, facts, markdown, paper, write
from experiments.runs import Variant, ask, collect, command, run_folder

VARIANTS = [Variant("ED², 4 first codes", "figure4")]


def main(arguments: Sequence[str] | None = None) -> None:
    request = ask(__doc__, VARIANTS, arguments, seeds=1, toy_seeds=1)
    items = Dataset.load(request.dataset).items
    if not any(telling_categories(items["categories"].to_list(), items["brand"].to_list())):
        raise DataError(f"no item of {request.name} has categories or a brand, so there is nothing to count by code")
    rows = collect(request)
    found = [categories_by_code(run_folder(request, VARIANTS[0], seed), request.dataset) for seed in request.seeds]
    everything = [categories_by_code(run_folder(request, VARIANTS[0], seed), request.dataset, 0, 10**9, 10**9)
                  for seed in request.seeds]  # fmt: skip
    first = found[0]
    lines = [[name, *map(str, counts)] for name, counts in zip(first.categories, first.counts.tolist(), strict=True)]
    said = "\n".join(f"- {sentence}" for sentence in paper()["figure4"]["said"])
    text = (
        f"# Figure 4: categories of the first index token\n\n{markdown(['category', *first.codes], lines)}\n\n"
        f"Purity {cell([purity(one) for one in everything])} (largest category "
        f"{cell([largest(one) for one in everything])}), mutual information "
        f"{cell([information(one) for one in everything])}.\n{facts(request, rows)}\n\n"
        f"The paper, on Instruments with {paper()['figure4']['sizes']} codes, says (no numbers are printed):\n\n{said}"
    )
    write(request, "figure4", text)
    shares = CodeShares("category", first.categories, first.codes, first.counts)
    draw_code_shares(request.out / "figure4.png", shares, f"{request.name}: categories by first index token")


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
