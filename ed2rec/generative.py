"""LLM + trie + decoding = a Recommender."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ed2rec.backbone import load_backbone
from ed2rec.data.dataset import Dataset, Histories
from ed2rec.decoding import Decoder, Normalise
from ed2rec.device import choose_device, computing_type
from ed2rec.errors import BackboneError, RunError
from ed2rec.indexers.contract import IndexTable
from ed2rec.instructions.examples import IndexTokens, prompts
from ed2rec.instructions.sequential import before
from ed2rec.instructions.templates import SEQUENTIAL, Wording, task_wordings
from ed2rec.prior import TextPrior
from ed2rec.recommender import Recommendations
from ed2rec.settings import Settings
from ed2rec.trie import Trie
from ed2rec.vocabulary import IndexVocabulary

WORDINGS = "instructions.json"


class GenerativeRecommender:
    """Asks the LLM, in one wording, for the indices of the next item; only items of the catalogue can come out.

    items, users   index tables of one version; users None where there is no user index
    asked          the instructions it can ask in; it asks in `asked[0]`
    beam           beams per user, or k where more items are asked for
    max_history    items shown, the latest
    prior          what texts say beside the LLM, on its device; None: nothing
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        vocabulary: IndexVocabulary,
        items: IndexTable,
        users: IndexTable | None,
        asked: Sequence[Wording],
        *,
        beam: int = 20,
        max_history: int = 20,
        normalise: Normalise = "level",
        batch: int | None = None,
        dtype: torch.dtype | None = None,
        prior: TextPrior | None = None,
    ) -> None:
        self.decoder = Decoder(llm, vocabulary, normalise, batch, dtype)
        user_tokens = np.zeros((0, 0), np.int64) if users is None else vocabulary.token_ids("user", users)
        self.index = IndexTokens(vocabulary.token_ids("item", items), user_tokens, vocabulary.unknown_user)
        self.trie = Trie(items, llm.device)
        self.asked, self.beam, self.max_history, self.prior = list(asked), beam, max_history, prior

    @property
    def wordings(self) -> list[str]:
        """The instructions it knows."""
        return [wording.text for wording in self.asked]

    def worded(self, number: int) -> "GenerativeRecommender":
        """The same recommender, asking in wording `number`."""
        return self._but(asked=[self.asked[number]])

    def without_prior(self) -> "GenerativeRecommender":
        """The same recommender, which says what the LLM says and no more."""
        return self._but(prior=None)

    def _but(self, **changed: Any) -> "GenerativeRecommender":
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__ | changed
        return other

    def recommend(self, histories: Histories, users: np.ndarray | None, k: int) -> Recommendations:
        """users: numbers, −1 for a user without index. Scores are sums of log-probabilities, and the prior's."""
        numbers = np.full(len(histories), -1) if users is None else users
        slots = [before(int(user), histories[i][-self.max_history :]) for i, user in enumerate(numbers)]
        questions = prompts(self.asked[0], slots, self.index)
        texts = self.prior
        prior = None if texts is None else lambda rows: texts([histories[int(i)] for i in rows])
        return self.decoder.search(self.trie, questions, max(self.beam, k), k, prior)


def save_wordings(folder: Path, spoken: Mapping[str, Sequence[str]]) -> None:
    """What a run can be asked, by task: "sequential" and the tasks beside it that it was trained on."""
    (folder / WORDINGS).write_text(json.dumps(spoken, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_wordings(folder: Path) -> dict[str, list[str]]:
    """RunError where a run has none, or none for what every run is asked."""
    try:
        spoken = dict(json.loads((folder / WORDINGS).read_text(encoding="utf-8")))
        if not spoken.get(SEQUENTIAL):
            raise ValueError(f"no wording of the {SEQUENTIAL} task")
    except (OSError, TypeError, ValueError) as error:
        raise RunError(f"{folder / WORDINGS} cannot be read ({' '.join(str(error).split())}): copy the run again, or "
                       "train it again: ed2 train") from None  # fmt: skip
    return spoken


def load_generative(folder: Path, settings: Settings, dataset: Dataset) -> GenerativeRecommender:
    """The recommender of a run folder: model/, instructions.json, index/items.parquet, with a user branch
    index/users.parquet, and with a prior texts.safetensors."""
    try:
        tokenizer, llm = load_backbone(str(folder / "model"))
    except BackboneError as error:  # whose advice is for who chooses one
        reason = str(error.__context__ or error).strip().split("\n")[0]
        raise RunError(f"{folder / 'model'} cannot be loaded ({reason}): copy or train the run again") from None
    vocabulary = IndexVocabulary.from_tokenizer(tokenizer)
    items = IndexTable.load(folder / "index" / "items.parquet", dataset.items["item_id"].to_list())
    users = None
    if vocabulary.user_sizes:
        users = IndexTable.load(folder / "index" / "users.parquet", dataset.users["user_id"].to_list())
    device = choose_device(settings.training.device)
    llm.to(device)  # type: ignore[arg-type]
    d = settings.decoding
    return GenerativeRecommender(
        llm,
        vocabulary,
        items,
        users,
        task_wordings(tokenizer, SEQUENTIAL, load_wordings(folder)[SEQUENTIAL]),
        beam=d.beam,
        max_history=settings.data.max_history,
        normalise=d.normalise,
        dtype=computing_type(settings.training.bf16, device),
        prior=TextPrior.load(folder, d.prior, d.prior_items, len(items), device) if d.prior else None,
    )
