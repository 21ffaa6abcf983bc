from dataclasses import replace

import numpy as np
import pytest
import torch
from shops import dataset_of, ring, told
from small_baselines import settings_of, trained, untrained

from ed2rec.baseline_settings import LEARNED
from ed2rec.baselines import trainer
from ed2rec.baselines.build import budget_of, fit_baseline
from ed2rec.baselines.learned import Learned
from ed2rec.baselines.losses import SAMPLED
from ed2rec.baselines.masking import training_rows
from ed2rec.baselines.s3rec import S3Rec
from ed2rec.baselines.sequences import Training
from ed2rec.data.splits import leave_one_out
from ed2rec.errors import DataError, RunError
from ed2rec.evaluation.metrics import reported
from ed2rec.evaluation.ranking import evaluate

WORLD = told(ring())


class Interrupted(Exception):
    """As when somebody presses Ctrl-C."""


def stopping_after(epoch):
    def watch(number, _):
        if number == epoch:
            raise Interrupted

    return watch


def same(one: Learned, other: Learned) -> bool:
    a, b = one.model.state_dict(), other.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def graded(monkeypatch, grades):
    """Validation that finds these NDCG@10, one per epoch."""
    left = iter(grades)
    monkeypatch.setattr(Learned, "ranks", lambda self, cases: next(left))
    monkeypatch.setattr(trainer, "reported", lambda grade: {"NDCG@10": grade})


def weights_by_epoch(monkeypatch):
    """Filled with a copy of the weights at the end of every epoch."""
    kept = []
    keep = trainer._keep

    def noting(workspace, stamp, course, best, steps):
        kept.append(trainer._copy(steps.model))
        keep(workspace, stamp, course, best, steps)

    monkeypatch.setattr(trainer, "_keep", noting)
    return kept


def test_the_state_that_validates_best_is_what_remains(tmp_path, monkeypatch):
    graded(monkeypatch, [0.1, 0.4, 0.3, 0.4, 0.2])
    kept = weights_by_epoch(monkeypatch)
    learned, metrics = trained(WORLD, settings_of("gru4rec", "epochs=5"), tmp_path / "w")
    assert (metrics["best_epoch"], metrics["valid_NDCG@10"], metrics["epochs"]) == (2, 0.4, 5)
    assert all(torch.equal(value, kept[1][name]) for name, value in learned.model.state_dict().items())
    assert not torch.equal(kept[1]["items.weight"], kept[4]["items.weight"])
    assert [row["valid_NDCG@10"] for row in metrics["curve"]] == [0.1, 0.4, 0.3, 0.4, 0.2]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 8)])
def test_training_stops_when_nothing_was_better_for_so_many_epochs(patience, epochs, tmp_path, monkeypatch):
    graded(monkeypatch, [0.1, 0.3, 0.3, 0.2, 0.4, 0.1, 0.2, 0.3, 0.9])
    settings = settings_of("gru4rec", "epochs=9", f"patience={patience}")
    assert trained(WORLD, settings, tmp_path / "w")[1]["epochs"] == epochs


def test_the_watcher_is_told_what_each_epoch_reached(tmp_path, monkeypatch):
    graded(monkeypatch, [0.1, 0.4, 0.3])
    told_of = []
    trained(WORLD, settings_of("gru4rec", "epochs=3"), tmp_path / "w", watch=lambda *what: told_of.append(what))
    assert told_of == [(1, 0.1), (2, 0.4), (3, 0.3)]


RESUMED = {"sasrec": [], "bert4rec": [], "s3rec": [], "magnn": ["loss=own"], "attrec": ["loss=own", "negatives=2"]}
"""Dropout, masks, a stage before, a graph among the weights, and sampled negatives."""


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(name, tmp_path):
    settings = settings_of(name, "epochs=3", *RESUMED[name])
    whole, metrics = trained(WORLD, settings, tmp_path / "whole")
    before = settings.s3rec.pretraining if name == "s3rec" else 0
    for epoch in range(1, 4):
        workspace = tmp_path / f"after {epoch}"
        with pytest.raises(Interrupted):
            trained(WORLD, settings, workspace, watch=stopping_after(before + epoch))
        torch.manual_seed(99)  # what the process did meanwhile does not matter
        again, found = trained(WORLD, settings, workspace, resume=True)
        assert found == metrics and same(again, whole)


