"""Joint training moves what shall move, when it shall, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import ASKED, World, branch, joint_world
from torch import Tensor
from transformers import TrainerCallback

from ed2rec.data.dataset import Histories
from ed2rec.errors import IndexCollapse, RunError
from ed2rec.indexers.contract import IndexTable
from ed2rec.instructions.packing import PackedBatches
from ed2rec.instructions.sequential import SequentialPlan
from ed2rec.instructions.templates import SEQUENTIAL, task_wordings
from ed2rec.training.callbacks import MoveIndex, Tell, Validate
from ed2rec.training.joint import (
    JointArguments,
    JointTrainer,
    load_state,
    save_state,
)
from ed2rec.training.schedule import IndexSchedule
from ed2rec.training.workspace import last_checkpoint

STEPS = 12
MOVING = IndexSchedule(3, 9, (5, 7, 9))
STATIC = IndexSchedule(0, 0, ())


def batches_of(world: World, **options: Any) -> PackedBatches:
    generator = np.random.default_rng(0)
    histories = Histories.from_lists([generator.integers(0, 15, 6) for _ in range(7)])
    plan = SequentialPlan(
        histories, task_wordings(world.tokenizer, SEQUENTIAL, (ASKED,)), has_users=world.model.users is not None
    )
    batches = PackedBatches(plan, world.model.index_tokens, 2, batch_tokens=256, **options)
    batches.steps = STEPS
    return batches


class Watch(TrainerCallback):
    """What there is after every step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weights = [snapshot(world)]
        self.tables = [tables(world)]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.weights.append(snapshot(self.world))
        self.tables.append(tables(self.world))


def snapshot(world: World) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in world.model.named_parameters()}


def tables(world: World) -> dict[str, IndexTable]:
    return {branch.kind: branch.table for branch in world.model.branches()}


def train(
    world: World,
    schedule: IndexSchedule,
    folder: Path,
    *more: TrainerCallback,
    margin: float = 0.0,
    max_share: float = 1.0,
    floor: float = 0.0,
) -> tuple[Watch, list[dict[str, Any]]]:
    """Twelve steps; returns what there was after each, and the log."""
    log: list[dict[str, Any]] = []
    watch = Watch(world)
    arguments = JointArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=1, learning_rate=1e-2, index_lr=0.1,
        save_strategy="no", use_cpu=True, logging_steps=1, seed=0,
    )  # fmt: skip
    move = MoveIndex(world.model, schedule, margin, max_share, True, log.append, floor)
    trainer = JointTrainer(world.model, arguments, batches_of(world), [move, watch, *more])
    trainer.train()
    log += [{"log": entry} for entry in trainer.state.log_history]
    return watch, log


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


@pytest.mark.parametrize("llm", ["llama", "llama-tied", "gpt2"])
def test_every_parameter_moves_in_its_time_and_only_then(llm, tmp_path):
    world = joint_world(llm=llm)
    watch, _ = train(world, MOVING, tmp_path)
    everything = set(watch.weights[0])
    generators = {name for name in everything if not name.startswith("llm.")}
    assert moved(watch.weights[0], watch.weights[-1]) == everything
    assert not moved(watch.weights[0], watch.weights[MOVING.warm]) & generators
    assert moved(watch.weights[MOVING.warm], watch.weights[MOVING.freeze]) == everything
    assert not moved(watch.weights[MOVING.freeze], watch.weights[-1]) & generators
    assert moved(watch.weights[MOVING.freeze], watch.weights[-1]) == everything - generators


@pytest.mark.parametrize("llm", ["llama", "llama-tied"])
def test_under_lora_only_adapters_index_rows_and_generators_move(llm, tmp_path):
    world = joint_world(llm=llm, lora=2)
    watch, _ = train(world, MOVING, tmp_path)
    before, after = watch.weights[0], watch.weights[-1]
    matrices = {name for name in before if "embed_tokens" in name or "lm_head" in name}
    expected = {name for name in before if "lora_" in name or not name.startswith("llm.")} | matrices
    assert moved(before, after) == expected
    assert matrices and len(matrices) == (1 if llm == "llama-tied" else 2)
    index = world.model.vocabulary.index_slice
    for name in matrices:
        rows = (before[name] != after[name]).any(1)
        assert not rows[: index.start].any() and rows[world.model.vocabulary.slice_of("item", 0)].all()


