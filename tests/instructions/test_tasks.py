"""The high-order and alignment tasks: what an example shows and asks for, and how much of an epoch they take."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import ASKED
from test_sequential import INDEX, TOKENIZER, names
from worlds import WORDS

from ed2rec.data.dataset import Histories
from ed2rec.errors import ConfigError
from ed2rec.instructions.examples import ITEM, TEXT, USER, Example, lay_out, lengths_of
from ed2rec.instructions.sequential import SequentialPlan
from ed2rec.instructions.tasks import KEPT, Mixture, Task, copurchase, from_rows, read_texts
from ed2rec.instructions.templates import FORMS, HIGH_ORDER, SEQUENTIAL, WORDINGS, read_wordings, task_wordings

READ = read_texts(TOKENIZER, 4)
HISTORIES = Histories.from_lists([[1, 2, 4], [3], [0, 2], [1]])
BUYERS = Histories.from_lists([[2], [0, 3], [0, 2, 1, 3], [], [0]])


def example_of(task: str, text: str, rows: dict, **options) -> Example:
    made = from_rows(task, pl.DataFrame(rows), task_wordings(TOKENIZER, task, [text]), READ, HISTORIES, **options)
    return next(made.stream(np.random.default_rng(0), 5))


def test_the_comment_of_a_user_on_an_item_is_asked_for_in_words_that_end():
    rows = {"user": [1], "item": [4], "position": [0], "comment": ["the user has bought these items"]}
    made = from_rows("comment", pl.DataFrame(rows), task_wordings(TOKENIZER, "comment", ["{user} : {item} {comment}"]),
                     READ, HISTORIES)  # fmt: skip
    plain = Example(made.wordings[0], made.fill(0, made.wordings[0], np.random.default_rng(0)), 5)
    tokens = lay_out([plain], INDEX)
    assert names(tokens.ids) == "<s> <ua_0> : <a_2> <b_2> the user has bought </s>", "cut to four tokens"
    assert tokens.target.tolist() == [False] * 5 + [True] * 5
    assert tokens.kind.tolist() == [TEXT, USER, TEXT, ITEM, ITEM] + [TEXT] * 5


def test_a_wording_with_the_history_shows_what_was_taken_before():
    rows = {"user": [0], "item": [4], "position": [2], "comment": ["user"]}
    made = from_rows("comment", pl.DataFrame(rows), task_wordings(TOKENIZER, "comment", ["{user} : {item} {comment}"]),
                     READ, HISTORIES, max_history=1)  # fmt: skip
    longer = made.wordings[1]
    slots = made.fill(0, longer, np.random.default_rng(0))
    assert slots["history"].values.tolist() == [2] and slots["history"].first == 1, "the latest, not asked for"


def test_a_query_is_answered_with_an_item():
    example = example_of("query", "{user} , {query} : {item}",
                         {"user": [3], "item": [1], "position": [0], "query": ["the items"]})  # fmt: skip
    asked = [names for names, slot in example.slots.items() if len(slot.asked)]
    assert asked == ["item"] and example.slots["item"].values.tolist() == [1] and example.task == 5
    assert WORDS[example.slots["query"].values[-1]] == "items", "what is shown has no end"


def test_another_taker_is_named_after_some_who_took_it():
    asked = task_wordings(TOKENIZER, "copurchase", ["{item} : {users} {user}"])
    made = copurchase(BUYERS, BUYERS, asked, shown_users=2)
    seen = Counter()
    for seed in range(60):
        for example in made.stream(np.random.default_rng(seed), 2):
            item, users, user = (example.slots[slot].values.tolist() for slot in ("item", "users", "user"))
            takers = BUYERS[item[0]].tolist()
            assert len(takers) >= 2 and user[0] in takers and user[0] not in users
            assert users == [taker for taker in takers if taker in users], "in the order in which they took it"
            assert len(users) == min(2, len(takers) - 1)
            seen[item[0], user[0]] += 1
    assert set(seen) == {(1, 0), (1, 3), *((2, user) for user in range(4))}, "every taker is asked for some time"


def test_only_those_who_may_be_asked_for_are():
    answers = Histories.from_lists([[], [3], [], [], [0]])
    made = copurchase(BUYERS, answers, task_wordings(TOKENIZER, "copurchase", ["{item} : {users} {user}"]))
    (example,) = made.stream(np.random.default_rng(0), 2)
    assert example.slots["item"].values.tolist() == [1] and example.slots["user"].values.tolist() == [3]


@pytest.mark.parametrize("task", FORMS)
def test_our_wordings_have_the_slots_of_their_task(task):
    texts = WORDINGS[task]
    found = task_wordings(TOKENIZER, task, texts)
    needs, with_history = FORMS[task]
    assert all(wording.slots[-1] == needs[-1] for wording in found)
    assert [wording.text for wording in found[: len(texts)]] == list(texts)
    assert sum("history" in wording.slots for wording in found) == (len(texts) if with_history else 0)


def test_appendix_d_names_fourteen_wordings_of_high_order_tasks():
    assert [len(WORDINGS[task]) for task in HIGH_ORDER] == [5, 3, 3, 3]


MADE = task_wordings(TOKENIZER, "title", ["the item {item} : {title}"])


def words_task(name: str, rows: int) -> Task:
    table = pl.DataFrame({"item": np.arange(rows) % 5, "title": ["the user"] * rows})
    return from_rows(name, table, MADE, READ, HISTORIES)


MAIN = SequentialPlan(
    Histories.from_lists([range(5)] * 30), task_wordings(TOKENIZER, SEQUENTIAL, (ASKED,)), has_users=False
)


NEXT = np.array([[1, 2], [2, 3], [3, 4], [4, 0], [0, 1]])  # neighbours of the similarity task


@given(st.lists(st.integers(0, 60), max_size=3), st.floats(0, 0.5), st.floats(0, 60), st.integers(0, 2**32))
@settings(deadline=None)  # hundreds of examples are drawn
def test_the_sequential_task_keeps_half_and_loses_nothing(sizes, share, walks, seed):
    tasks = [words_task(str(size), size) for size in sizes]
    plan = replace(MAIN, neighbours=NEXT, walks=walks)
    mixture = Mixture(plan, tasks, share, INDEX.lengths())
    drawn = mixture.draw(np.random.default_rng(seed))
    lengths = lengths_of(drawn, *INDEX.lengths()).tolist()
    assert lengths == lay_out(drawn, INDEX).lengths.tolist()
    tokens = [sum(n for e, n in zip(drawn, lengths, strict=True) if e.task in kinds) for kinds in ({0}, {1}, range(2))]
    longest = lengths_of(plan.draw(np.random.default_rng(seed)), *INDEX.lengths()).max()
    assert (1 + KEPT) * tokens[0] >= sum(lengths) and tokens[2] >= (1 - share) * sum(lengths) - longest
    planned, counts = plan.draw(np.random.default_rng(seed)), Counter(example.task for example in drawn)
    assert counts[0] == len(MAIN.histories) and set(counts) <= set(range(2 + len(tasks)))
    if counts[1] < sum(example.task == 1 for example in planned):  # some were left out: no whole walk more had fitted
        assert sum(lengths) > (1 + KEPT) * tokens[0] - lengths_of(planned, *INDEX.lengths()).max()
    assert all(counts[2 + number] <= task.rows for number, task in enumerate(tasks))


def test_tasks_have_the_same_part_of_the_share_or_all_they_have():
    tasks = [words_task("few", 3), words_task("many", 900), words_task("more", 900)]
    mixture = Mixture(MAIN, tasks, 0.5, INDEX.lengths())
    tokens = Counter()
    drawn = mixture.draw(np.random.default_rng(1))
    for example, length in zip(drawn, lengths_of(drawn, *INDEX.lengths()).tolist(), strict=True):
        tokens[mixture.names[example.task]] += length
    few = 3 * lengths_of(list(words_task("few", 3).stream(np.random.default_rng(0), 2)), *INDEX.lengths()).max()
    assert 0 < tokens["few"] <= few and abs(tokens["many"] - tokens["more"]) <= few
    assert 0.45 < 1 - tokens["sequential"] / tokens.total() <= 0.5


def test_a_mixture_of_nothing_is_nothing():
    nobody = replace(MAIN, histories=Histories.from_lists([[1]]))
    assert Mixture(nobody, [words_task("many", 9)], 0.5, INDEX.lengths()).draw(np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("title: ['What is {item}? {titel}']", None),
        ("titles: ['{item} {title}']", "names the task 'titles'"),
        ("title: '{item} {title}'", "must be a list"),
        ("title: []", "must be a list"),
        ("[1, 2]", "must map tasks to lists"),
        ("title: [", "cannot be read"),
        ("sequential: ['{user}: {history} {query}']", r"instruction=open: .*it needs {user}, {history}, once each"),
    ],
)
def test_a_prompt_file_with_a_fault_is_refused_in_one_line(content, says, tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=says or "it needs {item}, {title}, once each") as error:
        read_wordings(file)
    assert "\n" not in str(error.value)


def test_a_prompt_file_s_wordings_are_taken(tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text("title:\n- 'Name {item}: {title}'\nsequential: ['{user} then {history}']\n")
    assert read_wordings(file) == {"title": ("Name {item}: {title}",), "sequential": ("{user} then {history}",)}


def test_a_prompt_file_s_sequential_wordings_have_the_form_that_is_asked_in(tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text("sequential: ['{history}, and for {user}? {item}']\n")
    assert read_wordings(file, "question") == {"sequential": ("{history}, and for {user}? {item}",)}
    with pytest.raises(ConfigError, match=r"training\.instruction=open: .* must end with {history}") as error:
        read_wordings(file, "open")
    assert "\n" not in str(error.value)
