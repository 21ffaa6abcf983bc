"""What else a run's LLM can be asked, in a shop whose right answers are known: users mostly stay with one topic."""

import json

import numpy as np
import pytest
from small import TOPICS, shop, small_settings

from ed2rec import answers, workflow
from ed2rec.cli import run_command
from ed2rec.data.splits import leave_one_out
from ed2rec.errors import ConfigError, RunError, UnknownEntity
from ed2rec.telling import Teller

LEARNS = ["training.epochs=90", "training.lr=0.01", "training.dropout=0", "training.validations=0", "tasks.share=0.5",
          "training.checkpoints=0", "training.refreshes=0", "training.neighbours=0", "training.user_dropout=0",
          "backbone.hidden=32", "backbone.intermediate=64", "indexer.users=[8, 8]"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("telling")
    shop(users=45).save(folder / "shop")
    workflow.train(folder / "shop", folder / "run", small_settings(*LEARNS))
    return folder


@pytest.fixture(scope="module")
def run(place):
    return workflow.load(place / "run")


@pytest.fixture(scope="module")
def teller(run) -> Teller:
    return answers.tell(run)


def topic_of(item: int) -> int:
    return item // 5


def test_the_title_of_every_item_is_written_from_its_index(run, teller):
    titles = run.dataset.items["title"].to_list()
    written = teller.titles(range(len(titles)))
    right = [one == other for one, other in zip(written, titles, strict=True)]
    assert sum(right) >= 13, list(zip(written, titles, strict=True))


def test_titles_do_not_depend_on_which_are_asked_for_together(teller):
    together = teller.titles([3, 9, 12])
    assert together == [teller.titles([item])[0] for item in (3, 9, 12)]


def test_a_preference_is_told_in_words_of_the_user_s_topic(run, teller):
    said = [teller.preference(user, run.dataset.histories[user]) for user in range(12)]
    names = list(TOPICS)
    assert sum(names[user % 3] in text or any(word in text for word in TOPICS[names[user % 3]].split())
               for user, text in enumerate(said)) >= 9, said  # fmt: skip
    assert all(text and "<" not in text for text in said), "words, and no index tokens"


def test_a_comment_is_told_in_words_of_the_item_s_topic(run, teller):
    said = [teller.comment(0, item, np.array([], np.int64)) for item in (2, 7, 12)]
    for text, words in zip(said, TOPICS.values(), strict=True):
        assert set(text.split()) <= set(words.split()), text


def test_a_query_finds_items_of_its_topic(run, teller):
    for topic, words in enumerate(TOPICS.values()):
        best = teller.items_for(" ".join(words.split()[:2]), -1, np.array([], np.int64), 3)
        assert [topic_of(int(item)) for item in best.items[0]].count(topic) >= 2


def test_users_who_took_an_item_are_named_after_two_of_them(tmp_path):
    """A quarter of all pairs of user and item is in the training log; of the pairs that the model names, half are."""
    shop(users=45).save(tmp_path / "shop")
    only = ["indexer.user_reads=all", 'tasks.use=["copurchase"]']
    workflow.train(tmp_path / "shop", tmp_path / "run", small_settings(*LEARNS, *only))
    run = workflow.load(tmp_path / "run")
    train = leave_one_out(run.dataset.histories).train
    named, all_pairs = [], [item in train[user] for user in range(45) for item in range(15)]
    for item in range(15):
        takers = np.array([user for user in range(45) if item in train[user]][:2])
        found = answers.tell(run).users_for(item, takers, 5).items[0].tolist()
        assert not set(found) & set(takers.tolist()) and len(set(found)) == 5
        named += [item in train[user] for user in found]
    assert np.mean(all_pairs) < 0.3 and np.mean(named) > 0.45


def test_the_likely_users_of_an_item_do_not_have_it_yet(run):
    for item in (2, 7, 12):
        found = answers.likely_users(run, f"i{item}", k=5)
        numbers = [int(user[1:]) for user in found.users]
        assert len(set(numbers)) == 5 and found.scores == sorted(found.scores, reverse=True)
        assert all(item not in run.dataset.histories[user] for user in numbers)
        assert found.takers == sum(item in run.dataset.histories[user] for user in range(45))


def test_an_explanation_holds_the_target_out_and_marks_it(run):
    found = answers.explain(run, "u4", k=5, held_out=True)
    history = [int(item.item_id[1:]) for item in found.answer.history]
    assert history == run.dataset.histories[4][:-1].tolist()
    assert found.target is not None and found.target.item_id == f"i{run.dataset.histories[4][-1]}"
    row = found.as_dict()["recommendations"][0]
    assert row.keys() == {"rank", "item_id", "title", "score", "written_title"} and found.preference and found.comment
    assert answers.explain(run, "u4", k=2).target is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--item", "i2", "--user", "u1"], "--item lists users: give it alone"),
        (["--item", "i2", "--ensemble", "2"], "without --user, --history, --query and --ensemble"),
        (["--item", "nothing"], "no item 'nothing'"),
        (["--item", "i2", "--k", "99"], "the dataset has 45 users"),
        ([], "give either a user or a history, or a query"),
    ],
)
def test_questions_that_cannot_be_answered_get_one_line(arguments, says, place, capsys):
    assert run_command(["recommend", str(place / "run"), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_command_line_answers_queries_and_explains(place, capsys):
    run = str(place / "run")
    assert run_command(["recommend", run, "--query", "guitar piano", "--user", "u2", "--k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == "guitar piano" and len(found["recommendations"]) == 3
    assert run_command(["recommend", run, "--item", "i2", "--k", "3"]) == 0
    assert "users who may take" in capsys.readouterr().out
    assert run_command(["explain", run, "--user", "u4", "--held-out"]) == 0
    shown = capsys.readouterr().out
    assert "title as the model writes it" in shown and "in the model's words" in shown
    assert "what they might say of the first one" in shown


def test_a_run_that_was_not_trained_on_a_task_says_so(tmp_path):
    shop().save(tmp_path / "shop")
    workflow.train(tmp_path / "shop", tmp_path / "run", small_settings("training.epochs=1", 'tasks.use=["comment"]'))
    run = workflow.load(tmp_path / "run")
    with pytest.raises(RunError, match=r"not trained on the task query \(it was on: comment\)"):
        answers.recommend(run, query="guitar")
    with pytest.raises(RunError, match="neither titles nor preferences"):
        answers.explain(run, "u1")


def test_a_model_without_an_llm_cannot_be_asked_in_words(tmp_path):
    from ed2rec.config import resolve

    shop().save(tmp_path / "shop")
    workflow.train(tmp_path / "shop", tmp_path / "run", resolve(extra={"model": "popularity"}))
    run = workflow.load(tmp_path / "run")
    with pytest.raises(RunError, match="popularity run: only an ed2 run"):
        answers.recommend(run, query="guitar")
    with pytest.raises(UnknownEntity):
        answers.likely_users(run, "i999")
    with pytest.raises(ConfigError, match="either a user or a history"):
        answers.recommend(run, user_id="u1", item_ids=["i1"])
