"""How the stages are put together: settings that become arguments, starts of rows, what an encoded entity brings."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from small import joint_world, small_settings

from ed2rec.training.pipeline import _arguments

MODEL = joint_world().model


@given(st.integers(1, 5000), st.integers(1, 20))
def test_checkpoints_are_taken_right_after_an_entry_of_the_log_and_no_more_often_than_asked(steps, checkpoints):
    """The sums of an unfinished entry are not in a checkpoint, so a resumed training would log another mean."""
    arguments = _arguments(small_settings(f"training.checkpoints={checkpoints}"), Path("."), steps, MODEL)
    assert arguments.save_steps % arguments.logging_steps == 0
    assert steps // arguments.save_steps <= checkpoints
    assert steps / arguments.logging_steps <= 200
