"""ED² as a recommender: trained on a world with a provable answer, and written and read again."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import RecommenderContract
from shops import checkerboard
from small import histories_of, shop, small_settings

from ed2rec.config import Settings
from ed2rec.data.dataset import Dataset
from ed2rec.data.splits import leave_one_out
from ed2rec.decoding import exact_scores
from ed2rec.device import choose_device, computing_type
from ed2rec.errors import RunError
from ed2rec.evaluation.ranking import evaluate
from ed2rec.generative import GenerativeRecommender, load_generative, load_wordings
from ed2rec.instructions.examples import prompt
from ed2rec.instructions.sequential import before
from ed2rec.instructions.templates import INSTRUCTIONS
from ed2rec.training.parts import Parts, build_parts, recommender, write
from ed2rec.training.pipeline import train_ed2

# With other draws of dropout the share of a colour in the six best is 0.67 to 0.93, where chance is a third.
LEARNS = ["training.epochs=160", "training.lr=0.01", "training.dropout=0.3", "training.validations=0",
          "training.checkpoints=0", "backbone.hidden=32", "backbone.intermediate=64"]  # fmt: skip


class TestTrainedOnColours(RecommenderContract):
    """Users stay with one colour, so the test item is the best that a user does not have yet. Every history twice:
    walks from item to item, which know nothing of colours, have at most as many tokens as there are real ones."""

    def dataset(self) -> Dataset:
        return checkerboard(users_per_colour=12)

    def make(self, dataset: Dataset) -> GenerativeRecommender:
        settings = small_settings(*LEARNS)
        with tempfile.TemporaryDirectory() as folder:
            trained = train_ed2(dataset, settings, Path(folder) / "workspace", False, lambda *_: None)
            trained.write(Path(folder) / "run")
            return load_generative(Path(folder) / "run", settings, dataset)

    def test_it_finds_the_missing_item_of_every_user_s_colour(self, world, model):
        cases = leave_one_out(world.histories).test
        assert evaluate(model, cases, exclude_history=True).metrics["NDCG@10"] == 1
        best = model.recommend(cases.histories, cases.users, 6)
        assert (best.items % 3 == (cases.users % 3)[:, None]).mean() > 0.85

    def test_it_finds_it_for_users_that_it_does_not_know(self, world, model):
        cases = leave_one_out(world.histories).test
        best = model.recommend(cases.histories, None, 6)
        assert (best.items % 3 == (cases.users % 3)[:, None]).mean() > 0.7


# Written and read again. Training adds nothing to these questions, so the parts are as they are before it.


@dataclass(frozen=True)
class Written:
    dataset: Dataset
    settings: Settings
    parts: Parts
    folder: Path

    @property
    def before(self) -> GenerativeRecommender:
        return recommender(self.parts, self.settings)

    def after(self) -> GenerativeRecommender:
        return load_generative(self.folder, self.settings, self.dataset)


def written(folder: Path, *overrides: str) -> Written:
    dataset, settings = shop(), small_settings(*overrides)
    parts = build_parts(dataset, settings, lambda *_: None)
    write(folder, dataset, parts)
    return Written(dataset, settings, parts, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Written:
    return written(tmp_path_factory.mktemp("run") / "ed2")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("indexer.users=[]",),
        ("decoding.normalise=vocabulary",),
        ("backbone.untie=false",),
        ("decoding.prior=2", "decoding.prior_items=2"),
        ("training.instruction=question", "training.dense=false"),
    ],
    ids=" ".join,
)
def test_a_written_model_recommends_what_it_recommended_before(overrides, tmp_path):
    here = written(tmp_path / "run", *overrides)
    cases = leave_one_out(here.dataset.histories).test
    before, after = (model.recommend(cases.histories, cases.users, 10) for model in (here.before, here.after()))
    np.testing.assert_array_equal(after.items, before.items)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert (tmp_path / "run" / "index" / "users.parquet").exists() == ("indexer.users=[]" not in overrides)
    assert (tmp_path / "run" / "texts.safetensors").exists() == ("decoding.prior=2" in overrides)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_adapters_are_part_of_the_weights_of_a_written_model(tmp_path):
    dataset, settings = shop(), small_settings("backbone.lora_rank=2")
    parts = build_parts(dataset, settings, lambda *_: None)
    torch.manual_seed(1)
    for name, weight in parts.model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    cases = leave_one_out(dataset.histories).test
    before = recommender(parts, settings).recommend(cases.histories, cases.users, 10)
    write(tmp_path / "run", dataset, parts)
    after = load_generative(tmp_path / "run", settings, dataset).recommend(cases.histories, cases.users, 10)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-4)
    assert not list((tmp_path / "run").rglob("adapter*"))


def exact(model: GenerativeRecommender, run: Written, history: list[int], user: int) -> np.ndarray:
    asked = prompt(model.asked[0], before(user, np.array(history, np.int64)), model.index)
    vocabulary, llm = model.decoder.vocabulary, model.decoder.llm
    return exact_scores(llm, vocabulary, run.parts.model.items.table, [asked])[0]


@pytest.mark.parametrize("user", [-1, 4])
def test_the_scores_are_the_log_probabilities_of_the_indices_after_the_prompt(user, run):
    model, history = run.after(), [3, 9, 1]
    best = model.recommend(histories_of(history), np.array([user]), 15)
    scores = exact(model, run, history, user)
    np.testing.assert_array_equal(best.items[0], np.argsort(-scores, kind="stable"))
    np.testing.assert_allclose(best.scores[0], np.sort(scores)[::-1], atol=1e-4)


def test_what_the_texts_say_is_added_to_them_where_there_is_a_prior(tmp_path):
    here = written(tmp_path / "run", "decoding.prior=2")
    model = here.after()
    asked = histories_of([3, 9, 1], [], [5])
    best, alone = model.recommend(asked, None, 15), model.without_prior().recommend(asked, None, 15)
    for row in range(len(asked)):
        history = asked[row]
        expected = exact(model, here, history.tolist(), -1)
        np.testing.assert_allclose(alone.scores[row], np.sort(expected)[::-1], atol=1e-4)
        expected += model.prior([history])[0].numpy()
        np.testing.assert_allclose(best.scores[row], np.sort(expected)[::-1], atol=1e-4)
        np.testing.assert_allclose(expected[best.items[row]], best.scores[row], atol=1e-4)
    assert not np.array_equal(alone.items[0], best.items[0])


def test_every_recommendation_is_an_item_of_the_catalogue_and_appears_once(run):
    model = run.after()
    histories = histories_of(*[[n % 15, n % 7, n % 4] for n in range(40)], [])
    best = model.recommend(histories, np.arange(41) % 31 - 1, 12)
    assert ((best.items >= 0) & (best.items < 15)).all()
    assert all(len(set(row)) == 12 for row in best.items.tolist())


def test_an_index_that_no_item_has_cannot_come_out_even_where_the_model_insists(run):
    """The head gets a bias that makes one index almost certain, and it is an index that no item has."""
    model = run.after()
    table = run.parts.model.items.table
    free = next(codes for codes in np.ndindex(*table.sizes) if not (table.codes == codes).all(1).any())
    head = model.decoder.llm.get_output_embeddings()
    bent = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        bent.weight.copy_(head.weight)
        bent.bias.zero_()
        for level, code in enumerate(free):
            bent.bias[model.decoder.vocabulary.slice_of("item", level).start + code] = 50.0
    model.decoder.llm.set_output_embeddings(bent)
    best = model.recommend(histories_of([1, 2]), None, 15)
    assert sorted(best.items[0].tolist()) == list(range(15))


def test_k_may_exceed_the_beam_and_the_catalogue(run):
    model = run.after()
    model.beam = 2
    best = model.recommend(histories_of([3, 9, 1]), np.array([4]), 20)
    scores = exact(model, run, [3, 9, 1], 4)
    np.testing.assert_array_equal(best.items[0], [*np.argsort(-scores, kind="stable"), *[-1] * 5])
    assert np.isneginf(best.scores[0, 15:]).all()


def test_users_without_a_number_are_asked_about_as_unknown(run):
    model, histories = run.after(), histories_of([3, 9, 1], [5])
    nobody, unknown, known = (
        model.recommend(histories, users, 5) for users in (None, np.array([-1, -1]), np.array([4, 8]))
    )
    np.testing.assert_array_equal(nobody.scores, unknown.scores)
    assert (known.scores != unknown.scores).any()


def test_only_the_latest_items_are_shown(run):
    model = run.after()
    long, short = ([7, 8, 3, 9, 1, 2, 0], [3, 9, 1, 2, 0])
    best = model.recommend(histories_of(long, short), None, 5)
    np.testing.assert_array_equal(best.items[0], best.items[1])
    np.testing.assert_allclose(best.scores[0], best.scores[1], atol=1e-5)


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_it_can_ask_in_every_wording_that_it_was_trained_with(instruction, tmp_path):
    run = written(tmp_path / "run", f"training.instruction={instruction}", "training.dense=false")
    model, histories, texts = run.after(), histories_of([3, 9, 1], [5, 2]), INSTRUCTIONS[instruction]
    assert model.wordings == list(texts)
    answers = [model.worded(number).recommend(histories, None, 5) for number in range(len(texts))]
    np.testing.assert_array_equal(answers[0].scores, model.recommend(histories, None, 5).scores)
    assert len({answer.scores.tobytes() for answer in answers}) == len(texts)
    assert model.worded(2).wordings == [texts[2]] and model.wordings == list(texts), "a view, not a change"
    with pytest.raises(IndexError):
        model.worded(len(texts))


@pytest.mark.parametrize("text", ["{}", "[1]", '{"sequential": []}', "no JSON", "7"])
def test_wordings_that_are_none_get_one_line(text, tmp_path):
    (tmp_path / "instructions.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"instructions\.json cannot be read .*copy the run again"):
        load_wordings(tmp_path)


@pytest.mark.parametrize("missing", ["index/items.parquet", "index/users.parquet"])
def test_a_table_that_is_missing_or_of_other_items_gets_one_line(missing, tmp_path):
    here = written(tmp_path / "run")
    (here.folder / missing).unlink()
    with pytest.raises(RunError, match="is not an index table") as error:
        here.after()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_noise_in_a_file_of_the_llm_is_said_to_be_damage_of_the_run(file, tmp_path):
    here = written(tmp_path / "run")
    path = here.folder / "model" / file
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(RunError, match=r"/model cannot be loaded \(.+\): copy or train the run again$") as error:
        here.after()
    assert "\n" not in str(error.value) and "tiny" not in str(error.value)


def test_tables_come_back_in_the_order_of_the_dataset(run):
    """The run names items by id; a dataset that numbers them otherwise gets them by its own numbers."""
    order = np.random.default_rng(0).permutation(15)
    other = Dataset("shop", run.dataset.items[order.tolist()], run.dataset.users, run.dataset.interactions, {})
    model = load_generative(run.folder, run.settings, other)
    np.testing.assert_array_equal(model.index.items, run.after().index.items[order])


def test_numbers_are_computed_in_what_the_settings_say():
    cpu = torch.device("cpu")
    assert computing_type(True, cpu) is torch.bfloat16 and computing_type(False, cpu) is None
    assert computing_type("auto", cpu) in (None, torch.bfloat16)
    assert choose_device("cpu") == cpu and isinstance(choose_device("auto"), torch.device)
