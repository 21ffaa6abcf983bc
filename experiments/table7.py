"""Table 7: inference time per user.

    python -m experiments.table7 datasets/industrial --out runs/tables --preset small --seeds 1

Ours for users asked one by one and for users asked together, test histories, ten items each. The paper's number says
neither how many users share a pass nor how many items are asked for, and its LLM has 7 billion weights, so the columns
are not to be subtracted from one another. Only models that `ed2 train` knows have times of ours.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ed2rec.config import plain
from ed2rec.workflow import LoadedRun, cases_of
from experiments import table1
from experiments.report import OURS, PAPER, cell, facts, markdown, paper, write
from experiments.runs import Row, ask, by_variant, collect, command

ALONE, TOGETHER = 50, 512  # users
PRINTED = paper()["table7"]
# The paper's rows whose model there is, by name without punctuation; then what it does not have.
KNOWN = {plain(name): name for name in PRINTED}
VARIANTS = [replace(variant, name=KNOWN.get(variant.name, variant.name)) for variant in table1.VARIANTS]


def main(arguments: Sequence[str] | None = None) -> None:
    request = ask(__doc__, VARIANTS, arguments, seeds=1, toy_seeds=1)
    rows = collect(request, timed, "times.jsonl")
    ours = {table1.known_as(plain(name)): own for name, own in by_variant(rows).items()}
    users = ", ".join(sorted({f"{row['users alone']} one by one, {row['users together']} together" for row in rows}))
    header = ["model", "one user at a time, s", "users together, s per user", "paper, s"]
    text = f"# Table 7: inference time\n\n{markdown(header, lines(ours))}\n\nUsers: {users}. {facts(request, rows)}"
    write(request, "table7", text, draw(ours))


def timed(run: LoadedRun) -> dict[str, Any]:
    """Median of users asked one by one, and the best of three passes over users together, in seconds a user."""
    cases = cases_of(run, "test")
    k = min(10, len(run.dataset.items))

    def ask_for(rows: np.ndarray) -> float:
        histories, start = cases.histories.take(rows), time.perf_counter()
        run.recommender.recommend(histories, cases.users[rows], k)
        return time.perf_counter() - start

    alone, together = (np.arange(min(limit, len(cases.users))) for limit in (ALONE, TOGETHER))
    ask_for(together)  # the first call allocates
    return {
        "alone": float(np.median([ask_for(alone[[row]]) for row in range(len(alone))])),
        "together": min(ask_for(together) for _ in range(3)) / len(together),
        "users alone": len(alone),
        "users together": len(together),
    }


def lines(ours: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    """ours: the paper's name of a model, or its own → its rows. Ours with the interval over seeds, then the paper's."""
    return [
        [name, *(cell([row[key] for row in ours.get(name, [])], 2, "e") for key in ("alone", "together")),
         f"{PRINTED[name]:.2e}" if name in PRINTED else ""]
        for name in dict.fromkeys([*ours, *PRINTED])
    ]  # fmt: skip


def draw(ours: dict[str, list[Row]]) -> Figure:
    names = list(dict.fromkeys([*ours, *PRINTED]))[::-1]
    figure = Figure(figsize=(8, 0.55 * len(names) + 1.6), layout="constrained")
    panel = figure.add_subplot()
    kinds = (("alone", 0.25, OURS, "ours, one by one"), ("together", 0.0, "#90b8e0", "ours, together"))
    for key, shift, colour, label in kinds:
        places = [place + shift for place, name in enumerate(names) if name in ours]
        times = [np.mean([row[key] for row in ours[name]]) for name in names if name in ours]
        panel.barh(places, times, height=0.25, color=colour, label=label)
    printed = {place - 0.25: PRINTED[name] for place, name in enumerate(names) if name in PRINTED}
    panel.barh(list(printed), list(printed.values()), height=0.25, color=PAPER, label="paper, another machine and LLM")
    panel.set_yticks(range(len(names)), names)
    panel.set_xscale("log")
    panel.set_xlabel("seconds a user")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    command(main)
