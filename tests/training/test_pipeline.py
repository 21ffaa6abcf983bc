"""How the stages are put together: settings that become arguments, starts of rows, what an encoded entity brings."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import joint_world, shop, small_settings

from ed2rec.errors import ConfigError
from ed2rec.training.pipeline import _arguments, train_ed2

MODEL = joint_world().model


@given(st.integers(1, 5000), st.integers(1, 20))
def test_checkpoints_are_taken_right_after_an_entry_of_the_log_and_no_more_often_than_asked(steps, checkpoints):
    """The sums of an unfinished entry are not in a checkpoint, so a resumed training would log another mean."""
    arguments = _arguments(small_settings(f"training.checkpoints={checkpoints}"), Path("."), steps, MODEL)
    assert arguments.save_steps % arguments.logging_steps == 0
    assert steps // arguments.save_steps <= checkpoints
    assert steps / arguments.logging_steps <= 200


def test_a_question_behind_the_history_cannot_be_asked_at_every_position(tmp_path):
    settings = small_settings("training.instruction=question")
    with pytest.raises(ConfigError, match=r"set training\.dense=false"):
        train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)


def test_the_question_of_the_paper_can_be_trained_one_prefix_at_a_time(tmp_path):
    settings = small_settings("training.instruction=question", "training.dense=false", "training.epochs=0.5")
    trained = train_ed2(shop(), settings, tmp_path / "workspace", False, lambda *_: None)
    losses = [entry["loss_llm"] for entry in trained.metrics["history"] if "loss_llm" in entry]
    assert losses and all(0 < loss < 10 for loss in losses)
