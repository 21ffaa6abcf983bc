"""A run and its evaluations, collected into what report.html shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ed2rec import inspection
from ed2rec.answers import items_of
from ed2rec.charts import CodeShares, Curve
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.errors import DataError
from ed2rec.evaluation.ranking import Evaluation, conditions
from ed2rec.indexers.contract import IndexTable
from ed2rec.report import Example, ReportData, tested, write_report
from ed2rec.workflow import LoadedRun, cases_of, static_told

LOSSES = {
    "loss_llm": "recommendation (Eq. 7)",
    "loss_index_item": "items: L_ID (Eq. 8)",
    "loss_index_user": "users: L_ID (Eq. 8)",
    "loss_token_item": "items: L_Token (Eq. 9)",
    "loss_token_user": "users: L_Token (Eq. 9)",
    "loss_recon_item": "items: reconstruction",
    "loss_recon_user": "users: reconstruction",
    "loss_codebook_item": "items: codebook",
    "loss_codebook_user": "users: codebook",
}
"""Names of the losses in Trainer's logs, and how the page calls them; others follow under their own name."""
REDUNDANT = ("loss_commitment_item", "loss_commitment_user")  # a fixed multiple of the codebook loss


def summarise(
    run: LoadedRun,
    rows: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    figures: Sequence[tuple[str, str]] = (),
) -> ReportData:
    """rows: metrics per model, this run's first. examples: users shown with what is recommended to them."""
    folder, dataset = run.folder, run.dataset
    history = folder.metrics.get("history", [])
    churn = inspection.churn_of(folder.metrics)
    tables = inspection.tables(folder)
    static = static_told(folder)
    counts = f"{len(dataset.users):,} users, {len(dataset.items):,} items, {len(dataset.interactions):,} interactions"
    return ReportData(
        title=f"{folder.model} on {dataset.name}",
        subtitle=f"{counts}. Seed {folder.settings.seed}." + (f" Note: {static}." if static else ""),
        rows=rows,
        figures=figures or headline(rows),
        losses=_losses(history),
        validation=[(entry["step"], entry["valid"]["NDCG@10"]) for entry in history if "valid" in entry],
        churn={kind: _by_level(refreshes) for kind, refreshes in churn.items()},
        frozen_from=max((entry["step"] for entry in history if "churn" in entry), default=None),
        codes={kind: inspection.code_counts(table) for kind, table in tables.items()},
        first_codes=_first_codes(tables, dataset),
        examples=examples,
        settings=folder.settings.to_yaml(),
        environment={name: value for name, value in folder.environment.items() if name != "files"},
    )


def write_page(path: Path, run: LoadedRun, row: Mapping[str, Any], result: Evaluation) -> None:
    """The page of one run and one evaluation. row: the metrics of `result` with dataset, split and model."""
    usual = not conditions(row)  # then case n is that of user n, and what is shown is what was ranked
    examples = examples_of(run, row["split"], telling_users(result)) if usual else []
    write_report(path, summarise(run, [row], examples))


def _first_codes(tables: Mapping[str, IndexTable], dataset: Dataset) -> CodeShares | None:
    """None for a model without index, or items without categories and brands."""
    if "items" not in tables:
        return None
    try:
        return inspection.first_codes(tables["items"], dataset.items)
    except DataError:
        return None


def headline(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The numbers at the head of the page, the comparison with the second row first."""
    first = rows[0]
    figures = [(f"{first[name]:.3f}", f"{name} on the {tested(rows)} items") for name in ("NDCG@10", "HR@10", "HR@1")]
    if len(rows) > 1 and rows[1]["NDCG@10"] > 0:
        figures.insert(0, (f"{first['NDCG@10'] / rows[1]['NDCG@10']:.1f}×", f"the NDCG@10 of {rows[1]['model']}"))
    return figures


def examples_of(run: LoadedRun, split: str, users: Sequence[int], k: int = 10) -> list[Example]:
    """What the model recommends to these users after the split's history, beside what they really took next."""
    cases = cases_of(run, split)
    chosen = np.asarray(users, dtype=np.int64)
    histories = Histories.from_lists([cases.histories[int(user)] for user in chosen])
    best = run.recommender.recommend(histories, cases.users[chosen], k)
    examples = []
    for row, user in enumerate(chosen.tolist()):
        items = [item for item in best.items[row].tolist() if item >= 0]
        target = int(cases.targets[user])
        examples.append(
            Example(
                user=run.dataset.users["user_id"][user],
                history=_titles(run, histories[row].tolist()),
                recommended=_titles(run, items),
                target=_titles(run, [target])[0],
                place=items.index(target) + 1 if target in items else 0,
            )
        )
    return examples


def telling_users(result: Evaluation, count: int = 3) -> list[int]:
    """Users for the page: one whose next item came first or nearly so, one further down the list, and a miss.

    A page of hits alone would flatter the model. Deterministic: the first users of each sort.
    """
    sorts = [result.ranks <= 2, (result.ranks > 2) & (result.ranks <= 10), result.ranks > 10]
    found = [int(result.users[np.flatnonzero(sort)[0]]) for sort in sorts if sort.any()]
    return found[:count]


def _titles(run: LoadedRun, items: list[int]) -> list[str]:
    return [item.title for item in items_of(run.dataset, items)]


def _losses(history: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Every logged value named loss_…, in the order of LOSSES and then of appearance."""
    names = [name for entry in history for name in entry if name.startswith("loss_") and name not in REDUNDANT]
    ordered = dict.fromkeys([*(name for name in LOSSES if name in names), *names])
    return {
        LOSSES.get(name, name.removeprefix("loss_").replace("_", " ")): [
            (entry["step"], entry[name]) for entry in history if entry.get(name) is not None
        ]
        for name in ordered
    }


def _by_level(refreshes: Sequence[Mapping[str, float]]) -> dict[str, Curve]:
    levels = [name for name in refreshes[0] if name != "step"]
    return {level: [(refresh["step"], refresh[level]) for refresh in refreshes] for level in levels}
