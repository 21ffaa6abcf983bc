"""The wordings of every task, as data, and how one is cut into tokens around its slots.

A wording ends with the slot that is asked for. In the sequential task that is the history itself: the next index
follows where the history stops, so one pass supervises every position of it, and the prompt of a user is the beginning
of the prompt of the same user one item later. The paper prints one wording with the question behind the history
(§2.2.3); such a one has to be asked once per prefix, and trains with `training.dense=false` only. So the sequential
task has two forms, and a run speaks in one of them (`training.instruction`).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from transformers import PreTrainedTokenizerFast

from ed2rec.errors import ConfigError

SEQUENTIAL = "sequential"  # the name of the task

# Its wordings, by the setting training.instruction.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "open": (  # short: in a packed row of short histories, words cost as much as items
        "Recommend to user {user}: {history}",
        "User {user} chose, in this order: {history}",
        "What comes next for {user}? {history}",
        "The history of {user} and its continuation: {history}",
    ),
    "question": (  # the paper's, then ours
        "You are an expert in sequential recommendation. On the basis of the historical interaction sequence: "
        "{history}, could you please predict the most suitable item for user {user}? {item}",
        "User {user} chose, in this order: {history}. What comes next? {item}",
        "After {history}, recommend to user {user}: {item}",
        "The history of {user} is {history}, and its continuation: {item}",
    ),
}

HISTORY_FIRST = "The user chose, in this order: {history}. "  # put before a wording that may be asked with the history


class Form(NamedTuple):
    """What a wording of a task must look like. needs: its slots, once each; the last one is the answer."""

    needs: tuple[str, ...]
    with_history: bool = False  # asked in half of the examples with the user's history before it (§2.4)


INSTRUCTION_FORMS = {"open": Form(("user", "history")), "question": Form(("user", "history", "item"))}

# Appendix D names 5 + 3 + 3 + 3 wordings of the high-order tasks; `title` and `description` are the alignment that the
# case study (Fig. 5) needs. Each direction is a task of its own, because each has another answer.
FORMS = {
    "copurchase": Form(("item", "users", "user")),
    "comment": Form(("user", "item", "comment"), with_history=True),
    "query": Form(("user", "query", "item"), with_history=True),
    "preference": Form(("user", "profile"), with_history=True),
    "title": Form(("item", "title")),
    "description": Form(("item", "description")),
    "find": Form(("title", "item")),
    "find-described": Form(("title", "description", "item")),
}
HIGH_ORDER = ("copurchase", "comment", "query", "preference")  # what the ablation "w/o exploit" takes away (Table 2)

WORDINGS: dict[str, tuple[str, ...]] = {
    "copurchase": (
        "The item {item} has been historically clicked by users {users}. Can you predict another possible user which "
        "will click this item? {user}",
        "According to the users {users} that have clicked the item {item}, can you determine the next possible user "
        "wanting the same item? {user}",
        "After clicked by these users {users}, who is the next user that may be keen on the item {item}? {user}",
        "You have access to the item {item}'s historical user interaction record {users}. Now your task is to predict "
        "another possible user that loves the same item based on the past interaction. {user}",
        "Considering the fact that several users {users} have clicked the same item {item}, forecast who is the next "
        "user that will be interested in this item. {user}",
    ),
    "comment": (
        "Based on the user preference, what is the comment of user {user} on item {item}? {comment}",
        "Within the online shopping website, how does {user} feel after buying item {item}? {comment}",
        "I want to know how user {user} describes item {item}, could you inform me the description? {comment}",
    ),
    "query": (
        "The user {user} searches for {query}, could you deduce what item he will like? {item}",
        "Based on the user {user} current query {query}, please select the most suitable item for him. {item}",
        "As a search engine, please answer the query {query} of user {user} by providing the possible item. {item}",
    ),
    "preference": (
        "What is the preference of user {user}? {profile}",
        "As a recommender system, briefly summarize the preference of user {user}. {profile}",
        "How to describe the preference of user {user}? {profile}",
    ),
    "title": ("What is the title of item {item}? {title}", "Item {item} is called: {title}"),
    "description": ("Describe item {item}: {description}", "What kind of thing is item {item}? {description}"),
    "find": ("Which item is called {title}? {item}", "The index of {title}: {item}"),
    "find-described": (
        "Which item is called {title} and described as {description}? {item}",
        "The index of {title}, which is {description}: {item}",
    ),
}


@dataclass(frozen=True)
class Wording:
    """One instruction with its slots, cut into token ids: text before, between and behind the slots.

    parts: what follows one another: arrays of text-token ids, or the names of slots. The first part starts with the
    beginning-of-sequence token where the tokenizer has one; the last part is the slot that is asked for.
    """

    text: str
    parts: tuple[np.ndarray | str, ...]

    @classmethod
    def of(cls, text: str, tokenizer: PreTrainedTokenizerFast, needs: Collection[str], answer: str) -> "Wording":
        """ConfigError where a slot is unknown, missing or doubled, or the answer does not come last."""
        pieces = _pieces(text, needs, answer)
        parts: list[np.ndarray | str] = []
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        for words, slot in zip_longest(pieces[::2], pieces[1::2]):
            ids = start + tokenizer(words.strip(), add_special_tokens=False)["input_ids"]
            start = []
            if ids:
                parts.append(np.asarray(ids, np.int64))
            if slot:
                parts.append(slot)
        return cls(text, tuple(parts))

    @cached_property
    def text_tokens(self) -> int:
        """Tokens of the words around the slots."""
        return sum(len(part) for part in self.parts if not isinstance(part, str))

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))

    @property
    def open_ended(self) -> bool:
        """Whether the history comes last, so that every position of it can be supervised."""
        return self.parts[-1] == "history"


def _pieces(text: str, needs: Collection[str], answer: str) -> list[str]:
    """Words, slot, words, slot, …, words. ConfigError as `Wording.of`."""
    pieces = re.split(r"\{([^{}]*)\}", text)
    slots = pieces[1::2]
    if sorted(slots) != sorted(needs) or slots[-1] != answer or pieces[-1].strip():
        wanted = ", ".join(f"{{{slot}}}" for slot in needs)
        raise ConfigError(
            f"instruction {text!r} has the slots {', '.join(slots) or 'none'}: it needs {wanted}, once each, and "
            f"must end with {{{answer}}}"
        )
    return pieces


def task_wordings(tokenizer: PreTrainedTokenizerFast, task: str, texts: Sequence[str]) -> list[Wording]:
    """Of the sequential task, or of one beside it (a key of FORMS): plain, and where its form allows it each with the
    history before it as well."""
    plain, longer = [], []
    for text in texts:
        needs, with_history = _form(task, text)
        plain.append(Wording.of(text, tokenizer, needs, needs[-1]))
        if with_history:
            longer.append(Wording.of(HISTORY_FIRST + text, tokenizer, ("history", *needs), needs[-1]))
    return plain + longer


def _form(task: str, text: str) -> Form:
    """What a wording has to look like; of the sequential task's two forms, the one that it ends like."""
    if task == SEQUENTIAL:
        return INSTRUCTION_FORMS["open" if text.rstrip().endswith("{history}") else "question"]
    return FORMS[task]


