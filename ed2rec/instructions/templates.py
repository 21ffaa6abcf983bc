"""The wordings of the sequential-recommendation instruction, as data, and how one is laid out in tokens.

A wording ends with its history, so that the next index follows where the history stops: then one pass supervises
every position of a history, and the prompt of a user is the beginning of the prompt of the same user one item later.
The paper prints one wording with the question behind the history (§2.2.3); it has to be asked once per prefix
(`QUESTION`), and trains with `training.dense=false` only.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

import numpy as np
from transformers import PreTrainedTokenizerFast

from ed2rec.errors import ConfigError

SEQUENTIAL = (  # short: in a packed row of short histories, words cost as much as items
    "Recommend to user {user}: {history}",
    "User {user} chose, in this order: {history}",
    "What comes next for {user}? {history}",
    "The history of {user} and its continuation: {history}",
)
QUESTION = (
    "You are an expert in sequential recommendation. On the basis of the historical interaction sequence: {history}, "
    "could you please predict the most suitable item for user {user}?",
)
INSTRUCTIONS = {"open": SEQUENTIAL, "question": QUESTION}  # by the setting training.instruction


@dataclass(frozen=True)
class Wording:
    """One instruction with its slots, cut into token ids: text before, between and behind the slots.

    parts: what follows one another: arrays of text-token ids, "user" or "history". The first part starts with the
    beginning-of-sequence token where the tokenizer has one.
    """

    text: str
    parts: tuple[np.ndarray | str, ...]

    @classmethod
    def of(cls, text: str, tokenizer: PreTrainedTokenizerFast) -> "Wording":
        """ConfigError where a slot is unknown, missing or doubled."""
        pieces = re.split(r"\{([^{}]*)\}", text)  # words, slot, words, slot, words
        if sorted(pieces[1::2]) != ["history", "user"]:
            raise ConfigError(
                f"instruction {text!r} has the slots {pieces[1::2]}: it needs {{user}} and {{history}}, once each"
            )
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
        return sum(len(part) for part in self.parts if not isinstance(part, str))

    @property
    def open_ended(self) -> bool:
        """Whether the history comes last, so that every position of it can be supervised."""
        return isinstance(self.parts[-1], str) and self.parts[-1] == "history"


def wordings(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...] = SEQUENTIAL) -> list[Wording]:
    return [Wording.of(text, tokenizer) for text in texts]