def test_with_a_static_index_the_llm_moves_and_the_generators_do_not(tmp_path):
    world = joint_world()
    watch, log = train(world, STATIC, tmp_path)
    assert moved(watch.weights[0], watch.weights[-1]) == {name for name in watch.weights[0] if name.startswith("llm.")}
    assert watch.tables[0] == watch.tables[-1], "the very same objects"
    assert not any("churn" in entry for entry in log)


def test_tables_change_after_the_scheduled_steps_and_at_no_other(tmp_path):
    watch, log = train(joint_world(), MOVING, tmp_path)
    for step in range(1, STEPS + 1):
        for kind in ("item", "user"):
            changed = watch.tables[step][kind].version - watch.tables[step - 1][kind].version
            assert changed == (step in MOVING.refreshes)
    assert [(entry["step"], entry["kind"]) for entry in log if "churn" in entry] == [
        (step, kind) for step in MOVING.refreshes for kind in ("item", "user")
    ]
    codes = [watch.tables[step]["item"].codes for step in (0, STEPS)]
    assert (codes[0] != codes[1]).any(), "a learning rate of 0.1 moves something"


class Collapse(TrainerCallback):
    """After step 3 the item generator gives everybody the first code of its first level."""

    def __init__(self, world: World) -> None:
        self.level = world.model.items.quantiser.levels[0]

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step >= 3:
            self.level.codewords.data[1:] = 1e3


def test_a_generator_that_collapses_stops_the_training_at_the_next_refresh_though_its_table_is_held(tmp_path):
    world = joint_world()
    with pytest.raises(IndexCollapse, match="the item index has collapsed at step 5: level a has"):
        train(world, MOVING, tmp_path, Collapse(world), margin=1e9, max_share=0.0, floor=0.02)
    assert world.model.items.table.health.perplexity[0] > 2
    train(joint_world(), MOVING, tmp_path / "healthy", floor=0.02)


@pytest.mark.parametrize("max_share", [0.0, 0.2, 0.5])
def test_churn_stays_below_its_bound_which_falls_to_a_third(max_share, tmp_path):
    watch, log = train(joint_world(), MOVING, tmp_path, max_share=max_share)
    for place, step in enumerate(MOVING.refreshes):
        bound = max_share * (1, 2 / 3, 1 / 3)[place]
        for kind in ("item", "user"):
            before, after = (watch.tables[at][kind].codes for at in (step - 1, step))
            share = float((before != after).any(1).mean())
            assert share <= bound + 1e-9
            (churn,) = (entry["churn"] for entry in log if entry.get("step") == step and entry.get("kind") == kind)
            assert churn["codes"] == pytest.approx(share)


def test_a_margin_that_nothing_reaches_keeps_every_index(tmp_path):
    watch, log = train(joint_world(), MOVING, tmp_path, margin=np.inf)
    assert (watch.tables[0]["item"].codes == watch.tables[-1]["item"].codes).all()
    assert {entry["churn"]["wanted"] for entry in log if "churn" in entry} == {0.0}


def test_without_a_user_branch_only_items_move(tmp_path):
    watch, log = train(joint_world(users=False), MOVING, tmp_path)
    assert moved(watch.weights[0], watch.weights[-1]) == set(watch.weights[0])
    assert {entry["kind"] for entry in log if "churn" in entry} == {"item"}


def test_named_losses_are_logged_as_means_and_sum_to_the_loss(tmp_path):
    _, log = train(joint_world(), MOVING, tmp_path)
    entries = [entry["log"] for entry in log if "loss" in entry.get("log", {})]
    assert len(entries) == STEPS
    for entry in entries:
        named = {name for name in entry if name.startswith("loss_")}
        assert ("loss_recon_item" in named) == (MOVING.warm <= entry["step"] - 1 < MOVING.freeze)
        assert sum(entry[name] for name in named) == pytest.approx(entry["loss"], rel=1e-4)
        assert entry["targets"] > 0


def test_steps_after_the_last_regular_entry_are_logged_when_the_training_ends(tmp_path):
    world, entries = joint_world(), []
    batches = batches_of(world)
    arguments = JointArguments(
        output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=1, save_strategy="no", use_cpu=True,
        logging_steps=5, seed=0,
    )  # fmt: skip
    JointTrainer(world.model, arguments, batches, [Tell(lambda *_: None, entries.append)]).train()
    assert [entry["step"] for entry in entries] == [5, 10, 12]
    assert not [name for name in entries[-1] if name.startswith(("train_", "total_", "epoch"))], (
        "no clock, no Trainer's"
    )
    read = [int((batches[step].segment > 0).sum()) for step in range(STEPS)]
    assert [entry["tokens"] for entry in entries] == [sum(read[:5]), sum(read[5:10]), sum(read[10:])]