def read_wordings(path: Path, instruction: str = "open") -> dict[str, tuple[str, ...]]:
    """A prompt file: YAML, task → list of wordings, which take the place of ours.

    instruction: the form that those of the sequential task must have, a key of INSTRUCTIONS.
    ConfigError for a file that cannot be read, is no such mapping, names a task that does not exist, or has a wording
    with other slots than its task's, whether that task will be on or not.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"prompt file {path} cannot be read ({' '.join(str(error).split())})") from None
    forms = {SEQUENTIAL: INSTRUCTION_FORMS[instruction], **FORMS}
    if not isinstance(content, Mapping):
        raise ConfigError(f"prompt file {path} must map tasks to lists of wordings: {', '.join(forms)}")
    for task, texts in content.items():
        if task not in forms:
            raise ConfigError(f"prompt file {path} names the task {task!r}; there are {', '.join(forms)}")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"prompt file {path}: {task} must be a list of at least one wording, each a text")
        asked = f"{task} with training.instruction={instruction}" if task == SEQUENTIAL else task
        for text in texts:
            try:
                _pieces(text, forms[task].needs, forms[task].needs[-1])
            except ConfigError as error:
                raise ConfigError(f"prompt file {path}, {asked}: {error}") from None
    return {task: tuple(texts) for task, texts in content.items()}
