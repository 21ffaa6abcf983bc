"""How the stages are put together: settings that become arguments, starts of rows, what an encoded entity brings."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from shops import dataset_of
from small import joint_world, shop, small_settings
from transformers import GPT2Config, GPT2LMHeadModel
from worlds import WORDS, word_tokenizer

from ed2rec import answers, workflow
from ed2rec.config import explain, presets, resolve
from ed2rec.errors import ConfigError, IndexCollapse
from ed2rec.indexers.contract import IndexTable
from ed2rec.model import JointModel
from ed2rec.training import branches
from ed2rec.training.branches import moves
from ed2rec.training.pipeline import _arguments, train_ed2

MODEL = joint_world().model


@given(st.integers(1, 5000), st.integers(1, 20))
def test_checkpoints_are_taken_right_after_an_entry_of_the_log_and_no_more_often_than_asked(steps, checkpoints):
    """The sums of an unfinished entry are not in a checkpoint, so a resumed training would log another mean."""
    arguments = _arguments(small_settings(f"training.checkpoints={checkpoints}"), Path("."), steps, MODEL)
    assert arguments.save_steps % arguments.logging_steps == 0
    assert steps // arguments.save_steps <= checkpoints
    assert steps / arguments.logging_steps <= 200


def test_checkpointed_activations_train_as_kept_ones_do(tmp_path):
    curves = []
    for again in ("false", "true"):
        settings = small_settings("training.epochs=1", f"training.gradient_checkpointing={again}")
        trained = train_ed2(shop(), settings, tmp_path / again, False, lambda *_: None)
        curves.append([entry["loss_llm"] for entry in trained.metrics["history"] if "loss_llm" in entry])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5) and curves[0]


def test_compiled_layers_train_as_they_would_without(tmp_path, monkeypatch):
    """With a compiler that hands back what it is given: one code, dropout included."""
    graphs, curves = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for compiled in ("false", "true"):
        words = ["training.epochs=1", f"training.compile={compiled}"]
        trained = train_ed2(shop(), small_settings(*words), tmp_path / compiled, False, lambda *_: None)
        curves.append([entry["loss_llm"] for entry in trained.metrics["history"] if "loss_llm" in entry])
        assert len(graphs) > 1 if compiled == "true" else not graphs
    assert curves[0] == pytest.approx(curves[1], rel=1e-4) and curves[0]


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of\n79 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        MemoryError(),
    ],
)
def test_a_full_device_is_one_line_with_the_settings_that_help(fault, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(JointModel, "forward", full)
    with pytest.raises(ConfigError) as error:
        train_ed2(shop(), small_settings(), tmp_path / "workspace", False, lambda *_: None)
    said = str(error.value)
    helps = re.findall(r"(?:training|backbone)\.\w+", said)
    assert helps == ["training.batch_tokens", "training.gradient_checkpointing", "backbone.lora_rank",
                     "backbone.load_in_4bit", "backbone.layers"]  # fmt: skip
    assert "indexer.items" in said
    assert set(helps) <= {key for key, _, _ in explain()} and "\n" not in said
    assert ("Tried to allocate 2.50 GiB)" in said) == isinstance(fault, torch.OutOfMemoryError)


def test_more_index_tokens_than_the_machine_can_hold_are_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(branches, "encode_texts", None)
    with pytest.raises(
        ConfigError, match=r"2,000,0\d\d,\d+ index tokens of width \d+ take .* GiB in training"
    ) as error:
        settings = small_settings("indexer.items=[2000000000]")
        train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)
    assert "indexer.items" in str(error.value) and "\n" not in str(error.value)


def gpt2_of(folder: Path, positions: int) -> str:
    """A GPT-2, whose positions are learned: there is nothing to read behind the last one."""
    word_tokenizer().save_pretrained(folder)
    config = GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=2, n_positions=positions)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return f"backbone.name={folder}"


def test_an_llm_that_reads_less_than_the_longest_example_is_refused_and_one_that_just_reads_it_is_not(
    tmp_path, monkeypatch
):
    given = ["backbone.prune_vocabulary=false", "encoding.max_tokens=16", "training.epochs=1", "training.validations=1",
             "indexer.separate=false", "indexer.min_perplexity=0"]  # fmt: skip
    shop().save(tmp_path / "shop")
    with monkeypatch.context() as patched, pytest.raises(ConfigError) as refusal:
        patched.setattr(branches, "encode_texts", None)
        settings = small_settings(gpt2_of(tmp_path / "short", 64), *given)
        workflow.train(tmp_path / "shop", tmp_path / "run", settings)
    said = str(refusal.value)
    assert "lower data.max_history=5 or tasks.max_tokens=48 or the levels of indexer.items and indexer.users" in said
    longest = int(re.search(r"task \w+ may take ([\d,]+) tokens", said)[1])
    settings = small_settings(gpt2_of(tmp_path / "enough", longest), *given)
    workflow.train(tmp_path / "shop", tmp_path / "run", settings)
    run = workflow.load(tmp_path / "run")
    assert workflow.evaluate_run(run).metrics
    assert answers.explain(run, "u0").answer.items and answers.likely_users(run, "i0").users


def test_a_history_that_no_search_could_read_is_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(branches, "encode_texts", None)
    settings = small_settings("data.max_history=600", "indexer.items=[4, 4, 4, 4]", "tasks.share=0")
    with pytest.raises(ConfigError, match=r"sequential may take 3,0\d\d tokens, where tiny reads 2,048: lower"):
        train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)


def test_texts_longer_than_the_llm_reads_are_refused(tmp_path):
    settings = small_settings(
        gpt2_of(tmp_path / "short", 64), "backbone.prune_vocabulary=false", "encoding.max_tokens=65"
    )
    with pytest.raises(ConfigError, match=r"encoding\.max_tokens=65, where .* reads 64 tokens"):
        train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)


def test_tasks_that_are_named_but_have_no_share_are_refused(tmp_path):
    settings = small_settings("tasks.use=[comment]", "tasks.share=0")
    with pytest.raises(ConfigError, match=r"tasks\.use names comment, but tasks\.share=0"):
        train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)


@pytest.mark.parametrize("latent", ["vmf", "none"])
def test_the_printed_losses_can_be_trained_on_several_levels(latent, tmp_path):
    settings = small_settings("regulator.literal=true", f"indexer.latent={latent}", "training.epochs=2")
    trained = train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)
    losses = [entry[name] for entry in trained.metrics["history"] for name in entry if name.startswith("loss")]
    assert any("loss_token_item" in entry for entry in trained.metrics["history"])
    assert losses and all(map(math.isfinite, losses))


def test_any_other_fault_of_torch_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(JointModel, "forward", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        train_ed2(shop(), small_settings(), tmp_path / "workspace", False, lambda *_: None)


@pytest.mark.parametrize("kind", [(), ("indexer.kind=lsh", "indexer.users=[4, 4]")])
def test_a_learning_rate_of_0_is_the_static_index_of_no_refreshes(kind, tmp_path):
    codes = []
    for static in ("indexer.lr=0", "training.refreshes=0"):
        settings = small_settings(*kind, static, "training.epochs=3")
        trained = train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)
        assert not [entry for entry in trained.metrics["history"] if "churn" in entry]
        trained.write(tmp_path / static)
        codes.append(IndexTable.load(tmp_path / static / "index/items.parquet").codes.tolist())
    assert codes[0] == codes[1]


def test_shares_that_leave_the_index_no_steps_to_move_are_refused_unless_it_is_static(tmp_path):
    shares = ["training.fixed_start=0.3", "training.frozen_tail=0.7", "training.epochs=0.5"]
    with pytest.raises(ConfigError) as error:
        train_ed2(shop(), small_settings(*shares), tmp_path / "workspace", False, lambda *_: None)
    said = str(error.value)
    assert "training.fixed_start=0.3 and training.frozen_tail=0.7 leave no steps" in said and "\n" not in said
    assert not (tmp_path / "workspace").exists()
    train_ed2(shop(), small_settings(*shares, "training.refreshes=0"), tmp_path / "w", False, lambda *_: None)


@pytest.mark.parametrize("name", presets())
def test_every_preset_leaves_the_index_steps_to_move(name):
    settings = resolve(name)
    assert not moves(settings) or settings.training.fixed_start + settings.training.frozen_tail < 0.999


def test_a_question_behind_the_history_cannot_be_asked_at_every_position(tmp_path):
    settings = small_settings("training.instruction=question")
    with pytest.raises(ConfigError, match=r"set training\.dense=false"):
        train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)


def test_the_question_of_the_paper_can_be_trained_one_prefix_at_a_time(tmp_path):
    settings = small_settings("training.instruction=question", "training.dense=false", "training.epochs=0.5")
    trained = train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)
    losses = [entry["loss_llm"] for entry in trained.metrics["history"] if "loss_llm" in entry]
    assert losses and all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize("instruction", ["open", "question"])
def test_a_run_is_evaluated_in_the_sequential_wordings_of_its_prompt_file(instruction, tmp_path):
    """They stay in the run, so the file may be gone by then."""
    texts = {"open": ["To {user} {history}", "For {user} after {history}"],
             "question": ["{history} and then {user} {item}", "{user} {history} {item}"]}  # fmt: skip
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(yaml.safe_dump({"sequential": texts[instruction]}))
    shop().save(tmp_path / "shop")
    settings = small_settings(f"tasks.prompts={prompts}", f"training.instruction={instruction}",
                              "training.dense=false", "training.epochs=0.3")  # fmt: skip
    workflow.train(tmp_path / "shop", tmp_path / "run", settings)
    prompts.unlink()
    found = workflow.evaluate_run(workflow.load(tmp_path / "run"), wordings=2)
    row = found.row("shop", "test", "ed2")
    assert [part["instruction"] for part in row["per_instruction"]] == texts[instruction]


def test_sequential_wordings_of_the_other_form_are_refused_before_anything_is_encoded(tmp_path):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("sequential: ['{history} and then {user} {item}']\n")
    with pytest.raises(ConfigError, match=r"prompts\.yaml, sequential with training\.instruction=open: ") as error:
        train_ed2(shop(), small_settings(f"tasks.prompts={prompts}"), tmp_path / "workspace", False, lambda *_: None)
    assert "\n" not in str(error.value)


def test_texts_that_are_all_alike_stop_the_training_with_one_line_and_no_run(tmp_path):
    """Nothing half written stays: no run, no checkpoints to resume from; a run that was there is as it was."""
    titles = ["the same thing"] * 40
    sequences = [[(n + by) % 40 for by in (0, 7, 19, 23)] for n in range(30)]
    dataset_of(sequences, titles).save(tmp_path / "shop")
    for old in (False, True):
        out = tmp_path / "run"
        if old:
            workflow.train(tmp_path / "shop", out, resolve(extra={"model": "popularity"}))
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(IndexCollapse, match=r"item index has collapsed after the warm-up: level a .* 1\.00"):
            workflow.train(tmp_path / "shop", out, small_settings())
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert workflow.load(tmp_path / "run").folder.model == "popularity"
    settings = small_settings("indexer.min_perplexity=0", "indexer.items=[4, 4, 16]", "training.epochs=0.5")
    workflow.train(tmp_path / "shop", tmp_path / "all-the-same", settings)


def test_a_training_measures_its_generators_at_both_ends_and_at_every_refresh(tmp_path):
    trained = train_ed2(shop(), small_settings(), tmp_path / "workspace", False, lambda *_: None)
    generators = trained.metrics["facts"]["generators"]
    for end in ("start", "end"):
        assert set(generators[end]) == {"items", "users"}
        assert len(generators[end]["items"]["kappa"]) == 3 and len(generators[end]["users"]["kappa"]) == 2
    assert generators["start"]["users"]["entities"] == 30 and generators["start"]["items"]["colliding"] >= 2
    assert generators["start"]["items"]["kappa"] == pytest.approx([200] * 3, rel=1e-4)
    assert generators["end"] != generators["start"]
    refreshes = [entry for entry in trained.metrics["history"] if "churn" in entry]
    assert [entry["kind"] for entry in refreshes] == ["item", *["item", "user"] * 2], "made anew, refreshed twice"
    assert all(len(entry["generator"]["kappa"]) == len(entry["perplexity"]) for entry in refreshes)


@pytest.mark.parametrize("separate", ["true", "false"])
def test_a_catalogue_without_any_text_can_be_indexed(separate, tmp_path):
    """All 150 items stand in one place, so they share the two last codes of one prefix: more than 64 on each."""
    log = dataset_of([list(range(first, first + 5)) for first in range(0, 150, 5)], [""] * 150)
    settings = small_settings(
        "indexer.items=[128,2]", "indexer.users=[]", "indexer.min_perplexity=0", "indexer.warmup_epochs=1",
        f"indexer.separate={separate}", "training.epochs=1", "training.checkpoints=0",
    )  # fmt: skip
    trained = train_ed2(log, settings, tmp_path / "workspace", False, lambda *_: None)
    assert trained.metrics["facts"]["items without text"] == 150
