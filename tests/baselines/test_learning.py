"""Worlds in which a learned baseline must find the answer: what it has been shown, a hidden rule, an order in noise."""

from contextlib import suppress
from itertools import permutations

import numpy as np
import pytest
import torch
from shops import checkerboard, dataset_of, told
from small_baselines import settings_of, untrained

from ed2rec.baseline_settings import LEARNED
from ed2rec.baselines.build import budget_of
from ed2rec.baselines.itemknn import ItemNeighbours
from ed2rec.baselines.learned import Learned
from ed2rec.baselines.markov import Markov
from ed2rec.baselines.popularity import Popularity
from ed2rec.baselines.textknn import TextNeighbours
from ed2rec.baselines.trainer import train_baseline
from ed2rec.data.splits import Cases, leave_one_out
from ed2rec.evaluation.ranking import evaluate

MEMORY = {
    "bert4rec": ["only_last=1"],  # else most of its lessons are about items in the middle
    "attrec": ["weight_decay=0", "lr=0.03"],  # its preset keeps norms small, and distances need great ones
    "fmlprec": ["layers=1"],
}
COLOURS = {"bert4rec": ["only_last=1"], "attrec": ["weight_decay=0"]}
CHAIN = {"bert4rec": ["layers=1", "batch=32", "masked=0.3", "patience=15"], "magnn": ["lr=0.02"]}


class Perfect(Exception):
    """Every answer is right: nothing is left to learn."""


def perfect(epoch, ndcg):
    if ndcg == 1:
        raise Perfect


def learns(dataset, name, workspace, own, *common):
    """Trained without dropout, until validation is perfect or the epochs are over."""
    calm = ["dropout=0", "lr=0.01", "batch=64", *(["dropout_context=0"] if name == "narm" else [])]
    settings = settings_of(name, *calm, *common, *own.get(name, []))
    learned, split = untrained(dataset, settings), leave_one_out(dataset.histories)
    with suppress(Perfect):
        budget = budget_of(settings, torch.device("cpu"))
        train_baseline(learned, split, budget, workspace=workspace, stamp="", watch=perfect)
    return learned


def strangers(users=50, items=40, length=5):
    """Users who take items at random, no item twice and no two of them the same two first: memory alone tells what
    follows, and it can."""
    random = np.random.default_rng(0)
    pairs = list(permutations(range(items), 2))
    lists = []
    for pair in random.choice(pairs, users, replace=False):
        rest = np.setdiff1d(np.arange(items), pair)
        lists.append([*pair.tolist(), *random.permutation(rest)[: length - 2].tolist()])
    return told(dataset_of(lists, [f"item-{n}" for n in range(items)]), groups=7)


@pytest.mark.parametrize("name", LEARNED)
def test_it_remembers_what_fifty_users_took_next(name, tmp_path, monkeypatch):
    """The last training item of each, after the ones before it. These are what is
    validated on: there is nothing to generalise."""
    dataset = strangers()
    train = leave_one_out(dataset.histories).train
    shown = Cases(np.arange(50), train.first(train.lengths - 1), train.flat[train.offsets[1:] - 1].astype(np.int64))
    ranks = Learned.ranks
    monkeypatch.setattr(Learned, "ranks", lambda self, _: ranks(self, shown))
    learned = learns(dataset, name, tmp_path / "w", MEMORY, "width=32", "epochs=150", "patience=150")
    assert evaluate(learned, shown).metrics["HR@1"] == 1


@pytest.mark.parametrize("name", LEARNED)
def test_on_the_checkerboard_the_withheld_item_comes_first(name, tmp_path):
    """Every user takes all items of one colour but one. Among those that the user does not have yet, it is the best.
    The latest three items are read: training sequences are no longer than four, so no place is without training."""
    dataset = told(checkerboard(colours=3, per_colour=6, users_per_colour=6))
    learned = learns(dataset, name, tmp_path / "w", COLOURS, "epochs=80", "max_history=3", "patience=80")
    cases = leave_one_out(dataset.histories).test
    assert evaluate(learned, cases, exclude_history=True).metrics["HR@1"] == 1


def noisy_chain(users=120, items=40, length=8, noise=0.25):
    """Item n is followed by n + 1, or, with probability `noise`, by any: the next item is nearly always findable from
    the last one, and hardly from popularity."""
    random = np.random.default_rng(0)
    lists = []
    for _ in range(users):
        row = [int(random.integers(items))]
        while len(row) < length:
            row.append(int(random.integers(items)) if random.random() < noise else (row[-1] + 1) % items)
        lists.append(row)
    return told(dataset_of(lists, [f"item-{n}" for n in range(items)]), groups=5)


@pytest.mark.parametrize("name", LEARNED)
def test_it_finds_an_order_in_noise_where_popularity_finds_none(name, tmp_path):
    dataset = noisy_chain()
    parts = leave_one_out(dataset.histories)
    learned = learns(dataset, name, tmp_path / "w", CHAIN, "epochs=40", "max_history=5", "patience=5")
    popular = evaluate(Popularity.fit(parts.train, len(dataset.items)), parts.test).metrics["HR@10"]
    found = evaluate(learned, parts.test).metrics["HR@10"]
    assert popular < 0.3 and found > 0.6, (found, popular)


@pytest.mark.parametrize("fit", [Markov.fit, ItemNeighbours.fit])
def test_counting_finds_the_order_too(fit):
    dataset = noisy_chain()
    parts = leave_one_out(dataset.histories)
    counted, popular = (evaluate(made(parts.train, len(dataset.items)), parts.test).metrics["HR@10"]
                        for made in (fit, Popularity.fit))  # fmt: skip
    assert counted > 2 * popular


def test_texts_tell_what_counting_cannot():
    """Ten users who each take the four items of one colour, which the titles name and nobody else takes."""
    titles = [f"colour{item // 4} thing{item}" for item in range(40)]
    parts = leave_one_out(dataset_of([[4 * user + n for n in range(4)] for user in range(10)], titles).histories)
    known, popular = (evaluate(model, parts.test).metrics["HR@5"]
                      for model in (TextNeighbours.fit(titles), Popularity.fit(parts.train, 40)))  # fmt: skip
    assert known == 1 > popular
