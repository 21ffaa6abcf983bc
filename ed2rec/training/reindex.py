"""The index learns from behaviour: made anew once the LLM knows some of it, and kept up to date from then on.

A margin and a budget (indexers/refresh.py) let single items move, not the meaning of a code. So there is one moment, at
the end of the time in which the LLM learns the first index, at which the generator is fitted again, to texts and
behaviour together, and every item may move. The LLM's rows are carried over (training/rows.py), refreshes go on from
the new table, and the tail lets the LLM catch up.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ed2rec.indexers.refresh import Churn, build, churn_between
from ed2rec.indexers.variational import VariationalQuantiser
from ed2rec.model import JointModel
from ed2rec.training.rows import carry_rows


@dataclass(frozen=True)
class Reindex:
    """texts: (K, E) the items' X_T. fit: fits a generator to (K, E + H) embeddings, from k-means on.
    separate, limit: as in `refresh.build`. The item branch needs a `Behaviour`."""

    model: JointModel
    texts: Tensor
    fit: Callable[[VariationalQuantiser, Tensor], object]
    separate: bool
    limit: int

    def anew(self) -> Churn:
        """Another generator and table, made from texts and from what the LLM has seen so far."""
        branch, vocabulary, llm = self.model.items, self.model.vocabulary, self.model.llm
        assert branch.behaviour is not None and branch.quantiser is not None
        branch.behaviour.fit_whitening()
        branch.embeddings = branch.behaviour.beside(self.texts)
        self.fit(branch.quantiser, branch.embeddings)
        before = branch.table
        table = build(branch.quantiser, branch.embeddings, self.separate, self.limit)
        branch.table = replace(table, version=before.version + 1)
        carry_rows(llm, vocabulary, branch.kind, before, branch.table, branch.behaviour)
        branch.behaviour.forget()
        return churn_between(before, branch.table)

    def reread(self) -> None:
        """Before a refresh: the embeddings as the LLM sees the items by now."""
        behaviour = self.model.items.behaviour
        assert behaviour is not None
        self.model.items.embeddings = behaviour.beside(self.texts)
        behaviour.forget()
