"""Semantic information (Eq. 2): text → LLM states → one embedding per text, cached on disk by model and text.

    X_T = mean over tokens of LLM(Embed(Tokenizer(T)))  in R^E

Mean-pooled causal states share one large direction (cosines near 1 for everything); `Whitening` removes it.
Shape letters: n texts, E embedding width, T tokens.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ed2rec.errors import ConfigError

Pooling = Literal["mean", "last"]
SHARD = 2048  # texts between two writes of the cache: what a killed process can cost


class Whitening(NamedTuple):
    """x → (x − mean) · projection: centred, rotated to the principal axes, each axis scaled by variance^(−power/2).

    mean (E,), projection (E, width). power 0 only centres and rotates, 1 gives every axis the same variance. Axes
    with less than 1e-6 of the largest variance are dropped (zero columns), so twins stay twins.
    """

    mean: Tensor
    projection: Tensor

    @classmethod
    def fit(cls, embeddings: np.ndarray, width: int | None = None, power: float = 0.5) -> "Whitening":
        """embeddings: (n, E); width: axes kept, by default all E."""
        x = torch.as_tensor(embeddings, dtype=torch.float64)
        mean = x.mean(0)
        variance, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / max(len(x), 1))
        variance, axes = variance.flip(0), axes.flip(1)
        width = min(width or len(mean), len(mean))
        solid = variance[:width] > 1e-6 * variance[0].clamp_min(1e-30)
        scale = torch.where(solid, variance[:width].clamp_min(1e-30) ** (-power / 2), 0.0)
        projection = axes[:, :width] * scale
        total = ((x - mean) @ projection).square().mean().sqrt().clamp_min(1e-12)
        return cls(mean.float(), (projection / total).float())

    def apply(self, embeddings: np.ndarray | Tensor) -> Tensor:
        """(n, E) → (n, width) float32, of unit mean square over the texts that it was fitted on."""
        return (torch.as_tensor(embeddings, dtype=torch.float32) - self.mean) @ self.projection


def encode_texts(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    pooling: Pooling = "mean",
    layer: int = -1,
    max_tokens: int = 128,
    batch_tokens: int = 8192,
    dtype: torch.dtype | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(n, E) float32, row i belongs to texts[i]; zero rows for empty texts (the caller chooses the fallback).

    layer      whose states are pooled: 0 the token embeddings, 1 … L the layers, negative from the end
    max_tokens longer texts are cut
    cache      folder of the embeddings known so far; an interrupted run goes on where it stopped
    progress   called with (texts done, texts to do)

    Texts are read in batches of about equal length, each distinct one once. Raises ConfigError, before any is read, for
    a layer that the LLM does not have or a cache that cannot be written.
    """
    _check_layer(llm, layer)
    keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    store = _Store(cache, _fingerprint(llm, tokenizer, pooling, layer, max_tokens, dtype))
    wanted = {key: text for key, text in zip(keys, texts, strict=True) if text and key not in store.known}
    if wanted:  # a cache that knows all may be read-only
        store.check()
    ids = tokenizer(list(wanted.values()), truncation=True, max_length=max_tokens)["input_ids"] if wanted else []
    ids = [row or [tokenizer.eos_token_id or 0] for row in ids]
    names = list(wanted)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    done = 0
    try:
        for batch in _batches(order, [len(row) for row in ids], batch_tokens):
            vectors = _pooled(llm, [ids[i] for i in batch], pooling, layer, dtype)
            store.add([names[i] for i in batch], vectors)
            done += len(batch)
            if progress:
                progress(done, len(order))
    finally:  # also when it is interrupted
        store.flush()
    width = int(llm.config.hidden_size)
    empty = np.zeros(width, np.float32)
    rows = [store.known[key] if text else empty for key, text in zip(keys, texts, strict=True)]
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)


def _check_layer(llm: PreTrainedModel, layer: int) -> None:
    layers = int(llm.config.num_hidden_layers)
    if not -layers - 1 <= layer <= layers:
        raise ConfigError(f"encoding.layer={layer}, but the LLM has {layers} layers; allowed: 0 (the token embeddings) "
                          f"to {layers}, or -1 (the last layer) to {-layers - 1}")  # fmt: skip


@torch.inference_mode()
def _pooled(
    llm: PreTrainedModel, ids: list[list[int]], pooling: Pooling, layer: int, dtype: torch.dtype | None
) -> np.ndarray:
    device = next(llm.parameters()).device
    lengths = torch.tensor([len(row) for row in ids])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(device)
    lengths = lengths.to(device)
    real = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
    if layer == 0:  # no need to run the layers for what comes before them
        states = llm.get_input_embeddings()(tokens)
    else:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            out = llm.get_decoder()(
                tokens, attention_mask=real.long(), output_hidden_states=layer != -1, use_cache=False
            )
        states = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    if pooling == "last":
        return states[torch.arange(len(ids), device=device), lengths - 1].float().cpu().numpy()
    return ((states.float() * real[..., None]).sum(1) / lengths[:, None]).cpu().numpy()


def _batches(order: list[int], lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Cut the length-sorted order so that rows × longest row stays within `batch_tokens`."""
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[i] <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _fingerprint(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *settings: object) -> str:
    """What decides an embedding besides the text: weights, tokenizer and how states are pooled."""
    digest = hashlib.sha256(repr(settings).encode())
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    del pieces["truncation"], pieces["padding"]  # what the last call asked for
    digest.update(json.dumps(pieces).encode())
    for name, weight in llm.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class _Store:
    """Embeddings by text hash, in memory and (with a folder) in shards that appear whole or not at all."""

    def __init__(self, cache: Path | None, fingerprint: str):
        self.folder = cache / fingerprint if cache else None
        self.known: dict[str, np.ndarray] = {}
        self.fresh: list[str] = []
        for shard in sorted(self.folder.glob("*.safetensors")) if self.folder and os.path.isdir(self.folder) else ():
            try:
                content = load_file(shard)
                names = content["keys"].tobytes().decode().split()
                self.known.update(zip(names, content["vectors"], strict=True))
            except (SafetensorError, KeyError, ValueError, OSError):
                continue  # a damaged shard costs its embeddings, which are made again

    def check(self) -> None:
        """ConfigError if the folder cannot be made or written to: found out before the work that it is to keep."""
        if not self.folder:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> ConfigError:
        assert self.folder is not None
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        return ConfigError(f"cannot write the embedding cache {self.folder.parent}: {reason}; set "
                           "encoding.cache or $ED2_CACHE to a folder that can be written")  # fmt: skip

    def add(self, names: list[str], vectors: np.ndarray) -> None:
        self.known.update(zip(names, vectors.astype(np.float32), strict=True))
        self.fresh += names
        if len(self.fresh) >= SHARD:
            self.flush()

    def flush(self) -> None:
        if not self.folder or not self.fresh:
            return
        keys = np.frombuffer(" ".join(self.fresh).encode(), np.uint8)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
            os.close(handle)
            try:
                save_file({"keys": keys, "vectors": np.stack([self.known[name] for name in self.fresh])}, temporary)
                os.replace(temporary, self.folder / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:24]}.safetensors")
            finally:
                Path(temporary).unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise self._refused(error) from None
        self.fresh = []
