"""Table 1: every model on one dataset under one protocol, beside what the paper prints.

    python -m experiments.table1 --dataset datasets/games --models sasrec gru4rec --seeds 3 --out runs/table1
    python -m experiments.table1 --dataset datasets/games --out runs/table1          all models that `ed2 train` knows
    python -m experiments.table1 --toy --models popularity textknn --out runs/toy    in seconds

Settings are those of the preset MODEL-DATASET where `ed2 tune` has left one (its log is in experiments/searches), else
the model's own; `--set` goes on top of either. The dataset's name, or its folder's, picks the paper's rows
(Instruments, Games or Arts), which are compared with where the log has the paper's counts (its Table 6) and is split as
there. Each user's rank is kept in OUT/ranks, one Parquet file a run, and the `*` is computed from those: the best of
our models is better than the second at p < 0.01, by a t-test paired over users and corrected over all models
(`significance.lead`). A difference from the paper has its interval over seeds or, where there is one seed, over users,
and says so. Rows of the paper whose numbers contradict one another are shown and not compared with. Beside the paper's
columns stand validation and, as "new only", the test with the history left out of the ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ed2rec import workflow
from ed2rec.config import plain, presets
from ed2rec.evaluation.metrics import REPORTED, per_user, printed_violations
from ed2rec.evaluation.significance import Lead, lead, over_seeds, paired_t_test
from ed2rec.files import replace_file
from experiments.report import (
    BESIDE,
    INK,
    OURS,
    PAPER,
    beside,
    cell,
    facts,
    half,
    latex,
    markdown,
    paper,
    values,
    write,
)
from experiments.runs import Request, Row, Variant, ask, by_variant, collect, command

RESULTS = "table1.jsonl"
PLOTTED = "NDCG@10"
IMPROVEMENT = "Improvement %"
ENOUGH = 95  # percent of the paper's figure: what a baseline of ours is to reach
NOTHING = [""] * len(BESIDE)  # that the paper prints
OVER_USERS = " (± over users)"  # not over seeds, of which there is one
VARIANTS = [
    Variant(model, model if model in presets() else None, (f"model={model}",), below=True) for model in workflow.MODELS
]
Printed = Mapping[str, Sequence[float]]


def main(arguments: Sequence[str] | None = None) -> None:
    request = tuned(ask(__doc__, VARIANTS, arguments))
    rows = collect(request, partial(measured, request.out / "ranks"), RESULTS)
    users = {name: per_user_metrics(request, own) for name, own in by_variant(rows).items()}
    table = Table(by_variant(rows), printed_for(request), leads_of(users), users)
    header, lines = ["model", "seeds", *REPORTED, *BESIDE], table.lines()
    title = f"Table 1: {request.name}, test split"
    text = f"# {title}\n\n{markdown(header, lines)}\n\n{table.notes(request)}\n{facts(request, rows)}"
    (request.out / "table1.tex").write_text(latex(header, lines, title), encoding="utf-8")
    write(request, "table1", text, table.draw(request.name))


def tuned(request: Request) -> Request:
    """Each model with what a search found for this dataset, where there is a preset MODEL-DATASET; its own else."""
    known = presets()

    def best(variant: Variant) -> Variant:
        name = found_for(variant.name, request)
        return replace(variant, preset=name) if name in known else variant

    return replace(request, variants=[best(variant) for variant in request.variants])


def found_for(model: str, request: Request) -> str:
    """Name of the preset that a search on this dataset leaves."""
    return f"{model}-{request.name.lower()}"


# Runs, and the rank of each user.


def measured(folder: Path, run: workflow.LoadedRun) -> dict[str, Any]:
    """What `runs.evaluated` measures; the test ranks of all users go into `folder`, named after the run."""
    test = workflow.evaluate_run(run, "test")
    folder.mkdir(exist_ok=True)
    with replace_file(folder / f"{run.folder.path.name}.parquet") as file:
        pl.DataFrame({"user": test.users, "rank": test.ranks}).write_parquet(file)
    valid, new = (workflow.evaluate_run(run, "valid"), workflow.evaluate_run(run, "test", exclude_history=True))
    return {"valid": valid.metrics, "test": test.metrics, "test, new only": new.metrics}


def per_user_metrics(request: Request, rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """metric → (users,) its mean over the seeds of one model, in order of user number."""
    ranks = [_ranks(request, row) for row in rows]
    return {metric: np.mean([per_user(one, metric) for one in ranks], axis=0) for metric in REPORTED}


def _ranks(request: Request, row: Row) -> NDArray[np.int64]:
    path = request.out / "ranks" / f"{row['run']}.parquet"
    try:
        ranks = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError):  # lost or damaged, but the run is there
        measured(path.parent, workflow.load(request.out / row["run"], request.dataset))
        ranks = pl.read_parquet(path)
    return ranks.sort("user")["rank"].to_numpy()


def leads_of(found: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> dict[str, Lead]:
    """metric → who leads; nothing where there are fewer than two models. found: model → metric → per user."""
    if len(found) < 2:
        return {}
    return {metric: lead({name: metrics[metric] for name, metrics in found.items()}) for metric in REPORTED}


# The paper's rows.


def printed_for(request: Request) -> Printed:
    """The paper's rows of this dataset; none where they are of another."""
    return {} if other_data(request) else paper()["table1"][named(request)]


