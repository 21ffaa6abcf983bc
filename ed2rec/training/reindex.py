"""The index learns from behaviour: it is made anew once the LLM knows some.

A margin and a budget (indexers/refresh.py) let single items move, not the meaning of a code. So there is one moment, at
the end of the time in which the LLM learns the first index, at which the generator is fitted again, to texts and
behaviour together, and every item may move. The LLM's rows are carried over (training/rows.py), refreshes go on from
the new table, and the tail lets the LLM catch up.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ed2rec.indexers.behaviour import Behaviour
from ed2rec.indexers.refresh import Churn, build, churn_between
from ed2rec.indexers.variational import VariationalQuantiser
from ed2rec.instructions.examples import Batch
from ed2rec.model import JointModel
from ed2rec.training.rows import carry_rows


@dataclass(frozen=True)
class Reindex:
    """Makes the item index anew from texts and behaviour.

    texts            (K, E) the items' X_T
    weight           of behaviour beside texts
    batches          a pass over the training histories, laid out from the tables of that moment
    fit              fits a generator to (K, E + H) embeddings, from k-means on
    separate         as in `refresh.build`
    """

    model: JointModel
    texts: Tensor
    weight: float
    batches: Callable[[], Iterable[Batch]]
    fit: Callable[[VariationalQuantiser, Tensor], object]
    separate: bool

    def __call__(self) -> Churn:
        branch, vocabulary, llm = self.model.items, self.model.vocabulary, self.model.llm
        assert branch.quantiser is not None, "hashing learns nothing"
        behaviour = self._behaviour()
        branch.embeddings = behaviour.beside(self.texts, self.weight)
        self.fit(branch.quantiser, branch.embeddings)
        before = branch.table
        table = build(branch.quantiser, branch.embeddings, self.separate, vocabulary.suffixes(branch.kind))
        branch.table = replace(table, version=before.version + 1)
        carry_rows(llm, vocabulary, branch.kind, before, branch.table, behaviour)
        return churn_between(before, branch.table)

    @torch.no_grad()
    def _behaviour(self) -> Behaviour:
        """One pass of the LLM as it is now; what it thought while it was learning would be noise."""
        found = Behaviour.nothing(len(self.texts), self.model.llm.config.hidden_size, self.texts.device)
        was_training = self.model.training
        self.model.eval()
        for batch in self.batches():
            found.observe(*self.model.asked_from(Batch(*(part.to(self.texts.device) for part in batch))))
        self.model.train(was_training)
        return found
