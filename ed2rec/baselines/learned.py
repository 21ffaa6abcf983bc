"""A trained baseline as a recommender: exact scores of the whole catalogue, a batch of histories at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ed2rec.baselines.contract import SequenceModel
from ed2rec.baselines.sequences import of_histories
from ed2rec.data.dataset import Histories
from ed2rec.data.splits import Cases
from ed2rec.errors import RunError
from ed2rec.prior import TextPrior
from ed2rec.recommender import Recommendations, top_k

FILE = "weights.safetensors"
BATCH = 256
"""Histories per pass: their scores of 100,000 items take 100 MB."""


@dataclass(frozen=True)
class Learned:
    """score(j) = <state, v_j> + b_j, on the model's device, without dropout.

    With a prior, score(j) = log softmax(<state, v> + b)_j + prior(j | history).
    catalogue: K; population: U, beyond which users are unknown; longest: the latest items of a history that are read;
    prior: what texts say beside the model, on its device.
    """

    model: SequenceModel
    catalogue: int
    population: int
    longest: int
    prior: TextPrior | None = None

    @torch.inference_mode()
    def _scores(self, histories: Histories, users: NDArray[np.int64] | None) -> Tensor:
        self.model.eval()
        batch = of_histories(
            histories, users, catalogue=self.catalogue, population=self.population, longest=self.longest
        ).to(next(self.model.parameters()).device)
        states = self.model.final(batch).float()
        table, bias = self.model.output()
        scores = states @ table.T if bias is None else torch.addmm(bias, states, table.T)
        if self.prior is None:
            return scores
        return scores.log_softmax(-1) + self.prior([histories[row] for row in range(len(histories))])

    def scores(self, histories: Histories, users: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """(n, K)."""
        return self._scores(histories, users).cpu().numpy()

    def recommend(self, histories: Histories, users: NDArray[np.int64] | None, k: int) -> Recommendations:
        items, scores = np.empty((len(histories), k), np.int64), np.empty((len(histories), k), np.float32)
        for rows in _batches(histories):
            found = top_k(self.scores(histories.take(rows), None if users is None else users[rows]), k)
            items[rows], scores[rows] = found.items, found.scores
        return Recommendations(items, scores)

    def ranks(self, cases: Cases) -> NDArray[np.int64]:
        """(n,) the rank of each target, ties counted against it, as the evaluator has it: without the lists, so
        that training can ask after every epoch."""
        found = np.empty(len(cases), np.int64)
        for rows in _batches(cases.histories):
            scores = self._scores(cases.histories.take(rows), cases.users[rows])
            target = torch.from_numpy(cases.targets[rows]).to(scores.device)
            found[rows] = (scores >= scores.gather(1, target[:, None])).sum(1).cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, folder / FILE)
        if self.prior is not None:
            self.prior.save(folder)

    def load(self, folder: Path) -> Learned:
        """The weights in the folder, put into this model. RunError where they are of another one."""
        try:
            self.model.load_state_dict(load_file(folder / FILE))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{folder / FILE} holds another model's weights ({reason}): train the run again") from None
        return self


def _batches(histories: Histories) -> Iterator[NDArray[np.int64]]:
    """Row numbers, BATCH at a time, short histories first, so that rows are hardly padded. What a batch leaves behind
    goes into one array made before the first: small arrays kept from every batch lie between the large ones, so that
    the heap grows by the size of the scores each time."""
    order = np.argsort(histories.lengths, kind="stable")
    for low in range(0, len(order), BATCH):
        yield order[low : low + BATCH]