def named(request: Request) -> str | None:
    """What the paper calls a dataset of this name, or of this name of its folder."""
    names = {name.lower(): name for name in paper()["table1"]}
    return next((names[name.lower()] for name in (request.name, request.dataset.name) if name.lower() in names), None)


def other_data(request: Request) -> str:
    """Why the paper's rows are of other data; empty where they are of these."""
    name = named(request)
    if name is None:
        return f"The paper has no rows for {request.name}."
    theirs = dict(zip(request.counts, paper()["table6"][name], strict=False))
    if request.counts != theirs:
        ours, others = (", ".join(f"{count:,} {what}" for what, count in side.items())
                        for side in (request.counts, theirs))  # fmt: skip
        return f"Not compared with the paper's {name}: here are {ours}; there {others}."
    refusals = request.refusals()
    able = [variant for variant in request.variants if variant.name not in refusals]
    if any(request.settings(variant, request.seeds[0]).split != "leave-one-out" for variant in able):
        return f"Not compared with the paper's {name}, which holds out each user's last two items: split=global-time."
    return ""


def known_as(model: str) -> str:
    """Our "sasrec", "s3rec" and "ed2" are the paper's "SASRec", "S3-Rec" and "ED²"; others keep their name."""
    return next((name for name in paper()["table1"]["Games"] if plain(name) == model), model)


def signed(gaps: Sequence[float]) -> str:
    """ "+0.0012 ± 0.0004", "−0.0012" """
    sign = "+" if np.mean(gaps) >= 0 else ""
    return (sign + cell(gaps)).replace("-", "−")


