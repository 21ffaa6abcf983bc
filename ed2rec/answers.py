"""What a run says to people: recommendations beside a history, likely users of an item, and the LLM's own words.

run = load("runs/ml-100k")
recommend(run, user_id="196").items
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ed2rec.data.associated import associated_users
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.errors import ConfigError, RunError
from ed2rec.recommender import Recommendations, check_k
from ed2rec.workflow import LoadedRun, asking_all

if TYPE_CHECKING:
    from ed2rec.telling import Teller


@dataclass(frozen=True)
class Item:
    """An item as people see it. title: its id where it has none."""

    item_id: str
    title: str


@dataclass(frozen=True)
class Answer:
    """Recommendations for one user beside the history they follow from. items, scores: best first."""

    history: list[Item]
    items: list[Item]
    scores: list[float]

    def as_dict(self) -> dict[str, Any]:
        ranked = enumerate(zip(self.items, self.scores, strict=True), start=1)
        return {
            "history": [asdict(item) for item in self.history],
            "recommendations": [{"rank": rank, **asdict(item), "score": score} for rank, (item, score) in ranked],
        }


def recommend(
    run: LoadedRun,
    *,
    user_id: str | None = None,
    item_ids: Sequence[str] | None = None,
    query: str | None = None,
    k: int | None = None,
    ensemble: int | None = None,
) -> Answer:
    """The k best items for a user of the dataset after all they have taken, or for somebody unknown after a history.

    query: what they look for, in words; then neither a user nor a history is needed. ensemble: ask in so many wordings
    and take the mean (`asking_all`). k: 10 where none is given, or all of a smaller catalogue.
    """
    dataset = run.dataset
    if (user_id is not None and item_ids is not None) or (query, user_id, item_ids) == (None, None, None):
        raise ConfigError("give either a user or a history, or a query: --user ID, --history ID,ID,… or --query TEXT")
    if query is not None and ensemble is not None:
        raise ConfigError("a query is asked in one wording, which --ensemble has no part in: leave one of the two out")
    if query is not None and not query.strip():
        raise ConfigError("the query is empty: give --query some words")
    k = min(10, len(dataset.items)) if k is None else check_k(k, len(dataset.items))
    user = -1 if user_id is None else dataset.user_number(user_id)
    history = [dataset.item_number(item) for item in item_ids or ()] if user < 0 else dataset.histories[user].tolist()
    if query is not None:
        best = tell(run).items_for(query, user, np.array(history, np.int64), k)
    else:
        recommender = run.recommender if ensemble is None else asking_all(run, ensemble)
        best = recommender.recommend(Histories.from_lists([history]), np.array([user], dtype=np.int64), k)
    return _answer(dataset, history, best)


def _answer(dataset: Dataset, history: Sequence[int], best: Recommendations) -> Answer:
    """The first row of recommendations, without padding, beside the history."""
    shown = best.items[0] >= 0
    return Answer(
        items_of(dataset, history), items_of(dataset, best.items[0][shown].tolist()), best.scores[0][shown].tolist()
    )


@dataclass(frozen=True)
class LikelyUsers:
    """Users who may take an item next, best first, and how many took it already."""

    item: Item
    takers: int
    users: list[str]
    scores: list[float]

    def as_dict(self) -> dict[str, Any]:
        ranked = enumerate(zip(self.users, self.scores, strict=True), start=1)
        rows = [{"rank": rank, "user_id": user, "score": score} for rank, (user, score) in ranked]
        return {**asdict(self.item), "takers": self.takers, "users": rows}


def likely_users(run: LoadedRun, item_id: str, k: int | None = None) -> LikelyUsers:
    """The k likeliest next users of an item (the user co-purchase task, §2.4), without those who have it. k: 10 where
    none is given, or all where there are fewer."""
    dataset = run.dataset
    item = dataset.item_number(item_id)
    k = min(10, len(dataset.users)) if k is None else k
    if not 1 <= k <= len(dataset.users):
        raise ConfigError(f"k = {k}, but the dataset has {len(dataset.users):,} users: choose k between 1 and that")
    takers = associated_users(dataset.interactions, len(dataset.items))[item]
    found = tell(run).users_for(item, takers, k)
    real = found.items[0] >= 0
    users = dataset.users["user_id"].gather(found.items[0][real]).to_list()
    return LikelyUsers(items_of(dataset, [item])[0], len(takers), users, found.scores[0][real].tolist())


@dataclass(frozen=True)
class Explanation:
    """What the model makes of a user and of what it recommends (the three cases of the paper's Fig. 5).

    written: the title of each recommended item as the LLM writes it from the item's index. preference: what the user
    likes, in the LLM's words. comment: what the user might say of the first one. None where the run was not trained on
    that task. target: what the user really took.
    """

    user_id: str
    answer: Answer
    written: list[str] | None
    preference: str | None
    comment: str | None
    target: Item | None

    def as_dict(self) -> dict[str, Any]:
        found = self.answer.as_dict()
        for row, title in zip(found["recommendations"], self.written or (), strict=False):
            row["written_title"] = title
        target = None if self.target is None else asdict(self.target)
        words = {"preference": self.preference, "comment": self.comment}
        return {"user": self.user_id, **words, "target": target, **found}


def explain(run: LoadedRun, user_id: str, k: int | None = None, *, held_out: bool = False) -> Explanation:
    """Recommendations for a user with what the LLM says of them. RunError where the run was trained on neither titles
    nor preferences.

    held_out: answer as in the test, after all but the user's last item, which then is the `target`. k: 5 where none is
    given, or all of a smaller catalogue.
    """
    teller = tell(run)
    if not {"title", "preference"} & teller.wordings.keys():
        raise RunError(f"{run.folder.path} was trained on neither titles nor preferences: train it with tasks.use=auto")
    dataset = run.dataset
    k = min(5, len(dataset.items)) if k is None else check_k(k, len(dataset.items))
    user = dataset.user_number(user_id)
    taken = dataset.histories[user]
    history = taken[:-1] if held_out else taken
    best = run.recommender.recommend(Histories.from_lists([history]), np.array([user], dtype=np.int64), k)
    answer = _answer(dataset, history.tolist(), best)
    numbers = best.items[0][best.items[0] >= 0].tolist()
    written = teller.titles(numbers) if "title" in teller.wordings else None
    preference = teller.preference(user, history) if "preference" in teller.wordings else None
    comment = teller.comment(user, numbers[0], history) if numbers and "comment" in teller.wordings else None
    target = items_of(dataset, taken[-1:].tolist())[0] if held_out else None
    return Explanation(user_id, answer, written, preference, comment, target)


def tell(run: LoadedRun) -> Teller:
    """The run's LLM, to be asked other things than the next item. RunError for a model without one."""
    if run.folder.model != "ed2":
        raise RunError(f"{run.folder.path} is a {run.folder.model} run: only an ed2 run can be asked in words")
    from ed2rec.telling import Teller

    return Teller.load(run.recommender, run.folder.path)  # type: ignore[arg-type]


def items_of(dataset: Dataset, numbers: Sequence[int]) -> list[Item]:
    """The items with these numbers."""
    rows = dataset.items.select("item_id", "title")[list(numbers)].iter_rows() if numbers else ()
    return [Item(item_id, title or item_id) for item_id, title in rows]
