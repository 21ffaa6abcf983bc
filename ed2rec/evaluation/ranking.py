"""Ranks the whole catalogue for every case of a split, and counts.

The protocol: one target per user, all items compete, history items too unless excluded, ties count against the
target. A Scorer gives every target its exact rank; any other recommender gives the rank within its list of k, or a
miss. The rankings are kept so that anyone can recompute the metrics from the file alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ed2rec.data.dataset import Histories
from ed2rec.data.splits import Cases
from ed2rec.evaluation.metrics import MISSED, REPORTED, check_bound, reported
from ed2rec.recommender import Recommendations, Recommender, Scorer, top_k

BATCH = 256
"""Users per call: large enough to amortise a call, small enough that (BATCH, items) scores stay under 100 MB."""

Progress = Callable[[int, int], None]
"""Called with (users done, users in all)."""


@dataclass(frozen=True)
class Evaluation:
    """What one recommender did on one set of cases.

    ranks: (n,) int64, 1 is best, MISSED where the list does not hold the target. top: the k items shown, in the
    order that the ranks count (the target after its equals). users, targets: numbers, as in the cases.
    """

    ranks: NDArray[np.int64]
    top: Recommendations
    users: NDArray[np.int64]
    targets: NDArray[np.int64]
    seconds: float
    per_instruction: tuple[dict[str, Any], ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """HR@{1,5,10} and NDCG@{5,10}; the mean over instructions where several were evaluated."""
        rows = self.per_instruction
        row = {name: float(np.mean([r[name] for r in rows])) for name in REPORTED} if rows else reported(self.ranks)
        check_bound(row)
        return row

    @property
    def deviations(self) -> dict[str, float]:
        """The sample standard deviation (n - 1) of each metric over the instructions; empty for fewer than two."""
        rows = self.per_instruction
        return {name: float(np.std([r[name] for r in rows], ddof=1)) for name in REPORTED} if len(rows) > 1 else {}

    def row(self, dataset: str, split: str, model: str) -> dict[str, Any]:
        """The JSON object of `ed2 evaluate`; std only where there are several instructions."""
        head = {"dataset": dataset, "split": split, "users": len(self.users), "model": model}
        spread = {"std": self.deviations} if self.deviations else {}
        tail = {"per_instruction": list(self.per_instruction), "seconds": round(self.seconds, 3)}
        return {**head, **self.metrics, **spread, **tail}

    def rankings(self, user_ids: Sequence[str] | pl.Series, item_ids: Sequence[str] | pl.Series) -> pl.DataFrame:
        """One row per user and rank: user_id, rank (1…k), item_id, score, target_id. Padding is left out."""
        users, items = pl.Series(user_ids, dtype=pl.String), pl.Series(item_ids, dtype=pl.String)
        n, k = self.top.items.shape
        shown = self.top.items.ravel() >= 0
        row = np.repeat(np.arange(n), k)[shown]
        return pl.DataFrame(
            {
                "user_id": users.gather(self.users[row]),
                "rank": np.tile(np.arange(1, k + 1, dtype=np.uint32), n)[shown],
                "item_id": items.gather(self.top.items.ravel()[shown]),
                "score": self.top.scores.ravel()[shown],
                "target_id": items.gather(self.targets[row]),
            }
        )


def conditions(row: Mapping[str, Any]) -> list[str]:
    """What a row of `ed2 evaluate` says of its ranking beyond the usual protocol, in words."""
    said = {
        "protocol": "split by {}",
        "exclude_history": "history left out",
        "ensemble": "mean probability over {} instructions",
    }
    return [text.format(row[key]) for key, text in said.items() if key in row]


def evaluate(
    recommender: Recommender,
    cases: Cases,
    k: int = 10,
    *,
    exclude_history: bool = False,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Evaluation:
    """Rank every case's target.

    k: the length of the list that is kept, and asked of recommenders that are not Scorers; at least 10, because the
    protocol reports HR@10. exclude_history: items of the history cannot be recommended (reported beside the default,
    never instead of it). Raises ValueError when the recommender breaks its contract.
    """
    if k < 10:
        raise ValueError(f"the protocol reports metrics at 10: k must be at least 10, got {k}")
    start = time.perf_counter()
    count = len(cases.targets)
    order = np.argsort(_rooms(cases.histories), kind="stable") if exclude_history else np.arange(count)
    ranks = np.empty(count, np.int64)
    items, scores = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
    for low in range(0, count, batch):
        rows = order[low : low + batch]
        part = cases.take(rows)
        if isinstance(recommender, Scorer):
            ranks[rows], top = _rank_all(recommender, part, k, exclude_history)
        else:
            ranks[rows], top = _rank_listed(recommender, part, k, exclude_history)
        items[rows], scores[rows] = top.items, top.scores
        if progress is not None:
            progress(low + len(rows), count)
    return Evaluation(
        ranks=ranks,
        top=Recommendations(items, scores),
        users=cases.users,
        targets=cases.targets,
        seconds=time.perf_counter() - start,
    )


def evaluate_wordings(recommenders: Sequence[tuple[str, Recommender]], cases: Cases, **options: Any) -> Evaluation:
    """The same cases under several instructions: metrics are the mean over them, each is reported, and the rankings
    kept are those of the first. recommenders: (wording, recommender that asks with this wording)."""
    parts = [evaluate(recommender, cases, **options) for _, recommender in recommenders]
    rows = tuple(
        {"instruction": wording, **part.metrics} for (wording, _), part in zip(recommenders, parts, strict=True)
    )
    return replace(parts[0], per_instruction=rows, seconds=sum(part.seconds for part in parts))


def _rank_all(scorer: Scorer, cases: Cases, k: int, exclude: bool) -> tuple[NDArray[np.int64], Recommendations]:
    """Exact ranks over the catalogue: 1 + how many other items score at least as much as the target."""
    scores = np.array(scorer.scores(cases.histories, cases.users), dtype=np.float32)
    if np.isnan(scores).any():
        raise ValueError(f"{type(scorer).__name__}.scores returned NaN")
    if exclude:
        for row in range(len(scores)):
            scores[row, cases.histories[row]] = -np.inf
    goal = scores[np.arange(len(scores)), cases.targets]
    ranks = (scores >= goal[:, None]).sum(axis=1).astype(np.int64)
    # A target at -inf (excluded, or unknown to the model) cannot be recommended: a miss, not the last rank.
    ranks[np.isneginf(goal)] = MISSED
    top = top_k(scores, k)
    # top_k breaks ties by number; put the target where its pessimistic rank says, or out of the list.
    for shown in np.flatnonzero((top.items == cases.targets[:, None]).any(axis=1)).tolist():
        _move_target(top, scores[shown], shown, int(cases.targets[shown]), int(ranks[shown]))
    return ranks, top


def _rank_listed(
    recommender: Recommender, cases: Cases, k: int, exclude: bool
) -> tuple[NDArray[np.int64], Recommendations]:
    """Ranks within the list of k: 1 + how many others in it score at least as much as the target, or MISSED."""
    if exclude:
        top = _listed_without_history(recommender, cases, k)
    else:
        top = _checked_list(recommender, recommender.recommend(cases.histories, cases.users, k), k)
    found = top.items == cases.targets[:, None]
    goal = np.where(found, top.scores, -np.inf).max(axis=1, initial=-np.inf)
    ranks = np.where(found.any(axis=1), (top.scores >= goal[:, None]).sum(axis=1), MISSED).astype(np.int64)
    items, scores = top.items.copy(), top.scores
    for row in np.flatnonzero(found.any(axis=1)).tolist():
        others = items[row][items[row] != cases.targets[row]]
        items[row] = np.insert(others, ranks[row] - 1, cases.targets[row])
    return ranks, Recommendations(items, scores)


def _move_target(top: Recommendations, scores: NDArray[np.float32], row: int, target: int, rank: int) -> None:
    """Put the target at its pessimistic rank of this row, in place; equals move up, and where the target falls off
    the end the next equal (in order of number) takes the free last place."""
    k = top.items.shape[1]
    others = top.items[row][top.items[row] != target]
    if rank <= k:
        top.items[row] = np.insert(others, rank - 1, target)
        return
    equals = np.flatnonzero(scores == scores[target])
    spare = equals[~np.isin(equals, top.items[row])][0]
    top.items[row] = np.append(others, spare)


def _checked_list(recommender: Recommender, top: Recommendations, k: int) -> Recommendations:
    """The list, if it keeps the contract of Recommendations; a list that does not would inflate the metrics."""
    name = type(recommender).__name__
    if top.items.shape[1] != k:
        raise ValueError(f"{name}.recommend returned {top.items.shape[1]} columns, asked for {k}")
    if np.isnan(top.scores).any() or (top.scores[:, :-1] < top.scores[:, 1:]).any():
        raise ValueError(f"{name}.recommend returned scores that are NaN or increase along a row")
    ordered = np.sort(top.items, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError(f"{name}.recommend returned an item twice in one row")
    return top


def _listed_without_history(recommender: Recommender, cases: Cases, k: int) -> Recommendations:
    """Lists of k without the history: as much more is asked for as a history has room for (`_rooms`)."""
    items = np.full((len(cases.targets), k), -1, dtype=np.int64)
    scores = np.full((len(cases.targets), k), -np.inf, dtype=np.float32)
    rooms = _rooms(cases.histories)
    for room in np.unique(rooms).tolist():
        rows = np.flatnonzero(rooms == room)
        part = cases.take(rows)
        asked = _checked_list(recommender, recommender.recommend(part.histories, part.users, k + room), k + room)
        for number, row in enumerate(rows.tolist()):
            seen = np.isin(asked.items[number], part.histories[number])
            kept = np.flatnonzero(~seen & (asked.items[number] >= 0))[:k]
            items[row, : len(kept)] = asked.items[number, kept]
            scores[row, : len(kept)] = asked.scores[number, kept]
    return Recommendations(items, scores)


def _rooms(histories: Histories) -> NDArray[np.int64]:
    """The length of every history, rounded up to a power of two: nobody's list depends on who else is in the batch, and
    few lengths of lists are asked for, of many users at a time where they come in the order of their rooms."""
    return np.array([1 << max(0, length - 1).bit_length() for length in histories.lengths.tolist()], np.int64)
