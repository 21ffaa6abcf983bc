"""An LLM that is too large to train as it is: LoRA adapters, weights of four bits, activations that are not kept; and
one whose many small steps keep a GPU waiting: compiled layers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from textwrap import shorten
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ed2rec.errors import BackboneError, ConfigError

BLOCK = 64  # weights of four bits that share a scale
PACKS = "support_avx512bf16_for_cpu"  # what a layer of bitsandbytes calls it
ALL_LINEAR = "all-linear"  # every linear layer but the head, in the words of peft


def add_lora(
    llm: PreTrainedModel,
    rank: int,
    alpha: float = 32.0,
    dropout: float = 0.05,
    targets: Sequence[str] = (ALL_LINEAR,),
) -> Any:
    """Freeze the LLM and put LoRA adapters, W + alpha/rank · B A, on the linear layers of its body.

    targets: the last parts of their names ("q_proj"), or all-linear. The defaults are LC-Rec's, whose rank is 8.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(llm, targets)
    sideways = any(isinstance(module, Conv1D) for module in llm.modules())  # GPT-2 keeps its matrices transposed
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, task_type="CAUSAL_LM",  # type: ignore[arg-type]
        target_modules=ALL_LINEAR if list(targets) == [ALL_LINEAR] else list(targets), fan_in_fan_out=sideways,
    )  # fmt: skip
    return get_peft_model(llm, config)


def check_targets(llm: PreTrainedModel, targets: Sequence[str]) -> None:
    """BackboneError where the LLM's body has no linear layer of one of these names. The head is not one: its rows for
    index tokens are trained themselves."""
    if list(targets) == [ALL_LINEAR]:
        return
    head = llm.get_output_embeddings()
    linear = {name.rpartition(".")[2] for name, module in llm.named_modules()
              if isinstance(module, nn.Linear | Conv1D) and module is not head}  # fmt: skip
    missing = sorted(set(targets) - linear)
    if missing or not targets:
        raise BackboneError(
            f"backbone.lora_targets names {', '.join(missing) or 'nothing'}; the linear layers of {type(llm).__name__} "
            f"are: {', '.join(sorted(linear))}; give some of these, or [{ALL_LINEAR}]"
        )


def merge_lora(llm: Any) -> PreTrainedModel:
    """A plain LLM with the adapters added to its weights, in place; an LLM without adapters as it is.

    Weights of four bits become plain ones, or the folder could only be read with the library that made them; adapters
    are rounded to four bits where they are added to such weights.
    """
    plain: PreTrainedModel = llm.merge_and_unload() if hasattr(llm, "merge_and_unload") else llm
    return plain.dequantize() if getattr(plain, "is_quantized", False) else plain


def keep_less(llm: Any) -> None:
    """Gradient checkpointing, in place: a layer's activations are computed again in the backward pass, not kept.

    Not the reentrant kind: that one needs inputs with a gradient, which a frozen embedding does not give, and DDP
    cannot see through it. BackboneError for an LLM that cannot do it.
    """
    enable = getattr(llm, "activation_checkpointing_enable", None) or llm.gradient_checkpointing_enable  # its old name
    try:
        enable({"use_reentrant": False})
    except ValueError:
        raise BackboneError(
            f"{type(llm).__name__} cannot compute its activations again: set training.gradient_checkpointing=false"
        ) from None


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Compile a decoder's layers for training, in place: fewer and larger kernels, so that a GPU waits for fewer.

    All of them share a code, made at the first step (about a minute), and so do batches of nearly all sizes. Decoding,
    which has another shape at every token, goes through the layers as they were.
    """
    torch.compiler.reset()  # or a search's ninth training would find the cache full, and go on uncompiled
    for layer in layers:
        layer.forward = MethodType(_compiled_in_training(type(layer).forward), layer)


def _compiled_in_training(plain: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(plain, dynamic=True)

    def forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (compiled if layer.training else plain)(layer, *args, **kwargs)

    return forward


def check_compiler(device: torch.device) -> None:
    """Compile something small for the device, so that a missing compiler is found before minutes of other work."""
    torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))


@contextmanager
def compile_errors_explained() -> Iterator[None]:
    """A compiler that is missing or gives up is one line: ConfigError."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # two seconds, for nobody else to wait

        if not isinstance(error, TorchDynamoException):
            raise
        reason = shorten(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0], 200, placeholder=" …")
        raise ConfigError(f"the LLM's layers cannot be compiled here ({reason}): set training.compile=false (in "
                          "ed2 bench leave out --compile), or install what torch.compile needs (a C++ compiler; Triton "
                          "on a GPU)") from error  # fmt: skip


def four_bits(name: str) -> dict[str, Any]:
    """What from_pretrained needs for weights of four bits (NF4, as in QLoRA), on the first GPU or the processor.
    BackboneError where the library is missing."""
    if find_spec("bitsandbytes") is None:
        raise BackboneError(f"backbone {name!r} cannot be loaded in four bits: bitsandbytes is not installed "
                            "(pip install 'ed2rec[gpu]'); or leave out backbone.load_in_4bit")  # fmt: skip
    cuda = torch.cuda.is_available()
    half = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float16
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=half if cuda else torch.float32
    )
    return {"quantization_config": how, "device_map": {"": torch.cuda.current_device() if cuda else "cpu"}}


def on_a_processor(llm: nn.Module) -> None:
    """Make a body of four bits fit to be evaluated, trained and evaluated again on a processor; nothing on a GPU.

    On one with AVX-512 BF16 bitsandbytes packs the weights anew at the first evaluation, in bfloat16 and in blocks of
    32 rows, which not every layer has; and it reads rows that are no multiple of its blocks wrongly (0.50.2). So the
    weights stay as they were loaded, and BackboneError for such rows.
    """
    for module in llm.modules():
        if not isinstance(module, nn.Linear) or not hasattr(module, PACKS) or module.weight.device.type != "cpu":
            continue
        if module.in_features % BLOCK:
            raise BackboneError(f"a layer of {module.in_features} inputs cannot be held in four bits on a processor, "
                                f"{BLOCK} or a multiple can: leave out backbone.load_in_4bit")  # fmt: skip
        setattr(module, PACKS, False)


@contextmanager
def memory_errors_explained() -> Iterator[None]:
    """A device that is full is one line about what to change: ConfigError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError, and so is a CPU's refusal
        text = " ".join(str(error).split())
        full = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
        if not full:
            raise
        reason = shorten(text.partition(". GPU")[0], 200, placeholder=" …")
        raise ConfigError(
            f"too little memory for this training ({reason}): lower training.batch_tokens, set "
            "training.gradient_checkpointing=true, train adapters only (backbone.lora_rank=8), hold the LLM in four "
            "bits (backbone.load_in_4bit=true), keep fewer layers (backbone.layers) or have fewer index tokens "
            "(indexer.items, indexer.users)"
        ) from error