def test_a_pretraining_that_was_interrupted_goes_on_too(tmp_path):
    settings = settings_of("s3rec", "epochs=1", "pretraining=3")
    whole, metrics = trained(WORLD, settings, tmp_path / "whole")
    seen = []

    def stop(stage, done, total, note):
        assert (stage, total, "valid" in note) == ("pre-training", 3, False)
        if done == 3:  # before this epoch is kept
            raise Interrupted

    with pytest.raises(Interrupted):
        trained(WORLD, settings, tmp_path / "w", progress=stop)
    again, found = trained(WORLD, settings, tmp_path / "w", resume=True, progress=lambda *told: seen.append(told[:3]))
    assert found == metrics and same(again, whole)
    assert seen == [("pre-training", 3, 3), ("training", 1, 1)]


def test_pretraining_is_epochs_before_those_that_validate(tmp_path):
    metrics = trained(WORLD, settings_of("s3rec", "epochs=2", "pretraining=3", "patience=1"), tmp_path / "w")[1]
    assert ["valid_NDCG@10" in row for row in metrics["curve"]] == [False] * 3 + [True] * 2
    assert metrics["best_epoch"] > 3 and metrics["epochs"] == 5
    assert trained(WORLD, settings_of("s3rec", "epochs=2", "pretraining=0"), tmp_path / "v")[1]["epochs"] == 2


def test_after_pretraining_the_optimiser_starts_afresh(tmp_path, monkeypatch):
    """Its moments would be those of losses that are summed, a hundred times larger, and hold the next stage back."""
    taken = []
    keep = trainer._keep
    monkeypatch.setattr(trainer, "_keep", lambda *what: (taken.append(steps_of(what[-1])), keep(*what)))
    metrics = trained(WORLD, settings_of("s3rec", "epochs=2", "pretraining=2", "batch=12"), tmp_path / "w")[1]
    rows = metrics["targets_per_epoch"] // 12  # every target ends a row of pre-training
    assert taken == [rows, 2 * rows, 2, 4]  # and a user's histories have two batches


