"""Table 2: ED² without one part of its architecture.

    python -m experiments.table2 datasets/industrial --out runs/tables --preset small --seeds 3
    python -m experiments.table2 datasets/industrial --out runs/tables --variants "w/o user" "w/o dynamic"

Every variant has the same epochs of warm-up and of joint training, and the same choice of the best state (validation
NDCG@10 in the last `frozen_tail` of the steps). Static and dynamic have the same steps; without the user's tokens or
without a task an epoch has fewer tokens and so fewer steps (column "steps"), and where high-order tasks are left out,
the other tasks fill their share. The last two rows are not in the paper.
"""

from collections.abc import Sequence

from ed2rec.config import presets
from experiments.report import ablation, write
from experiments.runs import Variant, ask, collect, command

ROWS = {
    "w/o user": "wo-user", "w/o dynamic": "wo-dynamic", "w/o m-GTR": "wo-mgtr", "w/o exploit": "wo-exploit",
    "w/o u&m": "wo-um",
}  # fmt: skip
VARIANTS = [
    Variant("ED²"),
    *(Variant(name, preset) for name, preset in ROWS.items() if preset in presets()),
    Variant("w/o similarity task", settings=("training.neighbours=0",)),
    Variant("w/o text prior", settings=("decoding.prior=0",)),
]


def main(arguments: Sequence[str] | None = None) -> None:
    request = ask(__doc__, VARIANTS, arguments)
    write(request, "table2", *ablation(request, collect(request), "table2", "Table 2: architecture"))


if __name__ == "__main__":
    command(main)
