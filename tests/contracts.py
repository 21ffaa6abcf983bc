"""Promises of a family, tested once and inherited by every member in three lines.

class TestPopularity(RecommenderContract):
    def make(self, dataset):
        return Popularity.fit(leave_one_out(dataset.histories).train, len(dataset.items))
"""

from pathlib import Path

import numpy as np
import pytest
from shops import checkerboard

from ed2rec.data.dataset import Dataset, Histories
from ed2rec.data.splits import leave_one_out
from ed2rec.evaluation.ranking import evaluate
from ed2rec.recommender import Recommender, Scorer


class RecommenderContract:
    """What evaluator, server and command line rely on. Members define `make(dataset)` and may override `dataset()`."""

    def make(self, dataset: Dataset) -> Recommender:
        raise NotImplementedError

    def dataset(self) -> Dataset:
        return checkerboard()

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls) -> Dataset:
        return cls().dataset()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, world: Dataset) -> Recommender:
        return cls().make(world)

    def test_lists_hold_distinct_items_of_the_catalogue_best_first(self, world, model):
        cases = leave_one_out(world.histories).test
        best = model.recommend(cases.histories, cases.users, 5)
        assert best.items.shape == best.scores.shape == (len(cases.users), 5)
        assert best.items.dtype == np.int64 and best.scores.dtype == np.float32
        assert ((best.items >= 0) & (best.items < len(world.items))).all()
        assert all(len(set(row)) == 5 for row in best.items.tolist())
        assert (best.scores[:, :-1] >= best.scores[:, 1:]).all() and np.isfinite(best.scores).all()

    def test_the_same_question_gets_the_same_answer(self, world, model):
        cases = leave_one_out(world.histories).test
        first, second = (model.recommend(cases.histories, cases.users, 5) for _ in range(2))
        np.testing.assert_array_equal(first.items, second.items)
        np.testing.assert_array_equal(first.scores, second.scores)

    def test_a_user_alone_gets_what_the_user_gets_in_a_crowd(self, world, model):
        cases = leave_one_out(world.histories).test
        together = model.recommend(cases.histories, cases.users, 5)
        for row in (0, len(cases.users) - 1):
            alone = model.recommend(cases.histories.take(np.array([row])), cases.users[[row]], 5)
            np.testing.assert_array_equal(alone.items[0], together.items[row])
            np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-4, atol=1e-4)

    def test_a_longer_list_starts_with_the_shorter_one(self, world, model):
        cases = leave_one_out(world.histories).test
        short, long = (model.recommend(cases.histories, cases.users, k) for k in (1, 4))
        np.testing.assert_array_equal(short.items[:, 0], long.items[:, 0])

    def test_unknown_users_and_empty_histories_are_served(self, model):
        histories = Histories.from_lists([[], [1, 2], []])
        for users in (None, np.array([-1, -1, 0])):
            best = model.recommend(histories, users, 3)
            assert best.items.shape == (3, 3) and (best.items >= 0).all()

    def test_nobody_asks_and_nothing_is_returned(self, model):
        assert model.recommend(Histories.from_lists([]), np.empty(0, np.int64), 3).items.shape == (0, 3)

    def test_a_list_longer_than_the_catalogue_is_padded(self, world, model):
        k = len(world.items) + 2
        best = model.recommend(Histories.from_lists([[0, 1]]), None, k)
        assert best.items.shape == (1, k)
        assert ((best.items == -1) == np.isneginf(best.scores)).all()
        assert (best.items[0, -2:] == -1).all()

    def test_the_list_is_the_top_of_the_scores(self, world, model):
        if not isinstance(model, Scorer):
            pytest.skip("not a Scorer")
        cases = leave_one_out(world.histories).test
        scores = np.asarray(model.scores(cases.histories, cases.users))
        best = model.recommend(cases.histories, cases.users, 4)
        assert scores.shape == (len(cases.users), len(world.items)) and not np.isnan(scores).any()
        np.testing.assert_allclose(best.scores, np.sort(scores, axis=1)[:, ::-1][:, :4], rtol=1e-6)

    def test_it_can_be_evaluated(self, world, model):
        result = evaluate(model, leave_one_out(world.histories).test)
        assert set(result.metrics) == {"HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"}


class SavedRecommenderContract(RecommenderContract):
    """The same for those with `save(folder)` and `load(folder)`: the loaded one answers like the saved one. Members
    whose files are not all that a model is made of override `load`."""

    def load(self, folder: Path, world: Dataset, model: Recommender) -> Recommender:
        return type(model).load(folder)

    def test_a_saved_model_answers_as_before(self, world, model, tmp_path: Path):
        model.save(tmp_path)
        loaded = self.load(tmp_path, world, model)
        cases = leave_one_out(world.histories).test
        before, after = (m.recommend(cases.histories, cases.users, 5) for m in (model, loaded))
        np.testing.assert_array_equal(before.items, after.items)
        np.testing.assert_array_equal(before.scores, after.scores)

    def test_no_saved_file_is_a_pickle(self, model, tmp_path: Path):
        model.save(tmp_path)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files and {path.suffix for path in files} <= {
            ".parquet",
            ".npz",
            ".safetensors",
            ".json",
            ".yaml",
            ".txt",
        }