def test_groups_of_the_optimiser_hold_every_parameter_once(tmp_path):
    world = joint_world(llm="llama-tied")
    arguments = JointArguments(
        output_dir=str(tmp_path), max_steps=1, learning_rate=0.1, index_lr=0.2, weight_decay=0.3, use_cpu=True
    )
    groups = JointTrainer(world.model, arguments, batches_of(world), []).create_optimizer().param_groups
    names = {id(weight): name for name, weight in world.model.named_parameters()}
    of = {names[id(weight)]: group for group in groups for weight in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in groups) == len(names)
    for name, group in of.items():
        decayed = name.startswith("llm.") and "embed" not in name and "norm" not in name
        assert group["weight_decay"] == (0.3 if decayed else 0.0), name
        assert group["lr"] == (0.1 if name.startswith("llm.") else 0.2), name


# States and checkpoints.


def test_a_saved_state_comes_back_weights_and_tables_together(tmp_path):
    world, other = joint_world(llm="llama-tied"), joint_world(llm="llama-tied", seed=5)
    world.model.items.table = branch("item", 15, 32, seed=9).table
    save_state(world.model, tmp_path)
    load_state(other.model, tmp_path)
    assert not moved(snapshot(world), snapshot(other))
    for kind, table in tables(world).items():
        np.testing.assert_array_equal(tables(other)[kind].codes, table.codes)
        np.testing.assert_array_equal(tables(other)[kind].suffix, table.suffix)
    assert torch.equal(other.model.items.codes, world.model.items.codes)
    head, embedding = other.model.llm.get_output_embeddings(), other.model.llm.get_input_embeddings()
    assert head.weight is embedding.weight
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".parquet"}


def test_the_last_checkpoint_is_the_last_complete_one(tmp_path):
    for step, complete in ((9, True), (10, True), (100, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize("half_written", [False, True])
def test_without_a_complete_checkpoint_there_is_nothing_to_go_on_from(half_written, tmp_path):
    if half_written:
        (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(RunError, match=r"no complete checkpoint in .*: train without --resume") as error:
        last_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


class Scripted:
    """A validation whose results are written down beforehand; each measurement uses up some randomness."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def __call__(self) -> dict[str, float]:
        torch.rand(5)
        return {"NDCG@10": self.scores.pop(0)}


def test_the_best_state_after_the_index_came_to_rest_is_the_one_that_stays(tmp_path):
    world, log = joint_world(), []
    steps = {4, 10, 11, 12}
    validate = Validate(world.model, Scripted(0.9, 0.3, 0.5, 0.4), steps, tmp_path, log.append, MOVING.freeze + 1)
    watch, _ = train(world, MOVING, tmp_path, validate)
    assert not moved(watch.weights[11], snapshot(world))
    assert [(entry["step"], entry["valid"]["NDCG@10"]) for entry in log] == [(4, 0.9), (10, 0.3), (11, 0.5), (12, 0.4)]
    assert tables(world)["item"].version == len(MOVING.refreshes)


def test_a_resumed_training_keeps_the_best_state_of_before_unless_a_better_one_comes(tmp_path):
    for score, kept in ((0.5, True), (0.7, False)):
        before, world = joint_world(seed=3), joint_world()
        save_state(before.model, tmp_path / str(score) / "best")
        measure = Scripted(score)
        validate = Validate(world.model, measure, {12}, tmp_path / str(score), lambda entry: None, 10, best=0.6)
        train(world, MOVING, tmp_path, validate)
        assert (not moved(snapshot(before), snapshot(world))) == kept


def test_measuring_leaves_the_training_as_it_would_be_without(tmp_path):
    ends = []
    for steps in (set(), {2, 4, 6, 12}):
        world = joint_world(dropout=0.2)
        validate = Validate(world.model, Scripted(*[0.1] * 4), steps, tmp_path / str(len(ends)), lambda entry: None, 12)
        watch, _ = train(world, MOVING, tmp_path / str(len(ends)), validate)
        ends.append(watch.weights[-1])
    assert not moved(*ends)


def test_dropout_is_on_while_training(tmp_path):
    ends = []
    for share in (0.0, 0.5):
        world = joint_world(dropout=share)
        ends.append(train(world, STATIC, tmp_path)[0].weights[1])
    assert moved(*ends)
