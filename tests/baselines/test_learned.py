"""Every learned baseline through the verbs: trained, saved and loaded as a run, and held to every promise."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from contracts import SavedRecommenderContract
from shops import checkerboard, ring, told
from small import shop
from small_baselines import settings_of, trained, untrained

from ed2rec import workflow
from ed2rec.baseline_settings import FLOORS, LEARNED
from ed2rec.baselines.build import FLOOR_CLASSES, LEARNED_MODELS, learned_of, sequence_model
from ed2rec.config import for_model, groups_of, resolve
from ed2rec.data.dataset import Histories
from ed2rec.data.splits import leave_one_out
from ed2rec.errors import ConfigError, DataError, RunError
from ed2rec.prior import FILE, TextPrior, latent_semantics


class LearnedContract(SavedRecommenderContract):
    """Members are made by `for NAME in LEARNED` below."""

    name: str

    def dataset(self):
        return told(checkerboard())

    def make(self, dataset):
        with tempfile.TemporaryDirectory() as folder:
            dataset.save(Path(folder) / "shop")
            workflow.train(Path(folder) / "shop", Path(folder) / "run", settings_of(self.name))
            return workflow.load(Path(folder) / "run").recommender

    def load(self, folder, world, model):
        return untrained(world, settings_of(self.name, "seed=9")).load(folder)

    def test_scores_are_finite_for_everybody(self, world, model):
        """The empty history of an unknown user included."""
        histories = Histories.from_lists([[], [3], [], list(range(len(world.items)))])
        for users in (None, np.array([-1, -1, 0, 1])):
            scores = model.scores(histories, users)
            assert scores.shape == (4, len(world.items)) and scores.dtype == np.float32 and np.isfinite(scores).all()

    def test_scores_of_a_user_alone_are_those_in_a_crowd(self, world, model):
        cases = leave_one_out(world.histories).test
        together = model.scores(cases.histories, cases.users)
        for row in range(0, len(cases), 5):
            alone = model.scores(cases.histories.take(np.array([row])), cases.users[[row]])
            np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)


for _name in LEARNED:
    _test = type(f"Test_{_name}", (LearnedContract,), {"name": _name})
    globals()[_test.__name__] = _test


def test_every_learned_baseline_was_looked_at():
    assert len([name for name in globals() if name.startswith("Test_")]) == len(LEARNED) == 12


@pytest.mark.parametrize("name", LEARNED)
def test_a_model_is_built_as_its_preset_sizes_it(name):
    """Paper-sized models of a toy catalogue: nothing in a preset or a group is left unread."""
    settings = resolve(for_model(name, None))
    shop = told(checkerboard())
    model = sequence_model(shop, leave_one_out(shop.histories), settings)
    assert type(model).__name__.lower() == name and type(model).__module__ == f"ed2rec.baselines.{name}"
    table, _ = model.output()
    assert table.shape[0] == len(shop.items) and table.shape[1] % settings.baseline.width == 0


@pytest.mark.parametrize("name", LEARNED)
def test_every_setting_of_a_model_reaches_it(name):
    """Changed one at a time, each makes another model (or, in BERT4Rec and S³-Rec, other rows)."""
    shop = told(checkerboard())
    split = leave_one_out(shop.histories)

    def described(settings):
        model = sequence_model(shop, split, settings)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        plain = {key: value for key, value in vars(model).items() if isinstance(value, int | float)}
        rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        heads = [module.heads for module in model.modules() if hasattr(module, "heads")]
        return shapes, plain, rates, heads

    before = described(resolve(for_model(name, None)))
    for key, value in getattr(resolve(for_model(name, None)), name).model_dump().items():
        if (name, key) == ("s3rec", "pretraining"):  # the trainer's
            continue
        changed = (value / 2 or 0.25) if isinstance(value, float) else value * 2
        if isinstance(value, bool):
            changed = not value
        assert described(resolve(for_model(name, None), [f"{name}.{key}={changed}"])) != before, key


def test_metrics_of_a_run_say_how_it_was_trained(tmp_path):
    told(ring()).save(tmp_path / "shop")
    workflow.train(tmp_path / "shop", tmp_path / "run", settings_of("s3rec"))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["epochs"] == len(metrics["curve"]) == 4 and metrics["best_epoch"] in (3, 4)
    assert metrics["targets_per_epoch"] == 24 * 4 and metrics["parameters"] > 1000
    assert not list(tmp_path.glob(".run.*"))


def test_texts_are_heard_beside_a_model_s_log_probabilities(tmp_path):
    """One epoch, so that both runs have the same weights, whatever validation says."""
    dataset = replace(shop(), items=shop().items.with_columns(brand=pl.col("title").str.slice(0, 4)))
    dataset.save(tmp_path / "shop")
    for name, more in (("plain", []), ("both", ["prior=3", "prior_items=2"])):
        workflow.train(tmp_path / "shop", tmp_path / name, settings_of("sasrec", "epochs=1", *more))
    plain, both = (workflow.load(tmp_path / name).recommender for name in ("plain", "both"))
    cases = leave_one_out(dataset.histories).test
    texts = latent_semantics([f"{title} {brand}" for title, brand in dataset.items.select("title", "brand").rows()])
    prior = TextPrior(texts, 3, 2)([cases.histories[row] for row in range(len(cases))])
    expected = torch.from_numpy(plain.scores(cases.histories, cases.users)).log_softmax(-1) + prior
    found = both.scores(cases.histories, cases.users)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found.argmax(1) != plain.scores(cases.histories, cases.users).argmax(1)).any()
    goal = found[np.arange(len(cases)), cases.targets]
    np.testing.assert_array_equal(both.ranks(cases), (found >= goal[:, None]).sum(1))
    (tmp_path / "both" / FILE).unlink()
    with pytest.raises(RunError, match=f"{FILE} is missing"):
        workflow.load(tmp_path / "both")


def test_texts_that_a_dataset_lacks_cannot_be_heard(tmp_path):
    silent = ring().items.with_columns(title=pl.lit("- - !"), brand=pl.lit(""))
    replace(ring(), items=silent).save(tmp_path / "ring")
    with pytest.raises(DataError, match=r"^no item of this dataset has a word in its texts: leave the prior 0$"):
        workflow.train(tmp_path / "ring", tmp_path / "run", settings_of("sasrec", "prior=3"))


def test_weights_of_another_model_are_refused_in_one_line(tmp_path):
    learned = untrained(told(ring()), settings_of("gru4rec"))
    learned.save(tmp_path)
    for other in (settings_of("sasrec"), settings_of("gru4rec", "width=8")):
        with pytest.raises(RunError, match=r"holds another model's weights \([^\n]+\): train the run again$"):
            learned_of(told(ring()), leave_one_out(ring().histories), other).load(tmp_path)


def test_a_long_list_of_histories_is_answered_in_parts(tmp_path, monkeypatch):
    learned, _ = trained(ring(), settings_of("gru4rec"), tmp_path / "w")
    cases = leave_one_out(ring().histories).test
    whole = learned.recommend(cases.histories, cases.users, 5)
    monkeypatch.setattr("ed2rec.baselines.learned.BATCH", 7)
    parts = learned.recommend(cases.histories, cases.users, 5)
    np.testing.assert_array_equal(parts.items, whole.items)
    np.testing.assert_array_equal(
        learned.recommend(cases.histories, None, 5).items,
        learned.recommend(cases.histories, np.full(len(cases), -1), 5).items,
    )


def test_only_the_latest_items_are_read(tmp_path):
    learned = untrained(ring(), settings_of("sasrec", "max_history=3"))
    long, short = (learned.scores(Histories.from_lists([items]), None) for items in ([7, 8, 1, 2, 3], [1, 2, 3]))
    np.testing.assert_array_equal(long, short)


@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "fdsa", "s3rec"])
def test_heads_that_do_not_divide_the_width_are_refused(name):
    with pytest.raises(ConfigError, match=rf"^{name}.heads = 3 does not divide baseline.width = 64: choose a divisor$"):
        shop = told(ring())
        sequence_model(shop, leave_one_out(shop.histories), resolve(for_model(name, None), [f"{name}.heads=3"]))


@pytest.mark.parametrize("name", ["fdsa", "s3rec"])
def test_models_of_categories_and_brands_refuse_a_dataset_without(name):
    with pytest.raises(DataError, match=rf"^{name} needs categories or brands, and dataset ring has neither: [^\n]+$"):
        untrained(ring(), settings_of(name))


@pytest.mark.parametrize("name", LEARNED)
def test_the_groups_of_a_model_are_its_own_and_what_all_baselines_share(name):
    assert groups_of(name) == ["baseline", name]


def test_every_name_of_the_settings_has_its_way_of_being_made():
    assert set(LEARNED_MODELS) == set(LEARNED) and set(FLOOR_CLASSES) == set(FLOORS)