def test_pretraining_has_a_row_for_every_prefix(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(S3Rec, "pretraining_loss", lambda model, batch, draw: (
        seen.extend(told_rows(batch, model.longest)), model.items.weight.sum() * 0)[1])  # fmt: skip
    trained(WORLD, settings_of("s3rec", "epochs=1", "pretraining=1"), tmp_path / "w")
    train = leave_one_out(WORLD.histories).train
    assert sorted(seen) == sorted(
        tuple(train[user][:end]) for user in range(len(train)) for end in range(2, len(train[user]) + 1)
    )


def told_rows(batch, longest):
    return [tuple(row[row < batch.catalogue].tolist()) for row in training_rows(batch, longest)]


def steps_of(steps) -> int:
    return max(int(state["step"]) for state in steps.optimiser.state.values())


def test_a_finished_training_that_is_resumed_says_the_same_again(tmp_path):
    settings = settings_of("gru4rec")
    first, metrics = trained(WORLD, settings, tmp_path / "w")
    again, found = trained(WORLD, settings, tmp_path / "w", resume=True, watch=stopping_after(1))
    assert found == metrics and same(again, first)


def test_a_process_that_is_killed_while_it_writes_costs_one_epoch_at_most(tmp_path, monkeypatch):
    """Killed in the middle of the second checkpoint: half a file lies beside the whole one of the first epoch."""
    settings = settings_of("gru4rec", "epochs=3")
    whole, metrics = trained(WORLD, settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(WORLD, settings, tmp_path / "w", watch=stopping_after(1))
    checkpoint = tmp_path / "w/checkpoint-last"
    (checkpoint / ".state.safetensors.k1ll3d").write_bytes((checkpoint / "state.safetensors").read_bytes()[:500])
    again, found = trained(WORLD, settings, tmp_path / "w", resume=True)
    assert found == metrics and same(again, whole)


def test_what_cannot_be_resumed_is_refused_in_one_line(tmp_path):
    settings = settings_of("gru4rec")
    with pytest.raises(RunError, match=r"^no complete checkpoint in .*: train without --resume$"):
        trained(WORLD, settings, tmp_path / "w", resume=True)
    trained(WORLD, settings, tmp_path / "w", stamp="mine")
    with pytest.raises(RunError, match=r"is of other settings or data: resume with the same ones, or train without"):
        trained(WORLD, settings, tmp_path / "w", stamp="yours", resume=True)
    state = tmp_path / "w/checkpoint-last/state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"^the checkpoint in .* is damaged \([^\n]+\): train without --resume$"):
        trained(WORLD, settings, tmp_path / "w", stamp="mine", resume=True)


@pytest.mark.parametrize("other", ["lr", "seed", "log"])
def test_other_settings_or_another_log_are_another_training(other, tmp_path):
    def fit(dataset, settings, resume):
        return fit_baseline(dataset, leave_one_out(dataset.histories), settings, tmp_path / "w", resume=resume)

    settings = settings_of("gru4rec")
    fit(WORLD, settings, False)
    fit(WORLD, settings, True)
    changed = {"lr": settings_of("gru4rec", "lr=0.5"), "seed": settings_of("gru4rec", "seed=7"), "log": settings}[other]
    with pytest.raises(RunError, match="of other settings or data"):
        fit(told(ring(length=6)) if other == "log" else WORLD, changed, True)


def test_without_resume_what_an_earlier_training_left_is_swept_away(tmp_path):
    trained(WORLD, settings_of("gru4rec"), tmp_path / "w", stamp="mine")
    fresh, metrics = trained(WORLD, settings_of("gru4rec"), tmp_path / "w", stamp="yours")
    alone, expected = trained(WORLD, settings_of("gru4rec"), tmp_path / "v")
    assert metrics == expected and same(fresh, alone)


def test_training_depends_on_the_seed_alone(tmp_path):
    one, two, other = (
        trained(WORLD, settings_of("sasrec", f"seed={seed}"), tmp_path / str(number))[0]
        for number, seed in enumerate((0, 0, 1))
    )
    assert same(one, two) and not same(one, other)


def test_a_loss_that_is_no_longer_finite_says_what_to_do(tmp_path, monkeypatch):
    steps = iter([0.5] * 2 + [float("nan")] * 9)
    monkeypatch.setattr(trainer.losses, "softmax", lambda states, *_: states.sum() * 0 + next(steps))
    with pytest.raises(RunError, match=r"^the loss of epoch 1 is nan: lower baseline.lr \(0.001\)$"):
        trained(WORLD, settings_of("gru4rec", "batch=8", "lr=0.001"), tmp_path / "w")


def test_weights_that_are_no_longer_finite_after_the_last_step_are_seen(tmp_path):
    """The loss is that before the step, so an epoch of one step can end in nothing but infinities."""
    dataset, settings = WORLD, settings_of("gru4rec", "batch=512")
    learned, split = untrained(dataset, settings), leave_one_out(dataset.histories)
    budget = replace(budget_of(settings, torch.device("cpu")), lr=float("inf"))
    with pytest.raises(RunError, match=r"^weights are no longer finite after epoch 1: lower baseline.lr \(inf\)$"):
        trainer.train_baseline(learned, split, budget, workspace=tmp_path / "w", stamp="")


def test_a_dataset_without_a_single_target_is_refused(tmp_path):
    """Three items each: one to learn from, and nothing behind it."""
    dataset = dataset_of([[0, 1, 2], [2, 1, 0]], ["a", "b", "c"])
    with pytest.raises(DataError, match=r"^no user has two training items, .*--k-core 4"):
        trained(dataset, settings_of("gru4rec"), tmp_path / "w")


@pytest.mark.parametrize("name", LEARNED)
def test_the_model_can_be_trained_in_bfloat16(name, tmp_path):
    """Losses are near those of float32, and weights and answers stay in it."""
    half, exact = (
        trained(WORLD, settings_of(name, "epochs=1", "dropout=0", f"bf16={bf16}"), tmp_path / bf16)
        for bf16 in ("true", "false")
    )
    assert half[1]["curve"][-1]["loss"] == pytest.approx(exact[1]["curve"][-1]["loss"], rel=0.05)
    assert {weight.dtype for weight in half[0].model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", LEARNED)
def test_the_models_own_loss_can_be_trained_with(name, tmp_path):
    settings = settings_of(name, "epochs=12", "lr=0.02", "loss=own", "bf16=true")
    learned, metrics = trained(WORLD, settings, tmp_path / "w")
    curve = [row["loss"] for row in metrics["curve"] if "valid_NDCG@10" in row]
    assert learned.model.own_loss in {"softmax", *SAMPLED} and curve[-1] < curve[0]


@pytest.mark.parametrize("name", LEARNED)
def test_validation_counts_as_the_evaluator_does(name, tmp_path, monkeypatch):
    """In batches that are no multiple of the number of users, too."""
    learned, metrics = trained(WORLD, settings_of(name), tmp_path / "w")
    valid = leave_one_out(WORLD.histories).valid
    monkeypatch.setattr("ed2rec.baselines.learned.BATCH", 7)
    expected = evaluate(learned, valid).ranks
    np.testing.assert_array_equal(learned.ranks(valid), expected)
    assert metrics["valid_NDCG@10"] == pytest.approx(reported(expected)["NDCG@10"])


def test_ties_count_against_the_target_in_validation(tmp_path):
    learned = untrained(WORLD, settings_of("gru4rec"))
    with torch.no_grad():
        for weight in learned.model.parameters():
            weight.zero_()
    valid = leave_one_out(WORLD.histories).valid
    assert set(learned.ranks(valid).tolist()) == {len(WORLD.items)} == set(evaluate(learned, valid).ranks.tolist())


def test_weight_decay_reaches_the_optimiser(tmp_path, monkeypatch):
    """A step takes lr x decay of each weight, here half; Adam gives about lr, so that no weight passes 1 / decay."""
    kept = weights_by_epoch(monkeypatch)
    for decay in (0.0, 10.0):
        trained(WORLD, settings_of("hgn", "lr=0.05", f"weight_decay={decay}"), tmp_path / str(decay))
    free, held = (weights["users.weight"].abs().max() for weights in (kept[1], kept[3]))
    assert held < 0.12 < free


def test_every_target_weighs_the_same_in_however_long_a_history(tmp_path):
    """Forty users with one target and four with twenty, in batches of about one length, and a model that is sure of one
    item: with steps of no length, the loss of an epoch is the mean over all targets."""
    lists = [[0, 1, 2, 3]] * 40 + [[(n + 2 * turn) % 44 for turn in range(23)] for n in range(4)]
    log = dataset_of(lists, [f"item {n}" for n in range(44)])
    settings = settings_of("hgn", "lr=1e-12", "batch=4", "max_history=30")
    learned, parts = untrained(log, settings), leave_one_out(log.histories)
    with torch.no_grad():
        learned.model.out.bias[1] = 3.0
    steps = trainer.Steps(learned, parts, budget_of(settings, torch.device("cpu")))
    data, whole = (Training(parts.train, catalogue=44, longest=30, whole_rows=True, batch=batch, seed=0)
                   for batch in (4, 99))  # fmt: skip
    states, targets, _ = learned.model.supervised(next(whole.epoch(0)), torch.Generator())
    table, bias = learned.model.output()
    expected = float(torch.nn.functional.cross_entropy(states @ table.T + bias, targets))
    assert len(targets) == data.targets == 40 + 4 * 20
    assert steps.epoch(data, 0, False) == pytest.approx(expected, rel=1e-4)
