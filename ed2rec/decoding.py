"""Constrained beam search over the catalogue's trie, and the exact scorer that tests compare it with.

    score(item | prompt) = sum_m log P(code_m | prompt, code_1 … code_{m-1})  [+ log P(suffix | …) where items collide]

P is the softmax over all codes of level m ("level") or over the whole vocabulary ("vocabulary"). It is never
renormalised over the codes that the trie allows: that would raise items in sparse branches and reorder results.
Items with and without a suffix compete by their sums (methods.md 5.18). With a prior, its value for the item is added;
on the way a beam counts as much as the best item below it could bring, so that no such item falls out early.

How it is fast: a user's prompt is prefilled once, and what all prompts of a batch begin with once for all of them.
At every level the last tokens of all beams of a user are fed as ONE row, whose 4-D mask shows each token the prompt
and its own ancestors only (tree attention), so the cache is shared by the beams and never reordered. Only the level's
columns of the head are computed, and the trie is asked for all beams of all users at once.

Shape letters: B users of a batch, T tokens, M levels, N codes per level, H LLM width, W beams, C children, V
vocabulary, K items.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import DynamicCache, PreTrainedModel

from ed2rec.errors import BackboneError
from ed2rec.indexers.contract import IndexTable
from ed2rec.recommender import Recommendations
from ed2rec.trie import Paths, Trie
from ed2rec.vocabulary import IndexVocabulary, Kind

Normalise = Literal["level", "vocabulary"]
Prior = Callable[[np.ndarray], Tensor]  # (B,) numbers of prompts → (B, K) what is added to the score of every item
USUAL_BEAM = 20  # for which the users of a batch are counted
SHARED_PREFIX = 8  # a common beginning shorter than this is not worth a pass of its own


class Decoder:
    """Beam search with one LLM. Holds no state between calls, and reads the LLM's weights at every call.

    llm         any causal LM of transformers that takes position_ids and 4-D attention masks (sdpa or eager)
    normalise   over which tokens P sums to one: "level" or "vocabulary"; must be what training used
    users       users per batch, fewer where a beam is wider than 20, so that the cache stays as large; by default what
                was fastest: 16 on a CPU (a batch stays in its caches), else 256
    dtype       torch.bfloat16 to run the LLM under autocast; scores are float32 anyway
    kind        whose indices are decoded: "item" or "user"

    Raises BackboneError for an attention implementation without 4-D masks.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        vocabulary: IndexVocabulary,
        normalise: Normalise = "level",
        users: int | None = None,
        dtype: torch.dtype | None = None,
        kind: Kind = "item",
    ) -> None:
        if normalise not in ("level", "vocabulary"):
            raise ValueError(f"normalise must be 'level' or 'vocabulary', got {normalise!r}")
        attention = llm.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise BackboneError(
                f"attention implementation {attention!r} takes no 4-D mask, which decoding needs: "
                "load the LLM with attn_implementation='sdpa' or 'eager'"
            )
        self.llm, self.vocabulary, self.normalise, self.dtype, self.kind = llm, vocabulary, normalise, dtype, kind
        self.users = users or (16 if llm.device.type == "cpu" else 256)
        self.body = llm.get_decoder()
        self.plain_head = head_is_plain(llm)

    @torch.inference_mode()
    def search(
        self,
        paths: Paths,
        prompts: Sequence[np.ndarray],
        width: int,
        k: int | None = None,
        prior: Prior | None = None,
    ) -> Recommendations:
        """The k best items for every prompt among those that a beam of `width` keeps (exact if width >= items).

        paths: a Trie on the LLM's device, or AllPaths. prompts: 1-D token ids each, not empty; the index starts right
        after. k: at most and by default `width`. prior: on the LLM's device, finite; needs a Trie. Rows are in the
        order of the prompts, -1 and -inf where the catalogue has fewer than k items. Raises BackboneError for a prompt
        that is longer than the LLM can read.
        """
        k = width if k is None else k
        if not 1 <= k <= width:
            raise ValueError(f"k = {k} of a beam of width {width}: k must lie in 1..width")
        items = np.full((len(prompts), k), -1, dtype=np.int64)
        scores = np.full((len(prompts), k), -np.inf, dtype=np.float32)
        training = self.llm.training
        self.llm.eval()
        try:
            with torch.autocast(self.llm.device.type, self.dtype, enabled=self.dtype is not None):
                for rows in self._batches(prompts, width):
                    hopes = None if prior is None else paths.best_below(prior(rows))
                    best = self._search_batch(paths, [prompts[row] for row in rows], width, k, hopes)
                    items[rows, : best[0].shape[1]], scores[rows, : best[1].shape[1]] = (x.cpu() for x in best)
        finally:
            self.llm.train(training)
        return Recommendations(items, scores)

    def _batches(self, prompts: Sequence[np.ndarray], width: int) -> Iterator[np.ndarray]:
        """Prompt numbers, so many at a time as fit, of similar length so that little is padded."""
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        if len(lengths) == 0:
            return
        room = most_tokens(self.llm) - self.vocabulary.levels(self.kind) - 1
        if lengths.min() < 1 or lengths.max() > room:
            raise BackboneError(
                f"a prompt of {lengths.min() if lengths.min() < 1 else lengths.max()} tokens, where this LLM takes "
                f"1 to {room} before an index: shorten the history or the instruction"
            )
        order = np.argsort(lengths, kind="stable")
        users = max(1, self.users * USUAL_BEAM // max(width, USUAL_BEAM))
        yield from np.array_split(order, -(-len(order) // users))

    def _search_batch(
        self, paths: Paths, prompts: list[np.ndarray], width: int, k: int, hopes: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """(B, <= k) item numbers and scores, best first. hopes: by depth, (B, nodes) the best prior below each node."""
        context = self._prefill(prompts)
        context.hopes = hopes
        nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=self.llm.device)
        beams = Beams(nodes, nodes, nodes, torch.zeros_like(nodes, dtype=torch.float32))
        for depth in range(paths.levels):
            if depth:
                self._feed(context, beams, depth - 1)
            beams = self._grow(paths, context, beams, depth, width)
        items = paths.items(paths.levels, beams.nodes)
        scores = beams.scores.masked_fill(items < 0, -torch.inf)
        if paths.suffixed and (onward := _going_on(beams, items)) is not None:
            self._feed(context, onward, paths.levels - 1)
            longer = self._grow(paths, context, onward, paths.levels, width)
            items = torch.cat([items, paths.items(paths.levels + 1, longer.nodes)], dim=1)
            scores = torch.cat([scores, longer.scores], dim=1)
        scores, best = scores.topk(min(k, scores.shape[1]))
        return items.gather(1, best).masked_fill_(scores == -torch.inf, -1), scores

    def _grow(self, paths: Paths, context: "Context", beams: "Beams", depth: int, width: int) -> "Beams":
        """The `width` best children of all beams of each user."""
        log_probabilities = self._log_probabilities(context.states, depth)
        child, code = paths.children(depth, beams.nodes)
        gain = log_probabilities.gather(2, code.clamp(min=0))
        if context.hopes is not None:  # what was hoped for above is taken back: a path ends with its item's own prior
            hoped, hope = (context.hopes[at].gather(1, nodes.clamp(min=0).flatten(1)).view_as(nodes)
                           for at, nodes in ((depth, beams.nodes), (depth + 1, child)))  # fmt: skip
            gain = gain + (hope - hoped[..., None])
        scores = (beams.scores[..., None] + gain).masked_fill_(child < 0, -torch.inf).flatten(1)
        scores, best = scores.topk(min(width, scores.shape[1]))
        parents = best // child.shape[2]
        return Beams(child.flatten(1).gather(1, best), code.flatten(1).gather(1, best), parents, scores)

    def _log_probabilities(self, states: Tensor, level: int) -> Tensor:
        """(B, W, H) states, or (B, W, V) logits where the head is not plain -> (B, W, N) float32."""
        columns = self.vocabulary.slice_of(self.kind, level)
        if self.plain_head:
            head = self.llm.get_output_embeddings()
            if self.normalise == "level":
                bias = None if head.bias is None else head.bias[columns]
                return linear(states, head.weight[columns], bias).float().log_softmax(-1)
            states = head(states)
        if self.normalise == "level":
            return states[..., columns].float().log_softmax(-1)
        return states[..., columns].float() - states.float().logsumexp(-1, keepdim=True)

    def _prefill(self, prompts: list[np.ndarray]) -> "Context":
        """Read the prompts: first what they have in common, once, then the rest of each, padded on the right.

        A padded position sees real tokens but no real token sees it, so plain causal attention is right here and only
        the steps after must mask it.
        """
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        shared = _common_prefix(prompts)
        shared = shared if len(prompts) > 1 and shared >= SHARED_PREFIX else 0
        rest = torch.stack([_padded(prompt[shared:], int(lengths.max()) - shared) for prompt in prompts])
        device = self.llm.device
        context = Context(DynamicCache(), lengths.to(device))
        positions = torch.arange(int(lengths.max()), device=device).expand(len(prompts), -1)
        mask = None
        if shared:
            common = torch.from_numpy(np.asarray(prompts[0][:shared], dtype=np.int64))[None].to(device)
            self._run(common, positions[:1, :shared], None, context.cache)
            context.cache.batch_repeat_interleave(len(prompts))
            mask = torch.ones(rest.shape[1], shared + rest.shape[1], dtype=torch.bool, device=device).tril_(shared)
            mask = self._additive(mask).expand(len(prompts), 1, -1, -1)
        states = self._run(rest.to(device), positions[:, shared:], mask, context.cache)
        last = (context.lengths - shared - 1)[:, None, None].expand(-1, 1, states.shape[2])
        context.states = states.gather(1, last)
        readable = torch.arange(int(lengths.max()), device=device) < context.lengths[:, None]
        context.readable = readable[:, None]
        context.lineage = torch.zeros(len(prompts), 1, 0, dtype=torch.bool, device=device)
        return context

    def _feed(self, context: "Context", beams: "Beams", level: int) -> None:
        """Read the beams' last tokens, each as a child of the token that its parent beam fed before."""
        users, width = beams.nodes.shape
        lineage = context.lineage.gather(1, beams.parents[..., None].expand(-1, -1, context.lineage.shape[2]))
        own = torch.eye(width, dtype=torch.bool, device=lineage.device).expand(users, -1, -1)
        context.lineage = torch.cat([lineage, own], dim=2)
        mask = self._additive(torch.cat([context.readable.expand(-1, width, -1), context.lineage], dim=2))
        tokens = beams.codes.clamp(min=0) + self.vocabulary.slice_of(self.kind, level).start
        positions = (context.lengths[:, None] + level).expand(-1, width)
        context.states = self._run(tokens, positions, mask[:, None], context.cache)

    def _additive(self, visible: Tensor) -> Tensor:
        """0 where visible and the lowest number elsewhere: what eager attention adds, and sdpa takes without a copy."""
        dtype = self.dtype or self.llm.dtype
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
            ~visible, torch.finfo(dtype).min
        )

    def _run(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: DynamicCache) -> Tensor:
        """(B, T) tokens -> (B, T, H) last states, or (B, T, V) logits where the head is not plain."""
        inputs: dict[str, Any] = {"input_ids": tokens, "position_ids": positions, "attention_mask": mask}
        inputs |= {"past_key_values": cache, "use_cache": True}
        if self.plain_head:
            return self.body(**inputs).last_hidden_state
        return self.llm(**inputs).logits


@dataclass
class Beams:
    """The beams of a batch at one depth, best first. A dead one has node -1 and score -inf."""

    nodes: Tensor  # (B, W) trie nodes
    codes: Tensor  # (B, W) the code that led to each
    parents: Tensor  # (B, W) which beam of the depth before it continues
    scores: Tensor  # (B, W) float32 sum of log-probabilities, and with a prior the best of it below the node


@dataclass
class Context:
    """What the LLM has read: the cache, and who may see what in it."""

    cache: DynamicCache
    lengths: Tensor  # (B,) prompt tokens
    states: Tensor = None  # type: ignore[assignment]  # (B, W, H) after the last token of every beam
    readable: Tensor = None  # type: ignore[assignment]  # (B, 1, T) prompt positions that are not padding
    lineage: Tensor = None  # type: ignore[assignment]  # (B, W, fed) fed tokens that are ancestors of the beam's last
    hopes: list[Tensor] | None = None  # by depth, (B, nodes) the best prior of the items below each node


def most_tokens(llm: PreTrainedModel) -> float:
    """How long a sequence the LLM reads as a whole; infinite where nothing bounds it."""
    bounds = (getattr(llm.config, name, None) for name in ("max_position_embeddings", "sliding_window"))
    return min(filter(None, bounds), default=np.inf)


def constrained_beam_search(
    llm: PreTrainedModel,
    vocabulary: IndexVocabulary,
    trie: Trie,
    prompts: Sequence[np.ndarray],
    width: int,
    k: int | None = None,
    normalise: Normalise = "level",
    users: int | None = None,
    dtype: torch.dtype | None = None,
) -> Recommendations:
    """One search with a Decoder made for it; see Decoder and Decoder.search."""
    return Decoder(llm, vocabulary, normalise, users, dtype).search(trie, prompts, width, k)


@torch.inference_mode()
def exact_scores(
    llm: PreTrainedModel,
    vocabulary: IndexVocabulary,
    table: IndexTable,
    prompts: Sequence[np.ndarray],
    normalise: Normalise = "level",
) -> np.ndarray:
    """(n, K) float32 score of every item for every prompt, by a full forward pass of each pair: for small catalogues.

    Uses nothing of the beam search: no cache, no mask, no trie, the LLM's own logits.
    """
    index_KL = torch.from_numpy(vocabulary.token_ids("item", table)).to(llm.device)
    levels = index_KL.shape[1] if (table.suffix >= 0).any() else table.levels
    index_KL = index_KL[:, :levels]
    scores = np.zeros((len(prompts), len(table)), dtype=np.float32)
    for row, prompt in enumerate(prompts):
        tokens = torch.from_numpy(np.asarray(prompt)).long().to(llm.device)
        inputs = torch.cat([tokens.expand(len(table), -1), index_KL.clamp(min=0)], dim=1)
        logits = llm(input_ids=inputs, use_cache=False).logits[:, len(prompt) - 1 : -1].float()
        for level in range(levels):
            columns = vocabulary.slice_of("item", level)
            over = logits[:, level, columns] if normalise == "level" else logits[:, level]
            gain = logits[:, level].gather(1, index_KL[:, level : level + 1].clamp(min=0))[:, 0] - over.logsumexp(-1)
            scores[row] += gain.masked_fill(index_KL[:, level] < 0, 0.0).cpu().numpy()
    return scores


def _going_on(beams: Beams, items: Tensor) -> Beams | None:
    """The beams whose path goes on below depth M, as few columns as hold them; None where no user has one."""
    onward = (items < 0) & (beams.nodes >= 0)
    most = int(onward.sum(1).max())
    if most == 0:
        return None
    kept, columns = onward.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    kept, columns = kept[:, :most].bool(), columns[:, :most]
    nodes, codes, parents, scores = (
        field.gather(1, columns) for field in (beams.nodes, beams.codes, beams.parents, beams.scores)
    )
    return Beams(nodes.masked_fill(~kept, -1), codes, parents, scores.masked_fill(~kept, -torch.inf))


def _common_prefix(prompts: list[np.ndarray]) -> int:
    """How many tokens all prompts begin with, leaving each at least one token of its own."""
    shortest = min(len(prompt) for prompt in prompts)
    heads = np.stack([prompt[: shortest - 1] for prompt in prompts])
    differs = np.flatnonzero((heads != heads[0]).any(axis=0))
    return int(differs[0]) if len(differs) else shortest - 1


def _padded(prompt: np.ndarray, length: int) -> Tensor:
    """The prompt, its last token repeated up to `length`: any id would do, as nothing reads it."""
    return torch.from_numpy(np.pad(np.asarray(prompt, dtype=np.int64), (0, length - len(prompt)), mode="edge"))


@torch.inference_mode()
def head_is_plain(llm: PreTrainedModel) -> bool:
    """Whether logits = head(last state of the body), so that a slice of the head gives a slice of the logits.

    Not so with soft-capped or scaled logits, or a head under LoRA; those models compute all logits and work too.
    """
    head = llm.get_output_embeddings()
    if type(head) is not nn.Linear:
        return False
    training = llm.training
    llm.eval()
    tokens = torch.arange(4, device=llm.device)[None] % len(head.weight)
    ours = head(llm.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state)
    theirs = llm(input_ids=tokens, use_cache=False).logits
    llm.train(training)
    tolerance = 1e-4 if ours.dtype == torch.float32 else 1e-2
    return torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
