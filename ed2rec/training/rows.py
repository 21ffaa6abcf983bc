"""What the LLM's rows of the index tokens start from, at the beginning and when the index is made anew.

Shape letters: K entities, H LLM width.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ed2rec.indexers.behaviour import Behaviour
from ed2rec.indexers.contract import IndexTable
from ed2rec.model import Branch
from ed2rec.vocabulary import IndexVocabulary, Kind

KINDS: tuple[Kind, ...] = ("item", "user")
DEEP_HEAD = 0.3  # length of the deeper levels' head rows, as a share of what they were: near enough to uniform


def start_rows(llm: PreTrainedModel, vocabulary: IndexVocabulary, branch: Branch, meanings: np.ndarray) -> None:
    """Rows of the index tokens from the meaning of their entities, level by level on what is left to say.

    meanings: (K, H) mean token embeddings of the texts: the space in which embedding and head read and write.
    """
    for m, rows in enumerate(_level_means(torch.as_tensor(meanings, dtype=torch.float32), branch.table)):
        noisy = rows + 0.3 * rows.std() * torch.randn_like(rows)
        vocabulary.start_rows(llm, branch.kind, m, noisy, head_NH=rows)


@torch.no_grad()
def calm_head(llm: PreTrainedModel, vocabulary: IndexVocabulary, texts: Sequence[Sequence[int]]) -> None:
    """Shorten the head's rows of the index tokens, level by level, until the logits of a level deviate by 1 at most.

    texts: token ids, whose last states are as long as those that will be asked. Where they are long, as in a pretrained
    LLM, rows of the length of words' say at random and with certainty what comes next, and a training begins at 50 nats
    where guessing has log N = 8. Nothing changes where logits are calm, or where the head is the embedding.
    """
    head = cast(Tensor, llm.get_output_embeddings().weight)
    if head is llm.get_input_embeddings().weight or not texts:
        return
    ids = (torch.tensor(text, device=llm.device)[None] for text in texts)
    body = llm.get_decoder()
    states = torch.cat([body(input_ids=row, use_cache=False).last_hidden_state[0] for row in ids]).float()
    for kind in KINDS:
        for level in range(vocabulary.levels(kind) + 1):
            rows = head.detach()[vocabulary.slice_of(kind, level)]
            if not len(rows):
                continue
            deviation = (states @ rows.float().T).std(1, correction=0).mean()
            if deviation > 1:
                rows /= deviation


@torch.no_grad()
def carry_rows(
    llm: PreTrainedModel,
    vocabulary: IndexVocabulary,
    kind: Kind,
    before: IndexTable,
    after: IndexTable,
    behaviour: Behaviour,
) -> None:
    """Rows for a new table from what the LLM has learned with the old one, so that it need not start over.

    Embedding: as in `start_rows`, where an item's meaning is the sum of the rows of its old index. Head, where it has
    rows of its own: at the first level the mean state from which the items of a code are asked for, which is what its
    logit has to answer to; deeper levels, whose states follow tokens that are new, start small and at random.
    """
    embedding = cast(Tensor, llm.get_input_embeddings().weight).detach()
    ids = torch.as_tensor(vocabulary.token_ids(kind, before)[:, : before.levels], device=embedding.device)
    meanings = embedding[ids].float().sum(1).cpu()
    generator = torch.Generator().manual_seed(after.version)
    for m, rows in enumerate(_level_means(meanings, after)):
        noise = torch.randn(rows.shape, generator=generator)
        heads = behaviour.by_code(after.codes[:, 0], after.sizes[0]) if m == 0 else noise
        embedding_rows = rows + 0.1 * rows.std() * noise
        vocabulary.replace_rows(llm, kind, m, embedding_rows, heads, 1.0 if m == 0 else DEEP_HEAD)


def _level_means(rest: Tensor, table: IndexTable) -> list[Tensor]:
    """Level 1: the mean over the entities that carry a code; level m: the mean of what the rows before leave over.
    So the rows of an entity's index add up to about its meaning."""
    rest = rest - rest.mean(0)
    found = []
    for m, size in enumerate(table.sizes):
        codes = torch.as_tensor(table.codes[:, m], dtype=torch.long)
        total = torch.zeros(size, rest.shape[1]).index_add_(0, codes, rest)
        rows = total / torch.bincount(codes, minlength=size).clamp_min(1)[:, None]
        found.append(rows)
        rest = rest - rows[codes]
    return found
