import numpy as np
from contracts import SavedRecommenderContract
from shops import dataset_of

from ed2rec.baselines.popularity import Popularity
from ed2rec.data.dataset import Histories
from ed2rec.data.splits import leave_one_out


class TestPopularity(SavedRecommenderContract):
    def make(self, dataset):
        return Popularity.fit(leave_one_out(dataset.histories).train, len(dataset.items))


def test_counts_come_from_training_interactions_only():
    """Items 3 and 4 are everybody's validation and test item; a count that saw them would put them first."""
    dataset = dataset_of([[0, 3, 4], [0, 1, 3, 4], [0, 2, 1, 3, 4]], ["a", "b", "c", "d", "e", "f"])
    model = Popularity.fit(leave_one_out(dataset.histories).train, 6)
    assert model.counts.tolist() == [3, 2, 1, 0, 0, 0]
    assert model.recommend(Histories.from_lists([[5]]), None, 6).items.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_everybody_gets_the_same_scores():
    model = Popularity(np.array([1, 5, 3]))
    assert model.scores(Histories.from_lists([[0], [1]]), None).tolist() == [[1, 5, 3], [1, 5, 3]]
