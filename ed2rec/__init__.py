"""ed2rec: sequential recommendation with an LLM and dual, dynamic indices of users and items (ED²).

    dataset = Dataset.load("datasets/ml-100k")
    run = train("datasets/ml-100k", "runs/ml-100k", resolve("default"))
    evaluate_run(load("runs/ml-100k")).metrics

The names below are the public ones; they are imported when first used, so that `import ed2rec` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ed2rec.answers import recommend
    from ed2rec.config import Settings, resolve
    from ed2rec.data.dataset import Dataset, Histories
    from ed2rec.data.splits import leave_one_out
    from ed2rec.errors import Ed2Error
    from ed2rec.evaluation.ranking import evaluate
    from ed2rec.recommender import Recommendations, Recommender, Scorer
    from ed2rec.workflow import evaluate_run, load, train

__all__ = [
    "Dataset",
    "Ed2Error",
    "Histories",
    "Recommendations",
    "Recommender",
    "Scorer",
    "Settings",
    "evaluate",
    "evaluate_run",
    "leave_one_out",
    "load",
    "recommend",
    "resolve",
    "train",
]

_HOME = {
    "Dataset": "data.dataset",
    "Ed2Error": "errors",
    "Histories": "data.dataset",
    "Recommendations": "recommender",
    "Recommender": "recommender",
    "Scorer": "recommender",
    "Settings": "config",
    "evaluate": "evaluation.ranking",
    "evaluate_run": "workflow",
    "leave_one_out": "data.splits",
    "load": "workflow",
    "recommend": "answers",
    "resolve": "config",
    "train": "workflow",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"ed2rec.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ed2rec' has no attribute {name!r}")