@dataclass(frozen=True)
class Table:
    """ours: model → its rows, one a seed. printed: the paper's rows. leads: metric → who leads among ours.
    users: model → metric → (users,) as `per_user_metrics` has them, for the interval of a model with one seed."""

    ours: Mapping[str, Sequence[Row]]
    printed: Printed
    leads: Mapping[str, Lead]
    users: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The paper's models in its order, then ours that it does not have."""
        theirs = [name for name in self.printed if name != IMPROVEMENT]
        return list(dict.fromkeys([*theirs, *map(known_as, self.ours)]))

    def lines(self) -> list[list[str]]:
        """Ours, the paper's, and the difference; of a model that only one side has, that."""
        own = {known_as(model): (model, rows) for model, rows in self.ours.items()}
        lines = []
        for name in self.names():
            if name in own:
                model, rows = own[name]
                lines.append([f"**{name}**", str(len(rows)), *self._measured(model, rows), *beside(rows)])
            if name in self.printed:
                note = " (not comparable)" if self.refused(name) else ""
                theirs = [f"{value:.4f}" for value in self.printed[name]]
                lines.append([f"{name}, paper{note}", "", *theirs, *NOTHING])
            if name in own and name in self.printed and not self.refused(name):
                lines.append(self._difference(name, *own[name]))
        return [*lines, *self._improvements()]

    def _difference(self, name: str, model: str, rows: Sequence[Row]) -> list[str]:
        """Ours − the paper's, with the interval over the seeds, or over the users where there is one seed."""
        gaps = (np.array([values(row) for row in rows]) - self.printed[name]).T.tolist()
        label, cells = f"{name}, ours − paper", list(map(signed, gaps))
        if self._over_users(name, model):
            label += OVER_USERS
            found = (paired_t_test(self.users[model][metric], np.full(len(self.users[model][metric]), theirs))
                     for metric, theirs in zip(REPORTED, self.printed[name], strict=True))  # fmt: skip
            cells = [f"{text} ± {half(test.difference):.4f}" for text, test in zip(cells, found, strict=True)]
        return [label, "", *cells, *NOTHING]

    def _over_users(self, name: str, model: str) -> bool:
        return len(self.ours[model]) == 1 and model in self.users and name in self.printed and not self.refused(name)

    def refused(self, name: str) -> list[str]:
        """Why the paper's row is not compared with; empty where it may be."""
        return printed_violations(self.printed[name]) if name in self.printed else []

    def _measured(self, model: str, rows: Sequence[Row]) -> list[str]:
        columns = zip(REPORTED, zip(*map(values, rows), strict=True), strict=True)
        return [self._marked(model, metric, cell(column)) for metric, column in columns]

    def _marked(self, model: str, metric: str, text: str) -> str:
        """Bold where it is the best, with the star where it is starred."""
        found = self.leads.get(metric)
        if found is None or found.best != model:
            return text
        return f"**{text}**" + ("*" if found.starred else "")

    def _improvements(self) -> list[list[str]]:
        lines = []
        if self.leads:
            ours = map(self._improvement, REPORTED)
            lines.append(["improvement of the best over the second, %", "", *ours, *NOTHING])
        if IMPROVEMENT in self.printed:
            theirs = [f"{value:.2f}" for value in self.printed[IMPROVEMENT]]
            lines.append(["improvement of the best over the second, %, paper", "", *theirs, *NOTHING])
        return lines

    def _improvement(self, metric: str) -> str:
        found = self.leads[metric]
        second = np.mean([row["test"][metric] for row in self.ours[found.second]])
        if second == 0:
            return ""
        share = round(float(100 * found.over_second.difference.mean / second), 2) + 0.0  # no "-0.00" for a tie
        return f"{share:.2f}" + ("*" if found.starred else "")

    def notes(self, request: Request) -> str:
        lines = [
            f"Not comparable: the paper's {name}, not to be had with one target per user: {'; '.join(reasons)}."
            for name in self.names() if (reasons := self.refused(name))
        ]  # fmt: skip
        lines += filter(None, [other_data(request), self._shares()])
        if any(self._over_users(known_as(model), model) for model in self.ours):
            lines.append("± over users: of a model with one seed, half the 95 % t-interval over the users of that run, "
                         "the paper's number taken as exact. It says how far other users could move the difference, "
                         "not how far another seed could: it is not the interval over seeds.")  # fmt: skip
        searched = [v.name for v in request.variants if v.name in self.ours and v.preset == found_for(v.name, request)]
        lines.append(f"Settings found by a search (`ed2 tune`): {', '.join(searched) or 'none'}.")
        if self.leads:
            lines.append("Bold: the best of ours. `*`: better than each other one of ours at p < 0.01, t-test paired "
                         "over users (mean of the seeds), Holm over the models.")  # fmt: skip
            lines.append("Best against second: " + "; ".join(map(self._comparison, REPORTED)) + ".")
        return "\n".join(lines)

    def _shares(self) -> str:
        """Ours in percent of the paper's, of the metric that is plotted, and who is below `ENOUGH`."""
        at, shares = REPORTED.index(PLOTTED), {}
        for model, rows in self.ours.items():
            name = known_as(model)
            if name in self.printed and not self.refused(name):
                shares[name] = 100 * np.mean([row["test"][PLOTTED] for row in rows]) / self.printed[name][at]
        if not shares:
            return ""
        weak = [name for name, share in shares.items() if share < ENOUGH]
        return (f"{PLOTTED} in percent of the paper's: {', '.join(f'{n} {share:.0f}' for n, share in shares.items())}; "
                f"below {ENOUGH}: {', '.join(weak) or 'none'}.")  # fmt: skip

    def _comparison(self, metric: str) -> str:
        found = self.leads[metric]
        names = f"{known_as(found.best)} over {known_as(found.second)}"
        return (f"{metric} {names} {found.over_second.difference}, by bootstrap {found.resampled.difference}, "
                f"p = {found.p:.1e}")  # fmt: skip

    def draw(self, dataset: str) -> Figure:
        """Ours with the interval over seeds, the paper's hatched where it is not comparable."""
        own = {known_as(model): [row["test"][PLOTTED] for row in rows] for model, rows in self.ours.items()}
        names, at = self.names()[::-1], REPORTED.index(PLOTTED)
        figure = Figure(figsize=(8, 0.42 * len(names) + 1.4), layout="constrained")
        panel = figure.add_subplot()
        for place, name in enumerate(names):
            if name in own:
                found = over_seeds(own[name])
                panel.barh(place + 0.2, found.mean, height=0.38, color=OURS)
                if len(own[name]) > 1:
                    panel.errorbar(found.mean, place + 0.2, xerr=half(found), color=INK, capsize=3)
            if name in self.printed:
                hatch, colour = ("///", "white") if self.refused(name) else (None, PAPER)
                panel.barh(place - 0.2, self.printed[name][at], 0.38, color=colour, edgecolor=PAPER, hatch=hatch)
        panel.set_yticks(range(len(names)), names)
        panel.set_xlim(left=0)
        panel.set_xlabel(f"{PLOTTED} on {dataset} (blue: ours, sand: the paper's, hatched: not comparable)")
        return figure


if __name__ == "__main__":
    command(main)
