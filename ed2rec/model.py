"""The joint model: LLM + index generators + vocabulary + regulator → named losses (§2.2-2.3).

One batch: histories become index tokens through the tables, tokens become embeddings; where a token stands for an
entity, its embedding also carries the generator's soft assignment, so the recommendation loss can tell the generator
which code would have served better:

    e = E[code] + Σ_k (p_k − sg p_k) · sg E[k]          p = softmax of the generator's logits at that level (Eq. 4)

The value is exactly the table's row. Labels carry no gradient, or the generator could lower the loss by giving every
entity one code: neither as ids, nor where a target's own codes are fed to predict its deeper ones. So only the user
and the items that an example shows and does not ask for carry the sum.
Shape letters: R rows, T tokens, M levels, N codes, H LLM width, n entities of a batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ed2rec.indexers.contract import IndexTable
from ed2rec.indexers.lsh import RandomHyperplanes
from ed2rec.indexers.variational import LOSS_WEIGHTS, Quantised, VariationalQuantiser
from ed2rec.instructions.examples import ITEM, TEXT, USER, Batch, IndexTokens
from ed2rec.regulator import Regulator
from ed2rec.vocabulary import IndexVocabulary, Kind


class Branch(nn.Module):
    """One half of the dual generator: its indexer, its entities' embeddings, and their index table now.

    indexer     makes the codes; where it learns along (HVQAE), `quantiser` is the same object
    embeddings  (K, E) what the indexer reads (X_T, whitened; behaviour beside it once it `learns`)
    serving     (K, E) what it reads for recommending, where that is more than training may show (users)
    rereads     the texts are read anew in training (D-LSH): both embeddings belong to the state that is saved
    learns      the embeddings are made anew in training (Reindex): they belong to the state that is saved
    teacher     (K, H) what the LLM's view of the index is aligned with (X_T, centred); zero rows have no text
    """

    embeddings: Tensor
    serving: Tensor | None
    teacher: Tensor
    codes: Tensor

    def __init__(
        self,
        kind: Kind,
        indexer: VariationalQuantiser | RandomHyperplanes,
        embeddings: Tensor,
        teacher: Tensor,
        table: IndexTable,
        serving: Tensor | None = None,
        rereads: bool = False,
        learns: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.indexer = kind, indexer
        self.register_buffer("embeddings", embeddings.clone(), persistent=learns or rereads)
        self.register_buffer("serving", None if serving is None else serving.clone(), persistent=rereads)
        self.register_buffer("teacher", teacher, persistent=False)
        self.register_buffer("codes", torch.zeros(0), persistent=False)
        self.table = table

    @property
    def quantiser(self) -> VariationalQuantiser | None:
        """The indexer where it learns; None for hashing, which has nothing to learn."""
        return self.indexer if isinstance(self.indexer, VariationalQuantiser) else None

    @property
    def table(self) -> IndexTable:
        return self._table

    @table.setter
    def table(self, table: IndexTable) -> None:
        self._table = table
        self.codes = torch.as_tensor(table.codes, dtype=torch.long, device=self.embeddings.device)


class Entities(NamedTuple):
    """The distinct entities of one kind in a batch, and what the generator says of them."""

    numbers: Tensor  # (n,)
    quantised: Quantised
    nudge_nMH: Tensor  # zero in value; adds the soft assignment's gradient to an embedding row


class Share(NamedTuple):
    """Which part of a batch this process passes through the LLM: rows rank, rank + world, … seed: of their dropout."""

    rank: int
    world: int  # how many processes there are
    seed: int


class JointOutput(NamedTuple):
    loss: Tensor  # Eq. 11 with the generators' own losses: the sum of `losses`
    losses: dict[str, Tensor]  # by name, weighted: llm, index_item, token_user, recon_item, …
    targets: int
    task_nll: Tensor  # (tasks,) sum of the negative log-likelihoods of each task's supervised tokens in this share
    task_tokens: Tensor  # (tasks,) how many these are


class Alone(NamedTuple):
    """Entities whose index tokens the LLM reads by themselves, for L_ID (Eq. 8)."""

    branch: Branch
    numbers: Tensor  # (n,)
    embedded: Tensor  # (n, L, H) their tokens, behind a start token where the LLM has one


class Answers(NamedTuple):
    """What can be asked for in one place: the codes of a level, suffixes or words."""

    kind: int  # TEXT, ITEM or USER
    level: int
    first: int  # the token id of the first
    weight: Tensor  # (N, H), their rows of the head
    bias: Tensor | None  # (N,)


class JointModel(nn.Module):
    """Parts in, named losses out.

    users            None leaves the user branch out
    normalise        what a code's probability is normalised over, as in decoding: "level" or "vocabulary"
    dropout          on embeddings and on what attention and feed-forward add to the residual stream
    gradient         "input_st": the recommendation loss reaches the generators through history and user tokens
    reconstruction   weight of the generators' own losses; 0 is Eq. 11 to the letter
    align            entities per kind and step for L_ID
    dtype            torch.bfloat16 runs the LLM under autocast; the generators stay float32
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        vocabulary: IndexVocabulary,
        items: Branch,
        users: Branch | None,
        regulator: Regulator,
        *,
        normalise: Literal["level", "vocabulary"] = "level",
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        gradient: Literal["input_st", "none"] = "input_st",
        reconstruction: float = 1.0,
        align: int = 64,
        bos: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.llm, self.vocabulary, self.items, self.users, self.regulator = llm, vocabulary, items, users, regulator
        self.normalise, self.dropout, self.label_smoothing = normalise, dropout, label_smoothing
        self.gradient, self.reconstruction, self.align = gradient, reconstruction, align
        self.bos, self.dtype = bos, dtype
        self.share: Share | None = None  # none: all rows
        self._tables: list[IndexTable] | None = None  # those whose token ids `_ids` are
        self.moving = True  # whether the generators learn; the frozen tail and a static index set it to False
        for part in _residual_parts(llm):
            part.register_forward_hook(self._drop)

    def branches(self) -> Iterator[Branch]:
        yield self.items
        if self.users is not None:
            yield self.users

    def index_tokens(self) -> IndexTokens:
        """The tables' token ids now: made when a table is new, not for every batch that asks."""
        tables = [branch.table for branch in self.branches()]
        if self._tables is None or any(old is not new for old, new in zip(self._tables, tables, strict=True)):
            users = np.zeros((0, 0), np.int64)
            if self.users is not None:
                users = self.vocabulary.token_ids("user", self.users.table)
            items = self.vocabulary.token_ids("item", self.items.table)
            self._tables, self._ids = tables, IndexTokens(items, users, self.vocabulary.unknown_user)
        return self._ids

    def freeze_index(self) -> None:
        """From here on the tables and the generators stay as they are."""
        self.moving = False
        for branch in self.branches():
            branch.indexer.requires_grad_(False)

    def forward(self, batch: Batch) -> JointOutput:
        """Named losses of a batch. With a share, L_LLM is of its rows and weighted so that the mean over the processes
        is the whole batch's; generators and contrasts see the whole batch in every process, so their losses are equal,
        but for what is dropped where L_ID reads.
        """
        entities = self._entities(batch) if self.moving else {}
        mine, weight = self._share_of(batch)
        alone = self._alone(batch, entities) if self.regulator.beta1 else []
        with self._own_dropout():
            hidden, *apart = self._read(mine, self._embedded(mine, entities), [one.embedded for one in alone])
        nll = self._token_losses(hidden, mine)
        supervised = mine.label_kind >= 0
        losses = {"llm": weight * nll.sum() / max(1, int(supervised.sum()))}
        for kind, found in entities.items():
            branch = self._branch(kind)
            own = cast(VariationalQuantiser, branch.indexer).losses(found.quantised, branch.embeddings[found.numbers])
            weights = {name: self.reconstruction * weight for name, weight in LOSS_WEIGHTS.items() if weight}
            losses |= {f"{name}_{kind}": weight * own[name] for name, weight in weights.items() if weight}
            losses |= self.regulator.token(kind, found.quantised)
        for (branch, numbers, _), states in zip(alone, apart, strict=True):
            index = states[:, -branch.codes.shape[1] :].mean(1)
            losses |= self.regulator.index(branch.kind, index, branch.teacher[numbers], numbers)
        task = mine.task[supervised]
        per_task = torch.bincount(task, weights=nll.detach()[supervised]), torch.bincount(task)
        return JointOutput(torch.stack(list(losses.values())).sum(), losses, batch.targets, *per_task)

    def asked_from(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n,) the items that a batch asks for, and (n, H) the states from which it does."""
        hidden = self._states(batch, {})
        at = (batch.label_kind == ITEM) & (batch.label_level == 0)
        return batch.number.roll(-1, dims=1)[at], hidden[at]

    def _share_of(self, batch: Batch) -> tuple[Batch, Tensor | float]:
        """This process's rows, and world · (their supervised tokens) / (all): the weight of their mean loss."""
        if self.share is None:
            return batch, 1.0
        rank, world, _ = self.share
        mine = Batch(*(column[rank::world] for column in batch))
        if len(mine.labels) == 0:  # fewer rows than processes: keep in step, and count for nothing
            return Batch(*(column[:1] for column in batch)), 0.0
        return mine, world * (mine.labels >= 0).sum() / (batch.labels >= 0).sum().clamp_min(1)

    @contextmanager
    def _own_dropout(self) -> Iterator[None]:
        """Dropout from a stream of this process's own; the common one, which draws latents and the entities of L_ID,
        stays in step."""
        if self.share is None:
            yield
            return
        device = self.items.embeddings.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(self.share.seed)
            yield

    def _branch(self, kind: str) -> Branch:
        return self.items if kind == "item" or self.users is None else self.users

    def _entities(self, batch: Batch) -> dict[str, Entities]:
        """Run the generators that learn on the distinct entities whose tokens the batch shows."""
        found: dict[str, Entities] = {}
        for branch in self.branches():
            if branch.quantiser is None:
                continue
            numbers = batch.number[batch.kind == (ITEM if branch.kind == "item" else USER)].unique()
            if len(numbers):
                found[branch.kind] = self._quantise(branch, branch.quantiser, numbers)
        return found

    def _quantise(self, branch: Branch, quantiser: VariationalQuantiser, numbers: Tensor) -> Entities:
        quantised = quantiser(branch.embeddings[numbers], branch.codes[numbers], sample=self.training)
        rows = cast(Tensor, self.llm.get_input_embeddings().weight).detach()
        nudges = [
            (y - y.detach()) @ rows[self.vocabulary.slice_of(branch.kind, m)].float()
            for m, y in enumerate(quantised.straight_through)
        ]
        return Entities(numbers, quantised, torch.stack(nudges, 1))

    def _alone(self, batch: Batch, entities: dict[str, Entities]) -> list[Alone]:
        """Some entities of the batch of either kind, those that have a text; nobody where fewer than two have one."""
        found: list[Alone] = []
        embed, tokens = self.llm.get_input_embeddings(), self.index_tokens()
        for branch in self.branches():
            shown = entities.get(branch.kind)
            if shown is not None:
                numbers = shown.numbers
            else:
                numbers = batch.number[batch.kind == (ITEM if branch.kind == "item" else USER)].unique()
            known = branch.teacher[numbers].abs().sum(-1) > 0
            chosen = torch.nonzero(known).squeeze(-1)
            chosen = chosen[torch.randperm(len(chosen), device=chosen.device)[: self.align]]
            if len(chosen) < 2:
                continue
            numbers = numbers[chosen]
            table = tokens.items if branch.kind == "item" else tokens.users
            ids = torch.as_tensor(table[numbers.cpu().numpy(), : branch.codes.shape[1]], device=numbers.device)
            embedded = embed(ids)
            if shown is not None:
                embedded = embedded + shown.nudge_nMH[chosen].to(embedded)
            if self.bos is not None:
                embedded = torch.cat([embed(ids.new_full((len(ids), 1), self.bos)), embedded], 1)
            found.append(Alone(branch, numbers, embedded))
        return found

    def _states(self, batch: Batch, entities: dict[str, Entities]) -> Tensor:
        """(R, T, H) last states of the decoder body."""
        return self._read(batch, self._embedded(batch, entities))[0]

    def _embedded(self, batch: Batch, entities: dict[str, Entities]) -> Tensor:
        """(R, T, H) rows of the embedding, with the generators' part in their gradient."""
        embedded = self.llm.get_input_embeddings()(batch.input_ids)
        if self.gradient == "input_st":
            asked = F.pad(batch.labels[:, :-1] >= 0, (1, 0))
            for kind, found in entities.items():
                code = ITEM if kind == "item" else USER
                at = ~asked & (batch.kind == code) & (batch.level < found.nudge_nMH.shape[1])
                row = torch.searchsorted(found.numbers, batch.number[at])
                nudge = found.nudge_nMH[row, batch.level[at]]
                embedded = embedded.index_put((at,), nudge.to(embedded), accumulate=True)
        return embedded

    def _read(self, batch: Batch, embedded: Tensor, alone: Sequence[Tensor] = ()) -> list[Tensor]:
        """Last states of the batch (R, T, H), and of each (n, L, H) of sequences that are read alone, in one pass: they
        fill further rows, as a pass of their own takes a GPU as long as the batch's."""
        width = max(sequences.shape[1] for sequences in (embedded, *alone))
        blocks = [(embedded, batch.position_ids, batch.segment), *(_rows_of(sequences, width) for sequences in alone)]
        rows, positions, segments = (torch.cat([_as_wide(block, width) for block in part])
                                     for part in zip(*blocks, strict=True))  # fmt: skip
        states = self._body(rows, positions, _block_causal(segments))
        of_batch, *others = states.split([len(block) for block, _, _ in blocks])
        read = [of_batch[:, : embedded.shape[1]]]
        for of_block, (block, _, _), sequences in zip(others, blocks[1:], alone, strict=True):
            read.append(of_block[:, : block.shape[1]].reshape(-1, *sequences.shape[1:])[: len(sequences)])
        return read

    def _body(self, embedded: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        embedded = F.dropout(embedded, self.dropout, self.training)
        with torch.autocast(embedded.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            out = self.llm.get_decoder()(
                inputs_embeds=embedded, position_ids=positions, attention_mask=mask, use_cache=False
            )
        return out.last_hidden_state

    def _token_losses(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(R, T) cross-entropy of every supervised token, index tokens and words alike; L_LLM is its mean (Eq. 7)."""
        losses = torch.zeros(batch.labels.shape, dtype=torch.float32, device=hidden.device)
        for answers in self._answers():
            at = (batch.label_kind == answers.kind) & (batch.label_level == answers.level)
            labels = batch.labels[at]
            if not len(labels):
                continue
            with torch.autocast(hidden.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                logits = F.linear(hidden[at], answers.weight, answers.bias)
            losses[at] = F.cross_entropy(
                logits.float(), labels - answers.first, label_smoothing=self.label_smoothing, reduction="none"
            )
        return losses

    def _answers(self) -> Iterator[Answers]:
        """Words, and the codes and suffixes of every level, in the order of their tokens."""
        head = cast(nn.Linear, self.llm.get_output_embeddings())
        kinds: tuple[tuple[int, Kind], ...] = ((ITEM, "item"), (USER, "user"))
        asked = [(TEXT, 0, slice(0, self.vocabulary.text_size))]
        for kind, name in kinds:
            levels = range(self.vocabulary.levels(name) + 1)
            asked += [(kind, level, self.vocabulary.slice_of(name, level)) for level in levels]
        if self.normalise == "vocabulary":
            return (Answers(kind, level, 0, head.weight, head.bias) for kind, level, _ in asked)
        # Split, not sliced: the gradient of a slice is as large as the whole head, once for every level.
        sizes = [place.stop - place.start for _, _, place in asked]
        sizes.append(len(head.weight) - sum(sizes))  # nobody is asked for the unknown user
        weights = head.weight.split(sizes)
        biases = [None] * len(sizes) if head.bias is None else head.bias.split(sizes)
        return (Answers(kind, level, place.start, *rows)
                for (kind, level, place), *rows in zip(asked, weights, biases, strict=False))  # fmt: skip

    def _drop(self, part: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if not part.training or not self.dropout:  # the LLM's own mode: decoding sets it, also in the midst of training
            return output
        if isinstance(output, tuple):
            return (F.dropout(output[0], self.dropout), *output[1:])
        return F.dropout(output, self.dropout)


def _rows_of(sequences: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(n, L, H) sequences side by side in rows of at most `width` tokens, with positions and segments (R, T)."""
    count, length, hidden = sequences.shape
    in_row = width // length
    rows = -(-count // in_row)
    side_by_side = F.pad(sequences, (0, 0, 0, 0, 0, rows * in_row - count)).view(rows, in_row * length, hidden)
    place = torch.arange(in_row * length, device=sequences.device).expand(rows, -1)
    return side_by_side, place % length, place // length + 1


def _as_wide(block: Tensor, width: int) -> Tensor:
    """(R, T) or (R, T, H) with zeros behind its tokens, which is padding, up to so many."""
    missing = (0, width - block.shape[1])
    return F.pad(block, missing if block.ndim == 2 else (0, 0, *missing))


def _block_causal(segment: Tensor) -> Tensor:
    """(R, 1, T, T) bool: a token sees itself and earlier tokens of its own segment (padding sees padding)."""
    same = segment[:, None, :, None] == segment[:, None, None, :]
    return same & torch.ones(segment.shape[1], segment.shape[1], dtype=torch.bool, device=segment.device).tril()


def _residual_parts(llm: PreTrainedModel) -> Iterator[nn.Module]:
    """What adds to the residual stream: attention and feed-forward of every layer, of which LLaMA's drop nothing."""
    body = llm.get_decoder()
    for layer in getattr(body, "layers", None) or getattr(body, "h", None) or ():
        for name in ("self_attn", "attn", "mlp"):
            if isinstance(part := getattr(layer, name, None), nn.Module):
                yield part
