"""Everything that a trained LLM can be asked besides the next item: titles, preferences, comments, queries, users.

Each question is a prompt of the task it was trained on, in that task's first wording. Answers in words are decoded
greedily over the text vocabulary, answers that are items or users by constrained beam search over the trie of the
catalogue or of the users, so nothing comes out that does not exist.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ed2rec.decoding import Decoder, most_tokens
from ed2rec.errors import RunError
from ed2rec.generative import GenerativeRecommender, load_wordings
from ed2rec.indexers.contract import IndexTable
from ed2rec.instructions.examples import ITEM, TEXT, USER, Slot, prompt, shown
from ed2rec.instructions.sequential import who
from ed2rec.instructions.tasks import SHOWN_USERS, read_texts
from ed2rec.instructions.templates import SEQUENTIAL, Wording, task_wordings
from ed2rec.recommender import Recommendations
from ed2rec.trie import Trie

WRITERS = 32  # prompts that are continued in words at a time


class Teller:
    """The LLM of a recommender, asked in the wordings of other tasks.

    wordings   by task, as the run was trained; a question whose task is not there raises RunError
    users      index table of the users; None without a user branch
    """

    def __init__(
        self,
        recommender: GenerativeRecommender,
        tokenizer: PreTrainedTokenizerFast,
        wordings: Mapping[str, Sequence[Wording]],
        users: IndexTable | None,
    ) -> None:
        self.recommender, self.tokenizer, self.wordings = recommender, tokenizer, wordings
        decoder = recommender.decoder
        self.user_trie = None if users is None else Trie(users, decoder.llm.device)
        self.user_decoder = Decoder(
            decoder.llm, decoder.vocabulary, decoder.normalise, decoder.users, decoder.dtype, kind="user"
        )

    @classmethod
    def load(cls, recommender: GenerativeRecommender, folder: Path) -> "Teller":
        """folder: the run that the recommender comes from."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder / "model"))
        spoken = {task: texts for task, texts in load_wordings(folder).items() if task != SEQUENTIAL}
        asked = {task: task_wordings(tokenizer, task, texts) for task, texts in spoken.items()}
        path = folder / "index" / "users.parquet"
        return cls(recommender, tokenizer, asked, IndexTable.load(path) if path.exists() else None)

    def titles(self, items: Sequence[int], max_tokens: int = 32) -> list[str]:
        """The title of each item, as the LLM understands its index."""
        return self._write("title", [{"item": shown(ITEM, np.array([item]))} for item in items], max_tokens)

    def preference(self, user: int, history: np.ndarray, max_tokens: int = 48) -> str:
        """What the user likes, in words, from the index and the latest items."""
        return self._write("preference", [{"user": who(user), "history": self._latest(history)}], max_tokens)[0]

    def comment(self, user: int, item: int, history: np.ndarray, max_tokens: int = 48) -> str:
        """What the user might say about the item."""
        slots = {"user": who(user), "item": shown(ITEM, np.array([item])), "history": self._latest(history)}
        return self._write("comment", [slots], max_tokens)[0]

    def items_for(self, query: str, user: int, history: np.ndarray, k: int) -> Recommendations:
        """The k best items for a query (one row). user: −1 for somebody unknown; history may be empty."""
        (words,) = read_texts(self.tokenizer, 48)([query])
        slots = {"user": who(user), "query": shown(TEXT, words[:-1]), "history": self._latest(history)}
        ask = [prompt(self._wording("query", len(history) > 0), slots, self.recommender.index)]
        return self.recommender.decoder.search(self.recommender.trie, ask, max(self.recommender.beam, k), k)

    def users_for(self, item: int, takers: np.ndarray, k: int) -> Recommendations:
        """The k likeliest next users of an item (one row of user numbers). takers: users who took it, oldest first;
        the latest are shown, and none of them comes out."""
        wording = self._wording("copurchase")
        assert self.user_trie is not None, "the task has user slots"
        slots = {"item": shown(ITEM, np.array([item])), "users": shown(USER, takers[-SHOWN_USERS:].astype(np.int64))}
        width = max(self.recommender.beam, k) + len(takers)
        found = self.user_decoder.search(self.user_trie, [prompt(wording, slots, self.recommender.index)], width)
        new = ~np.isin(found.items[0], takers)
        return Recommendations(found.items[:, new][:, :k], found.scores[:, new][:, :k])

    def _latest(self, history: np.ndarray) -> Slot:
        return shown(ITEM, history[-self.recommender.max_history :])

    def _wording(self, task: str, history: bool = False) -> Wording:
        """The first wording of a task: with the history before it where there is one and the task has such a form."""
        if task not in self.wordings:
            trained = ", ".join(self.wordings) or "none"
            raise RunError(f"this run was not trained on the task {task} (it was on: {trained}): train it again with "
                           f"tasks.use naming {task}, or auto")  # fmt: skip
        fitting = [wording for wording in self.wordings[task] if ("history" in wording.slots) == history]
        return (fitting or self.wordings[task])[0]

    @torch.inference_mode()
    def _write(self, task: str, slots: Sequence[Mapping[str, Slot]], max_tokens: int) -> list[str]:
        """Greedy answers in words. Prompts are padded on the left, so that all answers start at the same place."""
        history = any(len(slot["history"].values) for slot in slots if "history" in slot)
        wording = self._wording(task, history)
        prompts = [prompt(wording, slot, self.recommender.index) for slot in slots]
        texts: list[str] = []
        for start in range(0, len(prompts), WRITERS):
            texts += self._continue(prompts[start : start + WRITERS], max_tokens)
        return texts

    def _continue(self, prompts: Sequence[np.ndarray], max_tokens: int) -> list[str]:
        llm, decoder = self.recommender.decoder.llm, self.recommender.decoder
        width = max(len(tokens) for tokens in prompts)
        end = self.tokenizer.eos_token_id
        ids = torch.full((len(prompts), width), end, dtype=torch.long)
        real = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, width - len(tokens) :] = torch.from_numpy(tokens)
            real[row, width - len(tokens) :] = 1
        index = decoder.vocabulary.index_slice
        with torch.autocast(llm.device.type, decoder.dtype, enabled=decoder.dtype is not None):
            out = llm.generate(  # type: ignore[operator]
                ids.to(llm.device),
                attention_mask=real.to(llm.device),
                max_new_tokens=int(min(max_tokens, most_tokens(llm) - width)),
                do_sample=False,
                num_beams=1,
                no_repeat_ngram_size=2,  # a small model goes round in circles: a word, and the same word again
                suppress_tokens=list(range(index.start, len(llm.get_output_embeddings().weight))),
                eos_token_id=end,
                pad_token_id=end,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]
