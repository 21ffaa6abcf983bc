"""Wordings: what may be written, and how it is cut into tokens."""

import pytest
from worlds import WORDS, word_tokenizer

from ed2rec.errors import ConfigError
from ed2rec.instructions.templates import INSTRUCTIONS, SEQUENTIAL, Wording, task_wordings


def sequential(text: str) -> Wording:
    (wording,) = task_wordings(word_tokenizer(), SEQUENTIAL, (text,))
    return wording


def spelled(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def parts(wording: Wording) -> list[str | list[int]]:
    return [part if isinstance(part, str) else part.tolist() for part in wording.parts]


def test_a_wording_is_the_text_around_its_slots_after_the_beginning_of_sequence():
    wording = sequential("recommend a next item for {user} history : {history}")
    assert parts(wording) == [spelled("<s> recommend a next item for"), "user", spelled("history :"), "history"]
    assert wording.text_tokens == 6 + 2 and wording.open_ended


def test_a_question_behind_the_history_closes_the_wording():
    wording = sequential("{history} , recommend for {user} answer : {item}")
    assert parts(wording) == [
        spelled("<s>"),
        "history",
        spelled(", recommend for"),
        "user",
        spelled("answer :"),
        "item",
    ]
    assert not wording.open_ended


def test_a_tokenizer_without_beginning_of_sequence_adds_nothing():
    tokenizer = word_tokenizer()
    tokenizer.bos_token = None
    assert parts(Wording.of("{user} {history}", tokenizer, ("user", "history"), "history")) == ["user", "history"]


@pytest.mark.parametrize(
    "text",
    [
        "recommend {user}", "{history}", "{user} {user} {history}", "{user} {history} {query}", "{User} {history}",
        "no slots", "", "{} {user} {history}", "{history} and {user", "{user and {history}", "user} {history}",
        "{{user}} {{history}} {user} {history}", "{history} {user}", "{user} {history} please",
    ],
)  # fmt: skip
def test_slots_that_are_missing_doubled_unknown_or_open_are_refused(text):
    with pytest.raises(ConfigError, match=r"it needs \{user\}, \{history\}.*, once each, and must end") as error:
        sequential(text)
    assert "\n" not in str(error.value)


def test_a_lone_brace_is_text():
    wording = sequential("{user} } {history}")
    assert [part for part in wording.parts if isinstance(part, str)] == ["user", "history"]


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_the_wordings_of_a_form_end_with_the_history_or_with_the_item_behind_a_question(instruction):
    texts = INSTRUCTIONS[instruction]
    several = task_wordings(word_tokenizer(), SEQUENTIAL, texts)
    assert [wording.text for wording in several] == list(texts) and len(set(texts)) >= 4
    assert all(wording.open_ended == (instruction == "open") for wording in several)


def test_the_first_question_is_the_one_that_the_paper_prints():
    assert INSTRUCTIONS["question"][0] == (
        "You are an expert in sequential recommendation. On the basis of the historical interaction sequence: "
        "{history}, could you please predict the most suitable item for user {user}? {item}"
    )
